"""A site's identity: one Ed25519 key in a file that only its owner may read.

The key signs every message of the protocol and is pinned in the roster. It is made once, on
the machine where it stays.
"""

from __future__ import annotations

import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from ..durable_files import write_synced
from ..errors import PolicyError

__all__ = ["create_identity", "load_identity"]


def create_identity(path: Path) -> Ed25519PrivateKey:
    """Make a key and write it to a new file of mode 0600.

    Raises:
        PolicyError: `identity_exists`: a key is never overwritten.
    """
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        write_synced(path, pem)
    except FileExistsError as error:
        raise PolicyError(
            "identity_exists",
            f"{path} holds an identity already",
            hint="Keep it, or name another file; a new identity needs a new roster.",
        ) from error
    return key


def load_identity(path: Path) -> Ed25519PrivateKey:
    """Read a key back.

    Raises:
        PolicyError: `identity_missing`, `identity_mode` (others may read it) or
            `identity_broken`.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError as error:
        raise PolicyError(
            "identity_missing", f"there is no {path}", hint="Make an identity first."
        ) from error
    if mode & 0o077:
        raise PolicyError(
            "identity_mode",
            f"{path} has mode {mode:o}: others than its owner may use it",
            hint=f"chmod 600 {path}, and think whether somebody has read it.",
        )
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise PolicyError("identity_broken", f"{path} holds no key") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise PolicyError("identity_broken", f"{path} holds a key of another kind")
    return key
