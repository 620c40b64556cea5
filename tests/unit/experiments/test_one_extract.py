"""One hospital's file gives its node the very cohort that the whole table gives for it."""

from __future__ import annotations

import dataclasses
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from fedcohort.datasets import (
    LoadOptions,
    hospitals_of,
    list_catalogue,
    load_catalogue,
    load_table,
    write_extract,
)
from fedcohort.experiments.one_extract import extract_one, mapping_of
from fedcohort.fl_client.site_data import SiteData, mapping_template
from fedcohort.privacy.errors import FedCohortError, PolicyError
from fedcohort.study.cohort import Cohort

CODEBOOKS = Path(__file__).parents[3] / "datasets" / "codebooks"
SITES = [(entry.name, site) for entry in list_catalogue() for site in hospitals_of(entry.name)]


def read_back(root: Path, mapping: str) -> Cohort:
    (root / "mapping.yaml").write_text(mapping, encoding="utf-8")
    return SiteData.read(root, "h01").cohort()[0]


def assert_same(found: Cohort, expected: Cohort) -> None:
    assert found.schema.sha256 == expected.schema.sha256
    for name in ("features", "patient", "label", "time", "event"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def code_of(act: Callable[[], object]) -> str:
    with pytest.raises(FedCohortError) as error:
        act()
    return error.value.code


@pytest.mark.parametrize(("name", "site"), SITES)
def test_a_site_reads_its_own_file_as_the_catalogue_reads_its_rows(
    name: str, site: str, tmp_path: Path
) -> None:
    made = write_extract(name, site, tmp_path / "data")
    (expected,) = (c for c in load_catalogue(name, LoadOptions()).cohorts if c.site == site)
    assert made.rows == expected.rows
    assert_same(read_back(tmp_path, mapping_of(made)), expected)


def test_the_files_are_the_owners_alone_and_tell_no_hospital(tmp_path: Path) -> None:
    made = write_extract("breast-recurrence", "h3", tmp_path / "data")
    assert made.site == "H3"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {"data": 0o700, "extract.csv": 0o600, "codebook.yaml": 0o600}
    assert made.codebook is not None
    assert made.codebook.read_bytes() == (CODEBOOKS / "breast-recurrence.yaml").read_bytes()
    text = made.table.read_text(encoding="utf-8")
    header = text.partition("\n")[0].split(",")
    assert header[0] == "patient_id"
    assert not {"centre", "sim_hospital_6"} & set(header)
    assert not [word for word in ("rotterdam", "H3") if word in text]


@pytest.mark.parametrize("there", ["extract.csv", "codebook.yaml"])
def test_nothing_is_overwritten_and_nothing_is_added(there: str, tmp_path: Path) -> None:
    (tmp_path / there).write_text("mine")
    act = lambda: write_extract("heart-disease", "cleveland", tmp_path)  # noqa: E731
    assert code_of(act) == "out_exists"
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "mine"


def test_a_folder_that_others_may_enter_gets_no_records(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with pytest.raises(PolicyError, match="open to others"):
        write_extract("heart-disease", "cleveland", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "site", "options", "code"),
    [
        ("heart-disease", "Boston", LoadOptions(), "unknown_site"),
        ("hart-disease", "cleveland", LoadOptions(), "unknown_data"),
        ("own.csv", "north", LoadOptions(), "no_site"),
        ("own.csv", "north", LoadOptions(site="hospitl"), "missing_column"),
        ("gaps.csv", "north", LoadOptions(site="hospital"), "missing_site"),
    ],
)
def test_what_cannot_be_cut_is_refused(
    name: str, site: str, options: LoadOptions, code: str, tmp_path: Path
) -> None:
    (tmp_path / "own.csv").write_text("hospital,age\nnorth,1\nsouth,2\n")
    (tmp_path / "gaps.csv").write_text("hospital,age\nnorth,1\n,2\n")
    where = str(tmp_path / name) if name.endswith(".csv") else name
    out = tmp_path / "data"
    assert code_of(lambda: write_extract(where, site, out, options)) == code
    assert not out.exists()


def test_a_table_of_ones_own_keeps_every_cell_and_names_parts_that_yaml_would_bend(
    tmp_path: Path,
) -> None:
    text = (
        'pid,医院,年龄,yes,note\n007,"北 京",50,1,"a, ""b"""\n008,北  京,60,0,\n009,上海,70,1,x\n'
    )
    (tmp_path / "own.csv").write_text(text, encoding="utf-8")
    book = tmp_path / "book.yaml"
    book.write_text("columns:\n  年龄: {type: number, range: [0, 110], centre: 50, scale: 10}\n")
    options = LoadOptions(
        site="医院", patient="pid", outcome="yes", positive="1", codebook=book, features=("年龄",)
    )
    where = str(tmp_path / "own.csv")
    assert hospitals_of(where, options) == {"上海": 1, "北 京": 2}
    made = write_extract(where, "北 京", tmp_path / "data", options)
    written = made.table.read_text(encoding="utf-8")
    assert written == 'pid,年龄,yes,note\n007,50,1,"a, ""b"""\n008,60,0,\n'
    cohorts = load_table(tmp_path / "own.csv", options).cohorts
    (expected,) = (cohort for cohort in cohorts if cohort.site == "北 京")
    found = read_back(tmp_path, mapping_of(made))
    np.testing.assert_array_equal(found.features, expected.features)
    np.testing.assert_array_equal(found.patient, expected.patient)


def test_a_table_without_a_codebook_gets_none(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("hospital,age\nnorth,1\nsouth,2\n")
    made = write_extract(
        str(tmp_path / "own.csv"), "north", tmp_path / "data", LoadOptions(site="hospital")
    )
    assert made.codebook is None
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["extract.csv"]


def test_nobody_says_for_a_hospital_that_each_row_is_a_person(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("hospital,age,died\nnorth,1,0\nnorth,2,1\n")
    asked = LoadOptions(site="hospital", outcome="died", features=("age",))
    made = write_extract(str(tmp_path / "own.csv"), "north", tmp_path / "data", asked)
    lines = mapping_of(made)
    assert "# patient: " in lines
    made.table.with_name("codebook.yaml").write_text(
        "{name: t, columns: {age: {type: number, range: [0, 9]}}}"
    )
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text(lines, encoding="utf-8")
    assert code_of(lambda: SiteData.read(tmp_path, "h01")).startswith("yaml_")
    named = mapping_of(
        dataclasses.replace(made, options=dataclasses.replace(made.options, patient="one_row_each"))
    )
    mapping.write_text(named, encoding="utf-8")
    assert SiteData.read(tmp_path, "h01").cohort()[0].patients == 2


def extract_to(root: Path, mapping: Path) -> None:
    quiet = Console(quiet=True)
    options = LoadOptions()
    extract_one("heart-disease", "cleveland", root / "data", options, quiet, mapping=mapping)


def test_the_stub_of_a_mapping_is_filled_in_and_is_then_a_hospitals_own(tmp_path: Path) -> None:
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text(mapping_template(), encoding="utf-8")
    extract_to(tmp_path, mapping)
    assert SiteData.read(tmp_path, "h01").cohort()[0].patients == 303
    assert stat.S_IMODE(mapping.stat().st_mode) == 0o600
    written = mapping.read_bytes()
    (tmp_path / "data" / "extract.csv").unlink()
    assert code_of(lambda: extract_to(tmp_path, mapping)) == "out_exists"
    assert mapping.read_bytes() == written
    assert not (tmp_path / "data" / "extract.csv").exists()
