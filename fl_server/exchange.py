"""One request to many sites and their answers, over Flower's Grid.

Flower names the SuperLink, not the dead node, as the source of errors it makes itself, and
drops what arrives late; so replies are matched to requests by message id and by nothing else.
A duplicate or an unknown reply is ignored. What a site says of itself is the site's: a refusal
whose code is no code counts as `reply_unreadable`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from ..privacy.errors import ProtocolError

__all__ = ["Answers", "Refusal", "exchange"]

_CODE = re.compile("[a-z][a-z0-9_]{0,47}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A site's no.

    Attributes:
        code: Stable name of the rule.
        broken: Whether the protocol was broken, or the site's software; else a rule said no.
    """

    code: str
    broken: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What came back before the deadline.

    Attributes:
        replies: Content by site.
        refused: By site, for sites that said no.
        silent: Sites that did not answer, crashed or are unavailable.
    """

    replies: Mapping[str, RecordDict]
    refused: Mapping[str, Refusal] = field(default_factory=dict)
    silent: tuple[str, ...] = ()


def exchange(
    grid: Grid,
    nodes: Mapping[str, int],
    action: str,
    content: RecordDict | Mapping[str, RecordDict],
    *,
    group: str,
    timeout_s: float,
    poll_s: float = 0.05,
) -> Answers:
    """Send the same content to every node and collect what comes back in time.

    Args:
        grid: Flower's Grid.
        nodes: Flower node id by site.
        action: Message type, e.g. `train.report`.
        content: What to send: the same to all, or something to each.
        group: Flower's group id; the round's number, for logs.
        timeout_s: Deadline for all replies, also the messages' time to live.
        poll_s: Pause between looks.
    """

    def for_site(site: str) -> RecordDict:
        return content if isinstance(content, RecordDict) else content[site]

    if not nodes:
        return Answers(replies={})
    messages = [
        Message(for_site(site), node, action, group_id=group, ttl=timeout_s)
        for site, node in nodes.items()
    ]
    sent = list(grid.push_messages(messages))
    # The SuperLink gives no id to a message for a node that it does not know, or not yet.
    waiting = {name: site for name, site in zip(sent, nodes, strict=True) if name}
    replies: dict[str, RecordDict] = {}
    refused: dict[str, Refusal] = {}
    silent = sorted(set(nodes) - set(waiting.values()))
    deadline = time.monotonic() + timeout_s
    while waiting:
        for reply in grid.pull_messages(list(waiting)):
            site = waiting.pop(reply.metadata.reply_to_message_id, None)
            if site is None:
                continue
            if reply.has_error():
                silent.append(site)
            elif "refused" in reply.content.config_records:
                refused[site] = _said_no(reply.content.config_records["refused"])
            else:
                replies[site] = reply.content
        if waiting:
            if time.monotonic() >= deadline:
                break
            time.sleep(poll_s)
    return Answers(
        replies=replies, refused=refused, silent=tuple(sorted([*silent, *waiting.values()]))
    )


def _said_no(said: Mapping[str, object]) -> Refusal:
    code = said.get("code")
    if not isinstance(code, str) or _CODE.fullmatch(code.strip(" ")) is None:
        return Refusal(code="reply_unreadable", broken=True)
    return Refusal(code=code.strip(" "), broken=said.get("exit") == ProtocolError.exit_code)
