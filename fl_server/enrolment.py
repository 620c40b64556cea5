"""Who is in the federation: invitations, enrolled sites, and the roster that members sign.

Enrolling lets a node connect; it lets nobody into a sum. That takes the roster, which only its
members can change: the coordinator drafts it, every member signs it, two thirds of the roster
before it where there was one, and each site checks that for itself (rules R-1 to R-4).
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import secrets
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_public_key,
)

from ..hosting import private_folder, read_private, replace_file
from ..privacy.errors import ConfigError, PolicyError, ProtocolError
from ..privacy.secagg.identity import load_identity
from ..privacy.secagg.roster import Member, Roster, SignedRoster
from ..privacy.secagg.roster_file import signed_roster_from_json, signed_roster_to_json
from ..privacy.secagg.suite import INTL
from ..study.bundle import bundle_sha256
from ..study.enrolment import Invitation, JoinRequest, check_site_name
from .coordinator_setup import CoordinatorSetup
from .flower_compat import LinkGoneError
from .flower_control import Control

__all__ = ["add_signature", "draft_roster", "enrol", "invite", "revoke"]

_INVITED_DAYS = 14


def invite(
    setup: CoordinatorSetup, site: str, *, superlink: str | None = None, today: dt.date
) -> Invitation:
    """Invite a hospital; a new invitation takes the place of an unused one.

    Args:
        setup: The coordinator.
        site: The name it will have in plans.
        superlink: HOST:PORT that it reaches the public port by; the certificate's first name.
        today: For the invitation's end.

    Raises:
        PolicyError: `site_name` or `site_enrolled`.
    """
    check_site_name(site)
    if site in _sites(setup):
        raise PolicyError("site_enrolled", f"{site} is enrolled already", hint="Revoke it first.")
    token = secrets.token_bytes(32)
    expires = (today + dt.timedelta(days=_INVITED_DAYS)).isoformat()
    invited = _invited(setup)
    # The token itself is kept nowhere here.
    invited[site] = {"token_sha256": hashlib.sha256(token).hexdigest(), "expires": expires}
    replace_file(setup.folder / "invited.json", json.dumps(invited, indent=1).encode())
    identity = load_identity(setup.identity).public_key().public_bytes_raw()
    return Invitation(
        federation=setup.federation,
        site=site,
        token=token.hex(),
        expires=expires,
        superlink=superlink or _address(setup.names[0], setup.public_port),
        ca=read_private(setup.ca).decode(),
        coordinator=identity.hex(),
        bundle=bundle_sha256(),
        jurisdiction=setup.jurisdiction,
    )


def enrol(setup: CoordinatorSetup, request: JoinRequest, *, today: dt.date) -> int:
    """Let an invited site's node connect; burn its invitation. The SuperLink must be running.

    Returns:
        Flower's number of the node.

    Raises:
        PolicyError: `invitation_unknown`, `invitation_expired`, `join_signature`, `join_key` or
            `site_enrolled`.
        ProtocolError: `superlink_gone`.
    """
    request.check()
    invited = _invited(setup)
    expected = invited.get(request.site, {})
    given = hashlib.sha256(bytes.fromhex(_hex(request.token))).hexdigest()
    if not secrets.compare_digest(str(expected.get("token_sha256", "")), given):
        raise PolicyError(
            "invitation_unknown",
            f"no open invitation of {request.site} has this token; each works once",
            hint="fedcohort coordinator invite SITE",
        )
    if today.isoformat() > str(expected["expires"]):
        raise PolicyError("invitation_expired", "the invitation is over", hint="Invite it again.")
    sites = _sites(setup)
    if request.site in sites or request.identity in {s["identity"] for s in sites.values()}:
        raise PolicyError("site_enrolled", "the site, or its key, is enrolled already")
    public = _public_pem(request.node_key)
    control = _control(setup)
    try:
        node_id = control.register(public, request.site)
    except LinkGoneError as error:
        raise _gone() from error
    finally:
        control.close()
    sites[request.site] = {
        "node_id": node_id,
        "identity": request.identity,
        "node_key": request.node_key.strip(),
        "enrolled": today.isoformat(),
    }
    replace_file(setup.sites, json.dumps(sites, indent=1, sort_keys=True).encode())
    del invited[request.site]  # a crash before this is repaired by enrolling again
    replace_file(setup.folder / "invited.json", json.dumps(invited, indent=1).encode())
    return node_id


def revoke(setup: CoordinatorSetup, site: str) -> None:
    """Shut a site's node out at once; the next roster leaves it out. The SuperLink must run.

    Raises:
        ConfigError: `site_not_enrolled`.
        ProtocolError: `superlink_gone`.
    """
    sites = _sites(setup)
    if site not in sites:
        raise ConfigError(
            "site_not_enrolled",
            f"{site} is not enrolled here",
            hint="`fedcohort coordinator status` lists those that are.",
        )
    control = _control(setup)
    try:
        control.unregister(int(sites[site]["node_id"]))
    except LinkGoneError as error:
        raise _gone() from error
    finally:
        control.close()
    del sites[site]
    replace_file(setup.sites, json.dumps(sites, indent=1, sort_keys=True).encode())


def draft_roster(
    setup: CoordinatorSetup, *, colluders: int = 1, days: int = 365, today: dt.date
) -> SignedRoster:
    """Draft the next roster from the enrolled sites, for them to sign.

    Raises:
        ProtocolError: `too_few_sites` or `too_many_colluders`.
    """
    held = None
    if setup.roster.exists():
        held = signed_roster_from_json(read_private(setup.roster).decode()).roster
    members = tuple(
        Member(name=site, public=bytes.fromhex(facts["identity"]))
        for site, facts in sorted(_sites(setup).items())
    )
    roster = Roster(
        federation=setup.federation,
        version=1 if held is None else held.version + 1,
        suite=INTL.number,
        members=members,
        coordinator=load_identity(setup.identity).public_key().public_bytes_raw(),
        colluders=colluders,
        valid_from=today.isoformat(),
        valid_to=(today + dt.timedelta(days=days)).isoformat(),
        previous=bytes(32) if held is None else held.sha256,
    )
    draft = SignedRoster(roster=roster, signatures={})
    replace_file(setup.draft, signed_roster_to_json(draft).encode())
    return draft


def add_signature(setup: CoordinatorSetup, text: str, *, today: dt.date) -> bool:
    """Add what a member signed to the draft; put it in force once enough members have.

    Returns:
        Whether the roster is in force now.

    Raises:
        ConfigError: `no_roster`: nothing was drafted.
        ProtocolError: `roster_unreadable`, or `roster_other`: it is not the draft that was signed.
    """
    if not setup.draft.exists():
        raise ConfigError("no_roster", "no roster was drafted here", hint="Draft one first.")
    draft = signed_roster_from_json(read_private(setup.draft).decode())
    signed = signed_roster_from_json(text)
    if signed.roster != draft.roster:
        raise ProtocolError("roster_other", "the file signs another roster than the draft")
    both = SignedRoster(roster=draft.roster, signatures={**draft.signatures, **signed.signatures})
    content = signed_roster_to_json(both).encode()
    replace_file(setup.draft, content)
    held = None
    if setup.roster.exists():
        held = signed_roster_from_json(read_private(setup.roster).decode()).roster
    first = draft.roster.members[0]
    try:  # as any member will
        both.check(name=first.name, identity=first.public, today=today, pinned=held)
    except ProtocolError as error:
        if error.code != "r_1_quorum":
            raise
        return False
    private_folder(setup.folder / "rosters")
    replace_file(setup.folder / "rosters" / f"{draft.roster.version}.json", content)
    replace_file(setup.roster, content)
    setup.draft.unlink()
    return True


def _public_pem(openssh: str) -> bytes:
    try:
        key = load_ssh_public_key(openssh.encode())
    except ValueError as error:
        raise PolicyError("join_key", "the node's key is no OpenSSH key") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise PolicyError("join_key", "the node's key must be on the curve P-384")
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _address(name: str, port: int) -> str:
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


def _hex(text: str) -> str:
    return text if len(text) == 64 and set(text) <= set("0123456789abcdef") else ""


def _control(setup: CoordinatorSetup) -> Control:
    return Control(setup.loopback, read_private(setup.ca), setup.password)


def _gone() -> ProtocolError:
    return ProtocolError(
        "superlink_gone",
        "the SuperLink does not answer, or refused",
        hint="Is `fedcohort coordinator start` running? Its log is logs/superlink.log.",
    )


def _sites(setup: CoordinatorSetup) -> dict[str, dict[str, Any]]:
    return dict(json.loads(read_private(setup.sites))) if setup.sites.exists() else {}


def _invited(setup: CoordinatorSetup) -> dict[str, dict[str, str]]:
    path = setup.folder / "invited.json"
    return dict(json.loads(read_private(path))) if path.exists() else {}
