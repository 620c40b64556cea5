"""The audit log and the chained file under it: append, and everything else is noticed."""

from __future__ import annotations

import datetime as dt
import json
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcohort.fl_client.governance._chained import ChainedFile, Line
from fedcohort.fl_client.governance.audit_log import AuditLog
from fedcohort.privacy.errors import PolicyError

POLICY, PLAN = "ab" * 32, "cd" * 32
START = dt.datetime(2026, 11, 22, 8, tzinfo=dt.UTC)


def code_of(act: Callable[[], object]) -> str:
    with pytest.raises(PolicyError) as error:
        act()
    return error.value.code


def log_of(folder: Path, entries: int = 0) -> AuditLog:
    hours = iter(range(1000))
    log = AuditLog(
        folder / "audit.jsonl", clock=lambda: START + dt.timedelta(hours=6 * next(hours))
    )
    for number in range(entries):
        log.append("round_asked", POLICY, plan_sha256=PLAN, round=number)
    return log


def test_an_entry_is_on_disk_when_it_was_written(tmp_path: Path) -> None:
    log = log_of(tmp_path)
    head = log.append("round_released", POLICY, plan_sha256=PLAN, round=0, messages=1, bytes=512)
    log.append("message_refused", POLICY, code="policy_rounds")
    first, second = log_of(tmp_path).entries()
    assert (first.event, first.facts["bytes"], first.policy_sha256) == (
        "round_released",
        512,
        POLICY,
    )
    assert (second.number, second.facts) == (2, {"code": "policy_rounds"})
    assert head.number == 1
    assert stat.S_IMODE((tmp_path / "audit.jsonl").stat().st_mode) == 0o600
    assert log.verify() == log_of(tmp_path).verify()


@pytest.mark.parametrize(
    "facts",
    [
        {"code": "张三"},
        {"code": "a b"},
        {"code": 'x", "event": "plan_approved'},
        {"code": "x\nx"},
        {"code": "x" * 49},
        {"person": "\x1b[31m"},
        {"person": "Zhang Wei, born 1950"},
        {"plan_sha256": "4711"},
        {"plan_sha256": PLAN + "\n"},
        {"round": "1"},
        {"round": -1},
        {"round": True},
        {"round": 2**60},
        {"patient": "4711"},
        {"bytes": 1.5},
        {"policy": POLICY},
    ],
)
def test_no_field_takes_what_could_be_a_patients(tmp_path: Path, facts: dict[str, Any]) -> None:
    log = log_of(tmp_path)
    with pytest.raises(ValueError, match="audit log"):
        log.append("plan_proposed", POLICY, **facts)
    assert log.entries() == ()


def test_an_event_is_a_known_one_and_names_the_policy(tmp_path: Path) -> None:
    log = log_of(tmp_path)
    for event, policy in [("patient_read", POLICY), ("plan_proposed", ""), ("plan_proposed", "x")]:
        with pytest.raises(ValueError, match=r"audit log|policy"):
            log.append(event, policy)


def rewritten(path: Path, change: Callable[[list[bytes]], None]) -> None:
    lines = path.read_bytes().splitlines()
    change(lines)
    path.write_bytes(b"".join(line + b"\n" for line in lines))


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines.__setitem__(1, lines[1].replace(b'"round":1', b'"round":7')),
        lambda lines: lines.__setitem__(1, lines[1].replace(b'"round":1', b'"round": 1')),
        lambda lines: lines.pop(1),
        lambda lines: lines.insert(1, lines[1]),
        lambda lines: lines.reverse(),
        lambda lines: lines.append(b"{}"),
        lambda lines: lines.append(b"\xff\xfe"),
        lambda lines: lines.append(lines[-1]),
        lambda lines: lines.append(b""),
    ],
)
def test_a_changed_past_is_found(tmp_path: Path, change: Callable[[list[bytes]], None]) -> None:
    log_of(tmp_path, 4)
    rewritten(tmp_path / "audit.jsonl", change)
    assert code_of(log_of(tmp_path).verify) == "log_broken"


def test_a_line_that_says_two_things_is_no_line(tmp_path: Path) -> None:
    log_of(tmp_path, 1)
    path = tmp_path / "audit.jsonl"
    path.with_name("audit.jsonl.head").unlink()  # of one line, nothing else tells
    line = path.read_text()
    assert log_of(tmp_path).verify().number == 1
    for twice in (line.replace('{"body"', '{"body":{},"body"'), line.replace(":", ": ", 1)):
        path.with_name("audit.jsonl.head").unlink(missing_ok=True)
        path.write_text(twice)
        assert code_of(log_of(tmp_path).verify) == "log_broken"


def rehashed(path: Path, entries: int) -> None:
    """What an insider can do: another past, with all its hashes right."""
    path.unlink()
    path.with_name(f"{path.name}.head").unlink()
    log = AuditLog(path, clock=lambda: START)
    for _ in range(entries):
        log.append("plan_proposed", POLICY, plan_sha256="ef" * 32)


