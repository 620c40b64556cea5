"""Who is held out: the same patients in every hospital and process, about as many as asked for."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from fedcohort.datasets.extract import ONE_ROW_EACH, LoadOptions
from fedcohort.datasets.holdout import held_out
from fedcohort.datasets.inference import infer_codebook
from fedcohort.datasets.table import build_cohort
from fedcohort.study.cohort import Cohort
from fedcohort.study.holdout import Holdout

KEY = "00112233445566778899aabbccddeeff" * 2
FOUR = ["A 1", "张三", "0007", "b2"]


def test_the_split_is_this_one() -> None:
    """Known answers, made with Python's hmac by hand: a change moves patients between sides."""
    found = held_out([str(i) for i in range(12)], key=KEY, test_fraction=0.3)
    assert np.flatnonzero(found).tolist() == [2, 3, 8]


def test_another_process_draws_the_same() -> None:
    code = (
        "from fedcohort.datasets.holdout import held_out;"
        f"print(held_out([str(i) for i in range(500)], key={KEY!r}, test_fraction=0.4).sum())"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = held_out([str(i) for i in range(500)], key=KEY, test_fraction=0.4)
    assert int(said.stdout) == here.sum()


def test_order_case_and_spaces_do_not_count() -> None:
    one = held_out(FOUR, key=KEY, test_fraction=0.5)
    np.testing.assert_array_equal(held_out(FOUR[::-1], key=KEY, test_fraction=0.5), one[::-1])
    spelt = [" a1", "张三 ", "0007", "B 2"]
    np.testing.assert_array_equal(held_out(spelt, key=KEY, test_fraction=0.5), one)


def test_a_larger_share_holds_out_the_same_patients_and_more() -> None:
    tokens = [str(i) for i in range(300)]
    small, large = (held_out(tokens, key=KEY, test_fraction=share) for share in (0.2, 0.6))
    assert (large | ~small).all()


@pytest.mark.parametrize("share", [0.05, 0.3, 0.95])
def test_the_share_is_the_one_asked_for(share: float) -> None:
    """20,000 fair draws miss 8 standard deviations once in 10^15 keys (this one is fixed)."""
    tokens = [f"patient {i}" for i in range(20_000)]
    found = held_out(tokens, key=KEY, test_fraction=share).sum()
    assert abs(found - 20_000 * share) < 8 * math.sqrt(20_000 * share * (1 - share))
    # The control: a share that is 0.035 off would be seen.
    assert 8 * math.sqrt(20_000 * share * (1 - share)) < 0.035 * 20_000


def test_two_keys_draw_apart() -> None:
    """Two independent halves agree in half; 8 standard deviations as above."""
    tokens = [str(i) for i in range(20_000)]
    one, other = (held_out(tokens, key=key, test_fraction=0.5) for key in (KEY, KEY[::-1]))
    assert abs((one == other).sum() - 10_000) < 8 * math.sqrt(5_000)


def table(rows: int = 60) -> pd.DataFrame:
    draw = np.random.default_rng(3)
    return pd.DataFrame(
        {
            "hospital": ["here"] * rows,
            "person": [f"P {number % 40}" for number in range(rows)],
            "age": [str(age) for age in draw.integers(30, 80, rows)],
            # Rows without an outcome are dropped: the cohort is shorter than the table.
            "died": [("", "0", "1")[number % 3] for number in range(rows)],
        },
        dtype="str",
    ).replace("", None)


def cohort_of(frame: pd.DataFrame, patient: str) -> Cohort:
    options = LoadOptions(
        site="hospital", patient=patient, outcome="died", features=("age",),
    )  # fmt: skip
    codebook = infer_codebook(table(), ("age",))  # public constants: the same for every frame
    holdout = Holdout(key=KEY, test_fraction=0.4, histogram=False, bins=2)
    return build_cohort(frame, options, codebook, name="t", site="here", holdout=holdout).cohort


def test_a_patient_is_on_the_side_of_the_token() -> None:
    frame = table()
    cohort = cohort_of(frame, "person")
    kept = frame["died"].notna().to_numpy()
    expected = held_out(list(frame["person"]), key=KEY, test_fraction=0.4)[kept]
    assert cohort.held_out is not None
    np.testing.assert_array_equal(cohort.held_out, expected)
    assert 0 < expected.sum() < expected.size
    for one in np.unique(cohort.patient):
        assert np.unique(cohort.held_out[cohort.patient == one]).size == 1


def test_where_each_row_is_a_person_equal_rows_share_a_side_and_are_not_one_person() -> None:
    frame = pd.concat([table(), table()[::-1]], ignore_index=True)
    cohort = cohort_of(frame, ONE_ROW_EACH)
    assert cohort.patients == cohort.rows
    assert cohort.held_out is not None
    rows = zip(cohort.features[:, 0].tolist(), cohort.outcome_flag.tolist(), strict=True)
    sides: dict[object, set[bool]] = {}
    for row, side in zip(rows, cohort.held_out.tolist(), strict=True):
        sides.setdefault(row, set()).add(side)
    assert {len(side) for side in sides.values()} == {1}
    assert 0 < cohort.held_out.sum() < cohort.rows


@pytest.mark.parametrize("patient", ["person", ONE_ROW_EACH])
def test_nobody_changes_sides_when_another_leaves_or_the_table_is_sorted_anew(
    patient: str,
) -> None:
    frame = table()

    def sides(rows: pd.DataFrame) -> Counter[tuple[float, bool, bool]]:
        cohort = cohort_of(rows.reset_index(drop=True), patient)
        assert cohort.held_out is not None
        columns = (cohort.features[:, 0], cohort.outcome_flag, cohort.held_out)
        return Counter(zip(*(column.tolist() for column in columns), strict=True))

    everybody = sides(frame)
    assert sides(frame[::-1]) == everybody
    for row in range(len(frame)):
        rest = sides(frame.drop(index=row))
        assert rest <= everybody
        assert (everybody - rest).total() == (not pd.isna(frame["died"][row]))
