"""Metrics of censored follow-up: against scikit-survival, and what is said beyond its reach."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sksurv.metrics import (
    brier_score,
    concordance_index_censored,
    integrated_brier_score,
)
from sksurv.metrics import cumulative_dynamic_auc as sksurv_auc
from sksurv.nonparametric import kaplan_meier_estimator
from sksurv.util import Surv

from fedcohort.experiments.scores import survival_metrics as module
from fedcohort.experiments.scores.metrics import Measured
from fedcohort.experiments.scores.survival_metrics import (
    brier_at,
    concordance,
    cumulative_dynamic_auc,
    integrated_brier,
    kaplan_meier,
    supported,
    survival_metrics,
)

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
KEYS = {"c_index", "ibs", "auc_3y", "auc_5y"}


@dataclass(frozen=True, kw_only=True)
class Study:
    """Follow-up in days with event flags; survival is [patients, days]."""

    train: tuple[Floats, Bools]
    test: tuple[Floats, Bools]
    risk: Floats
    days: Floats
    survival: Floats


@st.composite
def studies(draw: st.DrawFn, *, train_is_longer: bool = True) -> Study:
    """Follow-up and risks on coarse grids (heavy ties) or fine ones; at least one test event.

    With `train_is_longer` the training follow-up ends with an event after everything else,
    so that scikit-survival has a weight everywhere and does not raise.
    """
    horizon = draw(st.sampled_from([3, 8, 500]))
    levels = draw(st.sampled_from([1, 4, 10**6]))
    train_size = draw(st.integers(1, 30))
    size = draw(st.integers(2, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    share = draw(st.sampled_from([0.2, 0.6, 1.0]))
    train_time = rng.integers(1, horizon + 1, train_size).astype(float)
    train_event = rng.random(train_size) < share
    if train_is_longer:
        train_time, train_event = np.append(train_time, horizon + 1.0), np.append(train_event, True)
    time = rng.integers(1, horizon + 1, size).astype(float)
    event = rng.random(size) < share
    assume(event.any())
    days = np.unique(np.append(time, rng.integers(2, 2 * horizon + 2, 6) / 2))
    days = days[(days >= time.min()) & (days < time.max())]
    survival = np.sort(rng.integers(0, levels + 1, (size, days.size)) / levels)[:, ::-1]
    return Study(
        train=(train_time, train_event),
        test=(time, event),
        risk=rng.integers(0, levels + 1, size) / levels,
        days=days,
        survival=survival,
    )


def oracle(side: tuple[Floats, Bools]) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    array: np.ndarray[tuple[int], np.dtype[np.void]] = Surv.from_arrays(side[1], side[0])
    return array


def ordinary(
    patients: int = 60, *, seed: int = 3
) -> tuple[tuple[Floats, Bools], tuple[Floats, Bools], Floats, Floats, Floats]:
    """Ten years of follow-up, some censored at random; risk is the true log hazard."""
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=2 * patients)
    hazard = np.exp(risk) / 3000
    death, censored = rng.exponential(1 / hazard), rng.uniform(500, 3650, 2 * patients)
    time, event = np.ceil(np.minimum(death, censored)), death <= censored
    grid = np.arange(90.0, 3650.0, 90.0)
    survival = np.exp(-hazard[patients:, None] * grid)
    half = slice(None, patients), slice(patients, None)
    train, test = ((time[part], event[part]) for part in half)
    return train, test, risk[patients:], survival, grid


@given(study=studies())
@settings(max_examples=300, deadline=None)
def test_concordance_equals_scikit_survival_ties_and_all(study: Study) -> None:
    time, event = study.test
    later = (time > time[event].min()) | ((time == time[event].min()) & ~event)
    if not later.any():
        with pytest.raises(ValueError, match="comparable"):
            concordance(time, event, study.risk)
        return
    expected = concordance_index_censored(event, time, study.risk)[0]
    assert concordance(time, event, study.risk) == pytest.approx(expected, abs=1e-10)


@given(study=studies())
@settings(max_examples=100, deadline=None)
def test_both_kaplan_meier_curves_equal_scikit_survival(study: Study) -> None:
    time, event = study.test
    for censoring in (False, True):
        curve = kaplan_meier(time, event, censoring=censoring)
        times, values = kaplan_meier_estimator(event, time, reverse=censoring)
        np.testing.assert_array_equal(curve.times, times)
        np.testing.assert_allclose(curve.values, values, rtol=0, atol=1e-12)


@given(study=studies())
@settings(max_examples=200, deadline=None)
def test_brier_and_its_integral_equal_scikit_survival(study: Study) -> None:
    assume(study.days.size > 1)
    given_ = (*study.train, *study.test, study.survival, study.days)
    theirs = (oracle(study.train), oracle(study.test), study.survival, study.days)
    np.testing.assert_allclose(brier_at(*given_), brier_score(*theirs)[1], rtol=0, atol=1e-10)
    expected = integrated_brier_score(*theirs)
    assert integrated_brier(*given_) == pytest.approx(expected, abs=1e-10)


@given(study=studies())
@settings(max_examples=200, deadline=None)
def test_the_auc_at_a_day_equals_scikit_survival(study: Study) -> None:
    time, event = study.test
    for day in study.days:
        if not (event & (time <= day)).any():
            with pytest.raises(ValueError, match="0 cases"):
                cumulative_dynamic_auc(*study.train, *study.test, study.risk, day)
            continue
        expected = sksurv_auc(oracle(study.train), oracle(study.test), study.risk, [day])[0][0]
        ours = cumulative_dynamic_auc(*study.train, *study.test, study.risk, day)
        assert ours == pytest.approx(expected, abs=1e-10)


@given(study=studies(train_is_longer=False))
@settings(max_examples=200, deadline=None)
def test_where_training_follow_up_ends_early_the_rest_is_scored_as_if_censored_there(
    study: Study,
) -> None:
    """Beyond the last supported day nobody's follow-up matters: ending it there costs nothing.

    scikit-survival raises on the test set as it is and agrees on the shortened one.
    """
    (train_time, _), (time, event) = study.train, study.test
    kept = supported(*study.train, time, study.days)
    assume(kept.any())
    days, survival = study.days[kept], study.survival[:, kept]
    assert (kaplan_meier(*study.train, censoring=True).at(days) > 0).all()
    ours = brier_at(*study.train, time, event, survival, days)
    end = days[-1] + 0.25  # times are on a grid of a half: after the last day, before any event
    short = np.minimum(time, end), event & (time < end)
    assume(study.train[1].any() and short[1].any() and train_time.max() >= end)
    expected = brier_score(oracle(study.train), oracle(short), survival, days)[1]
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-10)


def test_scikit_survival_raises_where_we_leave_days_out() -> None:
    (train_time, train_event), test, risk, survival, grid = ordinary()
    train = np.minimum(train_time, 1200.0), train_event | (train_time >= 1200)
    kept = supported(*train, test[0], grid)
    assert kept.sum() == (grid <= 1200).sum() - (grid < test[0].min()).sum()
    with pytest.raises(ValueError, match="largest observed time point"):
        brier_score(oracle(train), oracle(test), survival[:, kept], grid[kept])
    assert np.isfinite(brier_at(*train, *test, survival[:, kept], grid[kept])).all()
    assert 0.5 < cumulative_dynamic_auc(*train, *test, risk, 1095) < 1


def test_days_reach_from_the_first_test_follow_up_to_just_before_the_last() -> None:
    train = [1.0, 4.0, 99.0], [True, False, True]
    reach = supported(*train, [2.0, 9.0, 9.0], [1.9, 2.0, 8.9, 9.0, 10.0])
    assert reach.tolist() == [False, True, True, False, False]


@pytest.mark.parametrize("day", [0.5, 5.0, 9.0])
def test_a_day_out_of_reach_is_refused(day: float) -> None:
    train = np.array([1.0, 4.0]), np.array([False, True])
    test = np.array([1.0, 2.0, 9.0]), np.array([True, True, False])
    with pytest.raises(ValueError, match="support"):
        brier_at(*train, *test, np.full((3, 1), 0.5), [day])
    with pytest.raises(ValueError, match="support"):
        cumulative_dynamic_auc(*train, *test, [0.1, 0.2, 0.3], day)


def test_weights_come_from_the_training_patients_by_hand() -> None:
    # G: one of four censored at day 1, so 3/4 from there on
    train = np.array([1.0, 5, 6, 7]), np.array([False, True, True, True])
    # event at 2 (weight 4/3), censored at 2 (0), beyond day 3 (4/3)
    test = np.array([2.0, 2, 9, 9]), np.array([True, False, True, False])
    survival = np.array([[0.4], [0.9], [0.7], [0.7]])
    expected = (0.4**2 + 0.3**2 + 0.3**2) * 4 / 3 / 4
    assert brier_at(*train, *test, survival, [3.0])[0] == pytest.approx(expected, abs=1e-15)


def test_concordance_does_not_depend_on_how_it_is_cut_into_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, test, risk, _, _ = ordinary(200)
    whole = concordance(*test, risk)
    assert whole > 0.6
    for block in (1, 1000, 7 * 200):
        monkeypatch.setattr(module, "_BLOCK", block)
        assert concordance(*test, risk) == whole


def test_five_thousand_patients_equal_scikit_survival() -> None:
    _, (time, event), risk, _, _ = ordinary(5000)
    rounded = np.round(risk, 1)
    expected = concordance_index_censored(event, time, rounded)[0]
    assert concordance(time, event, rounded) == pytest.approx(expected, abs=1e-10)


def test_risk_turned_round_has_the_rest_of_the_concordance() -> None:
    _, test, risk, _, _ = ordinary()
    assert concordance(*test, -risk) == pytest.approx(1 - concordance(*test, risk), abs=1e-12)


def test_an_ordinary_study_has_every_metric_and_they_are_scikit_survivals() -> None:
    train, test, risk, survival, grid = ordinary()
    measured = survival_metrics(*train, *test, risk, survival, grid)
    assert measured.keys() == KEYS
    # scikit-survival only takes the part of the test set it has weights for
    end = min(train[0].max(), test[0].max())
    short = np.minimum(test[0], end), test[1] & (test[0] < end)
    kept = supported(*train, test[0], grid) & (grid < end) & (grid >= short[0].min())
    ibs = integrated_brier_score(oracle(train), oracle(short), survival[:, kept], grid[kept])
    auc, _ = sksurv_auc(oracle(train), oracle(short), risk, [1095, 1825])
    c_index = concordance_index_censored(test[1], test[0], risk)[0]
    for key, value in {"c_index": c_index, "ibs": ibs, "auc_3y": auc[0], "auc_5y": auc[1]}.items():
        assert measured[key].value == pytest.approx(value, abs=1e-10), key
        assert measured[key].warning is None
    assert measured["auc_3y"].value != measured["auc_5y"].value


@pytest.mark.parametrize(("patients", "given_"), [(9, False), (10, True)])
def test_nine_patients_are_too_few_and_ten_are_enough(patients: int, given_: bool) -> None:
    train, test, risk, survival, grid = ordinary()
    measured = survival_metrics(*train, *test, risk, survival, grid, patients=patients)
    for one in measured.values():
        assert (one.value is not None) == given_
        assert given_ or one == Measured(reason="few_patients")


def test_without_an_event_there_is_no_metric() -> None:
    train, (time, event), risk, survival, grid = ordinary()
    measured = survival_metrics(*train, time, np.zeros_like(event), risk, survival, grid)
    assert measured == dict.fromkeys(KEYS, Measured(reason="one_class"))


@pytest.mark.parametrize(("events", "warning"), [(4, "few_events"), (5, None)])
def test_below_five_events_a_value_carries_a_warning(events: int, warning: str | None) -> None:
    train, (time, event), risk, survival, grid = ordinary()
    early = np.flatnonzero(event & (time <= 1000))[:events]
    few = np.isin(np.arange(time.size), early)
    measured = survival_metrics(*train, time, few, risk, survival, grid)
    for one in measured.values():
        assert one.value is not None
        assert one.warning == warning


def test_the_auc_counts_cases_and_controls_of_its_own_day() -> None:
    train, (time, event), risk, survival, grid = ordinary()
    measured = survival_metrics(
        *train, time, event, risk, survival, grid, auc_days=(1.0, 1095, 10_000)
    )
    assert measured["auc_3y"].value is not None
    assert measured["auc_0.00273973y"].reason == "one_class"  # nobody yet
    assert measured["auc_27.3973y"].reason == "one_class"  # nobody beyond


def test_a_short_training_follow_up_cuts_the_grid_and_loses_the_late_auc() -> None:
    (train_time, train_event), test, risk, survival, grid = ordinary()
    short = np.minimum(train_time, 1200.0), train_event & (train_time < 1200)
    measured = survival_metrics(*short, *test, risk, survival, grid)
    assert measured["auc_5y"] == Measured(reason="no_support")
    assert measured["auc_3y"].value is not None
    kept = grid < 1200
    cut = survival_metrics(*short, *test, risk, survival[:, kept], grid[kept])
    assert measured["ibs"] == cut["ibs"]
    assert measured["ibs"].value is not None
    # the ends of the support that leave nothing: one day of follow-up, and none at all
    for train in ((np.ones(3), np.array([True, True, False])), (np.empty(0), np.empty(0, bool))):
        measured = survival_metrics(*train, *test, risk, survival, grid)
        assert measured["ibs"] == measured["auc_3y"] == Measured(reason="no_support")
        assert measured["c_index"].value is not None


def test_each_prediction_that_is_no_number_spoils_its_own_metrics_only() -> None:
    train, test, risk, survival, grid = ordinary()
    bad_risk, bad_survival = risk.copy(), survival.copy()
    bad_risk[0], bad_survival[0, 5] = np.nan, np.nan
    first = survival_metrics(*train, *test, bad_risk, survival, grid)
    assert {key for key, one in first.items() if one.reason == "not_finite"} == KEYS - {"ibs"}
    second = survival_metrics(*train, *test, risk, bad_survival, grid)
    assert {key for key, one in second.items() if one.reason == "not_finite"} == {"ibs"}


def test_events_on_one_day_make_no_comparable_pair() -> None:
    train, _, _, _, grid = ordinary()
    time, event = np.full(12, 900.0), np.ones(12, dtype=bool)
    survival = np.full((12, grid.size), 0.5)
    measured = survival_metrics(*train, time, event, np.arange(12.0), survival, grid)
    assert measured["c_index"] == Measured(reason="no_pairs")
    assert measured["ibs"] == Measured(reason="no_support")  # a follow-up of no length


def test_a_callers_mistake_is_an_error_not_a_reason() -> None:
    train, (time, event), risk, survival, grid = ordinary()
    with pytest.raises(ValueError, match="shape"):
        survival_metrics(*train, time, event, risk[1:], survival, grid)
    with pytest.raises(ValueError, match="shape"):
        survival_metrics(*train, time, event, risk, survival[:, 1:], grid)
    with pytest.raises(ValueError, match="increasing"):
        survival_metrics(*train, time, event, risk, survival, grid[::-1])
    with pytest.raises(ValueError, match="must be in"):
        survival_metrics(*train, time, event, risk, -np.log(survival), grid)
    with pytest.raises(ValueError, match="finite and >= 0"):
        survival_metrics(*train, -time, event, risk, survival, grid)
    with pytest.raises(ValueError, match="rows"):
        survival_metrics(*train, time, event, risk, survival, grid, patients=61)
