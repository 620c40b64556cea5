"""The plan: everything a hospital approves before a study runs, as one canonical document.

Frozen, typed, written as canonical JSON (sorted keys, no spaces, no NaN) and named by its
SHA-256: whoever compares hashes compares every field. Reading refuses what it does not know.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from ..privacy.clipping import check_clip
from ..privacy.errors import ConfigError, PolicyError, ProtocolError
from ..privacy.ledger.charges import Reservation
from ..privacy.mechanism import Mechanism
from ..privacy.noise import NoiseTerms, Sharing
from ..privacy.secagg.roster import threshold_for
from . import analyses, models
from .analysis import Analysis
from .evaluated import HeldOut, local_noise
from .holdout import Holdout
from .model import Model
from .registry import build

__all__ = ["PLAN_FORMAT", "Plan", "PrivacyTerms", "analysis_of", "model_of", "reservation_of"]

PLAN_FORMAT = "fedcohort.plan/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyTerms:
    """What the guarantee of a study depends on. No field has a default.

    Attributes:
        epsilon: What was asked for, per patient, over the whole plan.
        delta: In (0, 1), below 1 / patients.
        noise_multiplier: z of every noisy sum, calibrated to cost at most epsilon.
        releases: Number of noisy sums in the plan.
        clip: L2 bound of one patient's contribution.
        sampling_probability: q, with which a patient is in a noisy sum; 1: everybody is.
        sharing: `sum`, `each` (full noise at every site) or `local` (inside local steps).
        min_survivors: m, fewest sites whose shares are in an opened sum.
        colluders: c, sites assumed to pool what they see with the coordinator.
        bound: Name of the accounting that epsilon is stated in.
        unit: Always `patient`: all rows of one person at one site.
        relation: Always `add_or_remove_one`.
    """

    epsilon: float
    delta: float
    noise_multiplier: float
    releases: int
    clip: float
    sharing: Literal["sum", "each", "local"]
    min_survivors: int
    colluders: int
    bound: str
    sampling_probability: float = 1.0
    unit: str = "patient"
    relation: str = "add_or_remove_one"

    def __post_init__(self) -> None:
        for name in ("epsilon", "delta", "noise_multiplier", "clip", "sampling_probability"):
            number = getattr(self, name)
            if isinstance(number, int) and not isinstance(number, bool):
                object.__setattr__(self, name, float(number))  # 3 and 3.0 are one plan
        numbers = (self.epsilon, self.noise_multiplier, self.clip)
        if not all(math.isfinite(number) and number > 0 for number in numbers):
            raise ConfigError("privacy_range", "epsilon, noise_multiplier and clip must be > 0")
        check_clip(self.clip)
        if not 0 < self.delta < 1:
            raise ConfigError("privacy_range", f"delta must lie in (0, 1), got {self.delta}")
        if not 0 < self.sampling_probability <= 1 or (
            self.sampling_probability < 1 and self.sharing != "local"
        ):
            raise ConfigError(
                "privacy_range",
                "sampling_probability must lie in (0, 1], and be 1 where noise is in the sum",
                hint="There is no accounting for discrete noise on Poisson samples.",
            )
        if self.releases < 1 or not 0 <= self.colluders < self.min_survivors:
            raise ConfigError(
                "privacy_range", "releases must be >= 1, and colluders fewer than min_survivors"
            )
        if self.unit != "patient" or self.relation != "add_or_remove_one":
            raise ConfigError("privacy_unit", "the unit is the patient, added or removed")
        if self.sharing not in ("sum", "each", "local"):
            raise ConfigError("privacy_sharing", f"unknown sharing {self.sharing!r}")

    def noise(self) -> NoiseTerms | None:
        """Return the noise that the door adds; None when it is inside local steps already."""
        if self.sharing == "local":
            return None
        sharing: Sharing = "each" if self.sharing == "each" else "sum"
        return NoiseTerms(
            noise_multiplier=self.noise_multiplier,
            sharing=sharing,
            min_survivors=self.min_survivors,
            colluders=self.colluders,
        )

    @property
    def mechanism(self) -> Mechanism:
        """One noisy sum of the plan, as accountants and ledgers know it."""
        return Mechanism(
            noise_multiplier=self.noise_multiplier,
            sampling_probability=self.sampling_probability,
        )


@dataclass(frozen=True, kw_only=True)  # no slots: its hash is kept
class Plan:
    """One analysis over named sites, as a hospital approves it.

    Attributes:
        study: The study's name.
        purpose: What it is for, in a sentence.
        analysis: Name of an analysis of this release, see `study.analyses`.
        parameters: Its fields, JSON values; `model` is itself a mapping with a `name`.
        schema_sha256: Hash of the cohort schema (columns, codebook, task).
        sites: Names of the sites asked, sorted.
        privacy: What the guarantee depends on; None when no noise is added.
        max_rounds: The study ends at the latest after so many sums.
        max_patients_per_site: Public bound that the integer grid is sized by.
        min_sites: Fewest sites in an opened sum when no noise is added.
        secagg: `masked`: the coordinator learns sums only; or `plain`: each site's integers.
        colluders: c of the masks: sites assumed to pool what they see with the coordinator.
        roster: Hash of the roster whose members mask, hex; `simulation` for a throw-away one.
        expires: ISO date after which no site answers.
        holdout: Which patients are kept out of training; None: nobody is.
    """

    study: str
    purpose: str
    analysis: str
    parameters: Mapping[str, Any]
    schema_sha256: str
    sites: tuple[str, ...]
    privacy: PrivacyTerms | None
    max_rounds: int
    max_patients_per_site: int
    min_sites: int
    secagg: str
    colluders: int
    roster: str
    expires: str
    holdout: Holdout | None = None

    def __post_init__(self) -> None:
        # One spelling of every value (lists, not tuples): a plan read back equals the plan.
        plain = json.loads(json.dumps(self.parameters, allow_nan=False))
        object.__setattr__(self, "parameters", plain)
        if not self.sites or list(self.sites) != sorted(set(self.sites)):
            raise ConfigError("plan_sites", "a plan names its sites, each once, sorted")
        if self.max_rounds < 1 or self.max_patients_per_site < 1:
            raise ConfigError("plan_range", "max_rounds and max_patients_per_site must be >= 1")
        if not 1 <= self.min_sites <= len(self.sites):
            raise ConfigError("plan_range", "min_sites must lie between 1 and the sites' number")
        if self.privacy is not None and self.privacy.min_survivors > len(self.sites):
            raise ConfigError("plan_range", "min_survivors exceeds the number of sites")
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", self.expires) is None:
            raise ConfigError("plan_range", "expires must be an ISO date, YYYY-MM-DD")
        if self.secagg not in ("masked", "plain"):
            raise ConfigError("plan_secagg", f"secagg is masked or plain, not {self.secagg!r}")
        local = self.privacy is not None and self.privacy.sharing == "local"
        if local and self.holdout is not None and self.holdout.histogram:
            raise local_noise()
        if self.secagg == "masked":
            # An opened sum holds t sites or more; fewer could never be opened.
            fewest = threshold_for(len(self.sites), self.colluders)
            shared_out = self.privacy is not None and self.privacy.sharing == "sum"
            if self.privacy is not None and shared_out and self.privacy.colluders < self.colluders:
                raise ConfigError(
                    "plan_range", "the noise must stand as many colluders as the masks"
                )
            if self.fewest_sites < fewest:
                raise ConfigError(
                    "plan_range", f"masked sums of these sites need {fewest} of them or more"
                )

    def to_json(self) -> str:
        """Return the canonical JSON."""
        document = {"format": PLAN_FORMAT, **dataclasses.asdict(self)}
        return json.dumps(
            document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )

    @property
    def fewest_sites(self) -> int:
        """Sites that an opened sum must hold."""
        return self.min_sites if self.privacy is None else self.privacy.min_survivors

    @cached_property
    def sha256(self) -> str:
        """Hash of the canonical JSON: the name under which hospitals approve it."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan back; `Plan.from_json(p.to_json()) == p`.

        Raises:
            PolicyError: `plan_unreadable`: not JSON, another format, an unknown or missing
                field, or a value of the wrong type.
        """
        try:
            document = json.loads(text)
            if not isinstance(document, dict) or document.pop("format", None) != PLAN_FORMAT:
                raise _unreadable(f"it is not a {PLAN_FORMAT} document")
            privacy, sites = document.pop("privacy"), document.pop("sites")
            holdout = document.pop("holdout")
            if not isinstance(sites, list) or not all(isinstance(site, str) for site in sites):
                raise _unreadable("sites has the wrong type")
            if not isinstance(privacy, dict | None):
                raise _unreadable("privacy has the wrong type")
            terms = None if privacy is None else _typed(PrivacyTerms, privacy)
            if not isinstance(holdout, dict | None):
                raise _unreadable("holdout has the wrong type")
            split = None if holdout is None else _typed(Holdout, holdout)
            facts = {**document, "privacy": terms, "sites": tuple(sites), "holdout": split}
            plan: Plan = _typed(cls, facts)
            plan.to_json().encode()  # half of a surrogate pair is a text that has no hash
            return plan
        except _CANNOT_BE_READ as error:
            raise _unreadable(str(error)) from error


_CANNOT_BE_READ = (
    ConfigError,
    ProtocolError,
    ArithmeticError,
    KeyError,
    RecursionError,
    TypeError,
    ValueError,
)
_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "bool": (bool,),
    "float": (float, int),
    "tuple[str, ...]": (tuple,),
    "Mapping[str, Any]": (dict,),
}


def _typed(cls: type[Any], document: Mapping[str, Any]) -> Any:
    for field in dataclasses.fields(cls):
        allowed = _JSON_TYPES.get(str(field.type))
        value = document[field.name]  # written in every plan, whether or not it has a default
        # A truth is a whole number to Python, and to nobody else.
        if allowed is not None and (
            not isinstance(value, allowed) or isinstance(value, bool) != (allowed == (bool,))
        ):
            raise _unreadable(f"{field.name} has the wrong type")
    return cls(**document)


def _unreadable(why: str) -> PolicyError:
    return PolicyError(
        "plan_unreadable",
        f"the plan cannot be read: {why}",
        hint="Ask the coordinator for a plan made by this release.",
    )


def model_of(parameters: Mapping[str, Any]) -> Model:
    """Make the model that a plan's parameters describe.

    Raises:
        ConfigError: See `registry.build`.
    """
    if not isinstance(parameters, Mapping):
        raise ConfigError("unknown_model", "a model is described by a mapping with its name")
    fields = {name: value for name, value in parameters.items() if name != "name"}
    fields = {n: tuple(v) if isinstance(v, list) else v for n, v in fields.items()}
    model: Model = build(models, "model", str(parameters.get("name")), fields)
    return model


def analysis_of(plan: Plan) -> Analysis:
    """Make the analysis that a plan names, on training patients only where it holds some out.

    Raises:
        ConfigError: See `registry.build` and `HeldOut`.
    """
    fields: dict[str, Any] = dict(plan.parameters)
    if "model" in fields:
        fields["model"] = model_of(fields["model"])
    for name, value in fields.items():
        if isinstance(value, list):
            fields[name] = tuple(value)
    analysis: Analysis = build(analyses, "analysis", plan.analysis, fields)
    if plan.holdout is None:
        return analysis
    return HeldOut(inner=analysis, holdout=plan.holdout)


def reservation_of(plan: Plan) -> Reservation:
    """Return what a hospital's ledger sets aside for a plan before any of its work."""
    terms = plan.privacy
    return Reservation(
        plan_sha256=plan.sha256,
        study=plan.study,
        purpose=plan.purpose,
        analysis=plan.analysis,
        rounds=plan.max_rounds,
        releases=0 if terms is None else terms.releases,
        mechanism=None if terms is None else terms.mechanism,
        clip=None if terms is None else terms.clip,
        sharing=None if terms is None else terms.sharing,
        min_survivors=plan.fewest_sites,
        colluders=plan.colluders if terms is None else terms.colluders,
        masked=plan.secagg == "masked",
    )
