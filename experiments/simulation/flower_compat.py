"""The few internal symbols of Flower 1.41 that an in-process Grid cannot do without.

A contract test pins Flower's version and each symbol; nothing else in this project imports
from Flower anything but `flwr.app`, `flwr.clientapp` and `flwr.serverapp`.
"""

from __future__ import annotations

import secrets
from uuid import uuid4

from flwr.app import Message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

__all__ = [
    "SUPERLINK_NODE_ID",
    "Run",
    "new_run",
    "over_the_wire",
    "sent_by",
    "stamped",
    "wire_bytes",
]

SUPERLINK_NODE_ID = 1  # errors that the SuperLink makes itself carry this as their source


def new_run() -> Run:
    """Return a fresh run and make this process its task: `Message()` needs one."""
    run = Run.create_empty(run_id=secrets.randbits(63))
    TaskIdentity.run_id = run.run_id
    TaskIdentity.task_id = 1
    TaskIdentity.node_id = SUPERLINK_NODE_ID
    return run


def stamped(message: Message) -> Message:
    """Give a message the id that the SuperLink would give it."""
    message.metadata.__dict__["_message_id"] = str(uuid4())
    return message


def sent_by(message: Message, node_id: int) -> Message:
    """Set a message's source, as the SuperLink does for errors it makes itself."""
    message.metadata.__dict__["_src_node_id"] = node_id
    return message


def over_the_wire(message: Message) -> Message:
    """Return the message as the other side reads it: through Flower's protobuf format."""
    return message_from_proto(message_to_proto(message))


def wire_bytes(message: Message) -> int:
    """Return how long a message is in Flower's protobuf format."""
    return len(message_to_proto(message).SerializeToString())
