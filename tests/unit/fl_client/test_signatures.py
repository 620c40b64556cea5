"""Two people of different roles, over the policy as it stands, or it is not in force."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedcohort.fl_client.governance.policy import Policy
from fedcohort.fl_client.governance.signatures import (
    check_signed,
    pin,
    pinned_approvers,
    sign,
    sign_policy,
    verifies,
)
from fedcohort.privacy.errors import PolicyError

STRANGER = Ed25519PrivateKey.from_private_bytes(bytes([9]) * 32)


def code_of(act: Callable[[], object]) -> str:
    with pytest.raises(PolicyError) as error:
        act()
    return error.value.code


@pytest.fixture
def signed(hospital: Any, tmp_path: Path) -> Path:
    path = tmp_path / "policy.signatures.json"
    for number, (name, key) in enumerate(hospital.keys.items(), start=1):
        assert sign_policy(hospital.policy, name, key, path) == number
    return path


def in_force(policy: Policy, path: Path, pinned: Policy | None = None) -> tuple[str, str]:
    owner, officer = check_signed(policy, path, (pinned or policy).approvers)
    return owner.name, officer.name


def test_a_policy_with_two_signatures_is_in_force(hospital: Any, signed: Path) -> None:
    assert in_force(hospital.policy, signed) == ("zhang.w", "li.m")
    assert stat.S_IMODE(signed.stat().st_mode) == 0o600


def test_a_comment_may_change_and_no_value(hospital: Any, signed: Path) -> None:
    commented = Policy.parse("# looked at today\n" + hospital.text)
    assert in_force(commented, signed)
    edited = hospital.under(("epsilon_per_study: 3.0", "epsilon_per_study: 8.0"))
    assert code_of(lambda: in_force(edited, signed)) == "policy_unsigned"
    # The signatures of the policy before are none of this one.
    assert sign_policy(edited, "li.m", hospital.keys["li.m"], signed) == 1
    assert code_of(lambda: in_force(edited, signed)) == "policy_unsigned"


def test_one_person_is_not_two(hospital: Any, tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    assert code_of(lambda: in_force(hospital.policy, path)) == "policy_unsigned"
    for _ in range(3):
        assert sign_policy(hospital.policy, "zhang.w", hospital.keys["zhang.w"], path) == 1
    assert code_of(lambda: in_force(hospital.policy, path)) == "policy_unsigned"


def bent(path: Path, change: Callable[[list[dict[str, str]]], None]) -> None:
    document = json.loads(path.read_text())
    change(document["signatures"])
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found.pop(),
        lambda found: found.__setitem__(1, found[0]),
        lambda found: found[1].update(signature=found[0]["signature"]),
        lambda found: found[1].update(signature="00" * 64),
        lambda found: found[1].update(signature="zz"),
        lambda found: found[1].update(role="data_owner"),
        lambda found: found[1].update(name="zhang.w"),
        lambda found: found[1].update(key=found[0]["key"]),
        lambda found: found[0].update(name="li.m", role="security_officer"),
        lambda found: found[1].update(extra="x"),
        lambda found: found[1].update(role=["security_officer"]),
        lambda found: found[1].pop("role"),
    ],
)
def test_signatures_that_were_changed_do_not_count(
    hospital: Any, signed: Path, change: Callable[[list[dict[str, str]]], None]
) -> None:
    bent(signed, change)
    assert code_of(lambda: in_force(hospital.policy, signed)) == "policy_unsigned"


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"format": 1}', b"[" * 5000])
def test_a_file_of_signatures_that_cannot_be_read_signs_nothing(
    hospital: Any, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "s.json"
    path.write_bytes(content)
    assert code_of(lambda: in_force(hospital.policy, path)) == "policy_unsigned"


def test_a_person_signs_with_their_own_key(hospital: Any, tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    policy = hospital.policy
    assert code_of(lambda: sign_policy(policy, "zhang.w", STRANGER, path)) == "signer_key"
    assert code_of(lambda: sign_policy(policy, "nobody", STRANGER, path)) == "signer_unknown"
    assert not path.exists()


def replaced(hospital: Any) -> tuple[Policy, dict[str, Ed25519PrivateKey]]:
    """A policy by an insider, who named two keys of their own as the same two people."""
    keys = {name: Ed25519PrivateKey.generate() for name in hospital.keys}
    edits = [
        (hospital.keys[name].public_key().public_bytes_raw().hex(),
         key.public_key().public_bytes_raw().hex())
        for name, key in keys.items()
    ]  # fmt: skip
    return hospital.under(*edits, ("min_sites: 3", "min_sites: 1")), keys


def test_an_insider_with_two_keys_of_their_own_signs_nothing(hospital: Any, tmp_path: Path) -> None:
    path, pinned = tmp_path / "s.json", tmp_path / "approvers.json"
    for name, key in hospital.keys.items():
        sign_policy(hospital.policy, name, key, path)
    pin(hospital.policy, path, pinned)
    policy, keys = replaced(hospital)
    for name, key in keys.items():
        sign_policy(policy, name, key, path)
    assert in_force(policy, path)  # the positive control: by the policy's own list, it is signed
    check = check_signed
    assert code_of(lambda: check(policy, path, pinned_approvers(pinned))) == "policy_unsigned"
    assert code_of(lambda: pin(policy, path, pinned)) == "policy_unsigned"


def test_new_approvers_come_in_by_the_old_ones(hospital: Any, tmp_path: Path) -> None:
    path, pinned = tmp_path / "s.json", tmp_path / "approvers.json"
    for name, key in hospital.keys.items():
        sign_policy(hospital.policy, name, key, path)
    pin(hospital.policy, path, pinned)
    new = Ed25519PrivateKey.generate()
    added = f'zhang.w: "{hospital.keys["zhang.w"].public_key().public_bytes_raw().hex()}"'
    policy = hospital.under(
        (added, f'{added}, wu.x: "{new.public_key().public_bytes_raw().hex()}"')
    )
    for name, key in hospital.keys.items():
        sign_policy(policy, name, key, path)
    pin(policy, path, pinned)
    assert [one.name for one in pinned_approvers(pinned)] == ["zhang.w", "wu.x", "li.m"]
    assert stat.S_IMODE(pinned.stat().st_mode) == 0o600
    path.unlink()
    for name, key in {"wu.x": new, "li.m": hospital.keys["li.m"]}.items():
        sign_policy(policy, name, key, path)
    assert check_signed(policy, path, pinned_approvers(pinned))[0].name == "wu.x"


@pytest.mark.parametrize("content", [None, "", "{}", '{"format": "x"}', '{"approvers": 3}'])
def test_a_node_without_a_pin_trusts_nobody(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "approvers.json"
    if content is not None:
        path.write_text(content)
    assert code_of(lambda: pinned_approvers(path)) == "approvers_not_pinned"


def test_a_signature_is_good_for_one_kind_of_document(hospital: Any) -> None:
    person, body = hospital.policy.approvers[0], {"plan_sha256": "0" * 64}
    made = sign("plan", body, person, hospital.keys[person.name])
    assert verifies("plan", body, made)
    assert not verifies("policy", body, made)
    assert not verifies("plan", {**body, "said": "approve"}, made)
