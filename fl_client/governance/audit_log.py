"""The site's audit log: what this node was asked, decided and let out, as a chained local file.

An entry holds codes, hashes, names of people and sizes that the wire shows anyway; a field that
is none of these is refused before it is written. No entry can hold a patient's value, since no
field takes free text.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...privacy.ledger.chain import Head
from ._chained import ChainedFile, Line

__all__ = ["AUDIT_FORMAT", "EVENTS", "REQUESTS", "AuditLog", "Entry"]

AUDIT_FORMAT = "fedcohort.audit/1"
EVENTS = (
    "node_started",
    "node_stopped",
    "policy_in_force",
    "policy_refused",
    "plan_approved",
    "plan_refused",
    "plan_revoked",
    "plan_proposed",
    "round_asked",
    "round_released",
    "phase_asked",
    "message_refused",
    "plan_closed",
    "bundle_refused",
    "opt_out_changed",
    "extract_checked",
    "exact_sum_noted",
    "dry_run",
)
REQUESTS = ("plan_proposed", "round_asked")  # what makes a site work, see `day_limits`
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CODE = re.compile(r"[a-z][a-z0-9_]{0,47}")
_PERSON = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PATTERNS = {
    "plan_sha256": _SHA256,
    "fingerprint": _SHA256,
    "bundle_sha256": _SHA256,
    "code": _CODE,
    "person": _PERSON,
}
_SIZES = ("round", "messages", "bytes", "sums")
_MOST = 2**53


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One event, read back."""

    number: int
    time: dt.datetime
    event: str
    policy_sha256: str
    facts: dict[str, Any]


class AuditLog:
    """See the module's docstring.

    Args:
        path: The file; made, with mode 0600, at the first entry.
        clock: What time an entry is said to be written at.
    """

    def __init__(
        self, path: Path, *, clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)
    ) -> None:
        self._file = ChainedFile(path, format=AUDIT_FORMAT, clock=clock)

    def append(self, event: str, policy_sha256: str, **facts: str | int) -> Head:
        """Write an event down, durably.

        Args:
            event: One of `EVENTS`.
            policy_sha256: The policy in force; 64 zeros where none is.
            facts: `plan_sha256`, `fingerprint`, `bundle_sha256`, `code`, `person`, `round`,
                `messages`, `bytes`, `sums`.

        Returns:
            The log's new head.

        Raises:
            ValueError: A field that the log does not know, or that might hold anything else.
            PolicyError: `log_broken`, `log_rolled_back` or `log_unavailable`.
        """
        body = _body(event, policy_sha256, facts)
        line = self._file.append(lambda lines: body)
        return Head(line.number, line.sha256)

    def entries(self) -> tuple[Entry, ...]:
        """Return every entry.

        Raises:
            PolicyError: `log_broken`, `log_rolled_back` or `log_unavailable`.
        """
        return tuple(_entry(line) for line in self._file.lines())

    def events_on(self, day: dt.date, events: Collection[str] = REQUESTS) -> int:
        """Return how many of these events were written down on a day (UTC)."""
        # All of them: an entry by a clock that was behind must not hide those before it.
        date = day.isoformat()
        return sum(
            line.body.get("event") in events and line.time.startswith(date)
            for line in self._file.lines()
        )

    def verify(self) -> Head:
        """Read the whole file anew; return its head, to be kept elsewhere.

        Raises:
            PolicyError: `log_broken`, `log_rolled_back` or `log_unavailable`.
        """
        return self._file.verify()


def _body(event: str, policy_sha256: str, facts: dict[str, str | int]) -> dict[str, str | int]:
    if event not in EVENTS:
        raise ValueError("an event that the audit log does not know")
    if _SHA256.fullmatch(policy_sha256) is None:
        raise ValueError("a policy is named by its hash")
    for name, value in facts.items():
        pattern = _PATTERNS.get(name)
        if pattern is not None:
            good = isinstance(value, str) and pattern.fullmatch(value) is not None
        else:
            good = name in _SIZES and type(value) is int and 0 <= value <= _MOST
        if not good:
            raise ValueError(f"the audit log takes no such {name[:20]!r}")
    return {"event": event, "policy_sha256": policy_sha256, **facts}


def _entry(line: Line) -> Entry:
    facts = dict(line.body)
    return Entry(
        number=line.number,
        time=dt.datetime.fromisoformat(line.time),
        event=str(facts.pop("event", "")),
        policy_sha256=str(facts.pop("policy_sha256", "")),
        facts=facts,
    )
