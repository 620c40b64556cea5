"""The head beside a ledger: whoever puts an older ledger back is found."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fedcohort.privacy.errors import PolicyError
from fedcohort.privacy.ledger.chain import Head
from fedcohort.privacy.ledger.witness import check_head, locked, read_head, write_head

HEADS = {number: f"{number:064x}" for number in range(1, 6)}


def head(number: int) -> Head:
    return Head(number, HEADS[number])


def beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.head")


def code_of(ask: Callable[[], object]) -> str:
    with pytest.raises(PolicyError) as refused:
        ask()
    return refused.value.code


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a ledger of five entries would be; the head of its fourth is beside it."""
    write_head(tmp_path / "h", head(4))
    return tmp_path / "h"


def test_what_was_written_is_read(path: Path) -> None:
    assert read_head(path) == head(4)
    assert beside(path).read_text() == f"4:{HEADS[4]}\n"
    assert read_head(path.with_name("other")) is None


def test_a_head_that_is_behind_is_brought_up_to_date(path: Path) -> None:
    # What a crash between the entry and its head leaves.
    check_head(path, head(5), HEADS.get)
    assert read_head(path) == head(5)


def test_a_head_that_is_up_to_date_is_left_alone(path: Path) -> None:
    before = beside(path).stat().st_ino
    check_head(path, head(4), HEADS.get)
    assert beside(path).stat().st_ino == before


@pytest.mark.parametrize("newest", [1, 2, 3])
def test_a_ledger_that_is_older_than_its_head_is_refused(path: Path, newest: int) -> None:
    kept = {number: HEADS[number] for number in range(1, newest + 1)}
    assert code_of(lambda: check_head(path, head(newest), kept.get)) == "ledger_rolled_back"
    assert read_head(path) == head(4)  # nothing is forgotten by looking


def test_a_ledger_with_another_past_is_refused(path: Path) -> None:
    other = {number: f"{number + 1000:064x}" for number in range(1, 9)}
    newest = Head(8, other[8])
    assert code_of(lambda: check_head(path, newest, other.get)) == "ledger_rolled_back"


@pytest.mark.parametrize("newest", [1, 4])
def test_a_ledger_without_its_head_is_refused(path: Path, newest: int) -> None:
    beside(path).unlink()
    assert code_of(lambda: check_head(path, head(newest), HEADS.get)) == "ledger_rolled_back"


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"4", b"\xff\xfe", b"4:" + b"0" * 63, b"9" * 5000, bytes(10**7)]
)
def test_a_head_that_cannot_be_read_is_refused(path: Path, content: bytes) -> None:
    beside(path).write_bytes(content)
    assert code_of(lambda: check_head(path, head(5), HEADS.get)) == "head_unreadable"


def test_a_head_that_is_a_dangling_link_is_not_taken_for_none(path: Path) -> None:
    beside(path).unlink()
    beside(path).symlink_to(path.with_name("nowhere"))
    with pytest.raises(FileNotFoundError):
        read_head(path)


def test_a_head_replaces_a_link_and_never_writes_through_it(path: Path) -> None:
    notes = path.with_name("notes")
    notes.write_text("not yours")
    for name in (beside(path), path.with_name(".h.head.tmp")):
        name.unlink(missing_ok=True)
        name.symlink_to(notes)
    write_head(path, head(5))
    assert notes.read_text() == "not yours"
    assert not beside(path).is_symlink()
    assert read_head(path) == head(5)


def test_a_head_is_synced_then_put_in_place_then_the_folder_is_synced(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, replace = os.fsync, Path.replace

    def fsync(handle: int) -> None:
        done.append(f"sync {Path(f'/proc/self/fd/{handle}').readlink().name}")
        sync(handle)

    def put(self: Path, target: Path) -> Path:
        assert self.read_text() == f"5:{HEADS[5]}\n"  # flushed before
        done.append(f"put {self.name} to {target.name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", put)
    write_head(path, head(5))
    assert done == ["sync .h.head.tmp", "put .h.head.tmp to h.head", f"sync {path.parent.name}"]


def test_what_a_crash_left_does_not_stop_the_next_head(path: Path) -> None:
    path.with_name(".h.head.tmp").write_text("half a he")
    write_head(path, head(5))
    assert read_head(path) == head(5)
    assert [file.name for file in path.parent.iterdir()] == ["h.head"]


# Takes the lock if it can within no time, and says whether it could.
TAKES_THE_LOCK = """
import fcntl, os, sys
handle = os.open(sys.argv[1], os.O_RDONLY)
try:
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    print("free")
except BlockingIOError:
    print("held")
"""


def test_one_process_at_a_time_holds_the_folder(tmp_path: Path) -> None:
    def said() -> str:
        command = [sys.executable, "-c", TAKES_THE_LOCK, str(tmp_path)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    with locked(tmp_path, wanted=True):
        assert said() == "held"
    assert said() == "free"
    with locked(tmp_path, wanted=False):
        assert said() == "free"
    with pytest.raises(ZeroDivisionError), locked(tmp_path, wanted=True):
        raise ZeroDivisionError
    assert said() == "free"
