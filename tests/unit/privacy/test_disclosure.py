"""The site's rules for what leaves without noise: judged on who is in the sum, told by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedcohort.privacy.disclosure import (
    Classes,
    Minimums,
    SiteRules,
    check_cells,
    check_classes,
    check_cohort,
    check_ratio,
)
from fedcohort.privacy.errors import PolicyError


@dataclass(frozen=True)
class Sum:
    """What the door is handed."""

    patients: int
    total: NDArray[np.float64]
    classes: Classes | None = None
    is_table: bool = False


def code_of(act: Callable[[], object]) -> str:
    with pytest.raises(PolicyError) as error:
        act()
    return error.value.code


TRAINING = SiteRules(minimums=Minimums(), parameters=5)
HALVES = Classes(outcome=(100, 100))


def test_the_defaults_are_the_documented_ones() -> None:
    assert Minimums() == Minimums(
        min_cell_count=10,
        min_cohort=50,
        min_cohort_training=200,
        min_class_count=10,
        max_params_ratio=0.10,
    )


def test_a_sum_of_enough_patients_passes() -> None:
    TRAINING.check(Sum(200, np.zeros(5), HALVES))
    TRAINING.check(Sum(50, np.array([10.0, 40.0, 0.0]), is_table=True))


@pytest.mark.parametrize(
    ("rules", "sum_", "code"),
    [
        (TRAINING, Sum(199, np.zeros(5), HALVES), "disclosure_cohort"),
        (TRAINING, Sum(0, np.zeros(5), HALVES), "disclosure_cohort"),
        (TRAINING, Sum(200, np.zeros(5)), "disclosure_uncounted"),
        (TRAINING, Sum(200, np.zeros(5), Classes(outcome=(9, 191))), "disclosure_class"),
        (TRAINING, Sum(200, np.zeros(5), Classes(outcome=(200, 0))), "disclosure_class"),
        (TRAINING, Sum(200, np.zeros(5), Classes(outcome=(0, 200))), "disclosure_class"),
        (TRAINING, Sum(200, np.zeros(5), Classes(outcome=())), "disclosure_class"),
        (TRAINING, Sum(200, np.zeros(5), Classes(outcome=(100, 100), features=((199, 1),))),
         "disclosure_class"),
        (TRAINING, Sum(200, np.zeros(5), Classes(outcome=(100, 100), features=((9, 96, 95),))),
         "disclosure_class"),
        (SiteRules(minimums=Minimums(), parameters=21),
         Sum(200, np.zeros(21), HALVES), "disclosure_ratio"),
        (SiteRules(minimums=Minimums()), Sum(200, np.zeros(5), HALVES),
         "disclosure_ratio"),
        (TRAINING, Sum(49, np.array([49.0]), is_table=True), "disclosure_cohort"),
        (TRAINING, Sum(50, np.array([9.0, 41.0]), is_table=True), "disclosure_cell"),
        (TRAINING, Sum(50, np.array([1.0, 49.0]), is_table=True), "disclosure_cell"),
        (TRAINING, Sum(50, np.array([49.5, 10.0]), is_table=True), "disclosure_cell"),
        (TRAINING, Sum(50, np.array([-10.0, 60.0]), is_table=True), "disclosure_cell"),
        (TRAINING, Sum(50, np.array([np.nan, 60.0]), is_table=True), "disclosure_cell"),
        (TRAINING, Sum(50, np.array([np.inf, 60.0]), is_table=True), "disclosure_cell"),
    ],
)  # fmt: skip
def test_a_sum_that_tells_too_much_is_refused_by_its_rule(
    rules: SiteRules, sum_: Sum, code: str
) -> None:
    assert code_of(lambda: rules.check(sum_)) == code


def test_a_feature_that_nobody_has_here_passes_and_an_outcome_does_not() -> None:
    TRAINING.check(Sum(200, np.zeros(5), Classes(outcome=(100, 100), features=((200, 0),))))
    assert code_of(lambda: check_classes(Classes(outcome=(0, 200)), 10)) == "disclosure_class"


def test_the_cohort_of_a_training_is_the_larger_of_both_minimums() -> None:
    rules = SiteRules(minimums=Minimums(min_cohort=300), parameters=1)
    assert code_of(lambda: rules.check(Sum(299, np.zeros(1), HALVES))) == "disclosure_cohort"


COUNT = st.integers(0, 60)


@given(st.lists(COUNT, min_size=1, max_size=12), st.integers(3, 20))
def test_a_table_passes_where_no_cell_is_small(cells: list[int], least: int) -> None:
    small = any(0 < cell < least for cell in cells)
    try:
        check_cells(np.array(cells, dtype=np.float64), least)
    except PolicyError:
        assert small
    else:
        assert not small


@given(st.integers(0, 2000), st.integers(3, 500), st.integers(0, 200))
def test_a_refusal_is_the_same_text_whatever_the_counts(
    patients: int, least: int, parameters: int
) -> None:
    said: dict[str, set[str]] = {}
    acts: list[Callable[[], object]] = [
        partial(check_cohort, patients, least),
        partial(check_cells, np.array([float(patients)]), least),
        partial(check_classes, Classes(outcome=(patients, 5000)), least),
        partial(check_ratio, parameters, patients, 0.1),
    ]
    for act in acts:
        try:
            act()
        except PolicyError as error:
            said.setdefault(error.code, set()).add(f"{error} {error.hint}")
    for code, texts in said.items():
        _SAID.setdefault(code, set()).update(texts)
        assert len(_SAID[code]) == 1
        assert not re.search(r"\d", "".join(texts))


_SAID: dict[str, set[str]] = {}


@given(st.integers(1, 500), st.integers(0, 5000))
def test_a_stricter_minimum_never_lets_more_out(least: int, patients: int) -> None:
    def passes(minimum: int) -> bool:
        try:
            check_cohort(patients, minimum)
        except PolicyError:
            return False
        return True

    assert passes(least) or not passes(least + 1)
