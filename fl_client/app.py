"""The hospital's Flower ClientApp: translate and delegate, nothing else.

`query.hello` says which site is here, `query.propose` hands over a plan, `train.report` answers a
round with a vector, `query.close` ends a plan, and one query per phase carries secure aggregation.
An error leaves as its code in a record of the same shape as every refusal; its text stays here.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from ..privacy.errors import FedCohortError, ProtocolError
from .node import Node, SecAggRequest

__all__ = ["PHASES", "client_app", "refusal"]

PHASES = ("advertise", "share", "acknowledge", "commit", "unmask")

_log = logging.getLogger(__name__)


def client_app(
    node_of: Callable[[Context], Node], *, roster: Callable[[], str] = lambda: "simulation"
) -> ClientApp:
    """Return the ClientApp of a hospital.

    Args:
        node_of: Finds the node that a Flower context belongs to: a simulation looks among
            its sites, a deployed worker has just one.
        roster: Tells the roster that the site pinned, as plans name it.
    """
    app = ClientApp()

    @app.query("hello")
    def hello(message: Message, context: Context) -> Message:
        """Say which site this is, and the roster it pinned."""

        def answer() -> RecordDict:
            site = node_of(context).site
            return RecordDict({"answer": ConfigRecord({"site": site, "roster": roster()})})

        return _reply(message, answer)

    @app.query("propose")
    def propose(message: Message, context: Context) -> Message:
        """Hand a plan to the node."""

        def answer() -> RecordDict:
            plan_json = str(message.content.config_records["plan"]["json"])
            sha256 = node_of(context).propose(plan_json)
            return RecordDict({"answer": ConfigRecord({"plan_sha256": sha256})})

        return _reply(message, answer)

    @app.query("close")
    def close(message: Message, context: Context) -> Message:
        """End a plan at the node."""

        def answer() -> RecordDict:
            sha256 = str(message.content.config_records["plan"]["sha256"])
            node_of(context).close(sha256)
            return RecordDict({"answer": ConfigRecord({"plan_sha256": sha256})})

        return _reply(message, answer)

    @app.train("report")
    def report(message: Message, context: Context) -> Message:
        """Answer one round: everything is decided in `node`, nothing here."""

        def answer() -> RecordDict:
            terms_json = str(message.content.config_records["terms"]["json"])
            state = message.content.array_records["state"]
            arrays = {name: array.numpy() for name, array in state.items()}
            round_plan = bytes(message.content.config_records["terms"].get("round_plan", b""))  # type: ignore[arg-type]
            release = node_of(context).report(terms_json, arrays, round_plan)
            return RecordDict(
                {
                    "answer": ConfigRecord({"report": release.report}),
                    "vector": ArrayRecord({"sum": Array(release.vector)}),
                }
            )

        return _reply(message, answer)

    for phase in PHASES:
        app.query(phase)(_phase(phase, node_of))
    return app


def _phase(phase: str, node_of: Callable[[Context], Node]) -> Callable[[Message, Context], Message]:
    """Return the action of one phase of secure aggregation."""

    def act(message: Message, context: Context) -> Message:
        def answer() -> RecordDict:
            asked = message.content.config_records["secagg"]
            request = SecAggRequest(
                phase=phase,
                plan_sha256=str(asked["plan_sha256"]),
                epoch=bytes(asked["epoch"]),  # type: ignore[arg-type]
                rounds=int(asked["rounds"]),  # type: ignore[arg-type]
                data=tuple(asked["data"]),  # type: ignore[arg-type]
            )
            said = node_of(context).secagg(request)
            return RecordDict({"answer": ConfigRecord({"data": said})})

        return _reply(message, answer)

    return act


def _reply(message: Message, answer: Callable[[], RecordDict]) -> Message:
    """Run an action; whatever goes wrong leaves as a code, never as text."""
    try:
        content = answer()
    except FedCohortError as error:
        _log.warning("refused: %s (%s)", error, error.code)
        content = refusal(error.code, error.exit_code)
    except Exception as error:  # any text of a library may hold a patient's value
        where = "".join(traceback.format_tb(error.__traceback__))
        _log.error("a round failed at this site: %s\n%s", type(error).__name__, where)
        _log.debug("its text", exc_info=error)  # for the hospital that asks for it, on its screen
        content = refusal("site_error", ProtocolError.exit_code)
    return Message(content, reply_to=message)


def refusal(code: str, exit_code: int) -> RecordDict:
    """Return a no: a code of constant length, and nothing else."""
    # Padded: the length of a refusal says nothing.
    return RecordDict({"refused": ConfigRecord({"code": code.ljust(48)[:48], "exit": exit_code})})
