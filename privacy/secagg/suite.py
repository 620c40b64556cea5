"""The crypto suite: every primitive that the protocol uses, as one value in every signed header.

All of it is `cryptography`'s; nothing here is of our own making. A suite is fixed by the
roster: there is no negotiation below it, and a message of another suite is refused.

Source: SHA-256 (FIPS 180-4), HKDF (RFC 5869), AES-256-GCM and AES-256-CTR (NIST SP 800-38D,
800-38A), Ed25519 (RFC 8032), X25519 (RFC 7748), ML-KEM-768 (FIPS 203).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.mlkem import (
    MLKEM768PrivateKey,
    MLKEM768PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from ..errors import ProtocolError

__all__ = ["BLOCK_BYTES", "INTL", "Suite", "suite_of"]

BLOCK_BYTES = 256 * 1024  # of the accumulator: it and one keystream block stay in the L2 cache
_ZEROS = memoryview(bytes(BLOCK_BYTES))
_X25519_PRIME = 2**255 - 19
_LOW_ORDER = frozenset(  # u-coordinates of small order on Curve25519 and its twist
    {
        0,
        1,
        _X25519_PRIME - 1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
    }
)
_NONCE = bytes(12)  # every AEAD key is used for one message in one direction


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A set of primitives.

    Attributes:
        number: Its byte in every signed header.
        name: For people and plans.
    """

    number: int
    name: str

    def hash(self, *parts: bytes) -> bytes:
        """Return SHA-256 of the concatenated parts, 32 bytes."""
        return hashlib.sha256(b"".join(parts)).digest()

    def derive(self, secret: bytes, *, salt: bytes, info: bytes) -> bytes:
        """Return 32 bytes of HKDF-SHA256."""
        kdf = HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=info)
        return kdf.derive(secret)

    def same(self, left: bytes, right: bytes) -> bool:
        """Compare in constant time."""
        return hmac.compare_digest(left, right)

    def seal(self, key: bytes, plaintext: bytes, *, data: bytes) -> bytes:
        """Encrypt one message under a key that is used for nothing else."""
        return AESGCM(key).encrypt(_NONCE, plaintext, data)

    def open(self, key: bytes, ciphertext: bytes, *, data: bytes) -> bytes:
        """Decrypt; ProtocolError `envelope_broken` when a bit or the address was changed."""
        try:
            return AESGCM(key).decrypt(_NONCE, ciphertext, data)
        except InvalidTag as error:
            raise ProtocolError("envelope_broken", "an envelope does not open") from error

    def sign(self, identity: Ed25519PrivateKey, message: bytes) -> bytes:
        """Return a signature, 64 bytes."""
        return identity.sign(message)

    def verifies(self, public: bytes, signature: bytes, message: bytes) -> bool:
        """Whether the signature is by this identity's key over exactly this message."""
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True

    def agree(self, private: bytes, public: bytes) -> bytes:
        """Return the X25519 secret; ProtocolError `low_order_key` for a point of small order."""
        return self.agreement(private)(public)

    def agreement(self, private: bytes) -> Callable[[bytes], bytes]:
        """Return `agree` with one private key, which is loaded once: half of an agreement."""
        key = X25519PrivateKey.from_private_bytes(private)

        def agree(public: bytes) -> bytes:
            try:
                return key.exchange(X25519PublicKey.from_public_bytes(public))
            except ValueError as error:
                raise ProtocolError("low_order_key", "a public key is of low order") from error

        return agree

    def check_keys(self, agreement: Sequence[bytes], kem: bytes) -> None:
        """Refuse a member's public keys before anything is done with them.

        Raises:
            ProtocolError: `low_order_key`, `key_not_canonical` (a second name of a point) or
                `kem_key_broken`.
        """
        for key in agreement:
            point = int.from_bytes(key, "little")
            if point in _LOW_ORDER:
                raise ProtocolError("low_order_key", "a public key is of low order")
            if point >= _X25519_PRIME:
                raise ProtocolError("key_not_canonical", "a public key is not in canonical form")
        try:
            MLKEM768PublicKey.from_public_bytes(kem)
        except ValueError as error:
            raise ProtocolError("kem_key_broken", "an ML-KEM key is malformed") from error

    def agreement_public(self, private: bytes) -> bytes:
        """Return the X25519 public key, 32 bytes, of 32 secret bytes."""
        return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()

    def kem_public(self, seed: bytes) -> bytes:
        """Return the ML-KEM-768 public key, 1,184 bytes, of a 64-byte seed."""
        return MLKEM768PrivateKey.from_seed_bytes(seed).public_key().public_bytes_raw()

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        """Return (shared secret, 32 bytes; ciphertext, 1,088 bytes)."""
        try:
            return MLKEM768PublicKey.from_public_bytes(public).encapsulate()
        except ValueError as error:
            raise ProtocolError("kem_key_broken", "an ML-KEM key is malformed") from error

    def decapsulate(self, seed: bytes, ciphertext: bytes) -> bytes:
        """Return the shared secret; a forged ciphertext gives one that opens nothing."""
        try:
            return MLKEM768PrivateKey.from_seed_bytes(seed).decapsulate(ciphertext)
        except ValueError as error:
            raise ProtocolError("kem_ciphertext_broken", "a KEM ciphertext is malformed") from error

    def add_stream(
        self, accumulator: NDArray[np.uint32] | NDArray[np.uint64], key: bytes, sign: int
    ) -> None:
        """Add (sign > 0) or subtract a key's stream from the accumulator, in place."""
        add = self.streams([(key, sign)], accumulator.dtype)
        step = BLOCK_BYTES // accumulator.itemsize
        for start in range(0, accumulator.size, step):
            add(accumulator[start : start + step])

    def streams(
        self, keys: Sequence[tuple[bytes, int]], dtype: np.dtype[np.uint32] | np.dtype[np.uint64]
    ) -> Callable[[NDArray[np.uint32] | NDArray[np.uint64]], None]:
        """Return what adds the next words of every key's stream to one block after another.

        A stream is AES-256-CTR with a zero counter (a key has one use), read as little-endian
        words; addition wraps around. A block takes all streams while it is in the cache.

        Args:
            keys: A key of 32 bytes and a sign, +1 or -1, for each stream.
            dtype: Of the words, uint32 or uint64; a block has BLOCK_BYTES at most.
        """
        block = bytearray(BLOCK_BYTES + 15)  # update_into wants a cipher block of head-room
        words = np.frombuffer(
            block, dtype=dtype.newbyteorder("<"), count=BLOCK_BYTES // dtype.itemsize
        )
        ciphers = [
            (
                Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update_into,
                np.add if sign > 0 else np.subtract,
            )
            for key, sign in keys
        ]

        def add(part: NDArray[np.uint32] | NDArray[np.uint64]) -> None:
            zeros, stream = _ZEROS[: part.nbytes], words[: part.size]
            for write, combine in ciphers:
                write(zeros, block)
                combine(part, stream, out=part)

        return add


INTL = Suite(number=1, name="intl")


def suite_of(number: int) -> Suite:
    """Return the suite of a header's byte.

    Raises:
        ProtocolError: `suite_unknown`.
    """
    if number != INTL.number:
        raise ProtocolError("suite_unknown", f"this release knows suite 1 (intl), not {number}")
    return INTL
