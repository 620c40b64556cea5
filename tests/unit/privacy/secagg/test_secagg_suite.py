"""The primitives give the answers of their standards, and refuse what is not theirs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cryptography_vectors
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from fedcohort.privacy.errors import ProtocolError
from fedcohort.privacy.secagg import suite as suite_module
from fedcohort.privacy.secagg.suite import BLOCK_BYTES, INTL, suite_of

P25519 = 2**255 - 19
L25519 = 2**252 + 27742317777372353535851937790883648493  # order of Ed25519's base point


def records(path: str) -> Iterator[dict[str, str]]:
    """Read `NAME = value` blocks; a block ends at an empty line."""
    found: dict[str, str] = {}
    with cryptography_vectors.open_vector_file(path, "r") as file:
        for line in [*file, ""]:
            name, sign, value = line.partition("=")
            if sign and not line.startswith("#"):
                found[name.strip().strip("[").lower()] = value.strip().strip("]")
            elif not line.strip() and found:
                yield found
                found = {}


def unhex(value: str) -> bytes:
    return bytes.fromhex(value)


# ---- known answers ---------------------------------------------------------------------


def test_x25519_gives_the_answers_of_rfc_7748_section_5_2() -> None:
    cases = [r for r in records("asymmetric/X25519/rfc7748.txt") if r.get("output_u")]
    assert len(cases) >= 3
    for case in cases[:2]:  # 5.2, the single multiplications
        private, public = unhex(case["input_scalar"]), unhex(case["input_u"])
        assert INTL.agree(private, public) == unhex(case["output_u"])


def test_x25519_iterated_a_thousand_times_gives_the_answer_of_rfc_7748() -> None:
    k = u = (9).to_bytes(32, "little")
    answers = {}
    for count in range(1, 1001):
        k, u = INTL.agree(k, u), k
        answers[count] = k.hex()
    assert answers[1] == "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
    assert answers[1000] == "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"


def test_x25519_agrees_as_bob_with_alice_in_rfc_7748_section_6_1() -> None:
    bob = unhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    alice = unhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
    assert INTL.agreement_public(bob).hex() == (
        "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    )
    assert INTL.agree(bob, alice).hex() == (
        "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    )


def test_ed25519_signs_and_verifies_the_thousand_of_sign_input() -> None:
    """RFC 8032 section 7.1 refers to them; every tenth, the short ones of the RFC first."""
    with cryptography_vectors.open_vector_file("asymmetric/Ed25519/sign.input", "r") as file:
        lines = file.read().splitlines()
    assert len(lines) == 1024
    for line in [*lines[:4], *lines[10::10]]:
        secret, public, message, signed, _ = line.split(":")
        key = Ed25519PrivateKey.from_private_bytes(unhex(secret)[:32])
        assert key.public_key().public_bytes_raw() == unhex(public)
        assert INTL.sign(key, unhex(message)) == unhex(signed)[:64]
        assert INTL.verifies(unhex(public), unhex(signed)[:64], unhex(message))
        assert not INTL.verifies(unhex(public), unhex(signed)[:64], unhex(message) + b"\x00")


def test_hkdf_gives_the_first_32_bytes_of_rfc_5869() -> None:
    fields: dict[str, list[str]] = {}
    for record in records("KDF/rfc-5869-HKDF-SHA256.txt"):
        for name, value in record.items():
            fields.setdefault(name, []).append(value)
    names = ("ikm", "salt", "info", "okm")
    assert all(len(fields[name]) == 3 for name in names)
    for values in zip(*(fields[name] for name in names), strict=True):
        case = dict(zip(names, values, strict=True))
        got = INTL.derive(unhex(case["ikm"]), salt=unhex(case["salt"]), info=unhex(case["info"]))
        assert got == unhex(case["okm"])[:32]


# NIST SP 800-38A, F.5.5 (CTR-AES256.Encrypt); the package of vectors holds RFC 3686's only.
SP_800_38A_KEY = "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4"
SP_800_38A_COUNTER = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"
SP_800_38A_PLAIN = (
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
)
SP_800_38A_CIPHER = (
    "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
    "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
)


def started_at(counter: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let our stream start at a standard's counter instead of zero."""
    INTL.add_stream(np.zeros(1, dtype=np.uint32), bytes(32), 1)  # the library has met the mode

    class Modes:
        @staticmethod
        def CTR(_: bytes) -> modes.CTR:  # noqa: N802 - stands in for the library's name
            return modes.CTR(counter)

    monkeypatch.setattr(suite_module, "modes", Modes)


