"""Two people, or nothing: a policy is in force only with two signatures over its hash.

The signers are two different people of different roles, and both are among the approvers that
this node has pinned, not only among those that the policy names: who edits a policy cannot
bring signers of their own. When approvers change, two of the pinned ones sign the new policy;
once it is in force, `pin` takes its approvers over.

Whoever can write every file of this folder can also write the pin. The policy's hash is
therefore in every entry of the audit log, and the pin's hash is worth a line on paper.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ...privacy.durable_files import replace_synced
from ...privacy.errors import PolicyError
from ...privacy.secagg.suite import INTL
from .policy import ROLES, Approver, Policy

__all__ = [
    "Signature",
    "check_signed",
    "pin",
    "pinned_approvers",
    "sign",
    "sign_policy",
    "verifies",
]

_SIGNATURES = "fedcohort.policy_signatures/1"
_PIN = "fedcohort.approvers/1"
_LARGEST = 64 * 2**10  # bytes of a file that is read


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """One person's signature over something, with the key that made it (hex)."""

    name: str
    role: str
    key: str
    signature: str


def sign(domain: str, body: dict[str, Any], person: Approver, key: Ed25519PrivateKey) -> Signature:
    """Sign a document in one person's name.

    Args:
        domain: What kind of document it is: a signature is good for no other.
        body: JSON.
        person: The approver, as the policy names them.
        key: Their private key.

    Raises:
        PolicyError: `signer_key`: it is not this person's key.
    """
    if key.public_key().public_bytes_raw().hex() != person.key:
        raise PolicyError(
            "signer_key",
            f"the key is not the one that the policy names for {person.name}",
            hint="Use your own key file; another key needs a new, signed policy.",
        )
    made = INTL.sign(key, _message(domain, body, person.name, person.role))
    return Signature(name=person.name, role=person.role, key=person.key, signature=made.hex())


def verifies(domain: str, body: dict[str, Any], signature: Signature) -> bool:
    """Whether a signature is by its key, in its name and role, over exactly this."""
    try:
        public, made = bytes.fromhex(signature.key), bytes.fromhex(signature.signature)
    except ValueError:
        return False
    message = _message(domain, body, signature.name, signature.role)
    return INTL.verifies(public, made, message)


def sign_policy(policy: Policy, name: str, key: Ed25519PrivateKey, path: Path) -> int:
    """Add a person's signature to `policy.signatures.json`; those of other policies go.

    Returns:
        How many people have signed this policy now.

    Raises:
        PolicyError: `signer_unknown`, `signer_key` or `policy_unsigned` (the file cannot be read).
    """
    person = policy.person(name)
    if person is None:
        raise PolicyError(
            "signer_unknown",
            f"the policy names no approver {name[:64]!r}",
            hint=f"It names: {', '.join(one.name for one in policy.approvers)}.",
        )
    made = sign("policy", {"policy_sha256": policy.sha256}, person, key)
    others = [one for one in _read(policy, path) if one.name != name] if path.exists() else []
    _write(
        path,
        {
            "format": _SIGNATURES,
            "policy_sha256": policy.sha256,
            "signatures": [asdict(one) for one in [*others, made]],
        },
    )
    return len(others) + 1


def check_signed(
    policy: Policy, path: Path, pinned: Iterable[Approver]
) -> tuple[Signature, Signature]:
    """Refuse a policy that two pinned people of different roles have not signed as it stands.

    Args:
        policy: As it was read now.
        path: Its `policy.signatures.json`.
        pinned: The approvers that this node took over before, see `pinned_approvers`.

    Returns:
        A signature of each role.

    Raises:
        PolicyError: `policy_unsigned`.
    """
    known = {(one.name, one.role, one.key) for one in pinned}
    body = {"policy_sha256": policy.sha256}
    good = {
        one.role: one
        for one in _read(policy, path)
        if (one.name, one.role, one.key) in known and verifies("policy", body, one)
    }
    owner, officer = (good.get(role) for role in ROLES)
    if owner is None or officer is None or _same(owner, officer):
        raise _unsigned("two pinned people of different roles have not signed it as it stands")
    return owner, officer


def pin(policy: Policy, signatures: Path, path: Path) -> None:
    """Take a policy's approvers over as those whose signatures count from now on.

    The first pin trusts the policy that it finds, signed by two of its own approvers; every
    later one trusts a policy that is in force.

    Raises:
        PolicyError: `policy_unsigned`.
    """
    before = pinned_approvers(path) if path.exists() else policy.approvers
    check_signed(policy, signatures, before)
    document = {"format": _PIN, "approvers": [asdict(one) for one in policy.approvers]}
    _write(path, document)


def pinned_approvers(path: Path) -> tuple[Approver, ...]:
    """Return the approvers whose signatures count.

    Raises:
        PolicyError: `approvers_not_pinned`.
    """
    document = _json(path)
    try:
        if document["format"] != _PIN:
            raise ValueError("another format")
        return tuple(_texts(Approver, one) for one in document["approvers"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise PolicyError(
            "approvers_not_pinned",
            "this node has pinned no approvers, or their file cannot be read",
            hint="Have both people sign the policy: `fedcohort site sign-policy` pins them once.",
        ) from error


def _same(one: Signature, other: Signature) -> bool:
    return one.name.casefold() == other.name.casefold() or one.key == other.key


def _message(domain: str, body: dict[str, Any], name: str, role: str) -> bytes:
    document = {"as": role, "by": name, "domain": domain, "of": body}
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return b"fedcohort.signature/1\0" + bytes(text, "ascii")


def _read(policy: Policy, path: Path) -> list[Signature]:
    document = _json(path)
    try:
        if document["format"] != _SIGNATURES:
            raise ValueError("another format")
        if document["policy_sha256"] != policy.sha256:
            return []  # of another policy, or of this one before it was edited
        return [_texts(Signature, one) for one in document["signatures"]]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _unsigned("its signatures are missing or cannot be read") from error


def _texts(kind: type[Any], document: Any) -> Any:
    if not all(isinstance(value, str) for value in document.values()):
        raise ValueError("a field is no text")
    return kind(**document)


def _json(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return json.loads(file.read(_LARGEST))
    except (OSError, ValueError, RecursionError):
        return None


def _write(path: Path, document: dict[str, Any]) -> None:
    text = json.dumps(document, indent=1, sort_keys=True)
    replace_synced(path, bytes(f"{text}\n", "utf-8"))


def _unsigned(why: str) -> PolicyError:
    return PolicyError(
        "policy_unsigned",
        f"the policy is not in force: {why}",
        hint="Both people look at it and run `fedcohort site sign-policy`.",
    )
