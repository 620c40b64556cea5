"""Whose records exact sums were over: two that differ by a few patients tell of those few.

Nothing else holds one study against another: a public bound lowered by one, a share of held-out
patients moved a little, a withdrawal, or a record that was corrected between two extracts, and
the difference of two sums is somebody's record. So the site remembers, for sums without noise
only, whose they were and what was recorded of them, column by column, by hashes that are keyed
with a key of this file alone. The file stays at the site.

Two sums are compared in three ways, over the columns that both had, and refused if any of them
finds a few apart:

- by token, in each column by itself, since one that changes for everybody must not hide another
  that changed for one;
- by what is recorded alone, since an extract may have pseudonyms of its own;
- by the same, leaving one column out, where enough are left to tell people by.

Cells are compared as numbers where they are numbers: 2.30 is 2.3. Over the same records another
encoding of a column that both had is refused too: a range that one patient exceeds changes what
is summed of that one alone.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...datasets.patients import normal_id
from ...hosting import read_private, replace_file
from ...privacy.errors import DisclosureError, PolicyError
from .exact_records import Records

__all__ = ["ExactCohorts"]

_FORMAT = "fedcohort.exact_cohorts/2"
_TELLING = 4  # columns that tell people apart; of fewer, two other cohorts may be alike by chance
_Hashes = NDArray[np.uint64]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sum:
    """One sum that left, by hashes: patients in ascending order, their cells in the same."""

    table: str
    ids: _Hashes
    cells: dict[str, _Hashes]
    encodings: dict[str, str]


class ExactCohorts:
    """One file, mode 0600.

    Args:
        path: Made at the first sum without noise.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def sums(self) -> int:
        """How many different sums the file tells of.

        Raises:
            PolicyError: `exact_cohorts_unreadable`.
        """
        return len(self._read()[1])

    def add(self, records: Records, minimum: int) -> int:
        """Note that an exact sum is about to be over these records, or refuse it.

        Args:
            records: Whom it is over, each once.
            minimum: Fewest patients by which two such sums may differ, unless by none.

        Returns:
            How many different sums the file tells of now.

        Raises:
            DisclosureError: `disclosure_difference`.
            PolicyError: `exact_cohorts_unreadable`: what left before is not known.
        """
        key, known = self._read()
        asked = _hashed(key, records)
        for earlier in known:
            if not _comparable(asked, earlier) or _tells(asked, earlier, minimum):
                raise DisclosureError(
                    "disclosure_difference",
                    "an exact sum over nearly the same records left before",
                    hint="Ask for a plan with noise; or for one over clearly other patients.",
                )
        if not any(_covers(earlier, asked) for earlier in known):
            known = [*known, asked]
            self._write(key, known)
        return len(known)

    def _write(self, key: bytes, sums: Sequence[_Sum]) -> None:
        document = {
            "format": _FORMAT,
            "key": key.hex(),
            "sums": [
                {
                    "table": one.table,
                    "ids": _packed(one.ids),
                    "cells": {name: _packed(cells) for name, cells in one.cells.items()},
                    "encodings": one.encodings,
                }
                for one in sums
            ],
        }
        replace_file(self._path, bytes(json.dumps(document), "ascii"))

    def _read(self) -> tuple[bytes, list[_Sum]]:
        if not self._path.exists():
            return secrets.token_bytes(32), []
        try:
            document = json.loads(read_private(self._path))
            if document["format"] != _FORMAT:
                raise ValueError("another format")
            return bytes.fromhex(document["key"]), [_sum_from(one) for one in document["sums"]]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PolicyError(
                "exact_cohorts_unreadable",
                f"{self._path.name} cannot be read, and it says whose records exact sums were over",
                hint="Put the file back; without it no sum leaves without noise.",
            ) from error


def _comparable(one: _Sum, other: _Sum) -> bool:
    """Return whether patients of two sums can be told apart: a row's number is one table's own."""
    return one.table == other.table


def _tells(one: _Sum, other: _Sum, minimum: int) -> bool:
    """Return whether the difference of two sums may tell of fewer than `minimum` patients."""
    by_token, by_content = _apart(one, other), _apart_in_content(one, other)
    if any(0 < apart < minimum for apart in [*by_token, *by_content]):
        return True
    same = by_token[0] < minimum or (by_content[:1] or [minimum])[0] < minimum
    shared = set(one.encodings) & set(other.encodings)
    return same and any(one.encodings[c] != other.encodings[c] for c in shared)


