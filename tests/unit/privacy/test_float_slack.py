"""What float arithmetic over a site's patients may do to a sum, and who pays for it.

The proof is in the docstring of `float_slack`; here its inequality is checked in exact numbers,
and float32 shows on a small scale that the error does grow with the square.
"""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fedcohort.privacy.errors import PolicyError
from fedcohort.privacy.secagg.encoding import LARGEST_NOISED_COHORT, Encoding, float_slack

PAGE = Path(__file__).resolve().parents[3] / "docs/explanation/exact-pricing.md"
PATIENTS = st.integers(1, LARGEST_NOISED_COHORT)
CLIPPING, OTHERS, ROOM = Fraction(1, 10**6), Fraction(18, 10**8), Fraction(5, 10**6)


def worst(patients: int, unit: Fraction) -> Fraction:
    """Twice gamma n C (1 + 1e-6), over C, at a unit roundoff; n + 8 roundings a number."""
    roundings = (patients + 8) * unit
    return 2 * roundings / (1 - roundings) * patients * (1 + CLIPPING)


@given(patients=PATIENTS)
@example(patients=1)
@example(patients=2**17)
@example(patients=2**17 + 1)
@example(patients=LARGEST_NOISED_COHORT)
def test_the_slack_pays_for_the_sum_for_clipping_and_for_the_room_of_exact_pricing(
    patients: int,
) -> None:
    needed = worst(patients, Fraction(1, 2**53)) + CLIPPING + OTHERS + ROOM
    assert Fraction(float_slack(patients)) >= needed


def test_the_slack_is_no_idle_one_above_the_patients_that_its_least_value_covers() -> None:
    for patients in (2**18, 10**6, LARGEST_NOISED_COHORT):
        assert float_slack(patients) < 1.1 * (float(worst(patients, Fraction(1, 2**53))) + 1e-5)
        assert (
            float(worst(patients, Fraction(1, 2**53))) > 1e-5
        )  # yesterday's constant is not enough


@pytest.mark.parametrize("patients", [1, 1000, 65_537, 2**17 - 1, 2**17])
def test_plans_of_up_to_131072_patients_keep_the_numbers_that_they_had(patients: int) -> None:
    assert float_slack(patients) == 1e-5
    grid = Encoding(fraction_bits=13, limit=2**40)
    assert grid.sensitivity_units(1.0, 14, patients) == (8192.0 + math.sqrt(14)) * (1 + 1e-5)


@given(PATIENTS, PATIENTS)
@example(2**17, 2**17 + 1)
def test_more_patients_never_have_less_slack(one: int, other: int) -> None:
    few, many = sorted((one, other))
    assert float_slack(few) <= float_slack(many) <= 0.01
    if many > max(few, 2**17):
        assert float_slack(few) < float_slack(many)


def test_the_slack_ends_at_one_percent() -> None:
    at_the_end = float_slack(LARGEST_NOISED_COHORT)
    assert 0.00999999 < at_the_end <= 0.01
    assert 1e-5 + 2.3e-16 * ((LARGEST_NOISED_COHORT + 1) ** 2 - 2**34) > 0.01


@pytest.mark.parametrize("patients", [LARGEST_NOISED_COHORT + 1, 2**23, 2**40, 10**40])
def test_above_that_a_noised_sum_is_refused(patients: int) -> None:
    with pytest.raises(PolicyError) as refused:
        Encoding(fraction_bits=13, limit=2**40).sensitivity_units(1.0, 14, patients)
    assert refused.value.code == "too_many_patients"
    assert "6,591,810" in str(refused.value)


def error_of_a_float32_sum(patients: int) -> float:
    """Each patient weighs as much: one after the other, as `cumsum` adds them."""
    weight = np.float32(0.7)
    total = np.full(patients, weight).cumsum(dtype=np.float32)[-1]
    return abs(float(total) - patients * float(weight)) / float(weight)


def test_the_error_of_a_sum_grows_with_the_square_and_stays_within_its_bound() -> None:
    """float32 has u = 2^-24: what float64 does at a million patients, it does at a thousand."""
    unit = Fraction(1, 2**24)
    errors = {patients: error_of_a_float32_sum(patients) for patients in (2**12, 2**16)}
    for patients, error in errors.items():
        assert error <= float(worst(patients, unit)) / 2  # one side
    assert errors[2**16] > 64 * errors[2**12]  # a linear slack, 16 times, would not do
    assert errors[2**16] > 0.1 * float(worst(2**16, unit)) / 2


def test_the_page_says_what_more_patients_than_stated_may_cost() -> None:
    """The table's second row, rounded up, is what their own slack would have been more."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    (head,) = (line for line in lines if line.startswith("| patients |"))
    row = lines[lines.index(head) + 2]
    cells = [[cell.strip() for cell in line.split("|")[2:-1]] for line in (head, row)]
    for patients, percent in zip(*cells, strict=True):
        missing = float_slack(int(patients.replace(",", ""))) - float_slack(1)
        assert missing <= float(percent.removesuffix(" %")) / 100 <= 1.1 * missing
