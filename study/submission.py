"""A submission: the coordinator signs which plan its run is of, and under which bundle.

Flower's Control API asks nobody who they are; a site does. The signature is by the identity that
the site's members put into the roster, so a run that anybody else starts is told from one of ours.

The signature names neither a run nor a time: Flower numbers a run only after it was signed for,
and a coordinator that comes back signs the same plan again. Whoever holds the SuperLink can
therefore start a run of an old plan. That buys nothing: a site answers a plan's rounds once and
in order, pays for each once, answers no plan after its last day, and counts messages (`limits` in
its policy).
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ..privacy.secagg.suite import INTL

__all__ = ["sign_submission", "submission_message", "verify_submission"]

_DOMAIN = b"fedcohort.submission/1\x00"
_HASH_BYTES = 32


def submission_message(bundle_sha256: str, plan_sha256: str) -> bytes:
    """Return what is signed.

    Args:
        bundle_sha256: The release's bundle, 64 hex digits.
        plan_sha256: The plan, 64 hex digits.

    Raises:
        ValueError: One of them is no hash.

    >>> len(submission_message("ab" * 32, "cd" * 32))
    87
    """
    hashes = [bytes.fromhex(text) for text in (bundle_sha256, plan_sha256)]
    if [len(found) for found in hashes] != [_HASH_BYTES, _HASH_BYTES]:
        raise ValueError("a submission is of two SHA-256 hashes, in hex")
    return _DOMAIN + b"".join(hashes)


def sign_submission(identity: Ed25519PrivateKey, bundle_sha256: str, plan_sha256: str) -> str:
    """Return the signature of the coordinator, hex."""
    return INTL.sign(identity, submission_message(bundle_sha256, plan_sha256)).hex()


def verify_submission(
    public: bytes, signature_hex: str, bundle_sha256: str, plan_sha256: str
) -> bool:
    """Whether the holder of `public` signed this plan under this bundle; any text may come in.

    Args:
        public: The coordinator's Ed25519 key, as the roster has it.
        signature_hex: As it came with the run.
        bundle_sha256: Of the bundle that came with the run.
        plan_sha256: Of the plan that the run names.
    """
    try:
        message = submission_message(bundle_sha256, plan_sha256)
        return INTL.verifies(public, bytes.fromhex(signature_hex), message)
    except ValueError:
        return False
