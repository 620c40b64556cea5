"""Patients who said no: a list that is read again, and applied, at every read of the cohort.

One patient's token a line, as the table's patient column has it; case and spaces do not count. A
line that is `#`, or starts with `#` and a space, is a comment; `#A12` is a token. A withdrawal
holds from the next round on; what left before it is not called back. A list that is gone or cannot
be read stops the site: nobody is read by mistake.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ...datasets.patients import keyed_ids, normal_id
from ...privacy.errors import PolicyError
from ...study.cohort import Cohort
from .audit_log import AuditLog

__all__ = ["OptOut"]

_LARGEST = 16 * 2**20  # bytes
_LONGEST = 200  # characters of a token


class OptOut:
    """One list.

    Args:
        path: The file; None: the site keeps no list (`dataset.opt_out_file` is left out).
        audit: Told that the list changed, and nothing else.
        policy_sha256: The policy in force, for the audit log.
    """

    def __init__(
        self, path: Path | None, *, audit: AuditLog | None = None, policy_sha256: str = "0" * 64
    ) -> None:
        self._path = path
        self._audit = audit
        self._policy_sha256 = policy_sha256
        self._seen: frozenset[str] | None = None

    def tokens(self) -> frozenset[str]:
        """Return the tokens on the list now, in the form in which they are compared.

        Raises:
            PolicyError: `opt_out_unreadable`.
        """
        if self._path is None:
            return frozenset()
        found = frozenset(_tokens(self._path))
        if self._seen is not None and found != self._seen and self._audit is not None:
            self._audit.append("opt_out_changed", self._policy_sha256)
        self._seen = found
        return found

    def left(self, cohort: Cohort) -> Cohort:
        """Return the cohort without those on the list now; all of a patient's rows go.

        Raises:
            PolicyError: `opt_out_unreadable`.
        """
        tokens = self.tokens()
        if not tokens:
            return cohort
        # Keyed as the cohort's own ids, by this process' key.
        out = keyed_ids(pd.Series(sorted(tokens), dtype="str"))
        stays = ~np.isin(cohort.patient, out)
        return cohort if bool(stays.all()) else cohort.take(stays)


def _tokens(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            raw = file.read(_LARGEST + 1)
        if len(raw) > _LARGEST:
            raise ValueError("too large")
        lines = raw.decode("utf-8-sig").splitlines()
    except (OSError, ValueError):
        raise _unreadable("it is missing, too large or not UTF-8") from None
    found = [normal_id(line) for line in lines if line.strip() and line.split()[0] != "#"]
    # A remark behind a token, or a line of a CSV, would match nobody: refused, or it is overlooked.
    if any(
        len(t) > _LONGEST or not t.isprintable() or "#" in t[1:] or set(t) & set(',;"')
        for t in found
    ):
        raise _unreadable("a line is no token of a patient")
    return found


def _unreadable(why: str) -> PolicyError:
    return PolicyError(
        "opt_out_unreadable",
        f"the opt-out list cannot be read: {why}",
        hint="Nothing runs without it. Put the file back: one token a line, as text (UTF-8).",
    )
