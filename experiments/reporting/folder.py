"""A run's folder: it appears when it is finished, or not at all.

Everything is written into a hidden sibling, `.<name>.partial`, which is renamed into place as
the last act. A run that is killed leaves at most such a partial folder behind; nothing reads
it, and the next run with the same name clears it.
"""

from __future__ import annotations

import csv
import datetime as dt
import hashlib
import io
import os
import re
import shutil
import sys
from collections.abc import Iterable
from dataclasses import astuple, fields
from pathlib import Path
from types import TracebackType

from ...privacy.durable_files import replace_synced, sync_folder
from ...privacy.errors import ConfigError
from .results import Results, Row

if sys.platform != "win32":  # there, two runs of one name are not kept apart
    import fcntl

__all__ = ["RunFolder", "default_folder", "file_slug", "rows_csv", "write_atomic"]

_RESULTS = "results.json"
_OURS = (_RESULTS, "results.csv", "plan.json", "report.html", "comparison.svg", "models", "ledgers")


def file_slug(name: str) -> str:
    """Return a file name's part for a name: its readable letters and a short hash, none collide.

    >>> file_slug("cleveland")
    'cleveland'
    """
    readable = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:40]
    plain = readable if readable == name.lower() else ""
    return plain or f"{readable or 'site'}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file that is either absent, old or complete, whenever the process dies."""
    replace_synced(path, data, mode=0o666)


def default_folder(study: str, now: dt.datetime) -> Path:
    """Return the folder of a run that named none: `runs/STUDY/TIME`, of a name not taken."""
    stamp = now.strftime("%Y-%m-%d_%H-%M-%S")
    folder = Path("runs") / study / stamp
    number = 2
    while folder.exists():
        folder = Path("runs") / study / f"{stamp}_{number}"
        number += 1
    return folder


def rows_csv(rows: Iterable[Row]) -> bytes:
    """Return the rows as CSV: UTF-8 with a byte order mark, so that Excel reads it everywhere.

    A text that a spreadsheet would run as a formula is disarmed by an apostrophe.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([item.name for item in fields(Row)])
    for row in rows:
        writer.writerow([_cell(value) for value in astuple(row)])
    return text.getvalue().encode("utf-8-sig")


class RunFolder:
    """Where one run puts its files; leaving the `with` block puts them in place.

    Args:
        path: The folder that people will read.
        overwrite: Replace the files of an earlier run; other files in the folder stay.

    Guarantee: `path/results.json` exists only if the run that wrote it was complete.

    Raises:
        ConfigError: `out_exists`, `out_not_a_folder` or `out_busy`.
    """

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        self.path = path.absolute()
        self.partial = self.path.with_name(f".{self.path.name}.partial")
        self._overwrite = overwrite
        self._lock: int | None = None

    def __enter__(self) -> RunFolder:
        self._refuse_if_taken()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = self._claim()
        for entry in self.partial.iterdir():
            _remove(entry)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._commit()
            else:
                _remove(self.partial)
        finally:
            if self._lock is not None:
                os.close(self._lock)

    def write(self, name: str, data: bytes | str) -> Path:
        """Write one file of the run and return where it will be read."""
        raw = data.encode() if isinstance(data, str) else data
        write_atomic(self.partial / name, raw)
        return self.path / name

    def write_results(self, results: Results) -> Path:
        """Write `results.csv`, then `results.json`.

        Raises:
            DataError: The document breaks its schema.
        """
        text = results.dumps()
        self.write("results.csv", rows_csv(results.rows))
        return self.write(_RESULTS, text)

    def _refuse_if_taken(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(
                "out_not_a_folder", f"{self.path} is a file", hint="Name a folder as out=..."
            )
        if (self.path / _RESULTS).exists() and not self._overwrite:
            raise ConfigError(
                "out_exists",
                f"{self.path} already holds the results of a run",
                hint="Name another folder with out=..., or replace them with overwrite=true.",
            )

    def _claim(self) -> int | None:
        """Take the partial folder for this process; the lock dies with the process."""
        while True:
            self.partial.mkdir(exist_ok=True)
            if sys.platform == "win32":
                return None
            lock = os.open(self.partial, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(lock), self.partial.stat()):
                    return lock
            except FileNotFoundError:  # the other run just finished: its folder was renamed
                pass
            except BlockingIOError as error:
                os.close(lock)
                raise ConfigError(
                    "out_busy",
                    f"another run is writing {self.path}",
                    hint="Wait for it, or name another folder with out=...",
                ) from error
            os.close(lock)

    def _commit(self) -> None:
        if not (self.partial / _RESULTS).exists():
            _remove(self.partial)
            raise ValueError("a run must write its results before its folder is put in place")
        self._refuse_if_taken()
        sync_folder(self.partial)
        if not self.path.exists():
            self.partial.rename(self.path)
        else:
            # Old results go first and new ones come last: at no moment do they stand
            # beside files of another run.
            for name in _OURS:
                _remove(self.path / name)
            names = sorted(entry.name for entry in self.partial.iterdir())
            for name in sorted(names, key=lambda name: name == _RESULTS):
                _remove(self.path / name)
                (self.partial / name).rename(self.path / name)
            self.partial.rmdir()
        sync_folder(self.path.parent)


def _cell(value: object) -> object:
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + value
    return value


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
