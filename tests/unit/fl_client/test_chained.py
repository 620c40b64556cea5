"""Chained files: a line is on disk, with its head, before what it tells of may happen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedcohort.fl_client.governance._chained import ChainedFile
from fedcohort.fl_client.governance.audit_log import AuditLog

Watch = Callable[..., Any]


def test_after_a_power_cut_every_line_that_was_written_is_there(
    tmp_path: Path, disk: Watch
) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    watched = disk(folder)
    lines = ChainedFile(folder / "lines.jsonl", format="test/1")
    for number in range(1, 4):
        lines.append(lambda known, n=number: {"said": n})  # type: ignore[misc]
        for after in watched.cuts(tmp_path / str(number)):
            found = ChainedFile(after / "lines.jsonl", format="test/1")
            assert [line.body["said"] for line in found.lines()] == list(range(1, number + 1))
            assert found.verify() == lines.head


def test_after_a_power_cut_the_audit_log_tells_of_the_release(tmp_path: Path, disk: Watch) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    AuditLog(folder / "audit.jsonl").append("node_started", "0" * 64)
    watched = disk(folder)
    audit = AuditLog(folder / "audit.jsonl")
    audit.append("round_released", "0" * 64, plan_sha256="ab" * 32, round=0, bytes=8)
    for after in watched.cuts(tmp_path / "after"):
        entries = AuditLog(after / "audit.jsonl").entries()
        assert [entry.event for entry in entries] == ["node_started", "round_released"]


def test_a_line_that_was_torn_anywhere_is_cut_off_and_the_log_goes_on(tmp_path: Path) -> None:
    """Its head was not written yet, and nothing that it tells of has happened."""
    path = tmp_path / "lines.jsonl"
    lines = ChainedFile(path, format="test/1")
    lines.append(lambda known: {"said": 1})
    before = path.read_bytes(), path.with_name("lines.jsonl.head").read_bytes()
    lines.append(lambda known: {"said": 2})
    whole = path.read_bytes()
    for length in range(len(before[0]), len(whole) + 1):
        path.write_bytes(whole[:length])
        path.with_name("lines.jsonl.head").write_bytes(before[1])
        found = ChainedFile(path, format="test/1")
        said = [line.body["said"] for line in found.lines()]
        assert said == ([1, 2] if length == len(whole) else [1])
        found.append(lambda known: {"said": 3})
        assert [line.body["said"] for line in found.lines()] == [*said, 3]
