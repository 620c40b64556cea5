"""What a run was asked to do: Hydra's configuration checked once, then plain frozen values.

Every impossible value is one refusal with a code and a remedy, before any data is read.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ..conf.schema import FedAvgConfig
from ..datasets import LoadOptions, list_catalogue
from ..fl_server.rounds import Patience
from ..privacy.errors import ConfigError
from .deployed.asked import DeployedSettings, deployed_arms, deployed_settings
from .methods import PrivateMethod, private_method
from .reporting.results import ARMS

__all__ = [
    "ALGORITHMS",
    "DP_ARMS",
    "SHARING",
    "ModelSettings",
    "PrivacySettings",
    "SecAggSettings",
    "Settings",
]

SHARING = {"dp_sum": "sum", "dp_each": "each", "dp_fedavg": "local"}
DP_ARMS = tuple(SHARING)
ALGORITHMS = ("auto", "newton", "gradient", "fedavg")
_LARGEST_EPSILON = 1e4
_SHIPPED = tuple(entry.name for entry in list_catalogue())  # studies with data of their own
CONVEX = ("logistic", "hazard", "cox")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """A model family, its presets and the algorithm that trains it without noise."""

    name: str
    l2: float
    personal_l2: float
    hidden: tuple[int, ...] | None
    intervals: int | None
    seed: int
    algorithm: str
    fedavg: FedAvgConfig
    private: PrivateMethod | None

    @property
    def convex(self) -> bool:
        """Whether Newton's method applies."""
        return self.name in CONVEX


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacySettings:
    """What the guarantee depends on."""

    epsilons: tuple[float, ...]
    delta: float
    clip: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SecAggSettings:
    """How sums are made, and whom masks and noise must survive."""

    mode: str
    repeats: str
    colluders: int
    min_survivors: int | None

    def masks(self, repeat: int) -> bool:
        """Whether this repeat is really masked; the others add the same integers in plain."""
        return self.mode == "masked" and (self.repeats == "all" or repeat == 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One `fedcohort run`, checked."""

    study: str
    purpose: str
    data: str
    path: Path | None
    options: LoadOptions
    model: ModelSettings
    privacy: PrivacySettings | None
    arms: tuple[str, ...]
    max_patients_per_site: int
    secagg: SecAggSettings
    patience: Patience
    repeats: int
    test_fraction: float
    seed: int
    dry_run: bool
    out: Path | None
    overwrite: bool
    deployed: DeployedSettings | None = None  # None: in one process

    @property
    def federates(self) -> bool:
        """Whether any arm passes the wire; the others are computed in one process."""
        return any(arm in ("federated", "personalised", *DP_ARMS) for arm in self.arms)

    @classmethod
    def of(cls, config: DictConfig, *, stated: Collection[str] = ()) -> Settings:
        """Check a composed configuration; `stated` are the keys that the person gave.

        Raises:
            ConfigError: Naming the key, the rule and the remedy.
        """
        if config.runtime.name not in ("in_process", "deployed"):
            raise _refused("runtime", "it is in_process or deployed", "Use in_process.")
        deployed = deployed_settings(config, stated)
        arms = _arms(config.arms)
        if deployed is not None:
            arms = deployed_arms(arms, stated)
        if config.data.name == "table" and config.study.name in _SHIPPED:
            raise ConfigError(
                "study_data_mismatch",
                f"study={config.study.name} brings its own data and privacy terms",
                hint="Leave study= out when you give data=table.",
            )
        if config.secagg.mode not in ("masked", "plain"):
            raise _refused("secagg.mode", "it is masked or plain", "Use secagg=masked.")
        if config.secagg.repeats not in ("first", "all"):
            raise _refused("secagg.repeats", "it is first or all", "Use secagg.repeats=first.")
        _between("secagg.colluders", config.secagg.colluders, 0, 10**4)
        _between("repeats", config.repeats, 1, 10_000)
        _between("seed", config.seed, 0, 2**63 - 1)
        _between("secagg.max_patients_per_site", config.secagg.max_patients_per_site, 1, 2**40)
        _between("runtime.attempts", config.runtime.attempts, 1, 100)
        _positive("runtime.timeout_s", config.runtime.timeout_s, "Use 60.")
        if config.out is not None and not config.out.strip():
            raise _refused("out", "it names no folder", "Give out=FOLDER, or leave it out.")
        if not 0.05 <= config.test_fraction <= 0.95:
            raise _refused("test_fraction", "it must lie in [0.05, 0.95]", "Use 0.3.")
        private = any(arm in DP_ARMS for arm in arms)
        return cls(
            study=config.study.name,
            purpose=config.study.purpose,
            data=config.data.name,
            path=None if config.data.path is None else Path(config.data.path),
            options=_options(config.data, deployed),
            model=_model(config),
            privacy=_privacy(config) if private else None,
            arms=arms,
            max_patients_per_site=config.secagg.max_patients_per_site,
            secagg=SecAggSettings(
                mode=config.secagg.mode,
                repeats=config.secagg.repeats,
                colluders=config.secagg.colluders,
                min_survivors=config.secagg.min_survivors,
            ),
            patience=Patience(timeout_s=config.runtime.timeout_s, attempts=config.runtime.attempts),
            repeats=1 if deployed else config.repeats,  # they hold out patients once
            test_fraction=config.test_fraction,
            seed=config.seed,
            dry_run=config.dry_run,
            out=None if config.out is None else Path(config.out),
            overwrite=config.overwrite,
            deployed=deployed,
        )


def _refused(key: str, rule: str, remedy: str) -> ConfigError:
    return ConfigError(f"{key.replace('.', '_')}_invalid", f"{key}: {rule}", hint=remedy)


def _between(key: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise _refused(key, f"it must lie in [{low}, {high}], got {value}", f"Use {low}.")


def _arms(asked: Sequence[str]) -> tuple[str, ...]:
    unknown = [arm for arm in asked if arm not in ARMS]
    if unknown or not asked:
        what = f"there is no arm {unknown[0]!r}" if unknown else "at least one arm is needed"
        raise _refused("arms", what, f"Choose from: {', '.join(ARMS)}.")
    return tuple(arm for arm in ARMS if arm in asked)


def _options(data: DictConfig, deployed: DeployedSettings | None) -> LoadOptions:
    values: dict[str, Any] = OmegaConf.to_container(data)  # type: ignore[assignment]
    if deployed is None and (data.name == "table") != (data.path is not None):
        raise _refused(
            "data.path",
            "data=table reads the file named by data.path, and nothing else does",
            "Give data=table data.path=FILE.csv, or a study such as study=heart-disease.",
        )
    features = values.pop("features")
    codebook = values.pop("codebook")
    for name in ("name", "path"):
        values.pop(name)
    return LoadOptions(
        **{**values, "exclude": tuple(data.exclude), "test_sites": tuple(data.test_sites)},
        features=None if features is None else tuple(features),
        codebook=None if codebook is None else Path(codebook),
    )


def _model(config: DictConfig) -> ModelSettings:
    model = config.model
    if config.algorithm not in ALGORITHMS:
        choices = f"Choose from: {', '.join(ALGORITHMS)}."
        raise _refused("algorithm", f"there is no {config.algorithm!r}", choices)
    for key in ("l2", "personal_l2"):
        if not (math.isfinite(model[key]) and model[key] >= 0):
            raise _refused(f"model.{key}", "it must be finite and >= 0", "Use 1.0.")
    _check_sizes(model)
    convex = model.name in CONVEX
    algorithm = config.algorithm
    if algorithm == "auto":
        algorithm = "newton" if convex else "fedavg"
    if algorithm == "newton" and not convex:
        raise _refused(
            "algorithm", f"newton needs a convex model, {model.name} is none", "Use fedavg."
        )
    return ModelSettings(
        name=model.name,
        l2=model.l2,
        personal_l2=model.personal_l2,
        hidden=None if model.hidden is None else tuple(model.hidden),
        intervals=model.intervals,
        seed=model.seed,
        algorithm=algorithm,
        fedavg=OmegaConf.to_object(model.fedavg),  # type: ignore[arg-type]
        private=private_method(model),
    )


def _check_sizes(model: DictConfig) -> None:
    """Refuse counts below one and rates that are no positive number."""
    for units in model.hidden or ():
        _between("model.hidden", units, 1, 10_000)
    if model.intervals is not None:
        _between("model.intervals", model.intervals, 1, 1000)
    _between("model.seed", model.seed, 0, 2**63 - 1)
    for key, value in model.fedavg.items():
        if isinstance(value, int):
            _between(f"model.fedavg.{key}", value, 1, 10_000)
        else:
            _positive(f"model.fedavg.{key}", value, "Use 1.0.")


def _privacy(config: DictConfig) -> PrivacySettings:
    if config.model.private is None:
        raise ConfigError(
            "no_per_patient_gradient",
            f"model={config.model.name} cannot be trained with differential privacy: its loss is "
            "not a sum over patients",
            hint="Use model=hazard, the discrete-time hazard, or leave the dp_* arms out.",
        )
    for key in ("epsilon", "delta"):
        if OmegaConf.is_missing(config.privacy, key):
            raise ConfigError(
                f"privacy_{key}_missing",
                f"privacy.{key} must be stated when a dp_* arm runs",
                hint="Give privacy.epsilon=1 privacy.delta=1e-5 (delta below 1 / patients).",
            )
    raw = config.privacy.epsilon
    asked = list(raw) if OmegaConf.is_list(raw) else [raw]
    epsilons = tuple(_positive("privacy.epsilon", value) for value in asked)
    for epsilon in epsilons:
        if epsilon > _LARGEST_EPSILON:
            raise _refused(
                "privacy.epsilon",
                f"{epsilon:g} is above {_LARGEST_EPSILON:g}, where noise falls below the grid",
                "Use 1, 3 or 8; leave the dp_* arms out for no noise.",
            )
    # Names of arms and files show six digits.
    if not epsilons or len({f"{epsilon:g}" for epsilon in epsilons}) != len(epsilons):
        raise _refused("privacy.epsilon", "it needs one number or distinct ones", "Use [1,3,8].")
    delta = config.privacy.delta
    if not 0 < delta < 1:
        raise _refused("privacy.delta", f"it must lie in (0, 1), got {delta}", "Use 1e-5.")
    clip = config.privacy.clip
    return PrivacySettings(
        epsilons=tuple(sorted(epsilons)),
        delta=delta,
        clip=None if clip is None else _positive("privacy.clip", clip),
    )


def _positive(key: str, value: object, remedy: str = "Use 3 or [1,3,8].") -> float:
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if not (math.isfinite(number) and number > 0):
        raise _refused(key, f"it must be a number > 0, got {value!r}", remedy)
    return float(number)
