"""What a run on deployed hospitals may ask for: fewer arms, no table, one coordinator.

There is no pooled data and no split that the researcher draws, so whatever needs either is
refused here, before anything is planned.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from ...privacy.errors import ConfigError

__all__ = ["DEPLOYED_ARMS", "DeployedSettings", "deployed_arms", "deployed_settings"]

DEPLOYED_ARMS = ("federated", "dp_sum", "dp_each")
HISTOGRAMS = ("auto", "always", "never")
_OURS = ("coordinator", "sites", "wait_s", "histograms")
_AT_HOME = ("path", "site", "patient", "test_sites")  # each hospital's mapping says its own


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployedSettings:
    """Where a study runs, and how long its researcher waits.

    Attributes:
        coordinator: The coordinator's folder.
        sites: The hospitals asked, sorted; None: every member of the roster in force.
        wait_s: For all plans together, seconds; the runs go on without whoever waits.
        histograms: `auto`, `always` or `never`: whether plans ask for histograms of scores.
        colluders: `secagg.colluders` where it was said; else the roster's number holds.
    """

    coordinator: Path
    sites: tuple[str, ...] | None
    wait_s: float
    histograms: str
    colluders: int | None


def deployed_settings(config: DictConfig, stated: Collection[str]) -> DeployedSettings | None:
    """Check the keys of a deployed run; None for a run in one process.

    Args:
        config: As Hydra composed it.
        stated: Keys that the person gave, not a study's file.

    Raises:
        ConfigError: `KEY_invalid`, `model_not_deployed`.
    """
    runtime = config.runtime
    if runtime.name != "deployed":
        if given := [key for key in _OURS if f"runtime.{key}" in stated]:
            key = f"runtime.{given[0]}"
            raise _invalid(key, "it is for runtime=deployed", "Add runtime=deployed.")
        return None
    _check_data(config)
    if config.model.name == "cox":
        raise ConfigError(
            "model_not_deployed",
            "a Cox model takes a second plan, made of the first one's result",
            hint="Use model=hazard, the discrete-time hazard: one plan, as accurate.",
        )
    if runtime.coordinator is None or not runtime.coordinator.strip():
        what = "a deployed run needs the coordinator's folder"
        raise _invalid("runtime.coordinator", what, "Give runtime.coordinator=FOLDER.")
    if not (math.isfinite(runtime.wait_s) and runtime.wait_s > 0):
        raise _invalid("runtime.wait_s", "it must be seconds > 0", "Use 604800, seven days.")
    if runtime.histograms not in HISTOGRAMS:
        choices = f"Choose from: {', '.join(HISTOGRAMS)}."
        raise _invalid("runtime.histograms", f"there is no {runtime.histograms!r}", choices)
    sites = None if runtime.sites is None else tuple(sorted(runtime.sites))
    if sites is not None and (not sites or len(set(sites)) != len(sites)):
        raise _invalid("runtime.sites", "it names hospitals, each once", "Or leave it out.")
    return DeployedSettings(
        coordinator=Path(runtime.coordinator),
        sites=sites,
        wait_s=float(runtime.wait_s),
        histograms=runtime.histograms,
        colluders=config.secagg.colluders if "secagg.colluders" in stated else None,
    )


def deployed_arms(arms: Sequence[str], stated: Collection[str]) -> tuple[str, ...]:
    """Return the arms that hospitals can run.

    A study's own list is made for a simulation: what it has beside them is left out. A list that
    the person gave is taken at its word.

    Raises:
        ConfigError: `arm_not_deployed`.
    """
    left = tuple(arm for arm in arms if arm in DEPLOYED_ARMS)
    others = [arm for arm in arms if arm not in DEPLOYED_ARMS]
    if others and ("arms" in stated or not left):
        raise ConfigError(
            "arm_not_deployed",
            f"{others[0]} does not run on deployed hospitals: there is no pooled data, and what a "
            "hospital trains for itself stays there",
            hint=f"Choose from: {', '.join(DEPLOYED_ARMS)}. Each hospital sees its own verdict, "
            "local against federated, by `fedcohort site results`.",
        )
    return left


def _check_data(config: DictConfig) -> None:
    """Refuse what would read a table, or say what only a hospital's mapping can say."""
    for key in _AT_HOME:
        if config.data[key]:
            raise _invalid(
                f"data.{key}",
                "a deployed run reads no table; hospital by hospital, mapping.yaml says it",
                f"Leave data.{key} out.",
            )
    if config.data.name == "table" and config.data.feature_set is not None:
        what = "it is for the catalogue's tables"
        raise _invalid("data.feature_set", what, "Name the columns in data.features=[...].")
    if config.data.name == "table" and config.data.codebook is None:
        raise _invalid(
            "data.codebook",
            "a deployed run knows the columns by the codebook alone",
            "Give data.codebook=FILE, the same file as in every hospital.",
        )


def _invalid(key: str, rule: str, remedy: str) -> ConfigError:
    return ConfigError(f"{key.replace('.', '_')}_invalid", f"{key}: {rule}", hint=remedy)
