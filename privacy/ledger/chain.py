"""The chain: a ledger's decisions, each bound to all before it by SHA-256.

Whoever remembers `head` can tell whether the past was rewritten. Reading a chain runs every
decision again through the book's rules, so that an entry that no honest ledger would have
written is found even where somebody computed all hashes anew.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ... import __version__
from ..errors import FedCohortError, PolicyError
from .book import Book
from .charges import Charge, Opening, Reservation, Unmasking

__all__ = ["CHAIN_FORMAT", "Chain", "Entry", "Head", "broken"]

CHAIN_FORMAT = "fedcohort.ledger/1"
_SOFTWARE = f"fedcohort {__version__}"
_START = "0" * 64
_KINDS = ("open", "reserve", "charge", "unmask", "close", "refuse")
_NO_RULE_ALLOWS = (
    FedCohortError,
    ArithmeticError,
    AttributeError,
    KeyError,
    TypeError,
    ValueError,
)
_HEAD = re.compile(r"([0-9]{1,15}):([0-9a-f]{64})")


@dataclass(frozen=True, slots=True, order=True)
class Head:
    """The newest entry of a chain: what to write down elsewhere.

    Attributes:
        number: Of the entry, 1-based.
        sha256: Its hash.
    """

    number: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.number}:{self.sha256}"

    @classmethod
    def parse(cls, text: str) -> Head:
        """Read `NUMBER:SHA256`.

        Raises:
            PolicyError: `head_unreadable`.
        """
        found = _HEAD.fullmatch(text.strip())
        if found is None:
            raise PolicyError(
                "head_unreadable",
                "a ledger's head is written NUMBER:SHA256",
                hint="Copy it from a budget report or from `fedcohort ledger show`.",
            )
        return cls(int(found[1]), found[2])


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One decision.

    Attributes:
        number: 1-based, without gaps.
        time: When it was written, ISO 8601 in UTC, as the site's clock said; nothing is
            decided by it.
        kind: `open`, `reserve`, `charge`, `unmask`, `close` or `refuse`.
        body: JSON, see the `to_json` of what was asked.
        previous: Hash of the entry before; 64 zeros for the first.
        software: What decided, with its version.
    """

    number: int
    time: str
    kind: str
    body: Mapping[str, Any]
    previous: str
    software: str = _SOFTWARE

    @property
    def text(self) -> str:
        """Canonical JSON (sorted keys, no spaces, no NaN): what is hashed."""
        return json.dumps(
            {
                "format": CHAIN_FORMAT,
                "number": self.number,
                "time": self.time,
                "kind": self.kind,
                "body": self.body,
                "previous": self.previous,
                "software": self.software,
            },
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
            allow_nan=False,
        )

    @property
    def sha256(self) -> str:
        """Hash of the canonical JSON."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @classmethod
    def from_text(cls, text: str) -> Entry:
        """Read an entry back; the text must be the canonical one.

        Raises:
            PolicyError: `ledger_broken`.
        """
        try:
            document = json.loads(text)
            if document.pop("format") != CHAIN_FORMAT:
                raise broken("it has another format")
            entry = cls(**document)
            dt.datetime.fromisoformat(entry.time)
            typed = type(entry.number) is int and isinstance(entry.body, dict)
            named = entry.kind in _KINDS and isinstance(entry.software, str)
            if entry.text != text or not (typed and named):
                raise broken("an entry is not in its canonical form")
            return entry
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise broken("an entry cannot be read") from error


class Chain:
    """A chain that was read and believed, and the book that it gives."""

    def __init__(self) -> None:
        self._book: Book | None = None
        self.head = Head(0, _START)
        self.refused: list[Entry] = []
        self._refusals: set[str] = set()

    @property
    def book(self) -> Book:
        """The state after the last entry.

        Raises:
            PolicyError: `ledger_broken`: there is no first entry.
        """
        if self._book is None:
            raise broken("it was never opened")
        return self._book

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Chain:
        """Read a whole chain.

        Raises:
            PolicyError: `ledger_broken`.
        """
        chain = cls()
        for entry in entries:
            chain.take(entry)
        _ = chain.book
        return chain

    def take(self, entry: Entry) -> None:
        """Check the next entry, run its decision again, and move on.

        Raises:
            PolicyError: `ledger_broken`: it does not follow, or no rule would have allowed it.
        """
        if (entry.number, entry.previous) != (self.head.number + 1, self.head.sha256):
            raise broken(f"entry {entry.number} does not follow entry {self.head.number}")
        try:
            if not self._decide(entry):
                raise ValueError("an entry that changes nothing")
        except _NO_RULE_ALLOWS as error:
            raise broken(f"entry {entry.number} breaks a rule of the ledger") from error
        self.head = Head(entry.number, entry.sha256)

    def add(self, kind: str, body: Mapping[str, Any], time: str) -> Entry | None:
        """Decide what is asked now; return the entry to write, None where nothing changes.

        Raises:
            PolicyError: The book refused; the chain is what it was.
        """
        entry = Entry(
            number=self.head.number + 1,
            time=time,
            kind=kind,
            body=body,
            previous=self.head.sha256,
        )
        if not self._decide(entry):
            return None
        self.head = Head(entry.number, entry.sha256)
        return entry

    def _decide(self, entry: Entry) -> bool:
        """Run a decision through the book; return whether anything changed."""
        if (self._book is None) != (entry.kind == "open"):
            raise ValueError("a ledger is opened once, first of all")
        if entry.kind == "open":
            self._book = Book(Opening.from_json(entry.body))
            return True
        if entry.kind == "refuse":
            return self._note_refusal(entry)
        return self._ask(entry.kind, entry.body)

    def _ask(self, kind: str, body: Mapping[str, Any]) -> bool:
        if kind == "reserve":
            return self.book.reserve(Reservation.from_json(body))
        if kind == "charge":
            self.book.charge(Charge.from_json(body))
            return True
        if kind == "unmask":
            self.book.unmask(Unmasking.from_json(body))
            return True
        if kind != "close" or set(body) != {"plan_sha256"}:
            raise ValueError("a ledger reserves, charges, unmasks and closes")
        return self.book.close(body["plan_sha256"])

    def _note_refusal(self, entry: Entry) -> bool:
        """Keep a refusal that the book gives, once: asking again and again fills no disk."""
        body = entry.body
        known = json.dumps(body, sort_keys=True)
        if known in self._refusals:
            return False
        try:
            self._ask(body["asked"], body["request"])
        except PolicyError as refusal:
            given = {"asked": body["asked"], "code": refusal.code, "request": body["request"]}
        else:
            raise ValueError("it is said to be refused, and no rule refuses it")
        if body != given:
            raise ValueError("the refusal is not the one that the rules give")
        self.refused.append(entry)
        self._refusals.add(known)
        return True


def broken(why: str) -> PolicyError:
    """Return the refusal to go on with a ledger that cannot be believed."""
    return PolicyError(
        "ledger_broken",
        f"the ledger cannot be believed: {why}",
        hint="Nothing more is released. Keep the file as it is, find its last good copy by the "
        "head in the newest budget report, and have two people decide.",
    )
