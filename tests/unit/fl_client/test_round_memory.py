"""The round under way on disk: kept over a power cut, gone when it is spent, never guessed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedcohort.fl_client.round_memory import FileRoundMemory, Remembered

Watch = Callable[..., Any]
VECTOR = np.arange(-3, 4, dtype=np.int64) * 123_456_789
KEPT = Remembered(
    attempt="ab" * 16, next_round=4, terms_sha256="cd" * 32, vector=VECTOR, charge_id="12"
)
LATER = Remembered(
    attempt="ab" * 16, next_round=5, terms_sha256="ef" * 32, vector=VECTOR + 1, charge_id="13"
)


def same(found: Remembered | None, kept: Remembered) -> bool:
    if found is None or (found.vector is None) != (kept.vector is None):
        return False
    if kept.vector is not None and not np.array_equal(found.vector, kept.vector):  # type: ignore[arg-type]
        return False
    facts = ("attempt", "next_round", "terms_sha256", "charge_id")
    return all(getattr(found, name) == getattr(kept, name) for name in facts)


def plans(tmp_path: Path) -> Path:
    folder = tmp_path / "plans"
    folder.mkdir()
    return folder


def test_after_a_power_cut_the_vector_that_was_kept_is_there(tmp_path: Path, disk: Watch) -> None:
    watched = disk(plans(tmp_path))
    memory = FileRoundMemory(tmp_path / "plans" / "h.round")
    for known in (KEPT, LATER):
        memory.keep(known)
        for after in watched.cuts(tmp_path / str(known.next_round)):
            assert same(FileRoundMemory(after / "h.round").recall(), known)


def test_after_a_power_cut_a_vector_that_was_spent_is_nowhere(tmp_path: Path, disk: Watch) -> None:
    watched = disk(plans(tmp_path))
    memory = FileRoundMemory(tmp_path / "plans" / "h.round")
    memory.keep(KEPT)
    memory.spend()
    for after in watched.cuts(tmp_path / "after"):
        found = FileRoundMemory(after / "h.round").recall()
        assert found is not None
        assert (found.vector, found.attempt, found.next_round) == (None, KEPT.attempt, 4)
        for file in after.iterdir():
            assert VECTOR.tobytes() not in file.read_bytes()


@pytest.mark.parametrize("let_go", ["clear", "spend"])
def test_after_a_power_cut_a_file_that_ended_or_cannot_be_read_is_gone(
    tmp_path: Path, disk: Watch, let_go: str
) -> None:
    """What cannot be read now must not be readable later."""
    path = plans(tmp_path) / "h.round"
    FileRoundMemory(path).keep(KEPT)
    watched = disk(path.parent)
    if let_go == "spend":
        path.chmod(0o644)  # others may read it: it is refused, and not believed
        assert FileRoundMemory(path).recall() is None
    getattr(FileRoundMemory(path), let_go)()
    assert list(watched.cut(tmp_path / "after").iterdir()) == []
    getattr(FileRoundMemory(path), let_go)()  # twice is once


def test_a_file_that_was_cut_anywhere_is_lost_and_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "h.round"
    memory = FileRoundMemory(path)
    memory.keep(KEPT)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert memory.recall() is None, f"believed at {length} of {len(whole)} bytes"
    for more in (b"\0", b"\n", whole):
        path.write_bytes(whole + more)
        assert memory.recall() is None
    path.write_bytes(whole)
    assert same(memory.recall(), KEPT)


@pytest.mark.parametrize("known", [KEPT, Remembered(attempt="ab" * 16, next_round=4)])
def test_a_file_with_any_bit_flipped_is_lost_and_not_believed(
    tmp_path: Path, known: Remembered
) -> None:
    """The round's number and hash as well as the vector: each of them would be believed."""
    path = tmp_path / "h.round"
    memory = FileRoundMemory(path)
    memory.keep(known)
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            torn = bytearray(whole)
            torn[place] ^= 1 << bit
            path.write_bytes(torn)
            assert memory.recall() is None, f"believed with bit {bit} of byte {place} flipped"


def test_a_file_of_another_format_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "h.round"
    memory = FileRoundMemory(path)
    for content in (b"", b"\n", b"{}", b"[]\n", b'{"format": "fedcohort.round/1"}\n', b"\xff" * 99):
        path.write_bytes(content)
        path.chmod(0o600)
        assert memory.recall() is None
