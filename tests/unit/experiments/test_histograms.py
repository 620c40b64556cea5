"""Figures of a summed histogram: what exact scores say, within the bins; honest about noise."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fedcohort.datasets import LoadOptions, load_catalogue, split
from fedcohort.experiments.scores.histograms import histogram_figures
from fedcohort.experiments.scores.metrics import auroc, brier
from fedcohort.experiments.scores.survival_metrics import concordance
from fedcohort.study.analyses.newton import Newton
from fedcohort.study.analysis import Vector, solve
from fedcohort.study.cohort import concatenate
from fedcohort.study.plan import model_of
from fedcohort.study.score_histogram import score_histogram


def table_of(label: NDArray[np.bool_], score: Vector, bins: int) -> Vector:
    place = np.minimum((score * bins).astype(int), bins - 1)
    cells = np.bincount(label.astype(int) * bins + place, minlength=2 * bins)
    return cells.reshape(2, bins).astype(np.float64)


@pytest.mark.parametrize("bins", [2, 5, 20, 100])
def test_the_figures_of_heart_disease_are_the_pooled_ones_within_their_bins(bins: int) -> None:
    extract = load_catalogue("heart-disease", LoadOptions())
    splits = split(extract.cohorts, repeat=0, seed=1)
    model = model_of(
        {
            "name": "logistic",
            "features": len(extract.schema.features),
            "bound": extract.schema.bound,
        }
    )
    theta = solve(Newton(model=model), [train for train, _ in splits]).arrays["theta"]
    tests = [test for _, test in splits]
    table = np.sum([score_histogram(model, theta, test, bins) for test in tests], axis=0)
    everybody = concatenate(tests, site="all")
    assert everybody.label is not None
    risk = model.predict(theta, everybody).risk
    figures = histogram_figures(table)
    found, loss = figures.discrimination, figures.brier
    assert found.value is not None
    assert found.bin_error is not None
    assert abs(found.value - auroc(everybody.label, risk)) <= found.bin_error
    assert found.bin_error <= {2: 0.2, 5: 0.1, 20: 0.03, 100: 0.01}[bins]
    assert loss is not None
    assert loss.value is not None
    assert abs(loss.value - brier(everybody.label, risk)) <= 1 / bins
    assert figures.patients == everybody.patients
    shares = [one.observed for one in figures.calibration]
    assert len(shares) == bins
    assert all(share is None or 0 <= share <= 1 for share in shares)


def test_scores_at_the_centres_of_their_bins_have_their_exact_figures() -> None:
    draw = np.random.default_rng(2)
    score = (draw.integers(0, 10, 300) + 0.5) / 10
    label = draw.random(300) < score
    figures = histogram_figures(table_of(label, score, 10))
    assert figures.discrimination.value == pytest.approx(auroc(label, score))
    assert figures.brier is not None
    assert figures.brier.value == pytest.approx(brier(label, score))


def survival_table(
    rows: int, seed: int, intervals: int = 6, bins: int = 10
) -> tuple[Vector, Vector, NDArray[np.bool_], Vector]:
    """Return a table, and its patients on its own grid: times, events, scores."""
    draw = np.random.default_rng(seed)
    time, event = draw.exponential(8.0, rows), draw.random(rows) < 0.6
    score = np.clip(0.5 - 0.03 * time + 0.2 * draw.normal(size=rows), 0, 0.999)
    interval = np.minimum(np.ceil(time / 2).astype(int) - 1, intervals)
    beyond = interval == intervals
    row = np.where(beyond, 2 * intervals, np.where(event, interval, intervals + interval))
    place = np.floor(score * bins).astype(int)
    table = np.bincount(row * bins + place, minlength=(2 * intervals + 1) * bins)
    return (
        table.reshape(-1, bins).astype(np.float64),
        interval.astype(np.float64),
        event & ~beyond,
        place.astype(np.float64),
    )


@pytest.mark.parametrize("seed", range(5))
def test_concordance_is_harrells_of_times_and_scores_on_the_grid(seed: int) -> None:
    table, time, event, score = survival_table(200, seed)
    figure = histogram_figures(table).discrimination
    assert figure.value == pytest.approx(concordance(time, event, score), abs=1e-12)


@pytest.mark.parametrize("kind", ["risk", "survival"])
def test_the_standard_error_is_the_spread_of_patients_and_noise_drawn_again(kind: str) -> None:
    """400 draws tell a standard deviation to 3.5 %; 15 % off is four of those and a bit."""
    draw = np.random.default_rng(5)
    if kind == "risk":
        score = draw.beta(2, 2, 800)
        truth = table_of(draw.random(800) < score, score, 10)
    else:
        truth = survival_table(800, 1)[0]
    for noise in (0.0, 2.0):
        values, errors = [], []
        for _ in range(400):
            cells = draw.multinomial(800, (truth / 800).ravel()).reshape(truth.shape)
            noisy = cells + noise * draw.normal(size=truth.shape)
            figure = histogram_figures(noisy, noise=noise).discrimination
            assert figure.value is not None
            assert figure.standard_error is not None
            values.append(figure.value)
            errors.append(figure.standard_error)
        assert np.mean(errors) == pytest.approx(np.std(values), rel=0.15)
        # Noise drags no figure anywhere: the mean of 400 stays within five of its errors.
        exact = histogram_figures(truth).discrimination.value
        assert exact is not None
        assert abs(np.mean(values) - exact) < 5 * np.std(values) / 20 + 0.002


def test_cells_cut_off_at_zero_would_drag_the_figure() -> None:
    """Why they are not: the control of the test above."""
    draw = np.random.default_rng(6)
    score = draw.beta(2, 2, 800)
    truth = table_of(draw.random(800) < score, score, 20)
    exact = histogram_figures(truth).discrimination.value
    cut = [
        histogram_figures(np.maximum(truth + 8 * draw.normal(size=truth.shape), 0)).discrimination
        for _ in range(200)
    ]
    found = [figure.value for figure in cut if figure.value is not None]
    assert exact is not None
    assert np.mean(found) < exact - 0.02


def test_too_few_patients_one_class_and_mere_noise_give_no_figure() -> None:
    few, one, noise = np.ones((2, 4)), np.zeros((2, 4)), np.full((2, 4), 10.0)
    one[1] = 10
    assert histogram_figures(few).discrimination.reason == "few_patients"
    assert histogram_figures(one).discrimination.reason == "one_class"
    assert histogram_figures(noise, noise=20.0).discrimination.reason == "not_estimable"
    assert histogram_figures(noise, noise=20.0).calibration[0].observed is None
    last = np.zeros((5, 4))
    last[1] = 10  # events in the last interval, and nobody goes on beyond it
    assert histogram_figures(last).discrimination.reason == "no_pairs"
    with pytest.raises(ValueError, match="2 J"):
        histogram_figures(np.ones((4, 4)))