def test_an_older_or_another_file_is_found_by_its_head(tmp_path: Path) -> None:
    log_of(tmp_path, 4)
    path, head = tmp_path / "audit.jsonl", tmp_path / "audit.jsonl.head"
    whole, kept = path.read_bytes(), head.read_text()
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:3]))
    assert code_of(log_of(tmp_path).verify) == "log_rolled_back"
    path.write_bytes(whole)
    head.unlink()
    assert code_of(log_of(tmp_path).verify) == "log_rolled_back"
    head.write_text("4:" + "0" * 64)
    assert code_of(log_of(tmp_path).verify) == "log_rolled_back"
    rehashed(path, 4)
    assert log_of(tmp_path).verify().number == 4  # the limit: with its own head it is believed ...
    assert str(log_of(tmp_path).verify()) != kept.strip()  # ... but by whom wrote the old one down
    path.unlink()
    assert code_of(log_of(tmp_path).verify) == "log_rolled_back"


def test_a_running_process_notices_a_file_that_was_put_back(tmp_path: Path) -> None:
    log = log_of(tmp_path, 4)
    path = tmp_path / "audit.jsonl"
    older = path.read_bytes().splitlines(keepends=True)[:2]
    path.write_bytes(b"".join(older))
    assert code_of(lambda: log.append("plan_proposed", POLICY)) == "log_rolled_back"


def test_a_line_that_a_crash_tore_is_cut_off_and_a_whole_one_counts(tmp_path: Path) -> None:
    log_of(tmp_path, 3)
    path, head = tmp_path / "audit.jsonl", tmp_path / "audit.jsonl.head"
    whole, told = path.read_bytes(), head.read_text()
    with path.open("ab") as file:
        file.write(b'{"body":{"event":"pl')
    assert len(log_of(tmp_path).entries()) == 3
    assert path.read_bytes() == whole
    log_of(tmp_path).append("plan_proposed", POLICY)
    head.write_text(told)  # the crash between the line and its head
    assert len(log_of(tmp_path).entries()) == 4
    assert head.read_text() != told


def test_two_processes_take_turns(tmp_path: Path) -> None:
    one, other = log_of(tmp_path), log_of(tmp_path)
    for number in range(4):
        (one if number % 2 else other).append("plan_proposed", POLICY, round=number)
    assert [entry.facts["round"] for entry in one.entries()] == [0, 1, 2, 3]
    assert one.verify() == other.verify()


def test_a_link_in_place_of_the_log_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("")
    (tmp_path / "audit.jsonl").symlink_to(tmp_path / "elsewhere")
    assert code_of(lambda: log_of(tmp_path).append("plan_proposed", POLICY)) == "log_rolled_back"
    assert (tmp_path / "elsewhere").read_text() == ""


def test_what_cannot_be_written_is_refused_and_leaves_the_log_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = log_of(tmp_path, 2)
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, data[:10]))
    assert code_of(lambda: log.append("plan_proposed", POLICY)) == "log_unavailable"
    monkeypatch.undo()
    assert len(log.entries()) == 2
    assert len(log_of(tmp_path).entries()) == 2


def test_requests_are_counted_by_the_day(tmp_path: Path) -> None:
    log = log_of(tmp_path, 9)  # every six hours from 08:00
    log.append("plan_approved", POLICY)
    days = [START.date() + dt.timedelta(days=number) for number in range(4)]
    assert [log.events_on(day) for day in days] == [3, 4, 2, 0]


TEXTS = st.text(max_size=40)


@given(
    st.lists(st.dictionaries(TEXTS, TEXTS | st.integers() | st.booleans(), max_size=3), max_size=6)
)
def test_whatever_a_line_holds_it_is_one_line_and_comes_back(
    tmp_path_factory: pytest.TempPathFactory, bodies: list[dict[str, Any]]
) -> None:
    path = tmp_path_factory.mktemp("chained") / "file.jsonl"
    file = ChainedFile(path, format="test/1", clock=lambda: START)

    def adds(body: Mapping[str, Any]) -> Callable[[tuple[Line, ...]], Mapping[str, Any]]:
        return lambda lines: body

    for body in bodies:
        file.append(adds(body))
    again = ChainedFile(path, format="test/1")
    assert [dict(line.body) for line in again.lines()] == bodies
    raw = path.read_bytes() if bodies else b""
    assert len(raw.splitlines()) == raw.count(b"\n") == len(bodies)
    assert all(31 < byte < 127 or byte == 10 for byte in raw)
    assert all(
        json.loads(line)["body"] == body
        for line, body in zip(raw.splitlines(), bodies, strict=True)
    )


def test_an_entry_by_a_clock_that_was_behind_hides_no_request(tmp_path: Path) -> None:
    now = [START]
    log = AuditLog(tmp_path / "audit.jsonl", clock=lambda: now[0])
    for number in range(3):
        log.append("round_asked", POLICY, plan_sha256=PLAN, round=number)
    now[0] = START - dt.timedelta(days=1)
    log.append("node_started", POLICY)
    assert log.events_on(START.date()) == 3
    assert log.events_on(now[0].date()) == 0