def _apart_in_content(one: _Sum, other: _Sum) -> list[int]:
    """Return how many records two sums differ by, whoever's they are.

    In all shared columns, and leaving each of them out; where at least `_TELLING` are left.
    """
    shared = sorted(set(one.cells) & set(other.cells))
    views = [shared, *([name for name in shared if name != out] for out in shared)]
    told = [view for view in views if len(view) >= _TELLING]
    return [_unmatched(_joint(one, view), _joint(other, view)) for view in told]


def _joint(one: _Sum, columns: Sequence[str]) -> NDArray[np.void]:
    """Return each patient's record in some columns as one value."""
    stacked = np.ascontiguousarray(np.column_stack([one.cells[name] for name in columns]))
    return stacked.view(np.dtype((np.void, stacked.dtype.itemsize * len(columns)))).ravel()


def _unmatched(one: NDArray[np.void], other: NDArray[np.void]) -> int:
    """Return how many records of the one or the other have no equal on the other side."""
    _, places = np.unique(np.concatenate([one, other]), return_inverse=True)
    most = int(places.max(initial=-1)) + 1
    here = np.bincount(places[: one.size], minlength=most)
    there = np.bincount(places[one.size :], minlength=most)
    return int(max(np.maximum(here - there, 0).sum(), np.maximum(there - here, 0).sum()))


def _apart(one: _Sum, other: _Sum) -> list[int]:
    """Return how many patients two sums differ by: in whom they are over, and in each column."""
    alone = int(np.setxor1d(one.ids, other.ids, assume_unique=True).size)
    _, here, there = np.intersect1d(one.ids, other.ids, assume_unique=True, return_indices=True)
    shared = sorted(set(one.cells) & set(other.cells))
    changed = [int((one.cells[c][here] != other.cells[c][there]).sum()) for c in shared]
    return [alone, *(alone + number for number in changed)]


def _covers(earlier: _Sum, asked: _Sum) -> bool:
    """Return whether an earlier note says all that the one asked for would say."""
    return (
        earlier.table == asked.table
        and np.array_equal(earlier.ids, asked.ids)
        and asked.encodings.items() <= earlier.encodings.items()
        and all(
            name in earlier.cells and np.array_equal(earlier.cells[name], cells)
            for name, cells in asked.cells.items()
        )
    )


def _hashed(key: bytes, records: Records) -> _Sum:
    ids = _hashes(key, "patient", [normal_id(token) for token in records.tokens])
    order = np.argsort(ids, kind="stable")
    cells = {n: _hashes(key, f"column {n}", texts)[order] for n, texts in records.cells.items()}
    own = hmac.digest(key, b"encoding", hashlib.sha256)
    encodings = {
        name: hmac.digest(own, text.encode(), hashlib.sha256).hex()
        for name, text in records.encodings.items()
    }
    return _Sum(table=records.table, ids=ids[order], cells=cells, encodings=encodings)


def _hashes(key: bytes, what: str, texts: Sequence[str]) -> _Hashes:
    own = hmac.digest(key, what.encode(), hashlib.sha256)

    def hashed(text: str) -> bytes:
        return hmac.digest(own, text.encode(), hashlib.sha256)[:8]

    known = {text: hashed(text) for text in dict.fromkeys(texts)}
    return np.frombuffer(b"".join(known[text] for text in texts), dtype="<u8")


def _packed(values: _Hashes) -> str:
    return base64.b64encode(values.astype("<u8").tobytes()).decode()


def _sum_from(document: Mapping[str, Any]) -> _Sum:
    def unpacked(text: str) -> _Hashes:
        return np.frombuffer(base64.b64decode(text, validate=True), dtype="<u8")

    ids = unpacked(document["ids"])
    cells = {str(name): unpacked(text) for name, text in document["cells"].items()}
    if any(column.size != ids.size for column in cells.values()):
        raise ValueError("a column of another length")
    encodings = {str(name): str(text) for name, text in document["encodings"].items()}
    return _Sum(table=str(document["table"]), ids=ids, cells=cells, encodings=encodings)
