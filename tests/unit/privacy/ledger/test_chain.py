"""The chain: whoever changes the past is found, by a hash, by a rule or by a head."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcohort import __version__
from fedcohort.privacy.errors import PolicyError
from fedcohort.privacy.ledger.chain import CHAIN_FORMAT, Chain, Entry, Head
from fedcohort.privacy.ledger.charges import Charge, Opening, Reservation
from fedcohort.privacy.ledger.statement import statement
from fedcohort.privacy.mechanism import Mechanism

Openings = Callable[..., Opening]
Requests = Callable[..., Reservation]
Charges = Callable[..., Charge]
Body = dict[str, Any]


def at(second: int) -> str:
    return f"2027-01-01T00:{second // 60:02}:{second % 60:02}.000+00:00"


def chained(asked: Iterable[tuple[str, Body]]) -> list[Entry]:
    """Hash any bodies together, as somebody could who rewrites the whole file."""
    entries: list[Entry] = []
    for kind, body in asked:
        previous = entries[-1].sha256 if entries else "0" * 64
        number = len(entries) + 1
        entries.append(
            Entry(number=number, time=at(number), kind=kind, body=body, previous=previous)
        )
    return entries


def bodies(entries: Iterable[Entry]) -> list[tuple[str, Body]]:
    return [(entry.kind, json.loads(json.dumps(entry.body))) for entry in entries]


def broken(entries: Iterable[Entry]) -> str:
    with pytest.raises(PolicyError) as refused:
        Chain.of(entries)
    assert refused.value.code == "ledger_broken"
    assert refused.value.exit_code == 3
    return str(refused.value)


@pytest.fixture(scope="module")
def story(opening_of: Openings, asked_of: Requests, charge_of: Charges) -> list[Entry]:
    """Two plans, one ended early, one refused: ten entries of every kind."""
    chain, entries = Chain(), []
    first, second = asked_of(1), asked_of(2, mechanism=Mechanism(noise_multiplier=30.0))
    greedy = asked_of(3, mechanism=Mechanism(noise_multiplier=1.0)).to_json()
    asked: list[tuple[str, Body]] = [
        ("open", opening_of().to_json()),
        ("reserve", first.to_json()),
        ("charge", charge_of(first, 0).to_json()),
        ("reserve", second.to_json()),
        ("refuse", {"asked": "reserve", "code": "budget_exceeded", "request": greedy}),
        ("charge", charge_of(second, 1).to_json()),
        ("charge", charge_of(first, 1).to_json()),
        ("charge", charge_of(first, 3).to_json()),
        ("close", {"plan_sha256": first.plan_sha256}),
        ("charge", charge_of(second, 2).to_json()),
    ]
    for number, (kind, body) in enumerate(asked, start=1):
        entry = chain.add(kind, body, at(number))
        assert entry is not None
        entries.append(entry)
    return entries


# ---- what is written is what is read


def test_a_chain_read_again_gives_the_same_book(story: list[Entry]) -> None:
    chain = Chain.of([Entry.from_text(entry.text) for entry in story])
    assert str(chain.head) == f"10:{story[-1].sha256}"
    assert [entry.body for entry in chain.refused] == [story[4].body]
    first, second = chain.book.accounts.values()
    assert (first.closed, second.closed) == (True, False)
    assert [charge.round for charge in first.charges] == [0, 1, 3]
    assert [charge.round for charge in second.charges] == [1, 2]
    order = chain.book.opening.budget.order  # type: ignore[union-attr]
    assert chain.book.spent == pytest.approx(order * (3 / 800 + 2 / 1800))
    assert chain.book.reserved == pytest.approx(order * 2 / 1800)


def test_the_canonical_text_is_this_one(story: list[Entry]) -> None:
    # A change here breaks every ledger there is.
    assert CHAIN_FORMAT == "fedcohort.ledger/1"
    assert story[8].text == (
        '{"body":{"plan_sha256":"' + "0" * 63 + '1"},"format":"fedcohort.ledger/1",'
        '"kind":"close","number":9,"previous":"'
        + story[7].sha256
        + '","software":"fedcohort '
        + __version__
        + '","time":"2027-01-01T00:00:09.000+00:00"}'
    )
    assert story[8].sha256 == hashlib.sha256(story[8].text.encode()).hexdigest()


@given(
    hospital=st.text(st.characters(codec="utf-8"), min_size=1),
    population=st.text(st.characters(codec="utf-8"), min_size=1),
)
def test_names_of_any_script_are_read_back(
    opening_of: Openings, hospital: str, population: str
) -> None:
    opening = opening_of(hospital=hospital, population=population)
    (entry,) = chained([("open", opening.to_json())])
    assert Chain.of([Entry.from_text(entry.text)]).book.opening == opening


def test_what_changes_nothing_is_no_entry(
    opening_of: Openings, asked_of: Requests, charge_of: Charges
) -> None:
    chain, asked = Chain(), asked_of()
    assert chain.add("open", opening_of().to_json(), at(1))
    assert chain.add("reserve", asked.to_json(), at(2))
    head = chain.head
    assert chain.add("reserve", asked.to_json(), at(3)) is None
    assert chain.add("close", {"plan_sha256": "f" * 64}, at(4)) is None
    with pytest.raises(PolicyError):
        chain.add("charge", charge_of(asked, 9).to_json(), at(5))
    assert chain.head == head
    assert chain.add("close", {"plan_sha256": asked.plan_sha256}, at(6))
    assert chain.add("close", {"plan_sha256": asked.plan_sha256}, at(7)) is None
    assert chain.head.number == 3


def test_a_refusal_is_kept_once_however_often_it_is_asked_for(
    opening_of: Openings, asked_of: Requests
) -> None:
    chain = Chain()
    chain.add("open", opening_of().to_json(), at(1))
    greedy = asked_of(mechanism=Mechanism(noise_multiplier=1.0)).to_json()
    refusal = {"asked": "reserve", "code": "budget_exceeded", "request": greedy}
    assert chain.add("refuse", refusal, at(2)) is not None
    for second in range(50):
        assert chain.add("refuse", refusal, at(second)) is None
    assert len(chain.refused) == 1


# ---- edits


def test_replayed_removed_and_reordered_entries_are_found(story: list[Entry]) -> None:
    for place in range(1, len(story)):
        assert "does not follow" in broken([*story[:place], story[place - 1], *story[place:]])
        swapped = [*story[: place - 1], story[place], story[place - 1], *story[place + 1 :]]
        broken(swapped)
        if place < len(story) - 1:
            assert "does not follow" in broken([*story[:place], *story[place + 1 :]])
    broken(story[1:])
    broken([])
    broken([*story, story[0]])
    broken([*story, story[-1]])


def test_an_edit_of_any_number_or_text_in_any_entry_is_found(story: list[Entry]) -> None:
    """Every leaf of every body, whatever it is changed to, without new hashes and with them."""
    random_ = random.Random(4)  # noqa: S311
    plausible = 0
    for place, entry in enumerate(story):
        for path in leaves(entry.body):
            edited = json.loads(json.dumps(entry.body))
            bend(edited, path, random_)
            told = dataclasses.replace(entry, body=edited)
            if place < len(story) - 1:  # the last one is covered by the head alone
                broken([*story[:place], told, *story[place + 1 :]])
            rewritten = bodies(story)
            rewritten[place] = (entry.kind, edited)
            forged = chained(rewritten)
            assert forged[-1].sha256 != story[-1].sha256
            with contextlib.suppress(PolicyError):
                # What no rule forbids, another purpose or clip, is found by its head.
                plausible += Chain.of(forged).head.number == len(story)
    assert plausible > 5  # it is the remembered head that finds these


def leaves(node: Any, path: tuple[Any, ...] = ()) -> Iterable[tuple[Any, ...]]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield from leaves(value, (*path, name))
    else:
        yield path


def bend(document: Body, path: tuple[Any, ...], random_: random.Random) -> None:
    node: Any = document
    for name in path[:-1]:
        node = node[name]
    value = node[path[-1]]
    choices: list[Any] = [None, -1, "bent", True, 10**6, 0.5, [], {}]
    if isinstance(value, int | float):
        choices += [value + 1, value * 2, -value]
    node[path[-1]] = random_.choice([choice for choice in choices if choice != value])


def test_whoever_computes_all_hashes_anew_still_has_to_keep_the_rules(
    story: list[Entry], opening_of: Openings, asked_of: Requests, charge_of: Charges
) -> None:
    told = bodies(story)

    def without(*places: int) -> list[tuple[str, Body]]:
        return [entry for place, entry in enumerate(told) if place not in places]

    def bent(place: int, **changes: Any) -> list[tuple[str, Body]]:
        kind, body = told[place]
        return [*told[:place], (kind, {**body, **changes}), *told[place + 1 :]]

    def further(*entries: tuple[str, Body]) -> list[tuple[str, Body]]:
        return [*told, *entries]

    assert Chain.of(chained(told)).head.number == 10
    second = asked_of(2, mechanism=Mechanism(noise_multiplier=30.0))
    less_noise = Mechanism(noise_multiplier=0.1)
    never: dict[str, list[tuple[str, Body]]] = {
        "a plan is gone, its charges are not": without(1),
        "an opening is gone": told[1:],
        "a second opening": further(("open", opening_of().to_json())),
        "a second budget": [told[0], ("open", opening_of(unnoised=True).to_json()), *told[1:]],
        "a larger limit": bent(0, budget={**told[0][1]["budget"], "limit": 5.0}),
        "another order": bent(0, budget={**told[0][1]["budget"], "order": 2}),
        "a plan that was never affordable": bent(1, releases=10**6, rounds=10**6),
        "a charge with other noise": bent(2, mechanism=charge_of(asked_of(noisy=True)).to_json()),
        "a charge without noise": bent(2, mechanism=None, releases=0),
        "a round twice": further(("charge", charge_of(second, 2).to_json())),
        "a round of the past": further(("charge", charge_of(second, 0).to_json())),
        "a round too many": further(("charge", charge_of(second, 4).to_json())),
        "a charge after the end": further(("charge", charge_of(asked_of(1), 2).to_json())),
        "a plan after its end": further(("reserve", asked_of(1).to_json())),
        "a plan twice": further(("reserve", second.to_json())),
        "the end of a plan that ended": further(("close", {"plan_sha256": "0" * 63 + "1"})),
        "the end of nobody's plan": further(("close", {"plan_sha256": "9" * 64})),
        "an end with a word too many": further(
            ("close", {"plan_sha256": second.plan_sha256, "refund": 3})
        ),
        "a refusal of what is allowed": bent(4, request=asked_of(4).to_json()),
        "a refusal for another reason": bent(4, code="plan_closed"),
        "a refusal with a word too many": bent(4, note="<script>"),
        "a refusal of nothing": bent(4, request={}),
        "a refused end": bent(4, asked="close", request={"plan_sha256": "9" * 64}),
        "a refused refusal": bent(4, asked="refuse", request=told[4][1]),
        "a refusal twice": further(told[4]),
        "less noise than was set aside": further(
            ("charge", charge_of(second, 3, mechanism=less_noise).to_json())
        ),
    }
    never |= unmaskings(told, second)
    for what, entries in never.items():
        with pytest.raises(PolicyError) as refused:
            Chain.of(chained(entries))
        assert refused.value.code == "ledger_broken", what


def unmask(asked: Reservation, number: Any, **more: Any) -> tuple[str, Body]:
    return "unmask", {"plan_sha256": asked.plan_sha256, "round": number, **more}


def unmaskings(
    told: list[tuple[str, Body]], second: Reservation
) -> dict[str, list[tuple[str, Body]]]:
    """Further entries that no honest ledger has; the second plan paid rounds 1 and 2 last."""
    first = Reservation.from_json(told[1][1])
    refused = {"asked": "unmask", "code": "sum_spent", "request": unmask(second, 1)[1]}
    return {
        "a round that was never paid": [*told, unmask(second, 0)],
        "a round behind the last one": [*told, unmask(second, 1)],
        "a round that is no number": [*told, unmask(second, 2.0)],
        "a round that is a truth": [*told, unmask(second, True)],
        "a round unmasked twice": [*told, unmask(second, 2), unmask(second, 2)],
        "an unmasking after the end": [*told, unmask(first, 3)],
        "an unmasking of nobody's plan": [*told, ("unmask", {"plan_sha256": "9" * 64, "round": 0})],
        "an unmasking with a word too many": [*told, unmask(second, 2, releases=1)],
        "an unmasking without a round": [*told, ("unmask", {"plan_sha256": second.plan_sha256})],
        "a refusal of an unmasking for another reason": [
            *told,
            ("refuse", {**refused, "code": "round_not_paid"}),
        ],
        "a refusal of an unmasking that is allowed": [
            *told,
            ("refuse", {**refused, "request": unmask(second, 2)[1]}),
        ],
    }


def test_unmaskings_are_entries_that_cost_nothing(story: list[Entry], asked_of: Requests) -> None:
    second = asked_of(2, mechanism=Mechanism(noise_multiplier=30.0))
    refused = {"asked": "unmask", "code": "sum_spent", "request": unmask(second, 1)[1]}
    told = [*bodies(story), unmask(second, 2), ("refuse", refused)]
    before, after = Chain.of(story), Chain.of(chained(told))
    assert after.head.number == 12
    assert after.book.accounts[second.plan_sha256].unmasked == [2]
    for name in ("spent", "reserved", "left", "unnoised"):
        assert getattr(after.book, name) == getattr(before.book, name)
    # The statement says the same of every plan: an unmasking is no release.
    assert statement(chained(told))["plans"] == statement(story)["plans"]
    assert [one["code"] for one in statement(chained(told))["refused"]][-1] == "sum_spent"


def test_the_canonical_text_of_an_unmasking_is_this_one(
    story: list[Entry], asked_of: Requests
) -> None:
    # A change here breaks every ledger that has one.
    second = asked_of(2, mechanism=Mechanism(noise_multiplier=30.0))
    entry = chained([*bodies(story), unmask(second, 2)])[-1]
    assert entry.text == (
        '{"body":{"plan_sha256":"' + "0" * 63 + '2","round":2},"format":"fedcohort.ledger/1",'
        '"kind":"unmask","number":11,"previous":"'
        + entry.previous
        + '","software":"fedcohort '
        + __version__
        + '","time":"2027-01-01T00:00:11.000+00:00"}'
    )
    assert Entry.from_text(entry.text) == entry


def test_a_smaller_plan_all_through_the_past_breaks_no_rule_and_has_another_head(
    story: list[Entry],
) -> None:
    """What is left to the head: with more noise in the plan and in its charges, all is in order."""
    told = bodies(story)
    for kind, body in told:
        if kind in ("reserve", "charge") and body["plan_sha256"].endswith("1"):
            body["mechanism"]["noise_multiplier"] = 4000.0
    forged = Chain.of(chained(told))
    assert forged.book.spent < Chain.of(story).book.spent
    assert forged.head.sha256 != story[-1].sha256


@pytest.mark.parametrize("numbers", [(1, 3), (1, 1), (0, 1), (2, 3), (1, 2, 4)])
def test_entries_are_numbered_from_one_without_gaps(
    story: list[Entry], numbers: tuple[int, ...]
) -> None:
    # A number in a head says how many entries there were.
    entries: list[Entry] = []
    for number, entry in zip(numbers, story, strict=False):
        previous = entries[-1].sha256 if entries else "0" * 64
        entries.append(dataclasses.replace(entry, number=number, previous=previous))
    assert "does not follow" in broken(entries)


MECHANISM = Mechanism(noise_multiplier=20.0)


@pytest.mark.parametrize(
    "mechanism",
    [
        {"family": "skellam", "noise_multiplier": 20.0, "sampling_probability": 1.0},
        {"family": "sampled_gaussian", "noise_multiplier": 20.0, "sampling_probability": 1.0},
        {"family": "discrete_gaussian", "noise_multiplier": 20.0, "sampling_probability": 0.5},
        {"family": "discrete_gaussian", "noise_multiplier": "20", "sampling_probability": 1.0},
        {"family": "discrete_gaussian", "noise_multiplier": 0.0, "sampling_probability": 1.0},
        {"family": "discrete_gaussian", "noise_multiplier": -20.0, "sampling_probability": 1.0},
        {"family": "discrete_gaussian", "noise_multiplier": 1e999, "sampling_probability": 1.0},
        {"family": "sampled_gaussian", "noise_multiplier": 20.0, "sampling_probability": 0.0},
        {"family": "sampled_gaussian", "noise_multiplier": 20.0, "sampling_probability": 1.5},
        {"family": "discrete_gaussian", "noise_multiplier": 20.0},
        {
            "family": "discrete_gaussian",
            "noise_multiplier": 20.0,
            "sampling_probability": 1.0,
            "amplified_by": 10,
        },
        {"class": "os.system", "noise_multiplier": 20.0, "sampling_probability": 1.0},
        {},
        [],
        "discrete_gaussian",
        0,
        False,
    ],
)
def test_a_mechanism_that_is_not_known_is_refused_and_never_guessed(
    opening_of: Openings, asked_of: Requests, charge_of: Charges, mechanism: Any
) -> None:
    asked = asked_of(mechanism=MECHANISM)
    told = [("open", opening_of().to_json()), ("reserve", asked.to_json())]
    told.append(("charge", charge_of(asked).to_json()))
    assert Chain.of(chained(told)).head.number == 3
    for place in (1, 2):
        kind, body = told[place]
        broken(chained([*told[:place], (kind, {**body, "mechanism": mechanism})]))


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_numbers_that_are_none_are_found_in_an_entry(
    opening_of: Openings, asked_of: Requests, text: str
) -> None:
    entries = chained([("open", opening_of().to_json()), ("reserve", asked_of().to_json())])
    bent = entries[1].text.replace('"clip":1.0', f'"clip":{text}')
    assert bent != entries[1].text
    with pytest.raises(PolicyError) as refused:
        Chain.of([entries[0], Entry.from_text(bent)])
    assert refused.value.code == "ledger_broken"


# ---- texts


def spoilt(text: str) -> dict[str, Any]:
    """Texts that say the same or nearly, and are not the canonical one."""
    document = json.loads(text)

    def bent(**changes: Any) -> str:
        return json.dumps(
            {**document, **changes}, sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )

    return {
        "spaces": json.dumps(document, sort_keys=True),
        "order": json.dumps(document, separators=(",", ":"))[::1].replace("{", "{ ", 1),
        "a key twice": text[:-1] + ',"time":' + json.dumps(document["time"]) + "}",
        "another format": bent(format="fedcohort.ledger/2"),
        "a field more": bent(note=""),
        "a field less": json.dumps({k: v for k, v in document.items() if k != "time"}),
        "a kind of no meaning": bent(kind="renew"),
        "a number in words": bent(number=str(document["number"])),
        "no software": bent(software=None),
        "a number that is a truth": bent(number=True),
        "a fraction": bent(number=float(document["number"])),
        "a time of no meaning": bent(time="yesterday"),
        "a time in numbers": bent(time=12),
        "a list": bent(body=[]),
        "no body": bent(body=None),
        "half a character": bent(time="\ud800"),
        "not JSON": text + "}",
        "nothing": "",
        "null": "null",
        "a tower": "[" * 100_000,
        "bytes": text.encode(),
        "no text": None,
        "a number of ten thousand digits": text.replace('"number":2', '"number":2' + "0" * 10_000),
    }


@pytest.mark.parametrize("what", spoilt('{"number":2,"time":""}'))
def test_a_text_that_is_not_the_canonical_one_is_refused(story: list[Entry], what: str) -> None:
    assert Entry.from_text(story[1].text) == story[1]
    with pytest.raises(PolicyError) as refused:
        Entry.from_text(spoilt(story[1].text)[what])
    assert refused.value.code == "ledger_broken"


@given(
    st.text()
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ).map(json.dumps)
)
def test_no_text_makes_anything_but_an_entry_or_a_refusal(text: str) -> None:
    with pytest.raises(PolicyError):
        Entry.from_text(text)


@given(
    kind=st.sampled_from(["open", "reserve", "charge", "unmask", "close", "refuse"]),
    body=st.dictionaries(
        st.sampled_from(
            ["plan_sha256", "round", "releases", "mechanism", "asked", "code", "request", "budget"]
        ),
        st.none()
        | st.integers(-2, 3)
        | st.sampled_from(["", "reserve", "charge", "unmask", "0" * 64])
        | st.lists(st.integers(), max_size=1)
        | st.just({"plan_sha256": []}),
    ),
)
def test_no_body_makes_anything_but_an_entry_or_a_refusal(
    story: list[Entry], kind: str, body: Body
) -> None:
    with pytest.raises(PolicyError) as refused:
        Chain.of([*story, *chained([*bodies(story), (kind, body)])[-1:]])
    assert refused.value.code == "ledger_broken"


# ---- heads


def test_a_head_is_read_back(story: list[Entry]) -> None:
    head = Chain.of(story).head
    assert Head.parse(str(head)) == Head.parse(f" {head}\n") == head


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "1",
        "1:",
        "1:" + "0" * 63,
        "1:" + "0" * 65,
        "1:" + "G" * 64,
        "1:" + "A" * 64,
        "-1:" + "0" * 64,
        "1.0:" + "0" * 64,
        "x:" + "0" * 64,
        "\u0661:" + "0" * 64,  # a digit elsewhere
        "²:" + "0" * 64,
        "9" * 5000 + ":" + "0" * 64,  # a number that Python refuses to read
        "9" * 30 + ":" + "0" * 64,  # and one that SQLite does
        "1:" + "0" * 64 + " and more",
        "1:" + "0" * 64 + "\n2:" + "0" * 64,
    ],
)
def test_a_head_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(PolicyError) as refused:
        Head.parse(text)
    assert refused.value.code == "head_unreadable"


# ---- time


def test_a_ledger_of_210_mixed_entries_is_read_in_work_that_grows_with_its_length_alone(
    opening_of: Openings,
    asked_of: Requests,
    charge_of: Charges,
    calls_in: Callable[[Callable[[], object]], int],
) -> None:
    """A hospital's year: three trainings, two of them sampled, and forty counts.

    Work is counted in calls; `make bench-ledger` holds the seconds against its bar.
    """
    from fedcohort.privacy.budget import Budget

    trainings = [
        (Mechanism(noise_multiplier=2.0, sampling_probability=0.05), 400),
        (Mechanism(noise_multiplier=3.0, sampling_probability=0.1), 200),
        (Mechanism(noise_multiplier=25.0), 20),
    ]
    counts = [(Mechanism(noise_multiplier=20.0 + number / 100), 1) for number in range(40)]
    told = [("open", opening_of(budget=Budget(epsilon=6.0, delta=1e-5)).to_json())]
    for number, (mechanism, releases) in enumerate(trainings + counts):
        asked = asked_of(number, mechanism=mechanism, releases=releases, rounds=releases)
        rounds = min(releases, 40)
        each = releases // rounds
        told.append(("reserve", asked.to_json()))
        told += [("charge", charge_of(asked, n, releases=each).to_json()) for n in range(rounds)]
        told.append(("close", {"plan_sha256": asked.plan_sha256}))
    entries = chained(told)
    assert len(entries) >= 210
    texts = [entry.text for entry in entries]

    def read(most: int) -> Chain:
        return Chain.of([Entry.from_text(text) for text in texts[:most]])

    assert read(len(texts)).head == Head(entries[-1].number, entries[-1].sha256)
    half, whole = (calls_in(lambda most=most: read(most)) for most in (105, 210))  # type: ignore[misc]
    assert whole < 5 * half
    assert whole < 100_000  # 28,000 as measured
    kept = [Entry.from_text(text) for text in texts]
    assert statement(kept)["chain"]["head"] == str(read(len(texts)).head)
    assert calls_in(lambda: statement(kept)) < 1_000_000  # 41,000 as measured; more when cold
