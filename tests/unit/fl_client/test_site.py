"""A real site from its folder: what it approves, what it lets out, which roster it holds."""

from __future__ import annotations

import dataclasses
import datetime as dt
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedcohort.datasets import LoadOptions, load_catalogue
from fedcohort.fl_client.site import DenyUnnoised, Site, open_site
from fedcohort.fl_client.site_setup import SiteSetup, read_setup
from fedcohort.hosting import replace_file, write_new
from fedcohort.privacy.budget import Budget
from fedcohort.privacy.errors import ConfigError, DataError, FedCohortError
from fedcohort.privacy.ledger.charges import Opening
from fedcohort.privacy.ledger.store import SqliteLedger
from fedcohort.privacy.secagg.identity import create_identity, load_identity
from fedcohort.privacy.secagg.roster import Member, Roster, SignedRoster
from fedcohort.privacy.secagg.roster_file import signed_roster_to_json
from fedcohort.study.analysis import Contribution
from fedcohort.study.plan import Plan

SCHEMA = load_catalogue("heart-disease", LoadOptions()).schema


@pytest.fixture
def setup(tmp_path: Path) -> SiteSetup:
    tmp_path.chmod(0o700)
    found = SiteSetup(
        folder=tmp_path,
        site="hungarian",
        data="heart-disease",
        superlink="c.example:443",
        runtime_port=9094,
        options={"features": ("age", "sex")},
    )
    write_new(found.folder / "site.json", found.to_json().encode())
    create_identity(found.identity)
    budget = Budget(epsilon=1.0, delta=1e-5)
    opening = Opening(
        hospital="hungarian", population="heart", kind="site", budget=budget, unnoised=True
    )
    SqliteLedger.create(found.ledger, opening).dispose()
    return found


def rewritten(setup: SiteSetup, **changes: object) -> Site:
    changed = dataclasses.replace(setup, **changes)  # type: ignore[arg-type]
    replace_file(setup.folder / "site.json", changed.to_json().encode())
    return open_site(setup.folder)


def a_plan() -> Plan:
    return Plan(
        study="s",
        purpose="p",
        analysis="newton",
        parameters={"model": {"name": "logistic", "features": 2, "bound": SCHEMA.bound}},
        schema_sha256="0" * 64,
        sites=("cleveland", "hungarian"),
        privacy=None,
        max_rounds=2,
        max_patients_per_site=1000,
        min_sites=2,
        secagg="plain",
        colluders=0,
        roster="none",
        expires="2099-01-01",
    )


def code_of_proposing(site: Site, plan: Plan) -> str:
    with pytest.raises(FedCohortError) as refused:
        site.node.propose(plan.to_json())
    return refused.value.code


def signed(setup: SiteSetup, *, days: int, key: bytes | None = None) -> str:
    identities = {name: Ed25519PrivateKey.generate() for name in ("a", "b")}
    identities["hungarian"] = load_identity(setup.identity)
    publics = {name: k.public_key().public_bytes_raw() for name, k in identities.items()}
    publics["hungarian"] = key or publics["hungarian"]
    today = dt.datetime.now(dt.UTC).date()
    roster = Roster(
        federation="f",
        version=1,
        suite=1,
        members=tuple(Member(name=name, public=publics[name]) for name in sorted(publics)),
        coordinator=bytes([7]) * 32,
        colluders=1,
        valid_from=(today - dt.timedelta(days=9)).isoformat(),
        valid_to=(today + dt.timedelta(days=days)).isoformat(),
    )
    return signed_roster_to_json(SignedRoster.sign(roster, identities))


def test_a_sites_file_is_read_back(setup: SiteSetup) -> None:
    assert read_setup(setup.folder) == setup


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": "fedcohort.site/1"}', "é"])
def test_a_file_that_is_none_is_refused(setup: SiteSetup, text: str) -> None:
    replace_file(setup.folder / "site.json", text.encode())
    with pytest.raises(ConfigError) as refused:
        read_setup(setup.folder)
    assert refused.value.code == "site_file"


def test_a_plan_runs_when_its_hash_is_on_the_sites_list_and_not_before(setup: SiteSetup) -> None:
    site, plan = open_site(setup.folder), a_plan()
    assert code_of_proposing(site, plan) == "plan_not_approved"
    write_new(setup.approved, f"{'0' * 64}\n{plan.sha256}\n".encode())
    assert code_of_proposing(site, plan) == "schema_mismatch"  # as far as the cohort


def test_a_site_without_a_ledger_does_not_open(setup: SiteSetup) -> None:
    setup.ledger.unlink()
    with pytest.raises(ConfigError) as refused:
        open_site(setup.folder)
    assert refused.value.code == "ledger_missing"


def test_what_a_table_does_not_hold_is_told_by_a_code(setup: SiteSetup) -> None:
    write_new(setup.approved, a_plan().sha256.encode())
    site = rewritten(setup, options={"colour": "red"})
    assert code_of_proposing(site, a_plan()) == "site_file"
    site = rewritten(setup, site="cleveland", options={"test_sites": ("cleveland",)})
    with pytest.raises(DataError):
        site.node.propose(a_plan().to_json())


def test_nothing_leaves_without_noise_unless_the_site_names_the_analysis() -> None:
    sum_of_two: Contribution = None  # type: ignore[assignment]  # it is not looked at
    with pytest.raises(FedCohortError) as refused:
        DenyUnnoised().check(sum_of_two)
    assert refused.value.code == "unnoised_denied"


def test_the_roster_is_the_one_pinned_now(setup: SiteSetup) -> None:
    site = open_site(setup.folder)
    assert site.roster() == "none"
    write_new(setup.roster, signed(setup, days=1).encode())
    assert len(site.roster()) == 64
    replace_file(setup.roster, signed(setup, days=-1).encode())
    with pytest.raises(FedCohortError) as refused:
        site.roster()
    assert refused.value.code == "r_4_dates"
    replace_file(setup.roster, signed(setup, days=1, key=bytes([3]) * 32).encode())
    with pytest.raises(FedCohortError) as refused:
        open_site(setup.folder)
    assert refused.value.code == "r_3_own_key"
