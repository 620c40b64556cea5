"""A run is known by its coordinator's signature, under one bundle and one plan."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedcohort.study.submission import sign_submission, submission_message, verify_submission

BUNDLE, PLAN, OTHER = "ab" * 32, "cd" * 32, "ef" * 32
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
SIGNED = sign_submission(KEY, BUNDLE, PLAN)


def test_it_is_over_the_bundle_and_the_plan_in_that_order() -> None:
    message = b"fedcohort.submission/1\0" + bytes.fromhex(BUNDLE) + bytes.fromhex(PLAN)
    assert submission_message(BUNDLE, PLAN) == message
    assert verify_submission(PUBLIC, SIGNED, BUNDLE, PLAN)


@pytest.mark.parametrize(
    ("public", "signature", "bundle", "plan"),
    [
        (PUBLIC, SIGNED, OTHER, PLAN),
        (PUBLIC, SIGNED, BUNDLE, OTHER),
        (PUBLIC, SIGNED, PLAN, BUNDLE),
        (bytes(32), SIGNED, BUNDLE, PLAN),
        (b"", SIGNED, BUNDLE, PLAN),
        (PUBLIC, "", BUNDLE, PLAN),
        (PUBLIC, "zz", BUNDLE, PLAN),
        (PUBLIC, SIGNED[:-2], BUNDLE, PLAN),
        (PUBLIC, SIGNED, BUNDLE, PLAN[:-2]),
        (PUBLIC, SIGNED, BUNDLE, ""),
    ],
)
def test_anything_else_is_not_signed(public: bytes, signature: str, bundle: str, plan: str) -> None:
    assert not verify_submission(public, signature, bundle, plan)
