"""Whom exact sums were over: two that differ by a few patients tell of those few.

Nothing else holds one study against another: a public bound lowered by one, a share of held-out
patients moved a little, or a withdrawal, and the difference of two sums is somebody's record. So
the site remembers, for sums without noise only, whose they were, by ids that are keyed with a
key of this file alone. The file stays at the site.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...datasets.patients import normal_id
from ...hosting import read_private, replace_file
from ...privacy.errors import DisclosureError, PolicyError

__all__ = ["ExactCohorts"]

_FORMAT = "fedcohort.exact_cohorts/1"


class ExactCohorts:
    """One file, mode 0600.

    Args:
        path: Made at the first sum without noise.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, tokens: Sequence[str], minimum: int) -> None:
        """Note that an exact sum is about to be over these patients, or refuse it.

        Args:
            tokens: The patients' tokens as the table has them, each once.
            minimum: Fewest patients by which two such sums may differ, unless by none.

        Raises:
            DisclosureError: `disclosure_difference`.
            PolicyError: `exact_cohorts_unreadable`: what left before is not known.
        """
        key, known = self._read()
        ids = _ids(key, tokens)
        for earlier in known:
            apart = np.setxor1d(ids, earlier, assume_unique=True).size
            if apart == 0:
                return
            if apart < minimum:
                raise DisclosureError(
                    "disclosure_difference",
                    "an exact sum over nearly the same patients left before",
                    hint="Ask for a plan with noise; or for one over clearly other patients.",
                )
        document = {
            "format": _FORMAT,
            "key": key.hex(),
            "cohorts": [base64.b64encode(one.tobytes()).decode() for one in [*known, ids]],
        }
        replace_file(self._path, bytes(json.dumps(document), "ascii"))

    def _read(self) -> tuple[bytes, list[NDArray[np.uint64]]]:
        if not self._path.exists():
            return secrets.token_bytes(32), []
        try:
            document = json.loads(read_private(self._path))
            if document["format"] != _FORMAT:
                raise ValueError("another format")
            raw = [base64.b64decode(one, validate=True) for one in document["cohorts"]]
            return bytes.fromhex(document["key"]), [np.frombuffer(one, "<u8") for one in raw]
        except (KeyError, TypeError, ValueError) as error:
            raise PolicyError(
                "exact_cohorts_unreadable",
                f"{self._path.name} cannot be read, and it says whom exact sums were over",
                hint="Put the file back; without it no sum leaves without noise.",
            ) from error


def _ids(key: bytes, tokens: Sequence[str]) -> NDArray[np.uint64]:
    found = (hmac.digest(key, normal_id(token).encode(), hashlib.sha256)[:8] for token in tokens)
    return np.unique(np.frombuffer(b"".join(found), dtype="<u8"))