def ctr_cases() -> list[tuple[str, str, str, str]]:
    """(key, counter, plaintext, ciphertext) of SP 800-38A F.5.5 and RFC 3686."""
    found = [(SP_800_38A_KEY, SP_800_38A_COUNTER, SP_800_38A_PLAIN, SP_800_38A_CIPHER)]
    for case in records("ciphers/AES/CTR/aes-256-ctr.txt"):
        if "ciphertext" in case:
            found.append((case["key"], case["iv"], case["plaintext"], case["ciphertext"]))
    return found


@pytest.mark.parametrize("case", range(4))
@pytest.mark.parametrize("width", [np.uint32, np.uint64])
def test_the_mask_stream_is_aes_256_ctr_of_the_standard(
    case: int, width: type[np.uint32] | type[np.uint64], monkeypatch: pytest.MonkeyPatch
) -> None:
    key, counter, plain, cipher = (unhex(part) for part in ctr_cases()[case])
    started_at(counter, monkeypatch)
    words: Any = np.zeros(-(-len(plain) // np.dtype(width).itemsize), dtype=width)
    INTL.add_stream(words, key, 1)
    stream = words.astype(words.dtype.newbyteorder("<")).tobytes()
    assert bytes(a ^ b for a, b in zip(plain, stream, strict=False)) == cipher


def test_the_mask_stream_starts_at_counter_zero() -> None:
    words = np.zeros(8, dtype=np.uint64)
    INTL.add_stream(words, bytes(range(32)), 1)
    blocks = b"".join(number.to_bytes(16, "big") for number in range(4))
    ecb = Cipher(algorithms.AES(bytes(range(32))), modes.ECB()).encryptor()  # noqa: S305
    assert words.astype("<u8").tobytes() == ecb.update(blocks)


def test_envelopes_are_aes_256_gcm() -> None:
    """NIST's cases of a 96-bit zero IV: those are the ones our single-use keys can meet."""
    tried = 0
    for case in records("ciphers/AES/GCM/gcmEncryptExtIV256.rsp"):
        if not {"key", "iv", "pt", "aad", "ct", "tag"} <= set(case) or len(case["tag"]) != 32:
            continue
        if len(case["iv"]) != 24:
            continue
        tried += 1
        nonce = unhex(case["iv"])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(suite_module, "_NONCE", nonce)
            sealed = INTL.seal(unhex(case["key"]), unhex(case["pt"]), data=unhex(case["aad"]))
            assert sealed == unhex(case["ct"]) + unhex(case["tag"])
            opened = INTL.open(unhex(case["key"]), sealed, data=unhex(case["aad"]))
            assert opened == unhex(case["pt"])
    assert tried > 100


def test_ml_kem_768_gives_the_answers_of_fips_203() -> None:
    with cryptography_vectors.open_vector_file("asymmetric/MLKEM/kat_MLKEM_768.rsp", "r") as file:
        text = file.read()
    cases = [
        dict(line.split(" = ") for line in block.splitlines() if " = " in line)
        for block in text.split("count = ")[1:]
    ]
    assert len(cases) >= 25
    for case in cases[:25]:
        # `ct_n` is a broken ciphertext: FIPS 203 answers it with a secret of its own.
        assert len(case["ct"]) == 2 * 1088
        seed = unhex(case["d"]) + unhex(case["z"])
        assert INTL.kem_public(seed) == unhex(case["pk"])
        assert INTL.decapsulate(seed, unhex(case["ct"])) == unhex(case["ss"])


# ---- edits -----------------------------------------------------------------------------

LOW_ORDER = {
    "0": 0,
    "1": 1,
    "p-1": P25519 - 1,
    "order 8": 325606250916557431795983626356110631294008115727848805560023387167927233504,
    "order 8'": 39382357235489614581723060781553021112529911719440698176882885853963445705823,
}


@pytest.mark.parametrize("name", LOW_ORDER)
def test_a_point_of_low_order_is_refused_at_the_door_and_again_in_the_agreement(name: str) -> None:
    point = LOW_ORDER[name].to_bytes(32, "little")
    good = INTL.kem_public(bytes(64))
    with pytest.raises(ProtocolError) as refused:
        INTL.check_keys([point], good)
    assert refused.value.code == "low_order_key"
    with pytest.raises(ProtocolError) as refused:
        INTL.agree(bytes(range(32)), point)
    assert refused.value.code == "low_order_key"


@given(st.integers(0, 2**255 - 1))
def test_every_point_that_the_agreement_refuses_is_on_our_list(number: int) -> None:
    point = number.to_bytes(32, "little")
    try:
        INTL.check_keys([point], INTL.kem_public(bytes(64)))
    except ProtocolError:
        return
    INTL.agree(bytes(range(32)), point)


@pytest.mark.parametrize("number", [P25519, P25519 + 1, P25519 + 9, 9 | 1 << 255, 2**256 - 1])
def test_a_second_name_of_a_point_is_refused(number: int) -> None:
    point = number.to_bytes(32, "little")
    with pytest.raises(ProtocolError) as refused:
        INTL.check_keys([point], INTL.kem_public(bytes(64)))
    assert refused.value.code == "key_not_canonical"


def test_two_names_of_one_point_would_agree_alike() -> None:
    """The positive control: without the check, rule 5 (no key twice) could be walked around."""
    one, other = (9).to_bytes(32, "little"), (9 | 1 << 255).to_bytes(32, "little")
    assert one != other
    assert INTL.agree(bytes(range(32)), one) == INTL.agree(bytes(range(32)), other)


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_an_x25519_key_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(ProtocolError):
        INTL.agree(bytes(range(32)), bytes([9] * size))


def test_a_signature_has_one_form() -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    public = key.public_key().public_bytes_raw()
    good = INTL.sign(key, b"fedsa/1/commit\x00")
    assert INTL.verifies(public, good, b"fedsa/1/commit\x00")
    larger = int.from_bytes(good[32:], "little") + L25519
    malleable = good[:32] + larger.to_bytes(32, "little")
    assert not INTL.verifies(public, malleable, b"fedsa/1/commit\x00")
    for size in (0, 1, 32, 63, 65):
        assert not INTL.verifies(public, (good * 2)[:size], b"fedsa/1/commit\x00")
    assert not INTL.verifies(public, good, b"fedsa/1/report\x00")
    assert not INTL.verifies(public[:-1], good, b"fedsa/1/commit\x00")
    assert not INTL.verifies(bytes(32), good, b"fedsa/1/commit\x00")


@given(st.integers(0, 511), st.binary(max_size=8))
def test_no_edited_signature_verifies(bit: int, message: bytes) -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    signature = bytearray(INTL.sign(key, message))
    signature[bit // 8] ^= 1 << bit % 8
    assert not INTL.verifies(key.public_key().public_bytes_raw(), bytes(signature), message)


@given(st.binary(max_size=100), st.binary(max_size=20), st.data())
def test_an_edited_envelope_does_not_open(plain: bytes, data: bytes, draw: st.DataObject) -> None:
    key = bytes(range(32))
    sealed = bytearray(INTL.seal(key, plain, data=data))
    assert INTL.open(key, bytes(sealed), data=data) == plain
    wrong = [
        (key, bytes(sealed[:-1]), data),
        (key, bytes(sealed) + b"\x00", data),
        (key, bytes(sealed), data + b"\x00"),
        (bytes(32), bytes(sealed), data),
        (key, b"", data),
    ]
    bit = draw.draw(st.integers(0, 8 * len(sealed) - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    wrong.append((key, bytes(sealed), data))
    for other_key, ciphertext, associated in wrong:
        with pytest.raises(ProtocolError) as refused:
            INTL.open(other_key, ciphertext, data=associated)
        assert refused.value.code == "envelope_broken"


@given(st.integers(0, 8 * 1088 - 1))
def test_an_edited_kem_ciphertext_gives_another_secret(bit: int) -> None:
    seed = bytes(range(64))
    secret, ciphertext = INTL.encapsulate(INTL.kem_public(seed))
    assert INTL.decapsulate(seed, ciphertext) == secret
    edited = bytearray(ciphertext)
    edited[bit // 8] ^= 1 << bit % 8
    assert INTL.decapsulate(seed, bytes(edited)) != secret


def test_malformed_kem_keys_and_ciphertexts_are_refused_by_code() -> None:
    good = MLKEM768PrivateKey.from_seed_bytes(bytes(64)).public_key().public_bytes_raw()
    for broken in (good[:-1], good + b"\x00", b"", b"\xff" * 1184):
        with pytest.raises(ProtocolError) as refused:
            INTL.encapsulate(broken)
        assert refused.value.code == "kem_key_broken"
        with pytest.raises(ProtocolError) as refused:
            INTL.check_keys([], broken)
        assert refused.value.code == "kem_key_broken"
    for size in (0, 1087, 1089):
        with pytest.raises(ProtocolError) as refused:
            INTL.decapsulate(bytes(64), bytes(size))
        assert refused.value.code == "kem_ciphertext_broken"


def test_there_is_one_suite_and_no_other() -> None:
    assert suite_of(1) is INTL
    for number in (0, 2, 255):
        with pytest.raises(ProtocolError) as refused:
            suite_of(number)
        assert refused.value.code == "suite_unknown"


# ---- the mask stream -------------------------------------------------------------------

KEYS = st.binary(min_size=32, max_size=32)


def keystream(key: bytes, size: int) -> bytes:
    """The naive one: the whole stream at once."""
    return Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(size))


@given(KEYS, st.sampled_from([np.uint32, np.uint64]), st.integers(0, 400), st.integers(1, 8))
def test_the_stream_does_not_depend_on_the_block(
    key: bytes, width: type[np.uint32] | type[np.uint64], size: int, blocks: int
) -> None:
    naive = np.frombuffer(keystream(key, 400 * 8), dtype=np.dtype(width).newbyteorder("<"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suite_module, "BLOCK_BYTES", 16 * blocks)
        patch.setattr(suite_module, "_ZEROS", bytes(16 * blocks))
        words: Any = np.zeros(size, dtype=width)
        INTL.add_stream(words, key, 1)
    assert (words == naive[:size]).all()


@pytest.mark.parametrize("width", [np.uint32, np.uint64])
@pytest.mark.parametrize("extra", [-1, 0, 1, 12_345])
def test_the_stream_is_the_naive_one_over_several_real_blocks(
    width: type[np.uint32] | type[np.uint64], extra: int
) -> None:
    size = 2 * BLOCK_BYTES // np.dtype(width).itemsize + extra
    start: Any = np.random.default_rng(1).integers(0, 2**32, size).astype(width)
    naive = np.frombuffer(keystream(bytes(range(32)), size * start.itemsize), dtype=start.dtype)
    for sign, whole in ((1, start + naive), (-1, start - naive)):
        words = start.copy()
        INTL.add_stream(words, bytes(range(32)), sign)
        assert (words == whole).all()


@given(KEYS, st.sampled_from([np.uint32, np.uint64]), st.lists(st.integers(0, 2**32 - 1)))
def test_a_stream_added_and_taken_off_leaves_nothing(
    key: bytes, width: type[np.uint32] | type[np.uint64], values: list[int]
) -> None:
    start: Any = np.array(values, dtype=width)
    words = start.copy()
    INTL.add_stream(words, key, 1)
    INTL.add_stream(words, key, -1)
    assert (words == start).all()


@given(
    st.lists(st.tuples(KEYS, st.sampled_from([1, -1])), max_size=9),
    st.lists(st.integers(0, 16), min_size=1, max_size=5),
)
def test_many_streams_block_by_block_are_the_streams_one_by_one(
    streams: list[tuple[bytes, int]], blocks: list[int]
) -> None:
    """Blocks of whole cipher blocks, but for the last: four words of 32 bits each."""
    size = 4 * sum(blocks)
    together, one_by_one = np.zeros(size, dtype=np.uint32), np.zeros(size, dtype=np.uint32)
    add = INTL.streams(streams, together.dtype)
    at = 0
    for count in blocks:
        add(together[at : at + 4 * count])
        at += 4 * count
    for key, sign in reversed(streams):
        INTL.add_stream(one_by_one, key, sign)
    assert (together == one_by_one).all()
