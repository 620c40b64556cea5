"""Metrics of predicted risks: against scikit-learn and statsmodels, and the rule for few."""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    roc_auc_score,
    roc_curve,
)

from fedcohort.experiments.scores.metrics import (
    Measured,
    accuracy,
    auprc,
    auroc,
    brier,
    calibration,
    risk_metrics,
    sensitivity_at_specificity,
)

KEYS = {
    "auroc",
    "auprc",
    "brier",
    "calibration_slope",
    "calibration_intercept",
    "accuracy",
    "sensitivity_at_specificity",
}
Sample = tuple[NDArray[np.int64], NDArray[np.float64]]


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    """Labels of both classes; risks on a coarse grid (heavy ties) or all over [0, 1]."""
    levels = draw(st.sampled_from([1, 2, 4, 10, 10**6]))
    rows = draw(
        st.lists(st.tuples(st.integers(0, 1), st.integers(0, levels)), min_size=2, max_size=60)
    )
    label = np.array([row[0] for row in rows])
    assume(0 < label.sum() < label.size)
    return label, np.array([row[1] for row in rows]) / levels


def well_spread(seed: int = 1, rows: int = 200) -> Sample:
    rng = np.random.default_rng(seed)
    logit = rng.normal(size=rows)
    label = (rng.random(rows) < 1 / (1 + np.exp(-(0.4 + 0.7 * logit)))).astype(np.int64)
    return label, 1 / (1 + np.exp(-logit))


@given(sample=samples())
@settings(max_examples=200, deadline=None)
def test_they_equal_scikit_learn_ties_and_all(sample: Sample) -> None:
    label, risk = sample
    assert auroc(label, risk) == pytest.approx(roc_auc_score(label, risk), abs=1e-10)
    assert auprc(label, risk) == pytest.approx(average_precision_score(label, risk), abs=1e-10)
    assert brier(label, risk) == pytest.approx(brier_score_loss(label, risk), abs=1e-10)
    assert accuracy(label, risk) == pytest.approx(accuracy_score(label, risk >= 0.5), abs=1e-10)


@given(sample=samples(), specificity=st.sampled_from([0.0, 0.5, 0.8, 0.9, 0.95, 1.0]))
@settings(deadline=None)
def test_sensitivity_is_the_best_point_of_the_roc_curve(sample: Sample, specificity: float) -> None:
    label, risk = sample
    false, true, _ = roc_curve(label, risk, drop_intermediate=False)
    best = true[false <= 1 - specificity + 1e-9].max()
    assert sensitivity_at_specificity(label, risk, specificity) == pytest.approx(best, abs=1e-10)


def test_exactly_one_in_ten_false_alarms_is_a_specificity_of_nine_in_ten() -> None:
    label = np.repeat([0, 1], 10)
    risk = np.concatenate((np.full(9, 0.1), [0.6], np.full(10, 0.5)))
    assert sensitivity_at_specificity(label, risk, 0.9) == 1.0  # 0.1 * 10 < 1 in floats
    assert sensitivity_at_specificity(label, risk, 0.95) == 0.0


@given(sample=samples())
@settings(deadline=None)
def test_a_model_turned_round_has_the_rest_of_the_auroc(sample: Sample) -> None:
    label, risk = sample
    assert auroc(label, 1 - risk) == pytest.approx(1 - auroc(label, risk), abs=1e-12)


@given(sample=samples())
@settings(deadline=None)
def test_calibration_equals_statsmodels(sample: Sample) -> None:
    label, risk = sample
    inside = np.clip(risk, 0.02, 0.98)
    slope, intercept = calibration(label, inside)
    logit = np.log(inside / (1 - inside))
    family = sm.families.Binomial()
    large = sm.GLM(label, np.ones_like(logit), family=family, offset=logit)
    near = large.fit(start_params=[intercept + 0.1], tol=1e-15, maxiter=200)  # diverges from 0
    assert intercept == pytest.approx(near.params[0], abs=1e-9)
    if slope is not None:
        free = sm.GLM(label, sm.add_constant(logit, has_constant="add"), family=family)
        fitted = free.fit(tol=1e-15, maxiter=200)
        assert slope == pytest.approx(fitted.params[1], rel=1e-7, abs=1e-8)


@pytest.mark.parametrize("seed", range(5))
def test_calibration_solves_its_score_equations(seed: int) -> None:
    label, risk = well_spread(seed)
    slope, intercept = calibration(label, risk)
    logit = np.log(risk / (1 - risk))
    family = sm.families.Binomial()
    free = sm.GLM(label, sm.add_constant(logit), family=family).fit(tol=1e-15, maxiter=200)
    large = sm.GLM(label, np.ones_like(logit), family=family, offset=logit).fit(tol=1e-15)
    assert slope == pytest.approx(free.params[1], abs=1e-10)
    assert intercept == pytest.approx(large.params[0], abs=1e-10)
    assert np.sum(1 / (1 + np.exp(-intercept - logit))) == pytest.approx(label.sum(), abs=1e-9)


