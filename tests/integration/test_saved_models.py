"""What a run saves is fitted on all patients: the real path from a file to `models/`.

A stratified split depends on everybody, so a model of one split moves far when one patient leaves
the file. The oracles here are a logistic regression written down once more, and a fit of the same
patients less one.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from fedcohort.datasets import Extract, split
from fedcohort.experiments import arms, run
from fedcohort.experiments.extracts import load
from fedcohort.experiments.full_fit import fit_all_patients
from fedcohort.experiments.planning import Planner
from fedcohort.experiments.reporting.models import load_model
from fedcohort.experiments.settings import Settings
from fedcohort.experiments.simulation.federate import federate
from fedcohort.fl_server.coordinator import Outcome
from fedcohort.privacy.ledger.store import read_entries
from fedcohort.study.analyses.whitened import Whitened
from fedcohort.study.analysis import Contribution, State
from fedcohort.study.cohort import Cohort
from fedcohort.study.plan import Plan

Theta = NDArray[np.float64]
DATA = resources.files("fedcohort") / "datasets"
TABLE = "heart_disease_4h.csv"
HEART = (
    "data=table",
    "data.site=hospital",
    "data.patient=patient_id",
    "data.outcome=disease",
    "data.features=[age,sex,trestbps,chol,thalach,oldpeak,fbs,exang,cp,restecg]",
    "repeats=1",
)
HOSPITALS = ("cleveland", "hungarian", "switzerland", "va_long_beach")
# Lines of the file: first and last of it and of some hospitals, and some between.
LEFT_OUT = (1, 2, 51, 151, 303, 304, 450, 597, 598, 650, 720, 721, 800, 920)
OTHERS_MOVE = 0.05  # what re-dealing a split moves at least, at the median

Make = Callable[..., Settings]


@pytest.fixture
def heart(settings_of: Callable[[Sequence[str]], Settings], tmp_path: Path) -> Make:
    """Return settings for the shipped table, written to a file of one's own without some line."""
    lines = (DATA / "tables" / TABLE).read_text(encoding="utf-8").splitlines(keepends=True)

    def settings(*overrides: str, without: int | None = None) -> Settings:
        path = tmp_path / f"heart-{without}.csv"
        path.write_text("".join(text for n, text in enumerate(lines) if n != without))
        codebook = DATA / "codebooks" / "heart-disease.yaml"
        asked = (*HEART, f"data.path={path}", f"data.codebook={codebook}", "secagg=plain")
        return settings_of((*asked, f"out={tmp_path / f'run-{without}'}", *overrides))

    return settings


def saved(settings: Settings) -> dict[str, tuple[Theta, dict[str, Any]]]:
    """Run the whole command and return the models and cards that it left."""
    assert settings.out is not None
    run.run(settings, command="fedcohort run", console=Console(quiet=True))
    found = {}
    for path in sorted((settings.out / "models").glob("*.safetensors")):
        model = load_model(path)
        found[path.name.removesuffix(".safetensors")] = (model.arrays["theta"], dict(model.card))
    return found


