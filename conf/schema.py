"""The typed schema of a run: an unknown key or a wrong type is refused before any work.

What the guarantee depends on (`PrivacyConfig`, `SecAggConfig`) lives apart from what only
changes speed (`RuntimeConfig`), and its epsilon and delta have no default: each study file
states them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

__all__ = [
    "DataConfig",
    "FedAvgConfig",
    "ModelConfig",
    "PrivacyConfig",
    "PrivateConfig",
    "RunConfig",
    "RuntimeConfig",
    "SecAggConfig",
    "StudyConfig",
    "register",
]


@dataclass
class StudyConfig:
    """What the study is."""

    name: str = MISSING
    purpose: str = MISSING


@dataclass
class DataConfig:
    """Where the cohorts come from; null means the catalogue's own choice."""

    name: str = MISSING  # a catalogue name, or `table`
    path: str | None = None  # a CSV or Parquet file, for `data=table`
    site: str | None = None  # column naming the hospital
    patient: str | None = None  # column naming the patient
    outcome: str | None = None  # column with the 0/1 outcome
    positive: str | None = None  # which value of it is the event
    time: str | None = None  # column with follow-up, days
    event: str | None = None  # column saying whether the event was seen
    features: list[str] | None = None
    feature_set: str | None = None  # catalogue only
    exclude: list[str] = field(default_factory=list)
    codebook: str | None = None  # YAML of public knowledge per column
    test_sites: list[str] = field(default_factory=list)  # external validation only
    encoding: str | None = None  # of a CSV; null: UTF-8, else GB18030, and then without noise


@dataclass
class FedAvgConfig:
    """Federated averaging, and the local and pooled training of networks."""

    rounds: int = 40
    local_steps: int = 5
    learning_rate: float = 1.0


@dataclass
class PrivateConfig:
    """How a model family is trained with noise; null takes the method's preset."""

    method: str = MISSING  # gradient | newton_gram | whitened
    steps: int | None = None  # noisy gradients; one more release comes before them
    learning_rate: float | None = None
    clip: float | None = None  # L2 bound of one patient's part of a sum
    l2: float | None = None
    presets: Any = MISSING  # by method: steps, learning_rate, clip and l2


@dataclass
class ModelConfig:
    """A model family and its presets."""

    name: str = MISSING
    l2: float = 1.0
    personal_l2: float = 20.0  # ridge towards the global model
    hidden: list[int] | None = None  # networks: units of each hidden layer
    intervals: int | None = None  # hazards: equal intervals up to the horizon
    seed: int = 0  # networks: public start
    fedavg: FedAvgConfig = field(default_factory=FedAvgConfig)
    private: PrivateConfig | None = None  # null: no differential privacy for this family


@dataclass
class PrivacyConfig:
    """What the guarantee depends on; each study file states them, `data=table` must."""

    epsilon: Any = MISSING  # per patient, per study: a number or a list of numbers
    delta: float = MISSING  # below 1 / patients
    clip: float | None = None  # null: the preset of the model family


@dataclass
class SecAggConfig:
    """How sums are made, and whom the noise must survive."""

    mode: str = "masked"  # masked | plain
    repeats: str = "first"  # first: mask the first repeat, the same integers unmasked after; or all
    colluders: int = 1  # sites assumed to pool what they see with the coordinator
    min_survivors: int | None = None  # null: all sites up to 6, else floor(2n/3) + 1
    max_patients_per_site: int = 2**17  # public bound that sizes the integer grid


@dataclass
class RuntimeConfig:
    """What changes speed or place, never the guarantee."""

    name: str = "in_process"  # in_process | deployed
    timeout_s: float = 60.0  # in_process; a deployed coordinator has its own
    attempts: int = 3  # in_process
    coordinator: str | None = None  # deployed: the coordinator's folder
    sites: list[str] | None = None  # deployed; null: every member of the roster in force
    wait_s: float = 604800.0  # deployed: 7 days, for all plans together
    histograms: str = "auto"  # deployed: auto | always | never: scores on held-out patients


@dataclass
class RunConfig:
    """One `fedcohort run`."""

    study: StudyConfig = field(default_factory=StudyConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    secagg: SecAggConfig = field(default_factory=SecAggConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    arms: list[str] = MISSING
    algorithm: str = "auto"  # auto | newton | gradient | fedavg
    repeats: int = 5
    test_fraction: float = 0.3
    seed: int = 0
    dry_run: bool = False  # price everything, compute nothing
    out: str | None = None  # the run's folder
    overwrite: bool = False


def register() -> None:
    """Tell Hydra about the schema; called once before composing."""
    ConfigStore.instance().store(name="schema", node=RunConfig)
