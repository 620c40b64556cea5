"""The checklist is kept: fifty lines, each with a test that exists, or with a reason for none."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/reference/dp-checklist.md"
GROUPS = ["Accounting", "Ledger", "Mechanism", "Analytics", "Audit and report"]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
REASON = "Cannot apply: "


def lines(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield the number of each line, what must hold, and what would notice."""
    for row in re.findall(r"^\| (\d+) \| (.+) \| (.+) \|$", text, flags=re.MULTILINE):
        yield int(row[0]), row[1], row[2]


@lru_cache(maxsize=64)
def names_in(path: str) -> frozenset[str]:
    """Names of the tests that a file defines, in classes or outside."""
    file = ROOT / path
    if not file.is_file():
        return frozenset()
    return frozenset(
        node.name
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    )


def faults(text: str) -> list[str]:
    """Lines without a test that exists and without a reason."""
    found = []
    for number, _, kept_by in lines(text):
        named = NAMED.findall(kept_by)
        if kept_by.count("::") != len(named):
            found.append(f"{number}: a name that is no path::test")
        missing = [f"{path}::{name}" for path, name in named if name not in names_in(path)]
        found += [f"{number}: there is no {test}" for test in missing]
        if not named and not (kept_by.startswith(REASON) and len(kept_by) > 60):
            found.append(f"{number}: neither a test nor a reason")
        if "TODO" in kept_by:
            found.append(f"{number}: to be done")
    return found


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def test_there_are_fifty_lines_in_five_groups(page: str) -> None:
    assert [number for number, _, _ in lines(page)] == list(range(1, 51))
    assert re.findall(r"^## (.+)$", page, flags=re.MULTILINE) == GROUPS


def test_every_line_has_a_test_that_exists_or_a_reason(page: str) -> None:
    assert faults(page) == []


@pytest.mark.parametrize(
    ("cell", "fault"),
    [
        ("`tests/unit/test_dp_checklist.py::test_no_such`", "there is no"),
        ("`tests/unit/test_no_such.py::test_a`", "there is no"),
        ("`tests/unit/test_dp_checklist::test_a`", "a name that is no"),
        ("Cannot apply: no.", "neither"),
        ("nothing", "neither"),
        ("`tests/unit/test_dp_checklist.py::test_a_line_that_lies_is_noticed`, TODO", "to be done"),
    ],
)
def test_a_line_that_lies_is_noticed(cell: str, fault: str) -> None:
    assert any(fault in found for found in faults(f"| 1 | something | {cell} |"))
