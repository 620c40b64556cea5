"""The head beside a ledger: its newest entry's number and hash, in a file of their own.

A ledger that is older than its head was put back from a backup, and is refused; so is one whose
head is gone. The first head is written before the first entry, every later one after its entry,
under the same lock: a crash between the two leaves a head that is one entry behind, which the
next turn makes good before anything else.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..durable_files import replace_synced
from ..errors import PolicyError
from .chain import Head

__all__ = ["check_head", "locked", "read_head", "rolled_back", "write_head"]

_LONGEST = 256  # bytes; a head has 15 digits, a colon and 64 more


def read_head(path: Path) -> Head | None:
    """Return the head beside a ledger, None where there is none.

    Raises:
        PolicyError: `head_unreadable`.
    """
    beside = _head_path(path)
    if not (beside.exists() or beside.is_symlink()):
        return None
    with beside.open("rb") as file:
        return Head.parse(file.read(_LONGEST).decode("ascii", errors="replace"))


def check_head(path: Path, newest: Head, sha256_of: Callable[[int], str | None]) -> None:
    """Refuse a ledger that is older than its head, and bring a head that is behind up to date.

    Args:
        path: The ledger.
        newest: Its newest entry.
        sha256_of: The hash of its entry of a number; None where it has none.

    Raises:
        PolicyError: `ledger_rolled_back`, or `head_unreadable`.
    """
    head = read_head(path)
    if head is None:
        raise rolled_back("the head file beside it is gone")
    if sha256_of(head.number) != head.sha256:
        raise rolled_back("the file is older than the head beside it")
    if head != newest:
        write_head(path, newest)


def write_head(path: Path, head: Head) -> None:
    """Replace the head beside a ledger, atomically and synced."""
    replace_synced(_head_path(path), bytes(f"{head}\n", "ascii"))


@contextmanager
def locked(folder: Path, *, wanted: bool) -> Iterator[None]:
    """Hold the folder's lock; the system lets go of it when a process dies."""
    if not wanted:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _head_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.head")


def rolled_back(why: str) -> PolicyError:
    """Return the refusal to go on with a ledger that forgot something."""
    return PolicyError(
        "ledger_rolled_back",
        f"the ledger was put back to an earlier state: {why}",
        hint="Nothing more is released: what left since then is not in it. Bring the newest "
        "file and its head back together.",
    )