def rows_of(cohorts: Sequence[Cohort]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return features with a column of ones, and labels, of all cohorts together."""
    features = np.concatenate([cohort.features for cohort in cohorts]).astype(np.float64)
    labels = [cohort.label for cohort in cohorts if cohort.label is not None]
    return np.column_stack([features, np.ones(len(features))]), np.concatenate(labels)


def ridge_weights(width: int, l2: float) -> NDArray[np.float64]:
    return l2 * np.append(np.ones(width - 1), 0.01)  # the intercept's ridge is a hundredth


def newton(
    x: NDArray[np.float64], y: NDArray[np.float64], l2: float, start: Theta | float = 0.0
) -> Theta:
    """Minimise the summed log loss + 1/2 sum(weight (theta - start)^2): an oracle of its own."""
    weight, origin = ridge_weights(x.shape[1], l2), np.zeros(x.shape[1]) + start
    theta = origin.copy()
    for _ in range(50):
        p = 1 / (1 + np.exp(-x @ theta))
        gradient = x.T @ (p - y) + weight * (theta - origin)
        curvature = (x * (p * (1 - p))[:, None]).T @ x + np.diag(weight)
        theta = theta - np.linalg.solve(curvature, gradient)
    return theta


def planner_of(settings: Settings, extract: Extract) -> Planner:
    return Planner(
        settings=settings,
        schema=extract.schema,
        sites=tuple(cohort.site for cohort in extract.cohorts),
        today=dt.datetime.now(dt.UTC).date(),
        masked=False,
    )


# ---- on all patients, whatever the arm


def test_saved_weights_are_the_fit_on_all_patients(heart: Make) -> None:
    settings = heart("arms=[local,pooled,federated,personalised,consensus]")
    models, extract = saved(settings), load(settings)
    l2, personal = settings.model.l2, settings.model.personal_l2
    everyone = newton(*rows_of(extract.cohorts), l2)
    one_part = [train for train, _ in split(extract.cohorts, repeat=0, seed=0)]
    assert np.linalg.norm(newton(*rows_of(one_part), l2) - everyone) > 0.1  # else it shows nothing
    np.testing.assert_allclose(models["pooled"][0], everyone, atol=1e-8)
    np.testing.assert_allclose(models["federated"][0], everyone, atol=1e-8)
    alone = {c.site: newton(*rows_of([c]), l2) for c in extract.cohorts}
    for cohort in extract.cohorts:
        site, own = cohort.site, rows_of([cohort])
        np.testing.assert_allclose(models[f"local-{site}"][0], alone[site], atol=1e-7)
        theta = newton(*own, personal, everyone)
        np.testing.assert_allclose(models[f"personalised-{site}"][0], theta, atol=1e-7)
    mean = np.mean(list(alone.values()), axis=0)
    np.testing.assert_allclose(models["consensus"][0], mean, atol=1e-7)


def test_patients_of_test_hospitals_are_never_trained_on(heart: Make) -> None:
    settings = heart("arms=[local,pooled,federated]", "data.test_sites=[va_long_beach]")
    models, extract = saved(settings), load(settings)
    assert [cohort.site for cohort in extract.external] == ["va_long_beach"]
    inside = newton(*rows_of(extract.cohorts), settings.model.l2)
    outside = newton(*rows_of([*extract.cohorts, *extract.external]), settings.model.l2)
    assert np.linalg.norm(inside - outside) > 0.1
    np.testing.assert_allclose(models["pooled"][0], inside, atol=1e-8)
    np.testing.assert_allclose(models["federated"][0], inside, atol=1e-8)
    assert set(models) == {"pooled", "federated", *(f"local-{s}" for s in HOSPITALS[:3])}
    assert models["pooled"][1]["sites"] == 3
    assert "va_long_beach" not in models["pooled"][1]["trained_on"]


@pytest.mark.parametrize(
    ("noisy", "epsilons"), [(("dp_sum", "dp_each"), (1, 8)), (("dp_fedavg",), (8,))]
)
def test_every_saved_model_with_noise_comes_from_a_plan_over_all_patients(
    heart: Make, monkeypatch: pytest.MonkeyPatch, noisy: Sequence[str], epsilons: Sequence[int]
) -> None:
    runs: list[tuple[Plan, list[Cohort], Outcome]] = []

    def listening(plan: Plan, cohorts: Sequence[Cohort], **more: Any) -> Outcome:
        runs.append((plan, list(cohorts), federate(plan, cohorts, **more)))
        return runs[-1][2]

    monkeypatch.setattr(arms, "federate", listening)
    settings = heart(
        f"arms=[{','.join(noisy)}]", f"privacy.epsilon={list(epsilons)}".replace(" ", ""),
        "privacy.delta=1e-4", "data.test_sites=[va_long_beach]",
    )  # fmt: skip
    models, extract = saved(settings), load(settings)
    wanted = {cohort.site: cohort.rows for cohort in extract.cohorts}
    whole = [one for one in runs if {c.site: c.rows for c in one[1]} == wanted]
    parts = [one for one in runs if sum(c.rows for c in one[1]) < sum(wanted.values())]
    names = [f"{arm}-eps{epsilon}" for arm in noisy for epsilon in epsilons]
    assert len(whole) == len(parts) == len(names)
    assert sorted(models) == sorted(names)
    for name, (plan, _, outcome) in zip(names, whole, strict=True):
        theta, card = models[name]
        np.testing.assert_array_equal(theta, outcome.result.arrays["theta"])
        assert plan.privacy is not None
        assert (card["epsilon"], card["delta"]) == (plan.privacy.epsilon, plan.privacy.delta)
        assert card["epsilon_scope"] == "from_the_extract_on"
        assert card["epsilon_covers"].startswith("This model, from the extract on: ")


def test_cards_say_on_whom_and_what_epsilon_covers(heart: Make) -> None:
    settings = heart("arms=[local,personalised,dp_sum]", "privacy.epsilon=2", "privacy.delta=1e-4")
    models = saved(settings)
    everybody = f"all patients of {', '.join(HOSPITALS)} (simulation), without a split"
    noisy = models["dp_sum-eps2"][1]
    assert (noisy["trained_on"], noisy["sites"]) == (everybody, 4)
    assert "no score, no verdict and no other model" in noisy["epsilon_covers"]
    assert 1.9 < noisy["epsilon_spent"] <= 2.0
    own = models["local-cleveland"][1]
    assert own["trained_on"] == "all patients of cleveland (simulation), without a split"
    assert own["sites"] == 1
    for name in ("personalised-cleveland", "personalised-eps2-cleveland"):
        card = models[name][1]
        assert card["trained_on"].startswith(f"{everybody}; then fitted at cleveland")
        absent = ("epsilon", "epsilon_spent", "epsilon_scope", "epsilon_covers", "delta")
        assert [card[field] for field in absent] == [None] * 5
        assert "it must stay there" in card["limits"]
    assert models["personalised-eps2-cleveland"][1]["starts_from_epsilon"] == 2.0
    # It starts from the very model that is saved beside it, not from a repeat's.
    cleveland = next(c for c in load(settings).cohorts if c.site == "cleveland")
    started = models["dp_sum-eps2"][0]
    expected = newton(*rows_of([cleveland]), settings.model.personal_l2, started)
    np.testing.assert_allclose(models["personalised-eps2-cleveland"][0], expected, atol=1e-7)
    for _, card in models.values():
        assert "repeated splits of the same procedure" in card["scores"]
        assert "first repeat" not in json.dumps(card)


def test_the_extra_fit_is_masked_and_has_ledgers_of_its_own(heart: Make) -> None:
    asked = ("privacy.epsilon=3", "privacy.delta=1e-4", "repeats=2", "secagg=masked")
    settings = heart("arms=[federated,dp_sum]", *asked)
    models = saved(settings)
    assert settings.out is not None
    results = json.loads((settings.out / "results.json").read_text(encoding="utf-8"))
    told = {model["arm"]: model for model in results["models"]}
    assert [told[arm]["masked"] for arm in ("federated", "dp_sum")] == [True, True]
    everyone = newton(*rows_of(load(settings).cohorts), settings.model.l2)
    np.testing.assert_allclose(models["federated"][0], everyone, atol=1e-8)
    folders = sorted(path.name for path in (settings.out / "ledgers").iterdir())
    assert folders == ["dp_sum-eps3-all-patients", "dp_sum-eps3-repeat0", "dp_sum-eps3-repeat1"]
    for folder in folders:
        paths = sorted((settings.out / "ledgers" / folder).glob("*.ledger"))
        assert [path.stem for path in paths] == list(HOSPITALS)
        for path in paths:
            kinds = [entry.kind for entry in read_entries(path)]
            assert kinds.count("charge") == told["dp_sum"]["releases"]


def test_who_was_lost_in_the_fit_on_all_patients_is_told(
    heart: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def losing(*given: Any, **more: Any) -> tuple[arms.Fit, ...]:
        fits = fit_all_patients(*given, **more)
        return tuple(replace(fit, dropped=("switzerland",), liars=("cleveland",)) for fit in fits)

    monkeypatch.setattr(run, "fit_all_patients", losing)
    settings = heart("arms=[federated]")
    saved(settings)
    assert settings.out is not None
    told = json.loads((settings.out / "results.json").read_text(encoding="utf-8"))["secagg"]
    assert (told["dropped"], told["liars"]) == (["switzerland"], ["cleveland"])


# ---- one patient less in the file


def test_leaving_one_patient_out_of_the_file_moves_saved_weights_by_that_patients_influence(
    heart: Make,
) -> None:
    """The control: the fit of one split moves far more, for others change sides."""
    before = heart("arms=[pooled,federated]")
    full, extract = saved(before), load(before)
    l2 = before.model.l2
    x, y = rows_of(extract.cohorts)
    theta = newton(x, y, l2)
    p = 1 / (1 + np.exp(-x @ theta))
    curvature = (x * (p * (1 - p))[:, None]).T @ x + np.diag(ridge_weights(x.shape[1], l2))
    one_split = _fit_of_one_split(extract, l2)
    # The shipped table is ordered by hospital, so its line number is the row of all cohorts.
    moves, dealt = [], []
    for line in LEFT_OUT:
        row = line - 1
        settings = heart("arms=[pooled,federated]", without=line)
        less, fewer = saved(settings), load(settings)
        assert sum(cohort.rows for cohort in fewer.cohorts) == len(x) - 1
        kept = np.arange(len(x)) != row
        exact = newton(x[kept], y[kept], l2)  # the same patients less one
        own = curvature - (p * (1 - p))[row] * np.outer(x[row], x[row])
        one_step = np.linalg.solve(own, (p - y)[row] * x[row])
        for arm in ("pooled", "federated"):
            moved = less[arm][0] - full[arm][0]
            np.testing.assert_allclose(less[arm][0], exact, atol=1e-8)
            assert np.linalg.norm(moved - one_step) < 0.02 * np.linalg.norm(one_step) + 1e-6
        moves.append(float(np.linalg.norm(less["federated"][0] - full["federated"][0])))
        dealt.append(float(np.linalg.norm(_fit_of_one_split(fewer, l2) - one_split)))
    assert np.median(moves) < 0.03
    assert np.median(dealt) > OTHERS_MOVE > max(np.median(moves), 0.03)


def _fit_of_one_split(extract: Extract, l2: float) -> Theta:
    """Return what was saved once: the fit on the training part of the first repeat."""
    return newton(*rows_of([t for t, _ in split(extract.cohorts, repeat=0, seed=0)]), l2)


def test_leaving_one_patient_out_of_the_file_moves_a_saved_models_sums_by_the_clip(
    heart: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before noise, at every state of the saved model's run; the control is one split's part."""
    settings = heart("arms=[dp_sum]", "privacy.epsilon=3", "privacy.delta=1e-4")
    extract = load(settings)
    asked: list[tuple[Whitened, str, State, Theta]] = []
    original = Whitened.contribution

    def listening(self: Whitened, cohort: Cohort, state: State) -> Contribution:
        given = original(self, cohort, state)
        asked.append((self, cohort.site, state, given.total))
        return given

    monkeypatch.setattr(Whitened, "contribution", listening)
    (fit,) = fit_all_patients(planner_of(settings, extract), extract)
    monkeypatch.undo()
    assert fit.plan is not None
    assert fit.plan.privacy is not None
    assert len(asked) == 4 * fit.plan.privacy.releases
    clip = fit.plan.privacy.clip
    parts = {train.site: train for train, _ in split(extract.cohorts, repeat=0, seed=0)}
    apart = []
    for line in LEFT_OUT:
        fewer = load(heart("arms=[pooled]", without=line))
        cohorts = {cohort.site: cohort for cohort in _trained_on(settings, fewer, monkeypatch)}
        moved: dict[str, float] = dict.fromkeys(HOSPITALS, 0.0)
        for analysis, site, state, total in asked:
            less = analysis.contribution(cohorts[site], state).total
            moved[site] = max(moved[site], float(np.linalg.norm(total - less)))
        # Only one hospital's sum moves, by the clip norm at most.
        assert sorted(value > 0 for value in moved.values()) == [False, False, False, True]
        assert max(moved.values()) <= clip * (1 + 1e-6)
        dealt = {train.site: train for train, _ in split(fewer.cohorts, repeat=0, seed=0)}
        analysis, _, state, _ = asked[-1]
        apart.append(
            float(
                np.linalg.norm(
                    sum(analysis.contribution(part, state).total for part in parts.values())
                    - sum(analysis.contribution(part, state).total for part in dealt.values())
                )
            )
        )
    assert max(apart) > 2 * clip


def _trained_on(
    settings: Settings, extract: Extract, monkeypatch: pytest.MonkeyPatch
) -> list[Cohort]:
    """Return the cohorts that a saved `dp_sum` model of an extract is trained on."""
    handed: list[Cohort] = []

    def listening(plan: Plan, cohorts: Sequence[Cohort], **more: Any) -> Outcome:
        handed.extend(cohorts)
        return federate(plan, cohorts, **more)

    with monkeypatch.context() as patch:
        patch.setattr(arms, "federate", listening)
        fit_all_patients(planner_of(settings, extract), extract)
    return handed
