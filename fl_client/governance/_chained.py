"""A file of JSON lines, each bound to all before it by SHA-256, and its newest hash beside it.

A line is written and synced before the call returns. Beside the file stands `<file>.head`, the
newest line's number and hash: a file that is shorter than its head, or another one, was put back or
rewritten, and is refused. A line that a crash tore has no head and no newline, and is cut off.
Every line is canonical JSON in ASCII, so that no value can start a line or move a cursor.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...privacy.errors import PolicyError
from ...privacy.ledger.chain import Head
from ...privacy.ledger.witness import locked, read_head, write_head

__all__ = ["ChainedFile", "Line"]

_START = "0" * 64
_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_APPEND


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line.

    Attributes:
        number: 1-based, without gaps.
        time: When it was written, ISO 8601 in UTC, as the site's clock said.
        body: JSON.
        previous: Hash of the line before; 64 zeros for the first.
        sha256: Of the line's text, without its newline.
    """

    number: int
    time: str
    body: Mapping[str, Any]
    previous: str
    sha256: str


class ChainedFile:
    """One file; several processes may append to it in turns.

    Args:
        path: Made, with mode 0600, at the first line.
        format: What its lines say they are.
        clock: What time a line is said to be written at.
    """

    def __init__(
        self,
        path: Path,
        *,
        format: str,
        clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._path = path
        self._format = format
        self._clock = clock
        self._size = 0
        self._lines: list[Line] = []

    def lines(self) -> tuple[Line, ...]:
        """Return every line, checked anew where the file has grown.

        Raises:
            PolicyError: `log_broken`, `log_rolled_back` or `log_unavailable`.
        """
        with self._turn():
            return tuple(self._lines)

    @property
    def head(self) -> Head:
        """The newest line's number and hash; number 0 where there is none."""
        with self._turn():
            return self._head()

    def append(self, make: Callable[[tuple[Line, ...]], Mapping[str, Any]]) -> Line:
        """Write a line; only after this returns may what it tells of happen.

        Args:
            make: Given every line so far, returns the new one's body, or refuses by raising.

        Raises:
            PolicyError: As `lines`.
        """
        with self._turn():
            body = make(tuple(self._lines))
            before = self._head()
            time = self._clock().astimezone(dt.UTC).isoformat(timespec="milliseconds")
            text = _text(self._format, before.number + 1, time, body, before.sha256)
            line = _line(text, self._format)
            handle = os.open(self._path, _OPEN, 0o600)
            try:
                data = bytes(text, "ascii") + b"\n"
                if os.write(handle, data) != len(data):
                    raise OSError("the line was not written whole")
                os.fsync(handle)
            finally:
                os.close(handle)
            self._lines.append(line)
            self._size += len(data)
            write_head(self._path, self._head())
            return line

    def verify(self) -> Head:
        """Read the whole file anew and return its head.

        Raises:
            PolicyError: As `lines`.
        """
        self._forget()
        return self.head

    def _head(self) -> Head:
        return Head(self._lines[-1].number, self._lines[-1].sha256) if self._lines else _NONE

    def _forget(self) -> None:
        self._size, self._lines = 0, []

    @contextmanager
    def _turn(self) -> Iterator[None]:
        try:
            with locked(self._path.parent, wanted=True):
                self._catch_up()
                yield
        except OSError as error:
            self._forget()
            raise PolicyError(
                "log_unavailable",
                f"{self._path.name} cannot be read or written now",
                hint="Nothing was released. Look at the disk and the file's mode.",
            ) from error
        except BaseException:
            self._forget()  # what is on disk counts: read anew
            raise

    def _catch_up(self) -> None:
        data = self._read()
        for raw in data.split(b"\n")[:-1]:
            line = _line(raw.decode("ascii", errors="replace"), self._format)
            newest = self._head()
            if (line.number, line.previous) != (newest.number + 1, newest.sha256):
                raise _broken(f"line {newest.number + 1} does not follow the one before")
            self._lines.append(line)
            self._size += len(raw) + 1
        self._check_head()
        torn = len(data) - data.rfind(b"\n") - 1
        if torn:
            os.truncate(self._path, self._size)

    def _read(self) -> bytes:
        if self._path.is_symlink() or not self._path.exists():
            if self._path.is_symlink() or self._lines:
                raise _rolled_back("the file is gone")
            return b""
        if self._path.stat().st_size < self._size:
            raise _rolled_back("the file is shorter than it was")
        with self._path.open("rb") as file:
            file.seek(self._size)
            return file.read()

    def _check_head(self) -> None:
        head, newest = read_head(self._path), self._head()
        if head is None:
            if newest.number > 1:
                raise _rolled_back("its head file is gone")
            head = _NONE
        known = {line.number: line.sha256 for line in self._lines[-2:]} | {0: _START}
        behind = newest.number - head.number
        if behind not in (0, 1) or known.get(head.number) != head.sha256:
            raise _rolled_back("it does not end where the head beside it says")
        if behind:  # a crash between a line and its head
            write_head(self._path, newest)


_NONE = Head(0, _START)


def _text(format_: str, number: int, time: str, body: Mapping[str, Any], previous: str) -> str:
    document = {
        "format": format_,
        "number": number,
        "time": time,
        "body": dict(body),
        "previous": previous,
    }
    return json.dumps(
        document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )


def _line(text: str, format_: str) -> Line:
    try:
        document = json.loads(text)
        number, time = document["number"], document["time"]
        body, previous = document["body"], document["previous"]
        typed = type(number) is int and isinstance(body, dict) and isinstance(previous, str)
        dt.datetime.fromisoformat(time)
        if not typed or text != _text(format_, number, time, body, previous):
            raise ValueError("not in its canonical form")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise _broken("a line cannot be read") from error
    sha256 = hashlib.sha256(bytes(text, "ascii")).hexdigest()
    return Line(number=number, time=time, body=body, previous=previous, sha256=sha256)


def _broken(why: str) -> PolicyError:
    return PolicyError(
        "log_broken",
        f"the log cannot be believed: {why}",
        hint="Nothing more is released. Keep the file as it is, and have two people decide.",
    )


def _rolled_back(why: str) -> PolicyError:
    return PolicyError(
        "log_rolled_back",
        f"the log was put back to an earlier state: {why}",
        hint="Bring the newest file and its head back together; have two people decide.",
    )
