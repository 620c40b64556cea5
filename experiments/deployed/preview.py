"""What would leave a hospital: the very plan, run on made-up rows, every message looked at.

Node, door, noise and masks are the real ones; the rows, the other hospitals and all keys are
made up and thrown away. The made-up cohort has the shape of the hospital's own, so that a message
has the length that the real one would have. The hospital's own rules of disclosure are not asked:
what they refuse is not sent. Here nothing is sent, and no ledger is charged.
"""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid

from ...fl_client.app import Hello, Teller, client_app
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
from .preview_table import show_preview
from .previewed import Carried, Field, Preview

__all__ = ["Preview", "preview", "show_preview"]

_HELLO_S = 30.0


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
    teller = Teller(hello=lambda sha256: Hello(roster=plan.roster))
    app = client_app(node_of, teller)
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
