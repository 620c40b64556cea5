"""Two exact sums may not differ by a few patients' records, whichever way they differ."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedcohort.datasets.codebook import parse_codebook
from fedcohort.datasets.extract import ONE_ROW_EACH, LoadOptions
from fedcohort.datasets.table import build_cohort
from fedcohort.fl_client.governance.exact_cohorts import ExactCohorts
from fedcohort.fl_client.governance.exact_records import Records, records_of
from fedcohort.privacy.errors import DisclosureError, PolicyError

MINIMUM = 5
TOKENS = [f"p{n}" for n in range(30)]


def records(*, table: str = "", tokens: list[str] = TOKENS, **changes: dict[int, str]) -> Records:
    """Return everybody's records, with other cells for some patients of some columns."""
    cells = {
        name: [changes.get(name, {}).get(n, f"{name} {n}") for n in range(len(tokens))]
        for name in ("age", "died")
    }
    return Records(tokens=tokens, cells=cells, table=table)


@pytest.fixture
def memory(tmp_path: Path) -> ExactCohorts:
    return ExactCohorts(tmp_path / "exact-cohorts.json")


def refused(memory: ExactCohorts, asked: Records) -> bool:
    try:
        memory.add(asked, MINIMUM)
    except DisclosureError as error:
        return error.code == "disclosure_difference"
    return False


def changed(count: int, text: str = "other") -> dict[int, str]:
    return {n: f"{text} {n}" for n in range(count)}


@pytest.mark.parametrize("count", range(1, MINIMUM))
def test_sums_that_differ_by_fewer_patients_than_the_minimum_are_refused(
    memory: ExactCohorts, count: int
) -> None:
    memory.add(records(), MINIMUM)
    assert refused(memory, records(tokens=TOKENS[:-count]))
    assert refused(memory, records(tokens=[*TOKENS, *(f"new {n}" for n in range(count))]))
    assert refused(memory, records(tokens=[*TOKENS[1:], *(f"new {n}" for n in range(count - 1))]))


@pytest.mark.parametrize("count", range(1, MINIMUM))
def test_a_record_that_was_corrected_counts_as_another(memory: ExactCohorts, count: int) -> None:
    memory.add(records(), MINIMUM)
    assert refused(memory, records(age=changed(count)))
    assert refused(memory, records(died=changed(count)))


def test_a_column_that_changes_for_everybody_hides_no_other(memory: ExactCohorts) -> None:
    memory.add(records(), MINIMUM)
    assert refused(memory, records(age=changed(30), died=changed(1)))
    assert not refused(memory, records(age=changed(30)))


def test_clearly_other_patients_and_the_very_same_records_are_let_pass(
    memory: ExactCohorts,
) -> None:
    memory.add(records(), MINIMUM)
    size = memory._path.stat().st_size
    memory.add(records(), MINIMUM)
    assert memory._path.stat().st_size == size  # nothing new is noted
    assert not refused(memory, records(tokens=TOKENS[:-MINIMUM]))


def test_what_was_asked_in_other_columns_is_compared_in_those_that_both_had(
    memory: ExactCohorts,
) -> None:
    memory.add(records(), MINIMUM)
    fewer = records(died=changed(1))
    ages = replace(fewer, cells={"age": fewer.cells["age"], "new": fewer.cells["died"]})
    assert not refused(memory, ages)  # the column that differs was in one of the sums only
    assert refused(memory, fewer)


def test_other_columns_of_the_same_patients_are_noted_too(memory: ExactCohorts) -> None:
    first = records()
    memory.add(replace(first, cells={"age": first.cells["age"]}), MINIMUM)
    memory.add(replace(first, cells={"died": first.cells["died"]}), MINIMUM)
    fewer = records(died=changed(1))
    assert refused(memory, replace(fewer, cells={"died": fewer.cells["died"]}))


def test_spelling_makes_nobody_another(memory: ExactCohorts) -> None:
    memory.add(records(), MINIMUM)
    assert not refused(memory, records(tokens=[f" {token.upper()} " for token in TOKENS]))


def test_where_each_row_is_a_person_another_table_is_never_compared(memory: ExactCohorts) -> None:
    memory.add(records(table="ab"), MINIMUM)
    assert not refused(memory, records(table="ab"))
    assert refused(memory, records(table="cd", age=changed(30), died=changed(30)))
    assert refused(memory, records())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: d | {"format": "fedcohort.exact_cohorts/1"},
        lambda d: {k: v for k, v in d.items() if k != "key"},
        lambda d: d | {"sums": [{**d["sums"][0], "ids": d["sums"][0]["ids"][:-8]}]},
        lambda d: d | {"sums": "none"},
    ],
)
def test_a_file_that_cannot_be_read_stops_exact_sums(memory: ExactCohorts, spoil: Any) -> None:
    memory.add(records(), MINIMUM)
    memory._path.write_text(json.dumps(spoil(json.loads(memory._path.read_text()))))
    with pytest.raises(PolicyError) as caught:
        memory.add(records(), MINIMUM)
    assert caught.value.code == "exact_cohorts_unreadable"


