"""A signed roster as a file that members hand to each other: JSON, believed once checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..errors import ProtocolError
from .roster import Roster, SignedRoster

__all__ = ["ROSTER_FORMAT", "signed_roster_from_json", "signed_roster_to_json"]

ROSTER_FORMAT = "fedcohort.roster/1"
_MOST_BYTES = 4 * 2**20  # 4 MiB: thousands of members


def signed_roster_to_json(signed: SignedRoster) -> str:
    """Return a roster with the signatures it has so far; people read the part `roster`."""
    roster = signed.roster
    members = {member.name: member.public.hex() for member in roster.members}
    return json.dumps(
        {
            "format": ROSTER_FORMAT,
            "sha256": roster.sha256.hex(),
            "roster": {
                "federation": roster.federation,
                "version": roster.version,
                "members": members,
                "coordinator": roster.coordinator.hex(),
                "colluders": roster.colluders,
                "valid_from": roster.valid_from,
                "valid_to": roster.valid_to,
                "previous": roster.previous.hex(),
            },
            "bytes": roster.to_bytes().hex(),
            "signatures": {name: value.hex() for name, value in signed.signatures.items()},
        },
        indent=1,
        ensure_ascii=False,
    )


def signed_roster_from_json(text: str) -> SignedRoster:
    """Read it back; nothing is believed yet: `SignedRoster.check` says whether it stands.

    Raises:
        ProtocolError: `roster_unreadable`: not such a file, or what people read in it is not
            what the signatures cover.
    """
    if len(text) > _MOST_BYTES:
        raise _unreadable("it is too large")
    try:
        document: Mapping[str, Any] = json.loads(text)
        if document["format"] != ROSTER_FORMAT:
            raise _unreadable(f"it is no {ROSTER_FORMAT}")
        roster = Roster.from_bytes(bytes.fromhex(document["bytes"]))
        signatures = {
            str(name): bytes.fromhex(value) for name, value in document["signatures"].items()
        }
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise _unreadable("it is no JSON of that shape") from error
    signed = SignedRoster(roster=roster, signatures=signatures)
    shown = json.loads(signed_roster_to_json(signed))
    if any(document.get(part) != shown[part] for part in ("sha256", "roster")):
        raise _unreadable("it shows people another roster than the signed one")
    return signed


def _unreadable(why: str) -> ProtocolError:
    return ProtocolError(
        "roster_unreadable",
        f"the roster file cannot be read: {why}",
        hint="Ask the coordinator for the file anew.",
    )
