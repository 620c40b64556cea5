"""One patient comes, leaves or changes: with noise, no answer of a hospital may tell.

Two extracts that differ in one patient's line are put, one after the other, under the same
hospital's node, and approved. The coordinator asks for the whole of a noised plan both times.
Every reply must be of one kind: codes, names and sizes of records, lengths of vectors, what is
paid, and what the audit log says. Without noise the same rows are refused, by one code: that is
the control.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedcohort.fl_client.governance.audit_log import AuditLog
from fedcohort.fl_client.site import open_site
from fedcohort.fl_server.coordinator_setup import CoordinatorSetup
from fedcohort.study.plan import Plan

Lines = list[bytes]
Edit = Callable[[Lines], Lines]


def cells(line: bytes) -> Lines:
    return line.split(b",")


def joined(**changes: bytes) -> Edit:
    """A patient comes whose record is another's, but for these columns."""

    def edit(lines: Lines) -> Lines:
        names = [name.decode() for name in cells(lines[0])]
        row = dict(zip(names, cells(lines[5]), strict=True)) | {"patient_id": b"new"}
        return [*lines, b",".join((row | changes)[name] for name in names)]

    return edit


def raw(line: bytes) -> Edit:
    """A line comes, whatever it is."""
    return lambda lines: [*lines[:9], line, *lines[9:]]


def one_case(lines: Lines) -> Lines:
    """The hospital has one patient who has the outcome."""
    at = cells(lines[0]).index(b"disease")
    ill = [line for line in lines[1:] if cells(line)[at] == b"1"]
    return [lines[0], *(line for line in lines[1:] if cells(line)[at] == b"0"), ill[0]]


def last_gone(lines: Lines) -> Lines:
    return one_case(lines)[:-1]


def same(lines: Lines) -> Lines:
    return lines


def two(lines: Lines) -> Lines:
    return lines[:2]


def nobody(lines: Lines) -> Lines:
    return lines[:1]


# What is there before, what after, and whether a person would be told of a fault.
WORLDS: dict[str, tuple[Edit, Edit, bool]] = {
    "an ordinary patient comes": (same, joined(), False),
    "the only case leaves": (one_case, last_gone, True),
    "the only patient leaves": (two, nobody, True),
    "the outcome is another word": (same, joined(disease=b"unknown"), True),
    "the outcome is missing": (same, joined(disease=b""), False),
    "the token is missing": (same, joined(patient_id=b""), True),
    "the token is another's, spelt otherwise": (same, joined(patient_id=b" CLEVELAND-0 "), False),
    "an age is a word": (same, joined(age=b"old"), False),
    "a text of its own": (same, joined(cp=b"typical \xe4\xb8\xad"), False),
    "bytes of another encoding": (same, joined(cp=b"\xd6\xd0"), False),
    "a quote that does not close": (same, joined(cp=b'"typical'), True),
    "a cell too many": (same, joined(cp=b"typical,1"), True),
    "a line of nothing but commas": (same, raw(b"," * 40), True),
    "a carriage return": (same, raw(b"a\rb,c"), True),
    "half of a record": (same, raw(b"x,63,1"), True),
    "bytes at random": (same, raw(bytes(range(128, 256))), True),
    "a blank line": (same, raw(b"   "), False),
}


def answers(hospital: Any, coordinator: Any, plan: Plan, line_to: Any, table: Lines) -> list[Any]:
    """Return all that a coordinator gets of a plan on an extract, and what it cost."""
    path: Path = hospital.folder.root / "data" / "extract.csv"
    path.write_bytes(b"\n".join(table) + b"\n")
    hospital.approve(plan)
    site = open_site(hospital.folder)
    before, seen = site.ledger.book.spent, len(AuditLog(hospital.folder.audit).entries())
    line = line_to(coordinator, site, hold_s=0.0)
    codes = [line.propose(plan), line.report(plan), line.close(plan), line.hello(plan)]
    paid = site.ledger.book.spent - before
    site.close()
    shapes = [
        {
            name: {key: len(str(value)) for key, value in record.items()}
            for name, record in reply.content.config_records.items()
        }
        | {
            name: [array.shape for array in record.values()]
            for name, record in reply.content.array_records.items()
        }
        for reply in line.replies
    ]
    told = [
        (entry.event, entry.facts.get("bytes"), entry.facts.get("code"))
        for entry in AuditLog(hospital.folder.audit).entries()[seen:]
    ]
    return [codes, shapes, paid, told]


@pytest.fixture
def extract(a_hospital: Any) -> Lines:
    raw_bytes: bytes = (a_hospital.folder.root / "data" / "extract.csv").read_bytes()
    return raw_bytes.splitlines()


@pytest.mark.parametrize("what", WORLDS)
def test_with_noise_neighbours_get_the_same_answers(
    what: str,
    a_hospital: Any,
    a_coordinator: CoordinatorSetup,
    two_plans: dict[str, Plan],
    line_to: Any,
    extract: Lines,
) -> None:
    plan = two_plans["noisy"]
    first, second, _ = WORLDS[what]
    one = answers(a_hospital, a_coordinator, plan, line_to, first(extract))
    fresh = Plan.from_json(plan.to_json().replace('"purpose":"p"', '"purpose":"q"'))
    other = answers(a_hospital, a_coordinator, fresh, line_to, second(extract))
    assert one[0][:3] == ["", "", ""]
    assert one == other
    assert one[2] > 0


@pytest.mark.parametrize("what", [what for what in WORLDS if WORLDS[what][2]])
def test_without_noise_such_a_row_is_refused(  # the control
    what: str,
    a_hospital: Any,
    a_coordinator: CoordinatorSetup,
    two_plans: dict[str, Plan],
    line_to: Any,
    extract: Lines,
) -> None:
    codes = answers(
        a_hospital, a_coordinator, two_plans["exact"], line_to, WORLDS[what][1](extract)
    )[0]
    assert codes[0] == "data_refused"
