"""The integer grid: there and back, never over, and what one patient weighs on it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedcohort.privacy.errors import PolicyError, ProtocolError
from fedcohort.privacy.secagg.encoding import CLIP_BITS, LARGEST_NOISED_COHORT, Encoding
from fedcohort.privacy.secagg.plain import UnsafePlaintextSum

BOUNDS = st.floats(1e-3, 1e12)
SITES = st.integers(1, 200)


@given(bound=BOUNDS, sites=SITES, parts=hnp.arrays(np.float64, 6, elements=st.floats(-1, 1)))
def test_there_and_back_is_within_half_a_unit(bound: float, sites: int, parts: np.ndarray) -> None:
    encoding = Encoding.for_sum(site_bound=bound, sites=sites)
    values = parts * bound
    back = encoding.decode(encoding.encode(values))
    assert (np.abs(back - values) <= 0.5 / encoding.scale).all()


@given(
    clip=st.floats(1e-6, 1e6),
    patients=st.integers(1, 2**17),
    sites=SITES,
    z=st.floats(0.1, 1e4),
    parts=hnp.arrays(np.float64, 6, elements=st.floats(-1, 1)),
)
def test_a_noisy_grid_holds_every_sum_of_clipped_patients(
    clip: float, patients: int, sites: int, z: float, parts: np.ndarray
) -> None:
    encoding = noisy_grid(clip, patients, sites, z)
    values = parts * clip * patients
    back = encoding.decode(encoding.encode(values))
    assert (np.abs(back - values) <= 0.5 / encoding.scale).all()
    assert 2 ** (CLIP_BITS - 1) < clip * encoding.scale <= 2**CLIP_BITS


def noisy_grid(clip: float, patients: int, sites: int, z: float, size: int = 6) -> Encoding:
    return Encoding.for_noisy_sum(
        clip_norm=clip, max_patients=patients, sites=sites, noise_multiplier=z, size=size
    )


@given(
    clip=st.floats(1e-6, 1e6),
    patients=st.integers(1, 2**30),
    sites=SITES,
    z=st.floats(0.1, 1e6),
    signs=st.lists(st.sampled_from([-1, 1]), min_size=200, max_size=200),
)
def test_no_sum_of_noisy_sites_overflows(
    clip: float, patients: int, sites: int, z: float, signs: list[int]
) -> None:
    try:
        encoding = noisy_grid(clip, patients, sites, z)
    except PolicyError:  # too much for any grid: refused beforehand
        assume(False)
    sigma = z * encoding.sensitivity_units(clip, 6, min(patients, LARGEST_NOISED_COHORT))
    largest = encoding.limit + math.ceil(12 * sigma)
    for worst in (signs[:sites], [1] * sites, [-1] * sites):
        vectors = [np.full(6, sign * largest, dtype=np.int64) for sign in worst]
        total = UnsafePlaintextSum(6).add(vectors)
        assert total.tolist() == [sum(worst) * largest] * 6


@given(bound=BOUNDS, sites=SITES)
def test_no_sum_of_plain_sites_overflows_and_the_grid_wastes_at_most_a_bit(
    bound: float, sites: int
) -> None:
    encoding = Encoding.for_sum(site_bound=bound, sites=sites)
    assert sites * encoding.limit <= 2**62
    assert encoding.fraction_bits == 45 or sites * encoding.limit >= 2**60
    vectors = [encoding.encode(np.array([bound, -bound])) for _ in range(sites)]
    total = UnsafePlaintextSum(2).add(vectors)
    assert total.tolist() == [int(vectors[0][0]) * sites, int(vectors[0][1]) * sites]


@given(
    clip=st.floats(1e-3, 1e3),
    start=hnp.arrays(np.float64, 9, elements=st.floats(-50, 50)),
    change=hnp.arrays(np.float64, 9, elements=st.floats(-1, 1)),
)
def test_the_sensitivity_on_the_grid_includes_rounding(
    clip: float, start: np.ndarray, change: np.ndarray
) -> None:
    norm = np.linalg.norm(change)
    assume(norm > 1e-9)
    encoding = noisy_grid(clip, 1000, 4, 2.0, size=9)
    one = start * clip
    other = one + change / norm * clip
    moved = encoding.encode(other) - encoding.encode(one)
    assert np.linalg.norm(moved) <= encoding.sensitivity_units(clip, 9, 1000)


def test_rounding_does_move_neighbours_further_than_the_clip_norm() -> None:
    # The control of the test above: without sqrt(d) the bound would be false.
    draw = np.random.default_rng(0)
    encoding = noisy_grid(1.0, 1000, 4, 2.0, size=1000)
    worst = 0.0
    for _ in range(200):
        one, change = draw.uniform(-9, 9, 1000), draw.normal(size=1000)
        other = one + change / np.linalg.norm(change)
        moved = encoding.encode(other) - encoding.encode(one)
        worst = max(worst, float(np.linalg.norm(moved)))
    assert worst > encoding.scale
    assert worst <= encoding.sensitivity_units(1.0, 1000, 1000)


def test_rounding_inflates_the_noise_of_a_thousand_coordinates_by_less_than_a_percent() -> None:
    for clip in (0.3, 0.999, 1.0, 1.001, 2.0):
        encoding = noisy_grid(clip, 1000, 4, 2.0, size=1000)
        units = encoding.sensitivity_units(clip, 1000, 1000)
        assert 1.0 < units / (clip * encoding.scale) < 1.01


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    encoding = Encoding.for_sum(site_bound=1.0, sites=2)
    with pytest.raises(PolicyError) as refused:
        encoding.encode(np.array([0.0, value]))
    assert refused.value.code == "not_finite"


@pytest.mark.parametrize("value", [1.001, -1.001, 1e9, 1e308])
def test_what_exceeds_the_bound_is_refused_never_clipped(value: float) -> None:
    encoding = Encoding.for_sum(site_bound=1.0, sites=2)
    encoding.encode(np.array([1.0, -1.0]))
    with pytest.raises(PolicyError) as refused:
        encoding.encode(np.array([0.0, value]))
    assert refused.value.code == "out_of_range"
    assert "001" not in str(refused.value)  # the rule, not the number


def test_a_sum_that_no_grid_can_hold_is_refused() -> None:
    with pytest.raises(PolicyError) as refused:
        noisy_grid(1.0, 2**50, 4, 1.0)
    assert refused.value.code == "encoding_overflow"
    with pytest.raises(PolicyError) as refused:
        noisy_grid(1.0, 10, 4, 1e15)
    assert refused.value.code == "encoding_overflow"


def test_a_bound_below_the_finest_grid_still_has_a_unit() -> None:
    encoding = Encoding.for_sum(site_bound=1e-20, sites=3)
    assert (encoding.fraction_bits, encoding.limit) == (45, 1)
    assert encoding.encode(np.array([1e-20])).tolist() == [0]


@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan, math.inf])
def test_a_bound_that_is_none_is_refused(bound: float) -> None:
    with pytest.raises(ValueError, match="bound"):
        Encoding.for_sum(site_bound=bound, sites=2)
    with pytest.raises(ValueError, match="bound"):
        noisy_grid(bound, 10, 2, 1.0)


def test_a_sum_over_no_site_is_refused() -> None:
    with pytest.raises(ValueError, match="sites"):
        Encoding.for_sum(site_bound=1.0, sites=0)


def test_only_words_of_32_or_64_bits_are_decoded() -> None:
    encoding = Encoding.for_sum(site_bound=1.0, sites=2)
    for vector in (np.zeros(2), np.zeros(2, dtype=np.int16), np.zeros(2, dtype=np.uint64)):
        with pytest.raises(ProtocolError) as refused:
            encoding.decode(vector)  # type: ignore[arg-type]
        assert refused.value.code == "vector_dtype"


def test_nothing_is_encoded_as_nothing() -> None:
    encoding = Encoding.for_sum(site_bound=1.0, sites=2)
    assert encoding.encode(np.zeros(0)).shape == (0,)
    assert encoding.encode(np.array([-0.0])).tolist() == [0]


# ---- the sum without masks


@given(hnp.arrays(np.int64, (5, 3)))
def test_the_sum_wraps_around_like_the_masked_one_will(vectors: np.ndarray) -> None:
    total = UnsafePlaintextSum(3).add(list(vectors))
    for column, found in zip(vectors.T.tolist(), total.tolist(), strict=True):
        assert (sum(column) - found) % 2**64 == 0
        assert -(2**63) <= found < 2**63


def test_masks_cancel_though_they_overflow() -> None:
    values, mask = np.array([5, -7]), np.array([2**63 - 1, -(2**63)])
    with np.errstate(over="ignore"):
        masked = [values + mask, -mask]
    assert UnsafePlaintextSum(2).add(masked).tolist() == [5, -7]


def test_a_vector_of_another_shape_or_type_is_refused() -> None:
    vectors: list[Any] = [
        np.zeros(2, dtype=np.int64),
        np.zeros((3, 1), dtype=np.int64),
        np.zeros(3),
        np.zeros(3, dtype=np.int32),
        np.zeros(3, dtype=">i8"),
        np.zeros(3, dtype=np.uint64),
    ]
    for vector in vectors:
        with pytest.raises(ProtocolError) as refused:
            UnsafePlaintextSum(3).add([vector])
        assert refused.value.code == "vector_shape"


def test_a_sum_of_nobody_is_zero() -> None:
    assert UnsafePlaintextSum(3).add([]).tolist() == [0, 0, 0]
    assert UnsafePlaintextSum.mode == "plain"
