"""Flower in one process: a Grid that delivers messages to a ClientApp through the wire format.

The same ServerApp and ClientApp objects run here and deployed; every message takes Flower's
protobuf form on the way, so that what does not survive the wire does not survive here. Faults
are injected by a hook, which is how tests drop, delay, duplicate and fail.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from .flower_compat import SUPERLINK_NODE_ID, Run, new_run, over_the_wire, sent_by, stamped

__all__ = ["Fault", "FaultHook", "InProcessGrid", "Watch", "run_in_process"]

Fault = Literal["drop", "delay", "late", "duplicate", "error"]
FaultHook = Callable[[Message], Fault | None]
Watch = Callable[[str, Message], None]

_NODE_UNAVAILABLE = 5
_DELAY_LOOKS = 3  # a delayed reply is there at the fourth look
_LATE_LOOKS = 10**9  # a late one is never there in time


class InProcessGrid(Grid):
    """See the module's docstring.

    Args:
        app: The ClientApp that answers for every node.
        sites: Names of the sites; each becomes a node whose config holds `site`.
        faults: What goes wrong with a message on its way: `drop` (it is lost), `delay`
            (answered after a few looks), `late` (answered after every deadline), `duplicate`
            (delivered twice, answered twice), `error` (the SuperLink says the node is
            unavailable, with its own node id as the source).
        watch: Called with a site's name and each message that it is handed or hands over, as the
            other side reads it.
    """

    def __init__(
        self,
        app: ClientApp,
        sites: Iterable[str],
        *,
        faults: FaultHook | None = None,
        watch: Watch | None = None,
    ) -> None:
        self._app = app
        self._faults = faults or (lambda message: None)
        self._watch = watch or (lambda site, message: None)
        self._run = new_run()
        self._contexts: dict[int, Context] = {}
        self.nodes: dict[str, int] = {}
        for site in sites:
            node = secrets.randbits(62) + 2
            self.nodes[site] = node
            self._contexts[node] = Context(self._run.run_id, node, {"site": site}, RecordDict(), {})
        self._mailbox: list[_Mail] = []

    @property
    def run(self) -> Run:
        """The run of this grid."""
        return self._run

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._run = run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message (Flower's old way; `Message(...)` does the same)."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return every node's id."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Deliver messages and keep the replies for `pull_messages`."""
        ids = []
        for message in messages:
            stamped(message)
            ids.append(message.metadata.message_id)
            self._deliver(message, self._faults(message))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are there, each once."""
        wanted = set(message_ids)
        here: list[_Mail] = []
        kept: list[_Mail] = []
        for mail in self._mailbox:
            mail.looks -= 1
            ready = mail.reply.metadata.reply_to_message_id in wanted and mail.looks < 0
            (here if ready else kept).append(mail)
        self._mailbox = kept
        return [mail.reply for mail in here]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push, then pull once."""
        return self.pull_messages(self.push_messages(messages))

    def _deliver(self, message: Message, fault: Fault | None) -> None:
        if fault == "drop":
            return
        if fault == "error":
            error = Message(Error(_NODE_UNAVAILABLE, "node unavailable"), reply_to=message)
            self._keep(sent_by(error, SUPERLINK_NODE_ID), 0)
            return
        looks = {"delay": _DELAY_LOOKS, "late": _LATE_LOOKS}.get(fault or "", 0)
        for _ in range(2 if fault == "duplicate" else 1):
            received = over_the_wire(message)
            context = self._contexts[message.metadata.dst_node_id]
            site = str(context.node_config["site"])
            self._watch(site, received)
            reply = self._app(received, context)
            self._keep(reply, looks)
            self._watch(site, self._mailbox[-1].reply)

    def _keep(self, reply: Message, looks: int) -> None:
        self._mailbox.append(_Mail(over_the_wire(stamped(reply)), looks))


class _Mail:
    """A reply and how many looks it stays hidden for."""

    def __init__(self, reply: Message, looks: int) -> None:
        self.reply = reply
        self.looks = looks


def run_in_process(server: ServerApp, grid: InProcessGrid, config: Mapping[str, str]) -> None:
    """Run a ServerApp on an in-process grid, as Flower's own runtime would."""
    context = Context(grid.run.run_id, SUPERLINK_NODE_ID, {}, RecordDict(), dict(config))
    server(grid=grid, context=context)
