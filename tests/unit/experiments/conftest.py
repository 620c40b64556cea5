"""A plausible comparison, made up: what tables, pictures and reports are tested on."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from fedcohort.experiments.reporting.results import (
    Curve,
    DataSource,
    Method,
    ModelFact,
    Note,
    PictureData,
    PrivacyFact,
    Results,
    Row,
    SecAggInfo,
    SiteInfo,
    Summary,
    Verdict,
    Warned,
)

HOSPITALS = ("cleveland", "hungary", "switzerland", "va_long_beach")
EPSILONS = (1.0, 3.0, 8.0)
REPEATS = 20
HASH = "9f2c" * 16
Run = tuple[str, float | None]  # an arm and the epsilon asked for

LEVEL = {
    "local": 0.862,
    "pooled": 0.886,
    "federated": 0.885,
    "personalised": 0.887,
    "consensus": 0.871,
    "dp_sum": 0.884,
    "dp_each": 0.882,
    "dp_fedavg": 0.876,
}
COST = {"dp_sum": 0.013, "dp_each": 0.034, "dp_fedavg": 0.046}  # what epsilon = 1 costs more


def level(run: Run) -> float:
    arm, epsilon = run
    return LEVEL[arm] - (COST.get(arm, 0.011) / epsilon**1.3 if epsilon else 0.0)


def all_runs(epsilons: Sequence[float]) -> list[Run]:
    plain: list[Run] = [(arm, None) for arm in LEVEL if not arm.startswith("dp_")]
    noisy = [(arm, epsilon) for arm in ("personalised", *COST) for epsilon in epsilons]
    return [*plain, *noisy]


def fake_summary(run: Run, site: str, metric: str, mean: float, half: float) -> Summary:
    arm, epsilon = run
    alone = arm in ("local", "pooled")
    return Summary(
        arm=arm,
        algorithm="newton" if epsilon is None else "dp_gradient",
        primary=metric in ("auroc", "c_index"),
        site=site,
        metric=metric,
        epsilon=epsilon,
        epsilon_spent=epsilon * 0.997 if epsilon else None,
        epsilon_scope="given_split" if epsilon else None,
        bound="rdp" if epsilon else None,
        delta=1e-4 if epsilon else None,
        mean=mean,
        sd=half * 1.4,
        ci_low=mean - half,
        ci_high=mean + half,
        repeats=REPEATS,
        rounds=None if alone else (100 if epsilon else 24),
        bytes_up=None if alone else (412_672 if epsilon else 99_041),
        seconds=0.4 if alone else 11.7 if epsilon else 3.1,
    )


def fake_verdicts(sites: Sequence[str], metric: str, epsilons: Sequence[float]) -> list[Verdict]:
    found: list[Verdict] = []
    shown: list[Run] = [("personalised", None), ("federated", None)]
    for arm, epsilon in shown + [("personalised", epsilon) for epsilon in epsilons]:
        for number, site in enumerate(sites):
            if number == 3 and epsilon is None and arm == "personalised" and len(sites) > 4:
                found.append(
                    Verdict(
                        site=site,
                        arm=arm,
                        epsilon=epsilon,
                        metric=metric,
                        verdict="not measurable",
                        mean=None,
                        repeats=0,
                        reason="one_class_in_test",
                    )
                )
                continue
            mean = (0.002, 0.004, 0.037, 0.026, -0.031)[number % 5]
            mean -= 0.008 if arm == "federated" else 0.0
            half = (0.006, 0.003, 0.034, 0.017, 0.02)[number % 5]
            good = "gains" if mean - half > 0 else "no clear difference"
            found.append(
                Verdict(
                    site=site,
                    arm=arm,
                    epsilon=epsilon,
                    metric=metric,
                    verdict="loses" if mean + half < 0 else good,  # type: ignore[arg-type]
                    mean=mean,
                    ci_low=mean - half,
                    ci_high=mean + half,
                    repeats=REPEATS,
                )
            )
    return found


def fake_models(sites: Sequence[str], epsilons: Sequence[float]) -> list[ModelFact]:
    """Return one entry per arm and epsilon, as a run saves them."""
    found = []
    for arm, epsilon in all_runs(epsilons):
        noisy, home = arm in COST, arm in ("local", "personalised")
        name = arm if epsilon is None else f"{arm}-eps{epsilon:g}"
        ends = [f"-site{number}" for number in range(len(sites))] if home else [""]
        found.append(
            ModelFact(
                arm=arm,
                algorithm="dp_gradient" if noisy else "newton",
                epsilon=epsilon,
                epsilon_spent=epsilon * 0.997 if noisy and epsilon else None,
                epsilon_scope="from_the_extract_on" if noisy else None,
                delta=1e-4 if noisy else None,
                bound="rdp" if noisy else None,
                files=tuple(f"models/{name}{end}.safetensors" for end in ends),
                sites=len(sites),
                patients=1234,
                stays_home=home,
                seconds=0.5,
            )
        )
    return found


def fake_curves(task: str) -> list[Curve]:
    shown: list[Run] = [("local", None), ("federated", None), ("dp_sum", 3.0)]
    tilt = {"local": 0.06, "federated": 0.02, "dp_sum": -0.05}
    if task == "risk":
        grid = [0.05 + 0.1 * step for step in range(10)]
        return [
            Curve(
                arm=arm,
                epsilon=epsilon,
                kind="calibration",
                x=tuple(grid),
                y=tuple(min(1.0, max(0.0, x + tilt[arm] * (0.5 - x) * 4)) for x in grid),
            )
            for arm, epsilon in shown
        ]
    days = [182.5 * step for step in range(21)]
    curves = [
        Curve(
            arm=arm,
            epsilon=epsilon,
            kind="survival",
            x=tuple(days),
            y=tuple(0.35 + 0.65 * 0.88 ** (day / 365 * (1 + tilt[arm])) for day in days),
        )
        for arm, epsilon in shown
    ]
    observed = tuple(0.34 + 0.66 * 0.87 ** (day / 365) for day in days)
    return [*curves, Curve(arm="observed", kind="survival", x=tuple(days), y=observed)]


def make_results(
    task: str = "risk",
    *,
    sites: Sequence[str] = HOSPITALS,
    epsilons: Sequence[float] = EPSILONS,
    **changes: Any,
) -> Results:
    """Return a made-up comparison; `changes` replace fields of `Results`."""
    dice = random.Random(4)  # noqa: S311 - a made-up table, not noise
    primary, second = ("auroc", "brier") if task == "risk" else ("c_index", "ibs")
    runs = all_runs(epsilons)
    offset = {site: dice.uniform(-0.14, 0.02) for site in sites}
    summary, rows = [], []
    for run in runs:
        for site in ("all", "mean_of_sites", *sites):
            mean = level(run) + offset.get(site, -0.03 if site != "all" else 0.0)
            half = 0.011 if site == "all" else 0.019
            summary.append(fake_summary(run, site, primary, mean, half))
            summary.append(fake_summary(run, site, second, 1.02 - mean, half / 2))
            for repeat in range(2):
                rows.append(
                    Row(
                        arm=run[0],
                        algorithm="newton" if run[1] is None else "dp_gradient",
                        site=site,
                        repeat=repeat,
                        metric=primary,
                        value=mean + dice.gauss(0, 0.01),
                        epsilon=run[1],
                        delta=1e-4 if run[1] else None,
                    )
                )
    missing = Note(
        code="site_sizes",
        en="how many patients each hospital has",
        zh="各医院的患者人数",
    )
    facts: dict[str, Any] = {
        "study": "heart-disease" if task == "risk" else "breast-recurrence",
        "task": task,
        "primary_metric": primary,
        "plan_sha256": HASH,
        "created": "2026-11-21T20:31:07Z",
        "command": "fedcohort run study=heart-disease repeats=20 seed=0",
        "software": {"fedcohort": "0.1.0", "flwr": "1.41.0", "numpy": "2.4.6"},
        "seed": 0,
        "repeats": REPEATS,
        "method": Method(),
        "secagg": SecAggInfo(
            mode="plain", sites=len(sites), colluders=1, min_survivors=max(1, len(sites) - 1)
        ),
        "data": DataSource(
            name="heart-disease",
            title="Heart Disease, four hospitals",
            source="UCI Machine Learning Repository, doi:10.24432/C52P4X",
            licence="CC BY 4.0",
            citation="Janosi, Steinbrunn, Pfisterer, Detrano (1988)",
            sha256=HASH[::-1],
        ),
        "sites": tuple(
            SiteInfo(site=site, patients=120 + 37 * n, rows=123 + 37 * n, events_or_positives=60)
            for n, site in enumerate(sites)
        ),
        "warnings": (
            Warned(
                code="few_negatives",
                site=sites[2 % len(sites)],
                text="8 patients without the outcome: scores of one split say little",
            ),
            Warned(
                code="missing_share",
                column="chol",
                site=sites[-1],
                text="a quarter of the values is missing",
            ),
        ),
        "verdicts": tuple(fake_verdicts(sites, primary, epsilons)),
        "privacy": tuple(
            PrivacyFact(
                arm=arm,
                epsilon=epsilon,
                epsilon_spent=epsilon * 0.997,
                epsilon_scope="given_split",
                delta=1e-4,
                bound="rdp",
                colluders=1,
                noise_multiplier=18.2 / epsilon,
                clip=2.0,
                rounds=100,
                min_survivors=3,
                not_covered=(missing,),
            )
            for arm in COST
            for epsilon in epsilons
        ),
        "models": tuple(fake_models(sites, epsilons)),
        "rows": tuple(rows),
        "summary": tuple(summary),
        "notes": (
            Note(
                code="tuned_elsewhere",
                en="Step size and clip were chosen once on other splits.",
                zh="步长与裁剪阈值是在其他划分上一次性选定的。",
            ),
        ),
        "picture": PictureData(curves=tuple(fake_curves(task))),
    }
    return Results(**(facts | changes))


@pytest.fixture
def risk() -> Results:
    return make_results("risk")


@pytest.fixture
def survival() -> Results:
    return make_results("survival")


@pytest.fixture(params=["risk", "survival"])
def results(request: pytest.FixtureRequest) -> Results:
    return make_results(request.param)


@pytest.fixture(scope="session")
def fake() -> Callable[..., Results]:
    return make_results
