"""Plans of deployed hospitals: theirs by roster and schema, the same whenever they are made."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable
from pathlib import Path

import pytest

from fedcohort.datasets import LoadOptions, load_catalogue
from fedcohort.experiments.deployed.federation import federation_of
from fedcohort.experiments.deployed.plans import Planned, plan_study
from fedcohort.experiments.settings import Settings
from fedcohort.fl_server.coordinator_setup import CoordinatorSetup
from fedcohort.privacy.errors import ConfigError, DataError
from fedcohort.privacy.secagg.roster_file import signed_roster_from_json

Asked = Callable[..., Settings]
TODAY = dt.date(2026, 11, 22)
SITES = ("cleveland", "hungarian", "switzerland", "va")


def planned(settings: Settings, today: dt.date = TODAY) -> Planned:
    assert settings.deployed is not None
    return plan_study(federation_of(settings, settings.deployed), today)


def test_there_is_one_plan_for_each_arm_and_epsilon(asked: Asked) -> None:
    arms = planned(asked("privacy.epsilon=[1,3]")).arms
    names = ["federated", "dp_sum-eps1", "dp_sum-eps3", "dp_each-eps1", "dp_each-eps3"]
    assert [arm.name for arm in arms] == names
    assert [(arm.arm, arm.epsilon) for arm in arms[:3]] == [
        ("federated", None),
        ("dp_sum", 1.0),
        ("dp_sum", 3.0),
    ]
    assert [arm.file for arm in arms[:2]] == ["plan-federated.json", "plan-dp_sum-eps1.json"]


def test_a_plan_names_roster_members_and_the_schema_of_their_tables(
    asked: Asked, setup: CoordinatorSetup
) -> None:
    roster = signed_roster_from_json(setup.roster.read_text(encoding="utf-8")).roster
    table = load_catalogue("heart-disease", LoadOptions())
    for arm in planned(asked()).arms:
        plan = arm.plan
        assert plan.roster == roster.sha256.hex()
        assert plan.schema_sha256 == table.schema.sha256
        assert (plan.sites, plan.fewest_sites) == (SITES, 4)
        assert (plan.secagg, plan.colluders) == ("masked", 1)
        assert plan.expires == "2027-11-22"


@pytest.mark.parametrize(
    ("asked_for", "federated", "noised"),
    [("auto", False, True), ("always", True, True), ("never", False, False)],
)
def test_every_arm_holds_out_the_same_patients(
    asked: Asked, asked_for: str, federated: bool, noised: bool
) -> None:
    """A histogram without noise is a table of patients: asked for by `always` alone."""
    plans = [arm.plan for arm in planned(asked(f"runtime.histograms={asked_for}")).arms]
    holdouts = [plan.holdout for plan in plans if plan.holdout is not None]
    assert len(holdouts) == 3
    assert len({holdout.key for holdout in holdouts}) == 1
    assert [holdout.histogram for holdout in holdouts] == [federated, noised, noised]
    assert {holdout.test_fraction for holdout in holdouts} == {0.3}
    other = planned(asked("seed=1")).arms[0].plan.holdout
    assert other is not None
    assert other.key != holdouts[0].key


def test_a_histogram_is_one_release_more_and_is_paid_for(asked: Asked) -> None:
    terms = [
        planned(asked("arms=[dp_sum]", f"runtime.histograms={text}")).arms[0].plan.privacy
        for text in ("never", "always")
    ]
    without, with_one = (found for found in terms if found is not None)
    assert with_one.releases == without.releases + 1
    assert with_one.noise_multiplier > without.noise_multiplier


def test_the_same_settings_give_the_same_plans_that_day(asked: Asked) -> None:
    hashes = [[arm.plan.sha256 for arm in planned(asked()).arms] for _ in range(2)]
    assert hashes[0] == hashes[1]
    later = planned(asked(), TODAY + dt.timedelta(days=1)).arms
    assert not set(hashes[0]) & {arm.plan.sha256 for arm in later}


def test_hospitals_are_chosen_among_the_members(asked: Asked) -> None:
    arms = planned(asked("runtime.sites=[va,cleveland,hungarian]")).arms
    assert arms[0].plan.sites == ("cleveland", "hungarian", "va")
    with pytest.raises(ConfigError, match="nowhere") as refusal:
        planned(asked("runtime.sites=[va,cleveland,nowhere]"))
    assert refusal.value.code == "site_not_in_roster"


def test_masks_that_the_whole_roster_could_not_open_are_refused(
    asked: Asked, setup: CoordinatorSetup
) -> None:
    signed = signed_roster_from_json(setup.roster.read_text(encoding="utf-8"))
    extra = [f"w{number}" for number in range(2)]
    members = [
        *signed.roster.members,
        *(
            dataclasses.replace(signed.roster.members[0], name=name, public=bytes([50 + n]) * 32)
            for n, name in enumerate(extra)
        ),
    ]
    wider = dataclasses.replace(signed.roster, members=tuple(members))
    settings = asked("runtime.sites=[va,cleveland,hungarian]")
    assert settings.deployed is not None
    made = federation_of(settings, settings.deployed)
    with pytest.raises(ConfigError) as refusal:
        plan_study(dataclasses.replace(made, roster=wider), TODAY)
    assert refusal.value.code == "roster_too_few_sites"


def test_the_rosters_number_of_colluders_holds(asked: Asked) -> None:
    with pytest.raises(ConfigError) as refusal:
        planned(asked("secagg.colluders=0"))
    assert refusal.value.code == "roster_colluders"
    assert planned(asked("secagg.colluders=1")).arms


def test_two_hospitals_are_not_masked(asked: Asked) -> None:
    with pytest.raises(ConfigError) as refusal:
        planned(asked("runtime.sites=[va,cleveland]"))
    assert refusal.value.code == "secagg_too_few_sites"
    plain = planned(asked("runtime.sites=[va,cleveland]", "secagg=plain", "arms=[federated]"))
    assert plain.arms[0].plan.secagg == "plain"


def test_without_a_roster_there_are_no_masks(asked: Asked, setup: CoordinatorSetup) -> None:
    setup.roster.unlink()
    with pytest.raises(ConfigError) as refusal:
        planned(asked())
    assert refusal.value.code == "no_roster"
    with pytest.raises(ConfigError, match="nobody") as refusal:
        planned(asked("secagg=plain"))
    assert refusal.value.code == "site_not_in_roster"


def test_a_table_of_ones_own_is_planned_from_its_codebook(asked: Asked, tmp_path: Path) -> None:
    text = "columns:\n  age: {type: number, range: [0, 110]}\n  ill: {type: boolean, true: ['1'], "
    text += "false: ['0']}\n"
    path = tmp_path / "codebook.yaml"
    path.write_text(text, encoding="utf-8")
    keys = ("data=table", "data.outcome=ill", f"data.codebook={path}")
    with pytest.raises(DataError) as refusal:
        planned(asked(*keys, study=""))
    assert refusal.value.code == "codebook_unnamed"
    path.write_text("name: mine\n" + text, encoding="utf-8")
    schema = planned(asked(*keys, study="")).planner.schema
    assert (schema.name, schema.features, schema.public) == ("mine", ("age",), True)
