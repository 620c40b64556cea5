"""What a comparison found: the one document that every table, picture and report is made from.

`results.json` (schema `fedcohort.results/1`) holds it whole; `results.csv`, `comparison.svg`
and `report.html` are views of it and can be made again from it, byte for byte. The JSON is
canonical: fields in the order of the classes here, lists in a stable order, one entry a line,
no NaN (a value that could not be computed is null and says why in `reason`).

`epsilon` is always the value that was *requested*, and names an arm together with `arm` and
`algorithm`; what was spent stands beside it as `epsilon_spent`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from ...privacy.errors import DataError
from ._results_json import dumps, plain, validate

__all__ = [
    "ALL",
    "ARMS",
    "FROM_THE_EXTRACT_ON",
    "GIVEN_SPLIT",
    "MEAN_OF_SITES",
    "SCHEMA",
    "Curve",
    "DataSource",
    "Method",
    "ModelFact",
    "Note",
    "PictureData",
    "PrivacyFact",
    "Results",
    "Row",
    "SecAggInfo",
    "SiteInfo",
    "Summary",
    "Verdict",
    "Warned",
    "read",
    "validate",
]

SCHEMA = "fedcohort.results/1"
ALL = "all"  # the pooled test set of all participants
MEAN_OF_SITES = "mean_of_sites"  # equal weight for every site that could be scored
ARMS = (
    "local",
    "pooled",
    "federated",
    "personalised",
    "consensus",
    "dp_sum",
    "dp_each",
    "dp_fedavg",
)  # the order in which people read them

EpsilonScope = Literal["given_split", "from_the_extract_on"]
GIVEN_SPLIT: EpsilonScope = "given_split"  # who trains was fixed before: a split depends on all
FROM_THE_EXTRACT_ON: EpsilonScope = "from_the_extract_on"  # whoever is in the file or is not

Decision = Literal["gains", "no clear difference", "loses", "not measurable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One number: an arm, scored at one place, in one repeat. `value` None says why."""

    arm: str
    algorithm: str
    site: str
    repeat: int
    metric: str
    value: float | None
    reason: str | None = None
    epsilon: float | None = None
    delta: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One arm at one place over all repeats, with its interval and what it cost.

    Attributes:
        primary: Whether `metric` is the study's primary metric.
        epsilon_scope: Where `epsilon_spent` holds from: `given_split`; None without it.
        bound: Name of the accounting that `epsilon_spent` comes from, e.g. `rdp`.
        bytes_up: Bytes sent by all sites to the coordinator, of the first repeat.
        seconds: Wall time of one repeat's training (mean).
    """

    arm: str
    algorithm: str
    primary: bool
    site: str
    metric: str
    epsilon: float | None = None
    epsilon_spent: float | None = None
    epsilon_scope: EpsilonScope | None = None
    bound: str | None = None
    delta: float | None = None
    mean: float | None
    sd: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    repeats: int
    rounds: int | None = None
    bytes_up: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What joining changed for one hospital: the mean paired difference to its local model."""

    site: str
    arm: str
    epsilon: float | None = None
    metric: str
    verdict: Decision
    mean: float | None
    ci_low: float | None = None
    ci_high: float | None = None
    repeats: int
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteInfo:
    """A hospital of the comparison. The counts are exact: simulation only."""

    site: str
    patients: int
    rows: int
    events_or_positives: int
    role: Literal["participant", "external"] = "participant"


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned:
    """Something found in the data or the run that a reader should know."""

    code: str
    column: str | None = None
    site: str | None = None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One sentence for people, in both languages, with a stable code."""

    code: str
    en: str
    zh: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One line of the picture's third panel.

    Attributes:
        kind: `calibration`: x is the mean predicted risk of a bin, y the fraction observed.
            `survival`: x is days, y the probability of no event so far.
        arm: An arm, or `observed` for the Kaplan-Meier curve of the pooled test sets.
    """

    arm: str
    epsilon: float | None = None
    kind: Literal["calibration", "survival"]
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureData:
    """What the picture needs beyond the summary and the verdicts."""

    curves: tuple[Curve, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyFact:
    """The guarantee of one arm: every number that it depends on, and what it leaves out.

    Attributes:
        epsilon_scope: `given_split`: in the comparison, who trains depends on everybody.
        colluders: Sites assumed to pool what they see with the coordinator; the adversary.
        sharing: `sum`: the sites' shares of noise add up; `each` or `local`: every site adds
            all of it. None: as the arm's name says.
        masked: Whether the coordinator saw only sums. If not, noise that is shared out over
            the sites protects from those alone who see no more than the total.
        clip: L2 bound of one patient's contribution.
        min_survivors: Fewest sites with which a round may finish.
        releases: Noisy sums in which a patient is, over the whole plan.
        sampling_probability: q, with which a patient is in one of them.
        same_variance_epsilon: What continuous noise of the same variance would cost, by
            privacy loss distribution. Where `is_gaussian_proved`, it is true of these releases,
            fixed beforehand; elsewhere it is not the bound. No ledger counts it.
        sites_per_person: Epsilon for a patient of 1, 2 and 3 of the hospitals, by `bound`.
        ledger_order: Order of the Renyi DP in which a hospital's ledger adds up.
        ledger_cost: What the plan costs in it.
        ledger_limit: The budget of a ledger at (epsilon, delta), in the same currency.
        not_covered: What the guarantee says nothing about.
    """

    arm: str
    epsilon: float | None
    epsilon_spent: float | None
    epsilon_scope: EpsilonScope
    delta: float | None
    bound: str | None
    unit: str = "patient"
    relation: str = "add_or_remove_one"
    colluders: int = 0
    sharing: Literal["sum", "each", "local"] | None = None
    masked: bool = False
    noise_multiplier: float | None = None
    clip: float | None = None
    rounds: int | None = None
    min_survivors: int | None = None
    releases: int | None = None
    sampling_probability: float | None = None
    same_variance_epsilon: float | None = None
    sites_per_person: tuple[float, ...] = ()
    ledger_order: int | None = None
    ledger_cost: float | None = None
    ledger_limit: float | None = None
    not_covered: tuple[Note, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFact:
    """The saved models of one arm: what they were fitted on, and what that cost.

    They are fitted once more after the comparison, on all patients of the participating
    hospitals and without a split. The scores of an arm are those of its repeated splits.

    Attributes:
        epsilon: What was asked for; of `personalised`, for the shared model it starts from.
        epsilon_spent: What this training cost; None without noise, and for `personalised`.
        epsilon_scope: `from_the_extract_on` where there is an `epsilon_spent`.
        files: Below the run's folder, each with a card; one for all hospitals, or one for each.
        trained_on: `all_patients`.
        sites: Participating hospitals.
        patients: Theirs, each counted once. Exact: simulation only.
        stays_home: Whether each file is fitted on one hospital's records without noise.
        masked: Whether its sums were masked; None for arms that pass no wire.
        rounds: Sums opened.
        releases: Noisy sums in which a patient is.
        ledger_order: Order of the Renyi DP in which its throw-away ledgers add up.
        ledger_cost: What it cost in them.
        ledger_limit: Their budget.
    """

    arm: str
    algorithm: str
    epsilon: float | None = None
    epsilon_spent: float | None = None
    epsilon_scope: EpsilonScope | None = None
    delta: float | None = None
    bound: str | None = None
    files: tuple[str, ...]
    trained_on: Literal["all_patients"] = "all_patients"
    sites: int
    patients: int
    stays_home: bool
    masked: bool | None = None
    rounds: int | None = None
    releases: int | None = None
    bytes_up: int | None = None
    seconds: float | None = None
    ledger_order: int | None = None
    ledger_cost: float | None = None
    ledger_limit: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """Where the data came from and what its licence asks for."""

    name: str
    title: str
    source: str
    licence: str
    citation: str = ""
    sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """How it was measured."""

    split: str = "stratified by hospital and outcome, whole patients"
    test_fraction: float = 0.3
    interval: str = "Nadeau & Bengio (2003), corrected resampled t"
    level: float = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class SecAggInfo:
    """How the sums of the federated arms were made.

    Attributes:
        mode: `masked`: the coordinator saw only sums; `plain`: each site's integers.
        suite: Crypto suite of the masks; None without masks.
        repeats: Repeats that were really masked: `first`, `all` or `none`; the others added
            the same integers without masks. The fit on all patients is masked as `mode` says.
        sites: Sites asked in every sum.
        threshold: t, members whose shares open a mask; None without masks.
        colluders: c, sites assumed to pool what they see with the coordinator.
        min_survivors: m, fewest sites in an opened sum.
        dropped: Sites missing in at least one opened sum.
        liars: Sites that handed over wrong shares in at least one sum.
    """

    mode: Literal["masked", "plain"]
    suite: str | None = None
    repeats: Literal["first", "all", "none"] = "none"
    sites: int
    threshold: int | None = None
    colluders: int
    min_survivors: int
    dropped: tuple[str, ...] = ()
    liars: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """A finished comparison.

    Attributes:
        created: ISO 8601, UTC.
        command: What makes the same numbers again.
        plan_sha256: Hash of `plan.json`.
    """

    schema: str = SCHEMA
    study: str
    task: Literal["risk", "survival"]
    primary_metric: str
    plan_sha256: str
    created: str
    command: str
    software: Mapping[str, str]
    simulation: bool = True
    seed: int
    repeats: int
    method: Method
    secagg: SecAggInfo
    data: DataSource
    sites: tuple[SiteInfo, ...]
    warnings: tuple[Warned, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    privacy: tuple[PrivacyFact, ...] = ()
    models: tuple[ModelFact, ...] = ()
    rows: tuple[Row, ...] = ()
    summary: tuple[Summary, ...] = ()
    notes: tuple[Note, ...] = ()
    picture: PictureData

    def document(self) -> dict[str, Any]:
        """Return the canonical JSON document: plain values, stable order, no NaN."""
        rank = self._ranker()
        document = {item.name: plain(getattr(self, item.name)) for item in fields(self)}
        document["software"] = dict(sorted(document["software"].items()))
        for name in ("verdicts", "rows", "summary", "privacy", "models"):
            document[name].sort(key=rank)
        document["picture"]["curves"].sort(key=rank)
        for entry in document["rows"]:
            if entry["value"] is None:
                entry["reason"] = entry["reason"] or "not_finite"
        return document

    def dumps(self) -> str:
        """Return the text of `results.json`.

        Raises:
            DataError: The document breaks its schema.
        """
        document = self.document()
        validate(document)
        return dumps(document)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Results:
        """Read what `document` wrote.

        Raises:
            DataError: The document breaks its schema.
        """
        validate(document)
        data = dict(document)
        privacy = tuple(
            PrivacyFact(
                **{
                    **fact,
                    "sites_per_person": tuple(fact["sites_per_person"]),
                    "not_covered": _many(Note, fact["not_covered"]),
                }
            )
            for fact in data.pop("privacy")
        )
        models = tuple(
            ModelFact(**{**fact, "files": tuple(fact["files"])}) for fact in data.pop("models")
        )
        curves = tuple(
            Curve(**{**curve, "x": tuple(curve["x"]), "y": tuple(curve["y"])})
            for curve in data.pop("picture")["curves"]
        )
        return cls(
            method=Method(**data.pop("method")),
            secagg=_secagg(data.pop("secagg")),
            data=DataSource(**data.pop("data")),
            sites=_many(SiteInfo, data.pop("sites")),
            warnings=_many(Warned, data.pop("warnings")),
            verdicts=_many(Verdict, data.pop("verdicts")),
            privacy=privacy,
            models=models,
            rows=_many(Row, data.pop("rows")),
            summary=_many(Summary, data.pop("summary")),
            notes=_many(Note, data.pop("notes")),
            picture=PictureData(curves=curves),
            **data,
        )

    def _ranker(self) -> Any:
        places = {ALL: 0, MEAN_OF_SITES: 1}
        places |= {site.site: 2 + number for number, site in enumerate(self.sites)}
        arms = {arm: number for number, arm in enumerate(ARMS)}

        def rank(entry: Mapping[str, Any]) -> tuple[Any, ...]:
            arm, epsilon, site = entry["arm"], entry["epsilon"], entry.get("site", "")
            return (
                (arms.get(arm, len(arms)), arm, entry.get("algorithm", "")),
                -1.0 if epsilon is None else epsilon,
                (places.get(site, len(places)), site),
                (entry.get("metric", ""), entry.get("repeat", 0)),
            )

        return rank


T = TypeVar("T")


def _secagg(entry: Mapping[str, Any]) -> SecAggInfo:
    return SecAggInfo(
        **{**entry, "dropped": tuple(entry["dropped"]), "liars": tuple(entry["liars"])}
    )


def _many(cls: type[T], entries: Sequence[Mapping[str, Any]]) -> tuple[T, ...]:
    return tuple(cls(**entry) for entry in entries)


def read(path: Path) -> Results:
    """Read a `results.json`, or the one in a run's folder.

    Raises:
        DataError: It is not there, not JSON, or breaks the schema.
    """
    path = path / "results.json" if path.is_dir() else path
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(
            "results_missing",
            f"there is no finished run at {path}",
            hint="A run that was stopped leaves no results.json: run it again.",
        ) from error
    except ValueError as error:
        raise DataError("results_invalid", f"{path} is not JSON: {error}") from error
    return Results.from_document(document)
