"""A site joins: from an invitation to a request, and a signed roster."""

from __future__ import annotations

import datetime as dt

from ..hosting import read_private, write_new
from ..privacy.errors import PolicyError, ProtocolError
from ..privacy.secagg.identity import load_identity
from ..privacy.secagg.roster import SignedRoster
from ..privacy.secagg.roster_file import signed_roster_from_json, signed_roster_to_json
from ..study.bundle import bundle_sha256
from ..study.enrolment import Invitation, JoinRequest
from .site_folder import SiteFolder

__all__ = ["join", "sign_roster"]


def join(invitation: Invitation, folder: SiteFolder, *, today: dt.date) -> JoinRequest:
    """Take over whom the site trusts; return what to hand back.

    Args:
        invitation: From the coordinator, by a way that people trust.
        folder: The site's, as `init` made it.
        today: For the invitation's end.

    Raises:
        PolicyError: `invitation_expired`, `release_differs`, or `file_exists`: it joined before.
    """
    if today.isoformat() > invitation.expires:
        raise PolicyError("invitation_expired", "the invitation is over", hint="Ask for another.")
    if invitation.bundle != bundle_sha256():
        raise PolicyError(
            "release_differs",
            "the coordinator runs another release of fedcohort than this site",
            hint="Install the same release, and check where it came from.",
        )
    identity = load_identity(folder.identity)
    node_key = read_private(folder.public_node_key).decode("ascii", "replace").strip()
    write_new(folder.ca, invitation.ca.encode())
    write_new(folder.coordinator, f"{invitation.coordinator}\n".encode())
    request = JoinRequest(
        site=invitation.site,
        token=invitation.token,
        node_key=node_key,
        identity=identity.public_key().public_bytes_raw().hex(),
    )
    return request.signed(identity)


def sign_roster(folder: SiteFolder, site: str, text: str) -> str:
    """Sign a drafted roster that names this site and the coordinator that invited it.

    Whoever calls this has compared the draft's fingerprint with the other members.

    Raises:
        ProtocolError: `roster_unreadable`, `r_3_not_a_member`, `r_3_own_key` or
            `r_3_coordinator`.
    """
    draft = signed_roster_from_json(text).roster
    identity = load_identity(folder.identity)
    own = identity.public_key().public_bytes_raw()
    if draft.public(draft.position(site)) != own:
        raise ProtocolError("r_3_own_key", "the roster names another key for this site")
    invited_by = read_private(folder.coordinator).decode("ascii", "replace").strip()
    if draft.coordinator.hex() != invited_by:
        raise ProtocolError("r_3_coordinator", "the roster names another coordinator")
    signed = SignedRoster.sign(draft, {site: identity})
    return signed_roster_to_json(signed)
