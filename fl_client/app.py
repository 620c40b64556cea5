"""The hospital's Flower ClientApp: translate and delegate, nothing else.

`query.hello` says which site is here, `query.propose` hands over a plan, `train.report` answers a
round with a vector, `query.close` ends a plan, and one query per phase carries secure aggregation.
An error leaves as its code in a record of the same shape as every refusal; its text stays here.
What a rule found in the records leaves as one code for all such rules, and not sooner or later
for one than for another.
"""

from __future__ import annotations

import logging
import math
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from ..privacy.errors import DataError, DisclosureError, FedCohortError, PolicyError, ProtocolError
from .gate import NO_POLICY
from .node import Node, SecAggRequest
from .site_study import PHASES

__all__ = ["DATA_REFUSED", "PHASES", "Hello", "Teller", "client_app", "refusal"]

DATA_REFUSED = "data_refused"  # whatever rule it was that looked at records

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What a node answers to a greeting.

    Attributes:
        roster: Hash of the roster pinned here, as plans name it.
        plan: Where the plan of the greeting stands here, as `Approvals.state` says.
    """

    roster: str = "simulation"
    plan: str = "approved"


@dataclass(frozen=True, slots=True, kw_only=True)
class Teller:
    """What a node says of itself besides its answers.

    Attributes:
        hello: Given a plan's hash, what to answer to a greeting.
        policy: The hash of the policy in force, hex.
        hold_s: A refusal that data decided leaves at the next whole multiple of this, seconds
            after its message came; 0: at once.
    """

    hello: Callable[[str], Hello] = lambda plan_sha256: Hello()
    policy: Callable[[], str] = lambda: NO_POLICY
    hold_s: float = 0.0


def client_app(node_of: Callable[[Context], Node], teller: Teller | None = None) -> ClientApp:
    """Return the ClientApp of a hospital.

    Args:
        node_of: Finds the node that a Flower context belongs to: a simulation looks among
            its sites, a deployed worker has just one.
        teller: What the node says of itself; by default, what a simulated one does.
    """
    app = ClientApp()
    reply = _Reply(teller or Teller())

    @app.query("hello")
    def hello(message: Message, context: Context) -> Message:
        """Say which site this is, and the roster it pinned."""

        def answer() -> RecordDict:
            asked = message.content.config_records.get("hello", ConfigRecord())
            told = reply.teller.hello(str(asked.get("plan_sha256", "")))
            site = node_of(context).site
            said = ConfigRecord({"site": site, "roster": told.roster, "plan": told.plan})
            return RecordDict({"answer": said})

        return reply(message, answer)

    @app.query("propose")
    def propose(message: Message, context: Context) -> Message:
        """Hand a plan to the node."""

        def answer() -> RecordDict:
            asked = message.content.config_records["plan"]
            country = str(asked.get("jurisdiction", ""))
            sha256 = node_of(context).propose(str(asked["json"]), country)
            return RecordDict({"answer": ConfigRecord({"plan_sha256": sha256})})

        return reply(message, answer)

    @app.query("close")
    def close(message: Message, context: Context) -> Message:
        """End a plan at the node."""

        def answer() -> RecordDict:
            sha256 = str(message.content.config_records["plan"]["sha256"])
            result = message.content.array_records.get("result", ArrayRecord())
            node_of(context).close(sha256, {name: a.numpy() for name, a in result.items()})
            return RecordDict({"answer": ConfigRecord({"plan_sha256": sha256})})

        return reply(message, answer)

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

        return reply(message, answer)

    for phase in PHASES:
        app.query(phase)(_phase(phase, node_of, reply))
    return app


def _phase(
    phase: str, node_of: Callable[[Context], Node], reply: _Reply
) -> Callable[[Message, Context], Message]:
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

        return reply(message, answer)

    return act


class _Reply:
    """Runs an action; whatever goes wrong leaves as a code, never as text."""

    def __init__(self, teller: Teller) -> None:
        self.teller = teller

    def __call__(self, message: Message, answer: Callable[[], RecordDict]) -> Message:
        came = time.monotonic()
        try:
            content = answer()
        except (DataError, DisclosureError) as error:
            _log.warning("refused: %s (%s)", error, error.code)
            content = refusal(DATA_REFUSED, PolicyError.exit_code)
            self._hold(came)
        except FedCohortError as error:
            _log.warning("refused: %s (%s)", error, error.code)
            content = refusal(error.code, error.exit_code)
        except Exception as error:  # any text of a library may hold a patient's value
            where = "".join(traceback.format_tb(error.__traceback__))
            _log.error("a round failed at this site: %s\n%s", type(error).__name__, where)
            _log.debug("its text", exc_info=error)  # for the hospital, on its own screen
            content = refusal("site_error", ProtocolError.exit_code)
            self._hold(came)
        for record in content.config_records.values():
            record["policy"] = self.teller.policy()
        return Message(content, reply_to=message)

    def _hold(self, came: float) -> None:
        step = self.teller.hold_s
        if step > 0:
            due = math.ceil((time.monotonic() - came) / step) * step
            time.sleep(max(0.0, came + due - time.monotonic()))


def refusal(code: str, exit_code: int, policy: str = NO_POLICY) -> RecordDict:
    """Return a no: a code of constant length and the policy's hash, and nothing else."""
    # Padded: the length of a refusal says nothing.
    said = ConfigRecord({"code": code.ljust(48)[:48], "exit": exit_code, "policy": policy})
    return RecordDict({"refused": said})
