"""What a preview tells: every message of one hospital, and what they add up to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...study.plan import Plan

__all__ = ["PREVIEW_FORMAT", "Carried", "Field", "Kind", "Preview"]

PREVIEW_FORMAT = "fedcohort.preview/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One value in a message.

    Attributes:
        record: The record it stands in.
        name: Its name there.
        dtype: Of an array its dtype; else `text`, `bytes`, `number`, `flag`, or a list of them.
        shape: Of an array its shape; else its length; () of a number.
    """

    record: str
    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """One message as it passes the wire.

    Attributes:
        action: What it asks for or answers, e.g. `train.report`.
        out: Whether the hospital sends it.
        fields: All that it holds.
        bytes: Its length in Flower's format, without TLS and HTTP.
    """

    action: str
    out: bool
    fields: tuple[Field, ...]
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """All messages of one action and direction.

    Attributes:
        action: What they ask for or answer.
        out: Whether the hospital sends them.
        count: How many there are.
        bytes: Of all of them together.
        fields: Each different one, in order.
    """

    action: str
    out: bool
    count: int
    bytes: int
    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What a plan would make one hospital send and receive.

    Attributes:
        plan: The plan.
        site: The hospital.
        patients: Of the made-up cohort.
        rows: Of the made-up cohort.
        messages: Every message of this hospital, in order.
        rounds: Rounds that the made-up run took; a real one may take fewer or more.
        releases: Noisy sums that this hospital's ledger would have paid for in it.
        ended: Empty, or the code with which the made-up run ended early.
    """

    plan: Plan
    site: str
    patients: int
    rows: int
    messages: tuple[Carried, ...]
    rounds: int
    releases: int
    ended: str = ""

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The messages by action and direction, in the order of the first of each."""
        found: dict[tuple[str, bool], list[Carried]] = {}
        for message in self.messages:
            found.setdefault((message.action, message.out), []).append(message)
        return tuple(
            Kind(
                action=action,
                out=out,
                count=len(carried),
                bytes=sum(message.bytes for message in carried),
                fields=tuple(dict.fromkeys(field for one in carried for field in one.fields)),
            )
            for (action, out), carried in found.items()
        )

    def total_bytes(self, *, out: bool) -> int:
        """Return the bytes of all messages that go out, or come in."""
        return sum(message.bytes for message in self.messages if message.out == out)

    def to_json(self) -> dict[str, Any]:
        """Return the preview as JSON's own types."""
        terms = self.plan.privacy
        return {
            "format": PREVIEW_FORMAT,
            "plan_sha256": self.plan.sha256,
            "study": self.plan.study,
            "analysis": self.plan.analysis,
            "site": self.site,
            "patients": self.patients,
            "rows": self.rows,
            "secagg": self.plan.secagg,
            "rounds": self.rounds,
            "most_rounds": self.plan.max_rounds,
            "releases": self.releases,
            "most_releases": 0 if terms is None else terms.releases,
            "epsilon": None if terms is None else terms.epsilon,
            "delta": None if terms is None else terms.delta,
            "noise_multiplier": None if terms is None else terms.noise_multiplier,
            "clip": None if terms is None else terms.clip,
            "sharing": None if terms is None else terms.sharing,
            "bytes_out": self.total_bytes(out=True),
            "bytes_in": self.total_bytes(out=False),
            "ended": self.ended,
            "messages": [
                {
                    "action": message.action,
                    "direction": "out" if message.out else "in",
                    "bytes": message.bytes,
                    "fields": [
                        {
                            "record": field.record,
                            "field": field.name,
                            "dtype": field.dtype,
                            "shape": list(field.shape),
                        }
                        for field in message.fields
                    ],
                }
                for message in self.messages
            ],
        }
