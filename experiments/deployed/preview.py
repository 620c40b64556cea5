"""What would leave a hospital: the very plan, run on made-up rows, every message looked at.

Node, door, noise and masks are the real ones; the rows, the other hospitals and all keys are
made up and thrown away. The made-up cohort has the shape of the hospital's own, so that a message
has the length that the real one would have. The hospital's own rules of disclosure are not asked:
what they refuse is not sent. Here nothing is sent, and no ledger is charged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid

from ...fl_client.app import client_app
from ...fl_client.node import Node
from ...fl_server.app import server_app
from ...fl_server.coordinator import run_plan
from ...fl_server.exchange import exchange
from ...privacy.errors import PolicyError, ProtocolError
from ...privacy.ledger.book import MemoryLedger
from ...privacy.ledger.charges import Ledger, Opening
from ...study.cohort import Schema
from ...study.plan import Plan
from ..simulation.federate import ceremony, simulated_node
from ..simulation.flower_compat import wire_bytes
from ..simulation.local_grid import InProcessGrid, run_in_process
from .made_up import made_up_cohort

__all__ = ["PREVIEW_FORMAT", "Carried", "Field", "Kind", "Preview", "preview"]

PREVIEW_FORMAT = "fedcohort.preview/1"
_HELLO_S = 30.0


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


def preview(plan: Plan, schema: Schema, *, site: str, patients: int, rows: int) -> Preview:
    """Run a plan on made-up rows in this process and tell every message of one hospital.

    Args:
        plan: As the coordinator proposes it; its hash is the one in the messages.
        schema: Of the hospital's cohort. Beside it nothing of the cohort is needed.
        site: The hospital.
        patients: How many the hospital's cohort has, >= 1.
        rows: How many rows, >= patients.

    Raises:
        PolicyError: `plan_not_for_us`, or what a node refuses whatever its rows are:
            `plan_expired`, `schema_mismatch`, `plan_underpriced` and the like.
    """
    if site not in plan.sites:
        raise PolicyError("plan_not_for_us", f"the plan does not name the site {site}")
    cohorts = [
        made_up_cohort(plan, schema, site=name, patients=patients, rows=rows, seed=number)
        for number, name in enumerate(plan.sites)
    ]
    masking, sessions = ceremony(plan) if plan.secagg == "masked" else (None, {})
    paid: dict[str, MemoryLedger] = {}

    def ledgers(opening: Opening) -> Ledger:
        return paid.setdefault(opening.hospital, MemoryLedger(opening))

    nodes = {
        cohort.site: simulated_node(
            cohort, plan, sessions.get(cohort.site), ledgers, roster=plan.roster
        )
        for cohort in cohorts
    }

    def node_of(context: Context) -> Node:
        return nodes[str(context.node_config["site"])]

    carried: list[Carried] = []
    app = client_app(node_of, roster=lambda: plan.roster)
    grid = InProcessGrid(app, plan.sites, watch=_recorder(site, carried))
    rounds: list[int] = []

    def coordinate(flower: Grid, context: Context) -> None:
        hello = RecordDict({"hello": ConfigRecord({"plan_sha256": plan.sha256})})
        exchange(flower, grid.nodes, "query.hello", hello, group="hello", timeout_s=_HELLO_S)
        run_plan(plan, flower, grid.nodes, masking=masking, on_round=rounds.append)

    ended = ""
    try:
        run_in_process(server_app(coordinate), grid, {"plan_sha256": plan.sha256})
    except ProtocolError as error:  # made-up rows need not converge; what was sent is told
        ended = error.code
    account = paid[site].book.accounts.get(plan.sha256) if site in paid else None
    return Preview(
        plan=plan,
        site=site,
        patients=patients,
        rows=rows,
        messages=tuple(carried),
        rounds=len(rounds),
        releases=0 if account is None else account.executed,
        ended=ended,
    )


def _recorder(site: str, carried: list[Carried]) -> Callable[[str, Message], None]:
    def record(where: str, message: Message) -> None:
        if where != site:
            return
        carried.append(
            Carried(
                action=message.metadata.message_type,
                out=bool(message.metadata.reply_to_message_id),
                fields=tuple(_fields(message.content)) if message.has_content() else (),
                bytes=wire_bytes(message),
            )
        )

    return record


def _fields(content: RecordDict) -> list[Field]:
    found = [
        Field(record=record, name=name, dtype=array.dtype, shape=tuple(array.shape))
        for record, arrays in content.array_records.items()
        for name, array in arrays.items()
    ]
    for records in (content.config_records, content.metric_records):
        for record, values in records.items():
            for name, value in values.items():
                dtype, shape = _described(value)
                found.append(Field(record=record, name=name, dtype=dtype, shape=shape))
    return found


_WORDS = {bool: "flag", int: "number", float: "number", str: "text", bytes: "bytes"}


def _described(value: object) -> tuple[str, tuple[int, ...]]:
    """Return what a value is and how long.

    >>> _described(b"abc"), _described(7), _described([b"abc", b"de"])
    (('bytes', (3,)), ('number', ()), ('list of bytes', (2, 3)))
    """
    if isinstance(value, list):
        inner = [_described(one) for one in value]
        longest = max((shape for _, shape in inner), default=())
        return f"list of {inner[0][0] if inner else 'nothing'}", (len(value), *longest)
    length = (len(value),) if isinstance(value, str | bytes) else ()
    return _WORDS.get(type(value), type(value).__name__), length
