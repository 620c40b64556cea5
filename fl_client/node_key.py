"""The node's P-384 key, by which the coordinator's server knows it: OpenSSH, as Flower reads it.

It opens the connection and nothing else; what a site says in the protocol is signed by its
Ed25519 identity.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from ..hosting import read_private, write_new
from ..privacy.errors import PolicyError

__all__ = ["create_node_key", "node_public_key"]


def create_node_key(path: Path) -> str:
    """Make a key, write it to a new file of mode 0600, and return its public half (OpenSSH).

    Raises:
        PolicyError: `file_exists`: a key is never overwritten.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    write_new(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    return _public(key)


def node_public_key(path: Path) -> str:
    """Return the public half of a node's key.

    Raises:
        PolicyError: `file_missing`, `file_mode` or `node_key_broken`.
    """
    try:
        key = load_ssh_private_key(read_private(path), password=None)
    except (ValueError, TypeError) as error:
        raise PolicyError("node_key_broken", f"{path} holds no OpenSSH key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp384r1":
        raise PolicyError("node_key_broken", f"{path} holds a key of another kind")
    return _public(key)


def _public(key: ec.EllipticCurvePrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
