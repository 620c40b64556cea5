"""Clipping by hand, and with everything that a table must not hold but may."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedcohort.privacy.clipping import clip_factors, clipped_sum, sum_by_patient

ANY_FLOAT = st.floats(allow_nan=True, allow_infinity=True, width=64)
ROWS = hnp.arrays(np.float64, st.tuples(st.integers(0, 8), st.integers(1, 4)), elements=ANY_FLOAT)


def index(*patients: int) -> np.ndarray:
    return np.array(patients, dtype=np.int64)


def test_short_is_kept_and_long_is_cut_to_the_norm() -> None:
    rows = np.array([[0.3, 0.4], [3.0, 4.0], [0.0, -50.0]])
    np.testing.assert_allclose(clipped_sum(rows[:1], index(0), 1.0), [0.3, 0.4])
    np.testing.assert_allclose(clipped_sum(rows[1:2], index(0), 1.0), [0.6, 0.8])
    np.testing.assert_allclose(clipped_sum(rows, index(0, 1, 2), 1.0), [0.9, 0.2])
    np.testing.assert_allclose(clipped_sum(rows, index(0, 1, 2), 10.0), [3.3, -5.6])


def test_a_patients_rows_are_summed_before_the_cut() -> None:
    rows = np.array([[3.0, 4.0]] * 500)
    assert np.linalg.norm(clipped_sum(rows, np.zeros(500, dtype=np.int64), 1.0)) == pytest.approx(1)
    # Rows that cancel leave nothing, though each alone would have been cut.
    rows = np.array([[10.0, 0.0], [-10.0, 0.0], [0.0, 0.25]])
    np.testing.assert_allclose(clipped_sum(rows, index(0, 0, 0), 1.0), [0.0, 0.25])


def test_rows_of_patients_may_come_in_any_order() -> None:
    rows = np.arange(12.0).reshape(6, 2)
    expected = [[0 + 6, 1 + 7], [2 + 10, 3 + 11], [4 + 8, 5 + 9]]
    assert sum_by_patient(rows, index(0, 1, 2, 0, 2, 1)).tolist() == expected
    assert sum_by_patient(rows, index(*range(6))).tolist() == rows.tolist()
    assert sum_by_patient(rows[:3], index(2, 1, 0)).tolist() == rows[[2, 1, 0]].tolist()


def test_no_patient_gives_zero() -> None:
    empty = np.zeros((0, 3))
    assert clipped_sum(empty, index(), 1.0).tolist() == [0.0, 0.0, 0.0]
    assert sum_by_patient(empty, index()).shape == (0, 3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_zeroed_and_the_others_stay(value: float) -> None:
    rows = np.array([[0.3, 0.4], [value, 1.0], [0.1, 0.0]])
    np.testing.assert_allclose(clipped_sum(rows, index(0, 1, 2), 1.0), [0.4, 0.4])
    # One bad row spoils its patient, nobody else.
    np.testing.assert_allclose(clipped_sum(rows, index(0, 0, 1), 1.0), [0.1, 0.0])


@pytest.mark.parametrize("value", [1e150, 1e160, 1e200, 1e300, -1e300])
def test_a_huge_value_is_cut_not_lost(value: float) -> None:
    # The square of 1e160 is infinite: a naive norm would be, too.
    rows = np.array([[0.3, 0.4], [value, 0.0]])
    np.testing.assert_allclose(clipped_sum(rows, index(0, 1), 1.0), [0.3 + np.sign(value), 0.4])


def test_a_sum_of_rows_that_overflows_is_zeroed() -> None:
    rows = np.array([[1.7e308], [1.7e308], [0.5]])
    np.testing.assert_allclose(clipped_sum(rows, index(0, 0, 1), 1.0), [0.5])


@given(rows=ROWS, data=st.data(), clip=st.floats(1e-3, 1e3))
def test_no_patient_moves_the_sum_by_more_than_the_clip_norm(
    rows: np.ndarray, data: st.DataObject, clip: float
) -> None:
    count = rows.shape[0]
    owners = data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    ids = np.array(owners, dtype=np.uint64)
    whole = clipped_sum(rows, np.unique(ids, return_inverse=True)[1].astype(np.int64), clip)
    assert np.isfinite(whole).all()
    for patient in set(owners):
        rest = ids != patient
        others = np.unique(ids[rest], return_inverse=True)[1].astype(np.int64)
        change = whole - clipped_sum(rows[rest], others, clip)
        assert np.linalg.norm(change) <= clip * (1 + 1e-6)


def test_a_factor_never_lengthens_and_never_divides_by_zero() -> None:
    norms = np.array([0.0, 0.5, 1.0, 2.0, 1e308, np.inf, np.nan])
    factors = clip_factors(norms, 1.0)
    assert factors.tolist() == [1.0, 1.0, 1.0, 0.5, 1e-308, 0.0, 0.0]


@pytest.mark.parametrize("clip", [0.0, -1.0, np.nan, np.inf, -np.inf])
def test_a_clip_norm_that_bounds_nothing_is_refused(clip: float) -> None:
    with pytest.raises(ValueError, match="clip_norm"):
        clip_factors(np.ones(1), clip)
    with pytest.raises(ValueError, match="clip_norm"):
        clipped_sum(np.ones((1, 1)), index(0), clip)
