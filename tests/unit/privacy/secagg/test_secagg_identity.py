"""Identity files: one key, one owner, never overwritten."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from fedcohort.privacy.errors import PolicyError
from fedcohort.privacy.secagg.identity import create_identity, load_identity


def code_of(path: Path) -> str:
    with pytest.raises(PolicyError) as refused:
        load_identity(path)
    text = str(refused.value) + refused.value.hint
    assert "PRIVATE" not in text
    return refused.value.code


def test_a_key_is_read_back_from_a_file_of_mode_0600(tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    before = os.umask(0)
    try:
        made = create_identity(path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_identity(path).private_bytes_raw() == made.private_bytes_raw()


def test_a_key_is_never_overwritten_nor_written_through_a_link(tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    create_identity(path)
    before = path.read_bytes()
    link = tmp_path / "link.pem"
    link.symlink_to(tmp_path / "elsewhere.pem")
    for target in (path, link):
        with pytest.raises(PolicyError) as refused:
            create_identity(target)
        assert refused.value.code == "identity_exists"
    assert path.read_bytes() == before
    assert not (tmp_path / "elsewhere.pem").exists()


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o644, 0o660, 0o666, 0o601, 0o610])
def test_a_key_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "identity.pem"
    create_identity(path)
    path.chmod(mode)
    assert code_of(path) == "identity_mode"
    path.chmod(0o400)
    load_identity(path)


def test_a_missing_or_broken_file_is_refused_by_code(tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    assert code_of(path) == "identity_missing"
    for content in (
        b"",
        b"\xff\x00",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    ):
        path.write_bytes(content)
        path.chmod(0o600)
        assert code_of(path) == "identity_broken"


def test_a_key_of_another_kind_or_behind_a_password_is_refused_by_code(tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    path.touch(mode=0o600)
    other = X25519PrivateKey.generate()
    path.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert code_of(path) == "identity_broken"
    locked = BestAvailableEncryption(b"password")
    key = Ed25519PrivateKey.generate()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))
    assert code_of(path) == "identity_broken"
