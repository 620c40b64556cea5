"""How a hospital joins: an invitation goes one way, a request comes back. Two small files.

The invitation holds a token that works once, and what a site needs to trust the coordinator; the
request holds the site's two public keys, signed by its identity, so that nobody enrols a key
that is not theirs. Both travel as the coordinator and the hospital see fit (a mail, a courier):
people compare fingerprints.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ..privacy.errors import PolicyError

__all__ = ["Invitation", "JoinRequest", "check_site_name", "is_jurisdiction"]

_INVITATION = "fedcohort.invitation/1"
_REQUEST = "fedcohort.join/1"
_DOMAIN = b"fedcohort/join/1\x00"
_MOST = 64 * 2**10  # 64 KiB
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
_COUNTRY = re.compile(r"[A-Z]{2}(?:-[A-Z0-9]{1,3})?")
_HEX = re.compile(r"[0-9a-f]{64}")
_ADDRESS = re.compile(r"(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):[0-9]{1,5}")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """What the coordinator hands a hospital. Whoever holds the token may join once, in its name.

    Attributes:
        federation: The federation's name.
        site: The name the hospital will have in plans.
        token: 32 random bytes, hex; works once.
        expires: Last day it works, ISO.
        superlink: HOST:PORT of the coordinator's public port.
        ca: The coordinator's CA certificate, PEM.
        coordinator: The coordinator's Ed25519 key in the roster, hex.
        bundle: Hash of the release's app bundle, hex; the site computes its own and compares.
        jurisdiction: Where the coordinator is, as CN, DE or US-CA; policies hold plans against it.
    """

    federation: str
    site: str
    token: str
    expires: str
    superlink: str
    ca: str
    coordinator: str
    bundle: str
    jurisdiction: str

    def to_json(self) -> str:
        """Return the file."""
        return _write(_INVITATION, self)

    @classmethod
    def from_json(cls, text: str) -> Invitation:
        """Read it back.

        Raises:
            PolicyError: `invitation_unreadable`.
        """
        found = _read(cls, _INVITATION, text, "invitation_unreadable")
        right = (
            all(_HEX.fullmatch(part) for part in (found.token, found.coordinator, found.bundle))
            and _is_date(found.expires)
            and _ADDRESS.fullmatch(found.superlink)
            and is_jurisdiction(found.jurisdiction)
            and found.federation.isprintable()
            and found.ca.startswith("-----BEGIN CERTIFICATE-----")
        )
        if not right:
            raise _unreadable(_INVITATION, "invitation_unreadable")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinRequest:
    """What the hospital hands back.

    Attributes:
        site: As invited.
        token: As invited.
        node_key: The connection's public key, OpenSSH.
        identity: The site's Ed25519 key, hex.
        signature: By that key, over all the rest, hex.
    """

    site: str
    token: str
    node_key: str
    identity: str
    signature: str = ""

    @property
    def message(self) -> bytes:
        """What is signed."""
        rest = dataclasses.asdict(dataclasses.replace(self, signature=""))
        return _DOMAIN + json.dumps(rest, sort_keys=True).encode()

    @property
    def fingerprint(self) -> str:
        """What the two compare by telephone: of both keys.

        >>> request = JoinRequest(site="a", token="b", node_key="c", identity="d")
        >>> request.fingerprint
        'fad9-fc08-26cf-3f98'
        """
        found = hashlib.sha256(f"{self.node_key.strip()}\n{self.identity}".encode()).hexdigest()
        return "-".join(found[at : at + 4] for at in range(0, 16, 4))

    def signed(self, identity: Ed25519PrivateKey) -> JoinRequest:
        """Return the request, signed by the identity it names."""
        return dataclasses.replace(self, signature=identity.sign(self.message).hex())

    def check(self) -> None:
        """Check the signature.

        Raises:
            PolicyError: `join_signature`: whoever made it does not hold the identity.
        """
        try:
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.identity))
            key.verify(bytes.fromhex(self.signature), self.message)
        except (ValueError, InvalidSignature) as error:
            raise PolicyError(
                "join_signature",
                "the request is not signed by the identity it names",
                hint="Make it anew at the site that was invited.",
            ) from error

    def to_json(self) -> str:
        """Return the file."""
        return _write(_REQUEST, self)

    @classmethod
    def from_json(cls, text: str) -> JoinRequest:
        """Read it back; `check` says whether it is believed.

        Raises:
            PolicyError: `join_unreadable`.
        """
        return _read(cls, _REQUEST, text, "join_unreadable")


def check_site_name(name: str) -> str:
    """Return a site's name, or refuse it: it becomes a file name and a line in people's lists.

    Raises:
        PolicyError: `site_name`.

    >>> check_site_name("hospital-3")
    'hospital-3'
    """
    if _NAME.fullmatch(name) is None:
        raise PolicyError(
            "site_name",
            "a site's name has 1 to 64 of A-Z a-z 0-9 . _ - and begins and ends with the former",
        )
    return name


def is_jurisdiction(text: str) -> bool:
    """Whether a text is a country code, with or without a part of the country.

    >>> [is_jurisdiction(text) for text in ("CN", "US-CA", "", "cn", "Germany")]
    [True, True, False, False, False]
    """
    return _COUNTRY.fullmatch(text) is not None


def _is_date(text: str) -> bool:
    try:
        return dt.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _unreadable(form: str, code: str) -> PolicyError:
    return PolicyError(code, f"the file is no {form}", hint="Ask for it anew.")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _write(form: str, document: Any) -> str:
    return json.dumps({"format": form, **dataclasses.asdict(document)}, indent=1) + "\n"


def _read(cls: type[T], form: str, text: str, code: str) -> T:
    wrong = _unreadable(form, code)
    if len(text) > _MOST:
        raise wrong
    try:
        document: Mapping[str, Any] = json.loads(text, object_pairs_hook=_once)
        names = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        if document["format"] != form or set(document) != {"format", *names}:
            raise wrong
        if not all(isinstance(document[name], str) for name in names):
            raise wrong
        check_site_name(document["site"])
        return cls(**{name: document[name] for name in names})
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        raise wrong from error
