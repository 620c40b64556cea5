"""What one patient weighs on the integer grid of a noisy sum, rounding and its limit included."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedcohort.privacy.secagg.encoding import SHORT_WORD_FROM, Encoding


def grid(clip: float = 1.0, *, size: int, patients: int = 1000, word_bits: int = 64) -> Encoding:
    return Encoding.for_noisy_sum(
        clip_norm=clip,
        max_patients=patients,
        sites=5,
        noise_multiplier=4.0,
        size=size,
        word_bits=word_bits,
    )


@given(clip=st.floats(1e-6, 1e6), size=st.integers(1, 1000), patients=st.integers(1, 2**20))
@example(clip=1.0, size=1000, patients=1000)
def test_up_to_1000_coordinates_a_clip_norm_is_2_to_the_12_to_14_units_and_rounding_adds_1_percent(
    clip: float, size: int, patients: int
) -> None:
    encoding = grid(clip, size=size, patients=patients)
    units = clip * encoding.scale
    assert 2**12 <= units <= 2**14
    assert 1.0 < encoding.sensitivity_units(clip, size, patients) / units < 1.01


@pytest.mark.parametrize("size", [1001, 5000, 10**5, 10**6, 10**7])
@pytest.mark.parametrize("word_bits", [32, 64])
def test_longer_vectors_get_a_finer_grid_and_no_more_inflation(size: int, word_bits: int) -> None:
    # Where words of 32 bits cannot hold it, longer words are taken.
    encoding = grid(size=size, word_bits=word_bits)
    assert encoding.sensitivity_units(1.0, size, 1000) / encoding.scale < 1.0101


def test_short_words_are_for_the_long_vectors_that_they_can_hold() -> None:
    size = SHORT_WORD_FROM + 1
    assert grid(size=size, patients=100, word_bits=32).word_bits == 32
    assert grid(size=size, patients=10**6, word_bits=32).word_bits == 64


STARTS = hnp.arrays(np.float64, 9, elements=st.floats(-40, 40))
CHANGES = hnp.arrays(np.float64, 9, elements=st.floats(-1, 1))


@given(start=STARTS, change=CHANGES, patients=st.integers(1, 50), clip=st.floats(1e-3, 1e3))
def test_holding_a_sum_within_its_limit_never_moves_neighbours_apart(
    start: np.ndarray, change: np.ndarray, patients: int, clip: float
) -> None:
    norm = float(np.linalg.norm(change))
    assume(norm > 1e-9)
    encoding = grid(clip, size=9, patients=patients)  # 40 clip norms are often beyond
    one, other = start * clip, (start + change / norm) * clip
    moved = encoding.encode_noisy(other) - encoding.encode_noisy(one)
    assert np.linalg.norm(moved) <= encoding.sensitivity_units(clip, 9, patients)
    assert np.abs(encoding.encode_noisy(one)).max() <= encoding.limit


def test_rounding_at_its_worst_is_what_the_sensitivity_pays_for() -> None:
    # Every coordinate lies below half a unit by half a hair; a patient who moves one of them by a
    # clip norm moves the others by a hair, and all of them round up. The clip norm alone would
    # not bound that.
    size = 900
    encoding = grid(size=size)
    hair = 1e-3 / encoding.scale
    one = np.full(size, 0.5 / encoding.scale - hair / 2)
    step = np.append(math.sqrt(1.0 - (size - 1) * hair**2), np.full(size - 1, hair))
    moved = np.linalg.norm(encoding.encode_noisy(one + step) - encoding.encode_noisy(one))
    assert np.linalg.norm(step) == pytest.approx(1.0)
    assert moved**2 >= encoding.scale**2 + size - 1
    assert moved <= encoding.sensitivity_units(1.0, size, 1000)


def test_the_order_of_a_float_sum_is_paid_for_up_to_130000_patients() -> None:
    """Sequential summation errs by n u sum |x_i| at most, n^2 u C in L2, on either side.

    Source: Higham 2002, Accuracy and Stability of Numerical Algorithms, section 4.2.
    """
    encoding = grid(size=900)
    paid = encoding.sensitivity_units(1.0, 900, 130_000) / (encoding.scale + 30.0) - 1
    assert paid >= 2 * 130_000**2 * 2.0**-53
    draw = np.random.default_rng(2)
    rows = draw.normal(size=(130_000, 3))
    rows /= np.linalg.norm(rows, axis=1)[:, None]
    rows[:, 0] = np.abs(rows[:, 0])  # all one way: the sum, and its error, is large
    exact = [math.fsum(column) for column in rows.T]
    assert np.linalg.norm(rows.sum(axis=0) - exact) < paid
    assert np.linalg.norm(np.ones(130_000) @ rows - exact) < paid
