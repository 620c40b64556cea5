"""A node's rows: what is unusable is no row, and nothing of it is said."""

from __future__ import annotations

import pandas as pd
import pytest

from fedcohort.datasets.codebook import parse_codebook
from fedcohort.datasets.extract import ONE_ROW_EACH, LoadOptions
from fedcohort.datasets.table import build_cohort, table_faults
from fedcohort.study.cohort import Cohort

CODEBOOK = parse_codebook(
    "{name: t, horizon_days: 100, columns: {age: {type: number, range: [0, 100]}}}"
)
RISK = LoadOptions(site="site", patient="pid", outcome="died", features=("age",))
SURVIVAL = LoadOptions(site="site", patient="pid", time="days", event="died", features=("age",))


def table(*rows: tuple[str | None, ...]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["pid", "age", "died", "days"], dtype="str")
    return frame.assign(site="here")


def cohort(frame: pd.DataFrame, options: LoadOptions = RISK) -> Cohort:
    return build_cohort(frame, options, CODEBOOK, name="t", site="here").cohort


GOOD = (("a", "50", "1", "7"), ("b", "60", "0", "8"))
UNUSABLE = {
    "no outcome": ("c", "70", None, "9"),
    "a third outcome": ("c", "70", "unknown", "9"),
    "no patient": (None, "70", "1", "9"),
}


@pytest.mark.parametrize("row", UNUSABLE.values(), ids=UNUSABLE)
def test_an_unusable_row_is_no_row_and_people_are_told(row: tuple[str | None, ...]) -> None:
    with_it = table(GOOD[0], row, GOOD[1])
    assert cohort(with_it).features.tolist() == cohort(table(*GOOD)).features.tolist()
    faults = [fault.code for fault in table_faults(with_it, RISK, CODEBOOK)]
    # A row without an outcome is dropped with a warning; the others break a rule.
    assert bool(faults) == (row[2] is not None), faults


@pytest.mark.parametrize("days", ["-1", "soon", None, "inf"])
def test_a_time_that_is_none_is_no_row(days: str | None) -> None:
    frame = table(*GOOD, ("c", "70", "1", days))
    assert cohort(frame, SURVIVAL).rows == 2


def test_one_class_and_nobody_are_cohorts() -> None:
    assert cohort(table(GOOD[0])).patients == 1
    assert cohort(table(UNUSABLE["no patient"])).patients == 0
    assert cohort(table(GOOD[0]), SURVIVAL).patients == 1


def test_in_a_survival_table_a_patients_first_usable_row_counts() -> None:
    frame = table(("a", "10", "1", None), ("a", "20", "1", "5"), *GOOD, ("A ", "90", "0", "3"))
    found = cohort(frame, SURVIVAL)
    assert found.time is not None
    assert found.time.tolist() == [5.0, 8.0]
    assert "several_rows_per_patient" in [f.code for f in table_faults(frame, SURVIVAL, CODEBOOK)]


def test_every_other_text_is_no_event_where_one_is_the_event() -> None:
    options = LoadOptions(
        site="site", patient="pid", outcome="died", positive="dead", features=("age",)
    )
    frame = table(("a", "1", "Dead", "1"), ("b", "1", "alive", "1"), ("c", "1", "lost", "1"))
    assert cohort(frame, options).outcome_flag.tolist() == [True, False, False]


def test_the_same_patients_stay_in_a_sum_in_every_process_and_order_of_the_table() -> None:
    """A known answer: a change trains a hospital above the bound on others after an upgrade."""
    rows = [(f"p{n}", str(n), str(n % 2), "5") for n in range(40)]
    for order in (rows, rows[::-1]):
        kept = cohort(table(*order)).at_most(10).features[:, 0] * 25 + 50  # back to ages
        assert sorted(kept.tolist()) == [4, 7, 10, 12, 15, 22, 27, 30, 31, 37]


def test_equal_rows_are_persons_of_their_own_where_each_row_is_one() -> None:
    options = LoadOptions(site="site", patient=ONE_ROW_EACH, outcome="died", features=("age",))
    frame = table(GOOD[0], GOOD[0], GOOD[1]).drop(columns="pid")
    assert cohort(frame, options).patients == 3
