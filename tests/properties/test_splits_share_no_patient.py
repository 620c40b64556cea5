"""Splits are of patients, across hospitals, and depend on nothing but what they should."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcohort.datasets import LoadOptions, load_catalogue, split
from fedcohort.study.cohort import Cohort, Schema

SCHEMA = Schema(
    name="t", task="risk", features=("x",), bound=1.0, outcome="y", codebook_sha256="0" * 64
)

ROWS = st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=40)


def cohort(site: str, rows: list[tuple[int, bool]], salt: str = "") -> Cohort:
    """A cohort whose feature is the row's number and whose ids are keyed by `salt`."""

    def keyed(patient: int) -> int:
        return int.from_bytes(hashlib.sha256(f"{salt}{patient}".encode()).digest()[:8], "little")

    return Cohort(
        site=site,
        schema=SCHEMA,
        features=np.arange(len(rows), dtype=np.float32)[:, None],
        patient=np.array([keyed(patient) for patient, _ in rows], dtype=np.uint64),
        label=np.array([float(flag) for _, flag in rows]),
    )


def rows_tested(pairs: list[tuple[Cohort, Cohort]]) -> list[list[float]]:
    """Row numbers of each test cohort."""
    return [test.features[:, 0].tolist() for _, test in pairs]


@given(st.lists(ROWS, min_size=1, max_size=4), st.integers(0, 2**32), st.integers(0, 50))
def test_no_patient_is_on_both_sides_of_any_hospital(
    tables: list[list[tuple[int, bool]]], seed: int, repeat: int
) -> None:
    cohorts = [cohort(f"h{number}", rows) for number, rows in enumerate(tables)]
    pairs = split(cohorts, repeat=repeat, seed=seed)
    train = {patient for pair in pairs for patient in pair[0].patient.tolist()}
    test = {patient for pair in pairs for patient in pair[1].patient.tolist()}
    assert not train & test
    for whole, (left, right) in zip(cohorts, pairs, strict=True):
        rows = sorted(left.features[:, 0].tolist() + right.features[:, 0].tolist())
        assert rows == whole.features[:, 0].tolist()
        assert left.features[:, 0].tolist() == sorted(left.features[:, 0].tolist())


@given(st.lists(ROWS, min_size=1, max_size=3), st.integers(0, 2**32))
def test_a_split_does_not_depend_on_the_keys_of_this_process(
    tables: list[list[tuple[int, bool]]], seed: int
) -> None:
    one = [cohort(f"h{number}", rows, "a") for number, rows in enumerate(tables)]
    other = [cohort(f"h{number}", rows, "b") for number, rows in enumerate(tables)]
    assert rows_tested(split(one, repeat=3, seed=seed)) == rows_tested(
        split(other, repeat=3, seed=seed)
    )


@given(ROWS, ROWS, st.integers(0, 2**32))
def test_a_hospital_alone_makes_the_split_of_the_simulation(
    here: list[tuple[int, bool]], there: list[tuple[int, bool]], seed: int
) -> None:
    elsewhere = [(patient + 100, flag) for patient, flag in there]
    alone = split([cohort("h0", here)], repeat=0, seed=seed)
    together = split([cohort("h1", elsewhere), cohort("h0", here)], repeat=0, seed=seed)
    assert rows_tested(alone) == rows_tested(together)[1:]


def test_same_seed_same_split_and_another_repeat_another() -> None:
    cohorts = load_catalogue("heart-disease", LoadOptions()).cohorts
    chosen = [
        [test.features.tobytes() for _, test in split(cohorts, repeat=repeat, seed=seed)]
        for repeat, seed in [(0, 1), (0, 1), (1, 1), (0, 2), (1, 0)]
    ]
    assert chosen[0] == chosen[1]
    for number in (2, 3, 4):
        assert all(one != other for one, other in zip(chosen[0], chosen[number], strict=True))


def test_each_hospital_and_outcome_gives_three_in_ten() -> None:
    for name in ("heart-disease", "breast-recurrence"):
        for train, test in split(load_catalogue(name, LoadOptions()).cohorts, repeat=0, seed=0):
            whole = np.concatenate([train.outcome_flag, test.outcome_flag])
            for flag in (True, False):
                share = (test.outcome_flag == flag).sum() / (whole == flag).sum()
                assert abs(share - 0.3) < 0.5 / (whole == flag).sum() + 1e-9


@pytest.mark.parametrize("rows", range(8))
def test_hospitals_of_a_few_patients_keep_someone_to_train_on(rows: int) -> None:
    small = cohort("h", [(number, number % 2 == 0) for number in range(rows)])
    ((train, test),) = split([small], repeat=0, seed=0)
    assert train.rows + test.rows == rows
    assert train.rows >= min(rows, 2)
    ((train, _),) = split([small], repeat=0, seed=0, test_fraction=0.99)
    assert train.rows == min(rows, 2)


def test_a_patient_of_two_hospitals_goes_where_the_first_sends_them() -> None:
    rows = [(number, number % 3 == 0) for number in range(30)]
    pairs = split([cohort("a", rows), cohort("b", rows[::-1])], repeat=0, seed=5)
    assert set(pairs[0][1].patient) == set(pairs[1][1].patient)


@given(ROWS, ROWS, st.integers(0, 2**32))
def test_a_later_hospital_does_not_move_a_patient_of_the_first(
    first: list[tuple[int, bool]], later: list[tuple[int, bool]], seed: int
) -> None:
    shared = [(patient, False) for patient, _ in later]  # outcomes are the first hospital's
    alone = split([cohort("a", first)], repeat=0, seed=seed)
    together = split([cohort("a", first), cohort("b", shared)], repeat=0, seed=seed)
    assert rows_tested(alone) == rows_tested(together)[:1]


def test_hospitals_draw_on_their_own() -> None:
    rows = [(number, True) for number in range(40)]
    others = [(number + 100, True) for number in range(40)]
    one, other = rows_tested(split([cohort("a", rows), cohort("b", others)], repeat=0, seed=0))
    assert one != other


@pytest.mark.parametrize("repeat", range(5))
def test_a_patient_counts_as_ill_if_any_row_says_so(repeat: int) -> None:
    rows = [(number, False) for number in range(20)] + [
        (number, number < 10) for number in range(20)
    ]
    ((_, test),) = split([cohort("h", rows)], repeat=repeat, seed=0)
    assert test.patients == 6
    assert int(test.outcome_flag.sum()) == 3


@pytest.mark.parametrize(
    "arguments",
    [
        {"repeat": -1, "seed": 0},
        {"repeat": 0, "seed": -1},
        {"repeat": 0, "seed": 0, "test_fraction": 0.0},
        {"repeat": 0, "seed": 0, "test_fraction": 1.0},
    ],
)
def test_arguments_out_of_range_are_the_callers_mistake(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        split([cohort("h", [(1, True)])], **arguments)  # type: ignore[arg-type]
