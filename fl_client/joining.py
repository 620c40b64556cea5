"""A site joins: from an invitation to keys, a request, and a signed roster."""

from __future__ import annotations

import datetime as dt
import secrets
from pathlib import Path

from ..hosting import private_folder, write_new
from ..privacy.errors import PolicyError, ProtocolError
from ..privacy.secagg.identity import create_identity, load_identity
from ..privacy.secagg.roster import SignedRoster
from ..privacy.secagg.roster_file import signed_roster_from_json, signed_roster_to_json
from ..study.bundle import bundle_sha256
from ..study.enrolment import Invitation, JoinRequest
from .node_key import create_node_key
from .site_setup import SiteSetup

__all__ = ["join", "sign_roster"]


def join(invitation: Invitation, setup: SiteSetup, *, today: dt.date) -> JoinRequest:
    """Make the site's keys and files in a new folder; return what to hand back.

    Raises:
        PolicyError: `invitation_expired`, `release_differs`, `file_exists`, `identity_exists` or
            `folder_mode`.
    """
    if today.isoformat() > invitation.expires:
        raise PolicyError("invitation_expired", "the invitation is over", hint="Ask for another.")
    if invitation.bundle != bundle_sha256():
        raise PolicyError(
            "release_differs",
            "the coordinator runs another release of fedcohort than this site",
            hint="Install the same release, and check where it came from.",
        )
    folder = private_folder(setup.folder)
    write_new(folder / "site.json", setup.to_json().encode())
    write_new(setup.ca, invitation.ca.encode())
    write_new(setup.secret, secrets.token_bytes(48))
    write_new(folder / "coordinator.pub", f"{invitation.coordinator}\n".encode())
    identity = create_identity(setup.identity)
    request = JoinRequest(
        site=setup.site,
        token=invitation.token,
        node_key=create_node_key(setup.node_key),
        identity=identity.public_key().public_bytes_raw().hex(),
    )
    return request.signed(identity)


def sign_roster(setup: SiteSetup, text: str) -> str:
    """Sign a drafted roster that names this site and the coordinator that invited it.

    Whoever calls this has compared the draft's fingerprint with the other members.

    Raises:
        ProtocolError: `roster_unreadable`, `r_3_not_a_member`, `r_3_own_key` or
            `r_3_coordinator`.
    """
    draft = signed_roster_from_json(text).roster
    identity = load_identity(setup.identity)
    own = identity.public_key().public_bytes_raw()
    if draft.public(draft.position(setup.site)) != own:
        raise ProtocolError("r_3_own_key", "the roster names another key for this site")
    invited_by = Path(setup.folder / "coordinator.pub").read_text(encoding="ascii").strip()
    if draft.coordinator.hex() != invited_by:
        raise ProtocolError("r_3_coordinator", "the roster names another coordinator")
    signed = SignedRoster.sign(draft, {setup.site: identity})
    return signed_roster_to_json(signed)