def test_calibration_of_two_by_two_tables_is_known_in_closed_form() -> None:
    # 3 of 10 fall ill at risk 0.2, 6 of 10 at risk 0.8
    label = [1] * 3 + [0] * 7 + [1] * 6 + [0] * 4
    risk = [0.2] * 10 + [0.8] * 10
    slope, _ = calibration(label, risk)
    assert slope == pytest.approx(
        (math.log(6 / 4) - math.log(3 / 7)) / (2 * math.log(4)), abs=1e-12
    )
    # one risk for all: only the intercept is known, logit(9/20) - logit(1/2)
    slope, intercept = calibration(label, [0.5] * 20)
    assert slope is None
    assert intercept == pytest.approx(math.log(9 / 11), abs=1e-12)


@pytest.mark.parametrize(
    "risk",
    [
        [0.1, 0.2, 0.8, 0.9],  # separated
        [0.9, 0.8, 0.2, 0.1],  # separated, the wrong way round
        [0.1, 0.5, 0.5, 0.9],  # but for a tie
        [0.5, 0.5, 0.5, 0.5],  # nothing to fit a slope on
    ],
)
def test_a_slope_without_a_maximum_of_the_likelihood_is_not_given(risk: list[float]) -> None:
    slope, intercept = calibration([0, 0, 1, 1], risk)
    assert slope is None
    assert math.isfinite(intercept)


def test_risks_of_exactly_0_and_1_do_not_break_calibration() -> None:
    label = [0, 1] * 10
    slope, intercept = calibration(label, [0.0, 1.0] * 8 + [1.0, 0.0] * 2)
    assert slope == pytest.approx(math.log(4) / math.log(1e8), rel=1e-6)  # 80 % of each are right
    assert abs(intercept) < 1e-6  # by symmetry; the likelihood is all but flat


@given(sample=samples(), patients=st.integers(0, 60))
@settings(deadline=None)
def test_a_metric_is_given_with_ten_patients_and_both_classes(
    sample: Sample, patients: int
) -> None:
    label, risk = sample
    patients = min(patients, label.size)
    measured = risk_metrics(label, risk, patients=patients)
    assert measured.keys() == KEYS
    for key, one in measured.items():
        if patients < 10:
            assert one == Measured(reason="few_patients")
        elif key == "calibration_slope" and one.value is None:
            assert one == Measured(reason="not_estimable")
        else:
            few = min(label.sum(), (1 - label).sum()) < 5
            assert one.value is not None
            assert one.warning == ("few_events" if few else None)


@pytest.mark.parametrize(("rows", "reason"), [(9, "few_patients"), (10, None)])
def test_nine_patients_are_too_few_and_ten_are_enough(rows: int, reason: str | None) -> None:
    assert risk_metrics([0, 1] * 5 if rows == 10 else [0, 1, 0] * 3, [0.5] * rows)[
        "auroc"
    ] == Measured(
        value=0.5 if reason is None else None,
        reason=None if reason is None else "few_patients",
    )


def test_many_rows_of_few_patients_are_few_patients() -> None:
    label, risk = well_spread()
    assert risk_metrics(label, risk)["auroc"].value == auroc(label, risk)
    assert risk_metrics(label, risk, patients=9)["auroc"].reason == "few_patients"


@pytest.mark.parametrize(("events", "warning"), [(4, "few_events"), (5, None), (16, "few_events")])
def test_below_five_of_a_class_the_value_carries_a_warning(
    events: int, warning: str | None
) -> None:
    measured = risk_metrics([1] * events + [0] * (20 - events), np.linspace(0.1, 0.9, 20))
    assert measured["auroc"].value == 0.0
    assert measured["auroc"].warning == warning


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_gives_no_metric(label: int) -> None:
    measured = risk_metrics([label] * 20, np.linspace(0, 1, 20))
    assert set(measured.values()) == {Measured(reason="one_class")}


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_prediction_that_is_no_number_gives_no_metric(wrong: float) -> None:
    label, risk = well_spread()
    risk[3] = wrong
    assert set(risk_metrics(label, risk).values()) == {Measured(reason="not_finite")}
    with pytest.raises(ValueError, match="finite"):
        auroc(label, risk)


def test_separated_classes_lose_only_the_slope() -> None:
    measured = risk_metrics([0] * 10 + [1] * 10, np.linspace(0.1, 0.9, 20))
    assert measured["calibration_slope"] == Measured(reason="not_estimable")
    assert {key for key, one in measured.items() if one.value is None} == {"calibration_slope"}


def test_the_functions_themselves_refuse_one_class() -> None:
    for metric in (auroc, auprc, brier, accuracy, sensitivity_at_specificity, calibration):
        with pytest.raises(ValueError, match="both classes"):
            metric([1, 1], [0.2, 0.3])


@pytest.mark.parametrize(
    ("label", "risk", "patients"),
    [
        ([0, 1], [0.5], None),
        ([0, 2], [0.5, 0.5], None),
        ([0, math.nan], [0.5, 0.5], None),
        ([0, 1], [0.5, 1.5], None),
        ([[0, 1]], [[0.5, 0.5]], None),
        ([0, 1], [0.5, 0.5], 3),
    ],
)
def test_a_callers_mistake_is_an_error_not_a_reason(
    label: list[float], risk: list[float], patients: int | None
) -> None:
    with pytest.raises(ValueError, match="must be"):
        risk_metrics(label, risk, patients=patients)


def test_a_measurement_cannot_contradict_itself() -> None:
    for value, reason in ((None, None), (0.5, "one_class"), (math.nan, None)):
        with pytest.raises(ValueError, match="value"):
            Measured(value=value, reason=reason)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="warning"):
        Measured(reason="one_class", warning="few_events")
