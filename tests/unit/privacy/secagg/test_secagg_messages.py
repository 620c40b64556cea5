"""Messages have one encoding; whatever else arrives is refused by code, never by accident."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcohort.privacy.errors import ProtocolError
from fedcohort.privacy.secagg.messages import (
    MAX_ROUNDS,
    Acknowledge,
    Advertise,
    Commit,
    Envelope,
    Message,
    Report,
    RoundPlan,
    Share,
    ShareOf,
    Unmask,
    decode,
)
from fedcohort.privacy.secagg.roster import DOMAIN, Roster
from fedcohort.privacy.secagg.suite import INTL, Suite
from fedcohort.privacy.secagg.wire import Reader, Writer


def digest(label: str) -> bytes:
    return INTL.hash(label.encode())


PLAN = RoundPlan(
    sender=0,
    signature=bytes(64),
    transcript=digest("T0"),
    key=1,
    training_round=digest("round"),
    attempt=0,
    participants=(1, 2, 4),
    threshold=3,
    min_survivors=3,
    colluders=1,
    word_bits=64,
    size=5,
    limit=2**40,
    terms=digest("terms"),
)
EXAMPLES: list[Message] = [
    Advertise(
        sender=1,
        signature=bytes(64),
        epoch=digest("epoch"),
        roster=digest("roster"),
        channel=digest("c"),
        kem=bytes(1184),
        masks=(digest("0"), digest("1")),
        commitments=(digest("2"), digest("3")),
    ),
    Share(
        sender=2,
        signature=bytes(64),
        transcript=digest("T0"),
        envelopes=(
            Envelope(to=1, kem=bytes(1088), sealed=b"box"),
            Envelope(to=3, kem=bytes(1088), sealed=b""),
        ),
    ),
    Acknowledge(sender=3, signature=bytes(64), transcript=digest("T0"), accepted=(1, 2, 3)),
    PLAN,
    Report(sender=1, signature=bytes(64), plan=digest("H"), digest=digest("y")),
    Commit(sender=1, signature=bytes(64), plan=digest("H"), survivors=digest("S")),
    Unmask(
        sender=1,
        signature=bytes(64),
        plan=digest("H"),
        shares=(
            ShareOf(owner=1, survived=True, value=bytes(33)),
            ShareOf(owner=2, survived=False, value=b"\x01" * 33),
        ),
    ),
]
every_kind = pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: m.name.decode())


def refusal(read: Callable[[], Any]) -> str:
    with pytest.raises(ProtocolError) as refused:
        read()
    return refused.value.code


@every_kind
def test_a_message_is_read_back_as_it_was_written(message: Message) -> None:
    assert decode(type(message), message.to_bytes(INTL), INTL) == message


@every_kind
def test_a_message_cut_anywhere_is_refused(message: Message) -> None:
    data = message.to_bytes(INTL)
    for size in range(len(data)):
        assert refusal(lambda: decode(type(message), data[:size], INTL)) in {  # noqa: B023
            "message_malformed",
            "suite_mismatch",
        }


@every_kind
def test_trailing_bytes_are_refused(message: Message) -> None:
    for extra in (b"\x00", bytes(64), message.to_bytes(INTL)):
        data = message.to_bytes(INTL) + extra
        assert refusal(lambda: decode(type(message), data, INTL)) == "message_malformed"  # noqa: B023


@every_kind
def test_a_message_of_another_suite_phase_or_protocol_is_refused(message: Message) -> None:
    data = bytearray(message.to_bytes(INTL))
    suite_at, phase_at = 4 + len(DOMAIN), 5 + len(DOMAIN)
    for number in (0, 2, 255):
        data[suite_at] = number
        assert refusal(lambda: decode(type(message), bytes(data), INTL)) == "suite_mismatch"
    data[suite_at] = 1
    for number in set(range(256)) - {message.phase}:
        data[phase_at] = number
        assert refusal(lambda: decode(type(message), bytes(data), INTL)) == "phase_mismatch"
    data[phase_at] = message.phase
    data[4] ^= 1
    assert refusal(lambda: decode(type(message), bytes(data), INTL)) == "message_malformed"


@every_kind
def test_no_message_is_read_as_one_of_another_kind(message: Message) -> None:
    for other in {type(example) for example in EXAMPLES} - {type(message)}:
        code = refusal(lambda: decode(other, message.to_bytes(INTL), INTL))  # noqa: B023
        assert code == "phase_mismatch"


@every_kind
@given(data=st.data())
def test_an_edited_message_is_refused_by_code_or_read_as_exactly_what_it_says(
    message: Message, data: st.DataObject
) -> None:
    """One encoding: what can be read writes itself back byte for byte."""
    edited = bytearray(message.to_bytes(INTL))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(edited) - 1))
        edited[at] = data.draw(st.integers(0, 255))
    try:
        got = decode(type(message), bytes(edited), INTL)
    except ProtocolError:
        return
    assert got.to_bytes(INTL) == bytes(edited)


@every_kind
@given(body=st.binary(max_size=400))
def test_noise_after_a_good_header_is_refused_by_code(message: Message, body: bytes) -> None:
    header = Writer().block(DOMAIN).u8(1).u8(message.phase).done()
    try:
        got = decode(type(message), header + body, INTL)
    except ProtocolError:
        return
    assert got.to_bytes(INTL) == header + body


@given(st.binary(max_size=300), st.sampled_from(EXAMPLES))
def test_noise_is_refused_by_code(data: bytes, message: Message) -> None:
    refusal(lambda: decode(type(message), data, INTL))


@given(st.binary(max_size=300))
def test_a_noisy_roster_is_refused_by_code(data: bytes) -> None:
    refusal(lambda: Roster.from_bytes(data))
    refusal(lambda: Roster.from_bytes(Writer().block(DOMAIN).u8(1).done() + data))


def test_lengths_that_overflow_are_refused_before_anything_is_read() -> None:
    head = Writer().block(DOMAIN).u8(1)
    share = head.u8(2).u16(1).raw(bytes(32), 32).u16(1).u16(2).raw(bytes(1088), 1088)
    data = share.u32(2**32 - 1).done()
    assert refusal(lambda: decode(Share, data, INTL)) == "message_too_long"
    header = Writer().block(DOMAIN).u8(1).u8(1).u16(1).raw(bytes(96 + 1184), 96 + 1184)
    too_many = header.u16(MAX_ROUNDS + 1).done()
    assert refusal(lambda: decode(Advertise, too_many, INTL)) == "e1_7_rounds"
    none = Writer().block(DOMAIN).u8(1).u8(1).u16(1).raw(bytes(96 + 1184), 96 + 1184).u16(0).done()
    assert refusal(lambda: decode(Advertise, none, INTL)) == "e1_7_rounds"
    assert refusal(lambda: decode(Report, bytes(64 * 2**20 + 1), INTL)) == "message_too_long"
    assert refusal(lambda: Roster.from_bytes(bytes(2**20 + 1))) == "message_too_long"
    assert refusal(lambda: Reader(b"\xff\xff\xff\xff", limit=9).block(3)) == "message_too_long"
    assert refusal(lambda: Reader(b"\xff\xff", limit=9).positions()) == "message_malformed"


def test_a_flag_has_two_values() -> None:
    data = bytearray(EXAMPLES[-1].to_bytes(INTL))
    at = len(data) - 64 - 34  # the last share's flag
    assert data[at] == 0
    data[at] = 2
    assert refusal(lambda: decode(Unmask, bytes(data), INTL)) == "message_malformed"


def other(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bytes):
        return bytes([value[0] ^ 1]) + value[1:]
    if isinstance(value, tuple):
        return (*value[:-1], value[-1] + 1)
    return value + 1


PLAN_FIELDS = sorted({field.name for field in fields(RoundPlan)} - {"signature"})


@pytest.mark.parametrize("field", PLAN_FIELDS)
def test_changing_any_one_field_of_the_plan_changes_its_hash(field: str) -> None:
    changed = replace(PLAN, **{field: other(getattr(PLAN, field))})
    assert changed.sha256(INTL) != PLAN.sha256(INTL)
    assert changed.signed_over(INTL) != PLAN.signed_over(INTL)


def test_the_hash_of_a_plan_does_not_depend_on_its_signature_but_on_its_suite() -> None:
    assert replace(PLAN, signature=b"\x01" * 64).sha256(INTL) == PLAN.sha256(INTL)
    assert PLAN.sha256(Suite(number=2, name="other")) != PLAN.sha256(INTL)


def test_no_two_kinds_share_a_phase_or_a_domain() -> None:
    assert len({message.phase for message in EXAMPLES}) == len(EXAMPLES)
    assert len({message.name for message in EXAMPLES}) == len(EXAMPLES)
    assert all(b"\x00" not in message.name for message in EXAMPLES)


def test_a_field_of_the_wrong_size_is_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Writer().raw(b"", 32)