def test_neither_tokens_nor_cells_are_in_the_file(memory: ExactCohorts) -> None:
    memory.add(records(tokens=[f"patient-{n}" for n in range(30)]), MINIMUM)
    text = memory._path.read_text()
    assert "patient-7" not in text
    assert "age 7" not in text


def test_records_hold_all_rows_of_a_patient_and_nobody_elses() -> None:
    frame = pd.DataFrame(
        {"pid": ["a", "b", "A ", "c"], "age": ["50", None, "51.0", "7"], "died": list("1001")},
        dtype="str",
    ).assign(site="here")
    codebook = parse_codebook("{name: t, columns: {age: {type: number, range: [0, 100]}}}")
    options = LoadOptions(site="site", patient="pid", outcome="died", features=("age",))
    rows = build_cohort(frame, options, codebook, name="t", site="here").rows
    used = np.unique(rows.patient[[0, 1]])
    found = records_of(rows, used, columns=["age"], table="")
    cells = dict(zip([t.strip().lower() for t in found.tokens], found.cells["age"], strict=True))
    assert cells == {"a": '["50.0", "51.0"]', "b": '[""]'}

    each = replace(options, patient=ONE_ROW_EACH)
    rows = build_cohort(frame, each, codebook, name="t", site="here").rows
    found = records_of(rows, rows.patient[2:], columns=["age"], table="ab")
    assert sorted(found.tokens) == ["row 2", "row 3"]
    frame.loc[0, "died"] = None  # no row of the cohort, and still a row of the table
    rows = build_cohort(frame, each, codebook, name="t", site="here").rows
    found = records_of(rows, rows.patient[1:], columns=["age"], table="ab")
    assert sorted(found.tokens) == ["row 2", "row 3"]
    assert not records_of(rows, rows.patient[:0], columns=["age"], table="").tokens


def of_many(count: int = 30, *, tokens: str = "p", **changes: dict[int, str]) -> Records:
    """Return records of five columns, which tell people apart whatever they are called."""
    names = ("age", "chol", "sex", "sys", "died")
    cells = {n: [changes.get(n, {}).get(i, f"{n} {i}") for i in range(count)] for n in names}
    return Records(tokens=[f"{tokens}{n}" for n in range(count)], cells=cells)


def test_new_pseudonyms_hide_no_corrected_record(memory: ExactCohorts) -> None:
    memory.add(of_many(), MINIMUM)
    assert not refused(memory, of_many(tokens="x"))
    assert refused(memory, of_many(tokens="y", age=changed(1)))
    assert refused(memory, of_many(tokens="z", age=changed(30), died=changed(2)))
    assert refused(memory, of_many(29, tokens="w"))
    assert not refused(memory, of_many(30 - MINIMUM, tokens="v"))


def test_clearly_other_patients_may_have_another_encoding_and_the_same_may_not(
    memory: ExactCohorts,
) -> None:
    memory.add(replace(of_many(), encodings={"age": "[0, 100]", "sex": "f, m"}), MINIMUM)
    other = {"age": "[0, 90]", "sex": "f, m"}
    assert refused(memory, replace(of_many(), encodings=other))
    assert refused(memory, replace(of_many(tokens="x"), encodings=other))
    strangers = of_many(tokens="s", age=changed(30, "a"), chol=changed(30, "c"))
    assert not refused(memory, replace(strangers, encodings=other))
    assert not refused(memory, replace(of_many(), encodings={"sex": "f, m", "new": "x"}))


def test_the_order_of_a_patients_rows_and_a_numbers_spelling_make_nobody_another() -> None:
    frame = pd.DataFrame(
        {"pid": ["a", "b", "a"], "age": ["50", "2.30", "51"], "died": list("100")}, dtype="str"
    ).assign(site="here")
    again = frame.iloc[::-1].replace({"2.30": "2.3", "51": "51.00"}).reset_index(drop=True)
    codebook = parse_codebook("{name: t, columns: {age: {type: number, range: [0, 100]}}}")
    options = LoadOptions(site="site", patient="pid", outcome="died", features=("age",))

    def found(table: pd.DataFrame) -> dict[str, tuple[str, str]]:
        rows = build_cohort(table, options, codebook, name="t", site="here").rows
        one = records_of(rows, rows.patient, columns=["age", "died"], table="")
        return dict(zip(one.tokens, zip(*one.cells.values(), strict=True), strict=True))

    assert found(frame) == found(again)
