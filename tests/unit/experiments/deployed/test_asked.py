"""What a deployed run may ask for, and what is refused before anything is planned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fedcohort.experiments.settings import Settings
from fedcohort.privacy.errors import ConfigError

Asked = Callable[..., Settings]
OWN = ("data=table", "data.outcome=ill", "privacy.epsilon=1", "privacy.delta=1e-5")


def test_a_study_made_for_a_simulation_runs_the_arms_that_hospitals_can(asked: Asked) -> None:
    settings = asked()
    assert settings.arms == ("federated", "dp_sum", "dp_each")
    assert settings.repeats == 1
    assert settings.deployed is not None
    assert (settings.deployed.sites, settings.deployed.wait_s) == (None, 7 * 24 * 3600)


@pytest.mark.parametrize("arm", ["local", "pooled", "personalised", "consensus", "dp_fedavg"])
def test_an_arm_that_was_asked_for_is_not_left_out_silently(asked: Asked, arm: str) -> None:
    with pytest.raises(ConfigError, match=arm) as refusal:
        asked(f"arms=[federated,{arm}]")
    assert refusal.value.code == "arm_not_deployed"
    assert "fedcohort site results" in refusal.value.hint


@pytest.mark.parametrize(
    ("key", "code"),
    [
        ("runtime.coordinator=null", "runtime_coordinator_invalid"),
        ("runtime.wait_s=0", "runtime_wait_s_invalid"),
        ("runtime.wait_s=inf", "runtime_wait_s_invalid"),
        ("runtime.histograms=perhaps", "runtime_histograms_invalid"),
        ("runtime.sites=[]", "runtime_sites_invalid"),
        ("runtime.sites=[va,va]", "runtime_sites_invalid"),
        ("data.path=table.csv", "data_path_invalid"),
        ("data.site=hospital", "data_site_invalid"),
        ("data.patient=patient_id", "data_patient_invalid"),
        ("data.test_sites=[va]", "data_test_sites_invalid"),
        ("model=cox", "model_not_deployed"),
        ("runtime.name=elsewhere", "runtime_invalid"),
    ],
)
def test_what_makes_no_sense_on_hospitals_is_refused(asked: Asked, key: str, code: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        asked(key)
    assert refusal.value.code == code


@pytest.mark.parametrize(
    ("keys", "code"),
    [
        (OWN, "data_codebook_invalid"),
        ((*OWN, "data.codebook=c.yaml", "data.feature_set=core"), "data_feature_set_invalid"),
    ],
)
def test_a_study_of_ones_own_is_known_by_its_codebook(
    asked: Asked, keys: tuple[str, ...], code: str
) -> None:
    with pytest.raises(ConfigError) as refusal:
        asked(*keys, study="")
    assert refusal.value.code == code


def test_a_study_of_ones_own_reads_no_table(asked: Asked) -> None:
    settings = asked(*OWN, "data.codebook=c.yaml", study="")
    assert (settings.path, settings.options.codebook) == (None, Path("c.yaml"))
    assert settings.arms == ("federated",)


def test_the_keys_of_a_deployed_run_do_nothing_in_one_process_and_say_so(asked: Asked) -> None:
    with pytest.raises(ConfigError, match="runtime=deployed") as refusal:
        asked("runtime=in_process")
    assert refusal.value.code == "runtime_coordinator_invalid"
