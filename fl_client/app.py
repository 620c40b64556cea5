"""The hospital's Flower ClientApp: translate and delegate, nothing else.

Two actions: `query.propose` hands over a plan, `train.report` answers a round. An error
leaves as its code in a record of the same shape as every refusal; its text stays here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from ..privacy.errors import FedCohortError
from .node import Node

__all__ = ["client_app"]

_log = logging.getLogger(__name__)


def client_app(node_of: Callable[[Context], Node]) -> ClientApp:
    """Return the ClientApp of a hospital.

    Args:
        node_of: Finds the node that a Flower context belongs to: a simulation looks among
            its sites, a deployed worker has just one.
    """
    app = ClientApp()

    @app.query("propose")
    def propose(message: Message, context: Context) -> Message:
        """Hand a plan to the node."""

        def answer() -> RecordDict:
            plan_json = str(message.content.config_records["plan"]["json"])
            sha256 = node_of(context).propose(plan_json)
            return RecordDict({"answer": ConfigRecord({"plan_sha256": sha256})})

        return _reply(message, answer)

    @app.train("report")
    def report(message: Message, context: Context) -> Message:
        """Answer one round: everything is decided in `node`, nothing here."""

        def answer() -> RecordDict:
            terms_json = str(message.content.config_records["terms"]["json"])
            state = message.content.array_records["state"]
            arrays = {name: array.numpy() for name, array in state.items()}
            release = node_of(context).report(terms_json, arrays)
            return RecordDict(
                {
                    "answer": ConfigRecord({"charge_id": release.charge_id}),
                    "vector": ArrayRecord({"sum": Array(release.vector)}),
                }
            )

        return _reply(message, answer)

    return app


def _reply(message: Message, answer: Callable[[], RecordDict]) -> Message:
    """Run an action; whatever goes wrong leaves as a code, never as text."""
    try:
        content = answer()
    except FedCohortError as error:
        _log.warning("refused: %s (%s)", error, error.code)
        content = _refusal(error.code)
    except Exception:  # any text of a library may hold a patient's value
        _log.exception("a round failed at this site")
        content = _refusal("site_error")
    return Message(content, reply_to=message)


def _refusal(code: str) -> RecordDict:
    # Padded: the length of a refusal says nothing.
    return RecordDict({"refused": ConfigRecord({"code": code.ljust(48)[:48]})})
