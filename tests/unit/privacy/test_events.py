"""A file of events says what it means, costs what it did before, and can name no code."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

import pytest
from dp_accounting import dp_event
from hypothesis import given
from hypothesis import strategies as st

from fedcohort.privacy import events as events_module
from fedcohort.privacy.errors import ConfigError, FedCohortError, PolicyError
from fedcohort.privacy.events import (
    ALLOWED,
    MAX_BYTES,
    MAX_COUNT,
    MAX_DEPTH,
    flatten,
    from_json,
    read_events,
    to_json,
    write_events,
)
from fedcohort.privacy.pld import price

GAUSSIAN = {"class_name": "GaussianDpEvent", "noise_multiplier": 2.0}

NOISE = st.floats(1e-4, 1e6)
MECHANISMS = st.one_of(
    st.builds(dp_event.GaussianDpEvent, NOISE),
    st.builds(dp_event.LaplaceDpEvent, NOISE),
    st.builds(dp_event.DiscreteLaplaceDpEvent, st.floats(1e-3, 1e3), st.integers(1, 10**5)),
    st.builds(dp_event.ZCDpEvent, st.floats(0, 1e12), st.floats(0, 1e12)),
    st.builds(dp_event.NoOpDpEvent),
    st.builds(
        dp_event.PoissonSampledDpEvent,
        st.floats(1e-6, 1.0),
        st.one_of(
            st.builds(dp_event.GaussianDpEvent, NOISE), st.builds(dp_event.LaplaceDpEvent, NOISE)
        ),
    ),
)
EVENTS = st.recursive(
    MECHANISMS,
    lambda inner: st.one_of(
        st.builds(dp_event.SelfComposedDpEvent, inner, st.integers(0, MAX_COUNT)),
        st.builds(dp_event.ComposedDpEvent, st.lists(inner, max_size=3)),
    ),
    max_leaves=5,
)


def refused(text: str | bytes) -> FedCohortError:
    with pytest.raises(FedCohortError) as found:
        read_events(text)
    assert found.value.hint
    return found.value


# ---- line 10: written, read, the same


@given(st.lists(EVENTS, max_size=4))
def test_what_is_written_is_read_again_to_the_last_bit(listed: list[dp_event.DpEvent]) -> None:
    text = write_events(listed)
    assert read_events(text) == dp_event.ComposedDpEvent(listed)
    assert write_events([read_events(text)]) == write_events([dp_event.ComposedDpEvent(listed)])


def test_a_read_ledger_costs_what_the_written_one_did() -> None:
    year = [
        dp_event.SelfComposedDpEvent(
            dp_event.PoissonSampledDpEvent(0.05, dp_event.GaussianDpEvent(2.0)), 100
        ),
        dp_event.SelfComposedDpEvent(dp_event.GaussianDpEvent(20.0), 40),
        dp_event.LaplaceDpEvent(30.0),
    ]
    before = price(dp_event.ComposedDpEvent(year), 1e-5).epsilon
    sys.modules["fedcohort.privacy.pld"]._price.cache_clear()  # computed anew, not remembered
    after = price(read_events(write_events(year)), 1e-5).epsilon
    assert after == pytest.approx(before, rel=1e-12)


def test_one_event_is_a_list_of_one_and_bytes_are_text() -> None:
    one = read_events(json.dumps(GAUSSIAN))
    assert flatten(one) == flatten(read_events(json.dumps([GAUSSIAN]).encode()))
    assert one == dp_event.GaussianDpEvent(2.0)


def test_whole_numbers_are_numbers_and_defaults_may_be_left_out() -> None:
    assert from_json({"class_name": "GaussianDpEvent", "noise_multiplier": 2}) == (
        dp_event.GaussianDpEvent(2.0)
    )
    assert from_json({"class_name": "ZCDpEvent", "rho": 0.5}) == dp_event.ZCDpEvent(0.5, 0.0)
    assert read_events("[]") == dp_event.ComposedDpEvent([])


def test_the_list_names_fields_that_the_classes_have() -> None:
    for name, fields in ALLOWED.items():
        known = {field.name for field in getattr(dp_event, name).__attrs_attrs__}
        assert set(fields) == known, name


# ---- unknown counts as not private


@pytest.mark.parametrize(
    "document",
    [
        {"class_name": "NonPrivateDpEvent"},
        {"class_name": "UnsupportedDpEvent"},
        {"class_name": "SkellamDpEvent", "noise_multiplier": 5.0},
        {"class_name": "gaussiandpevent", "noise_multiplier": 5.0},
        {"class_name": "os.system"},
        {"class_name": "__class__"},
        {
            # Its fields say how many patients there are.
            "class_name": "SampledWithoutReplacementDpEvent",
            "source_dataset_size": 303,
            "sample_size": 30,
            "event": GAUSSIAN,
        },
        {"class_name": "RepeatAndSelectDpEvent", "event": GAUSSIAN, "mean": 2.0, "shape": 1.0},
    ],
)
def test_an_event_that_is_not_on_the_list_is_refused(document: dict[str, Any]) -> None:
    for text in (
        [document],
        document,
        {"class_name": "SelfComposedDpEvent", "count": 2, "event": document},
        {"class_name": "PoissonSampledDpEvent", "sampling_probability": 0.1, "event": document},
    ):
        error = refused(json.dumps(text))
        assert error.code == "event_unknown"
        assert isinstance(error, PolicyError)
        assert "counts as not private" in str(error)


class Gaussian(dp_event.DpEvent):  # type: ignore[misc]  # its base is not typed
    noise_multiplier = 1.0


Gaussian.__name__ = "GaussianDpEvent"


@pytest.mark.parametrize(
    "event", [dp_event.NonPrivateDpEvent(), dp_event.UnsupportedDpEvent(), Gaussian(), object(), 3]
)
def test_what_is_not_on_the_list_is_not_written_either(event: Any) -> None:
    with pytest.raises(PolicyError) as found:
        write_events([dp_event.NoOpDpEvent(), event])
    assert found.value.code == "event_unknown"


def test_what_could_not_be_read_again_is_not_written() -> None:
    for event in (
        dp_event.GaussianDpEvent(math.nan),
        dp_event.GaussianDpEvent(0.0),
        dp_event.SelfComposedDpEvent(dp_event.NoOpDpEvent(), -1),
        dp_event.PoissonSampledDpEvent(0.1, dp_event.ZCDpEvent(0.1)),
    ):
        with pytest.raises(ConfigError):
            to_json(event)


def test_a_file_can_name_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Google's `from_named_tuple` imports the module that a file names; nothing does here."""

    def never(*args: object) -> None:
        raise AssertionError(f"imported {args}")

    monkeypatch.setattr("importlib.import_module", never)
    error = refused(json.dumps({**GAUSSIAN, "module_name": "antigravity"}))
    assert error.code == "event_unreadable"
    assert "antigravity" not in sys.modules
    source = events_module.__file__
    with open(source, encoding="utf-8") as file:  # noqa: PTH123 - a name, not a path
        text = file.read()
    assert "pickle" not in text
    assert "eval(" not in text


# ---- strict reading


def inside(inner: Any, depth: int) -> Any:
    for _ in range(depth):
        inner = {"class_name": "ComposedDpEvent", "events": [inner]}
    return inner


SAMPLE = {"class_name": "PoissonSampledDpEvent", "sampling_probability": 0.1, "event": GAUSSIAN}
TIMES = {"class_name": "SelfComposedDpEvent", "count": 3, "event": GAUSSIAN}


@pytest.mark.parametrize(
    "document",
    [
        None,
        3,
        "GaussianDpEvent",
        [3],
        [[GAUSSIAN]],
        {},
        {"noise_multiplier": 2.0},
        {"class_name": 3, "noise_multiplier": 2.0},
        {"class_name": "GaussianDpEvent"},
        {**GAUSSIAN, "steps": 3},
        {**GAUSSIAN, "Noise_Multiplier": 3.0},
        {"class_name": "GaussianDpEvent", "noise_multiplier": "2"},
        {"class_name": "GaussianDpEvent", "noise_multiplier": True},
        {"class_name": "GaussianDpEvent", "noise_multiplier": None},
        {"class_name": "GaussianDpEvent", "noise_multiplier": [2.0]},
        {"class_name": "GaussianDpEvent", "noise_multiplier": 0},
        {"class_name": "GaussianDpEvent", "noise_multiplier": -1.0},
        {"class_name": "GaussianDpEvent", "noise_multiplier": 1e-300},
        {"class_name": "GaussianDpEvent", "noise_multiplier": 1e300},
        {"class_name": "ZCDpEvent", "rho": -0.1},
        {"class_name": "ZCDpEvent", "rho": 0.1, "xi": -0.1},
        {"class_name": "DiscreteLaplaceDpEvent", "noise_parameter": 0.1, "sensitivity": 0},
        {"class_name": "DiscreteLaplaceDpEvent", "noise_parameter": 0.1, "sensitivity": 1.5},
        {**SAMPLE, "sampling_probability": 0},
        {**SAMPLE, "sampling_probability": 1.0001},
        {**SAMPLE, "sampling_probability": -0.1},
        {**SAMPLE, "event": {"class_name": "ZCDpEvent", "rho": 0.1}},
        {**SAMPLE, "event": SAMPLE},
        {**SAMPLE, "event": TIMES},
        {**SAMPLE, "event": [GAUSSIAN]},
        {**TIMES, "count": -1},
        {**TIMES, "count": 2.0},
        {**TIMES, "count": True},
        {**TIMES, "count": "3"},
        {**TIMES, "count": MAX_COUNT + 1},
        {"class_name": "ComposedDpEvent", "events": GAUSSIAN},
        {"class_name": "ComposedDpEvent", "events": [GAUSSIAN, None]},
        inside(GAUSSIAN, MAX_DEPTH + 1),
    ],
)
def test_what_is_not_exactly_an_event_is_refused(document: Any) -> None:
    error = refused(json.dumps(document))
    assert error.code == "event_unreadable"
    assert isinstance(error, ConfigError)
    if not isinstance(document, list):
        refused(json.dumps([document]))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no JSON"),
        ("{", "no JSON"),
        ('{"class_name": "GaussianDpEvent", "noise_multiplier": NaN}', "NaN is no number"),
        ('{"class_name": "GaussianDpEvent", "noise_multiplier": Infinity}', "Infinity"),
        ('{"class_name": "GaussianDpEvent", "noise_multiplier": -Infinity}', "-Infinity"),
        ('{"class_name": "GaussianDpEvent", "noise_multiplier": 1e400}', "got inf"),
        ('{"class_name": "ZCDpEvent", "rho": ' + "9" * 5000 + "}", "no JSON"),
        ('{"class_name": "NoOpDpEvent", "class_name": "NoOpDpEvent"}', "twice"),
        (
            '{"class_name": "GaussianDpEvent", "noise_multiplier": 9, "noise_multiplier": 1}',
            "twice",
        ),
        (b'[{"class_name": "\xff"}]', "no JSON"),
        ("[" * 100_000, "deep"),
        ('{"class_name":' * 60_000, "deep"),
        (" " * (MAX_BYTES + 1), "more than"),
    ],
)
def test_a_hostile_file_is_refused_in_one_line(text: str | bytes, words: str) -> None:
    error = refused(text)
    assert error.code == "event_unreadable"
    assert words in str(error)
    assert len(str(error)) < 400
    assert "\n" not in str(error)


def test_the_deepest_file_that_is_allowed_is_read() -> None:
    deepest = read_events(json.dumps(inside(GAUSSIAN, MAX_DEPTH)))
    assert flatten(deepest) == {dp_event.GaussianDpEvent(2.0): 1}


def test_a_refusal_says_where_and_shows_no_text_of_the_file() -> None:
    text = json.dumps([GAUSSIAN, {**TIMES, "event": {**GAUSSIAN, "noise_multiplier": "Ms Miller"}}])
    said = str(refused(text))
    assert "events[1].event.noise_multiplier" in said
    assert "Miller" not in said


# ---- what is in it


def test_flattening_counts_and_forgets_what_costs_nothing() -> None:
    gaussian, laplace = dp_event.GaussianDpEvent(2.0), dp_event.LaplaceDpEvent(3.0)
    times, composed = dp_event.SelfComposedDpEvent, dp_event.ComposedDpEvent
    inner = composed([gaussian, times(laplace, 5), dp_event.NoOpDpEvent(), times(gaussian, 0)])
    assert flatten(times(inner, 7)) == {gaussian: 7, laplace: 35}
    assert flatten(dp_event.PoissonSampledDpEvent(1.0, gaussian)) == {gaussian: 1}
    assert flatten(dp_event.NoOpDpEvent()) == {}
    with pytest.raises(PolicyError):
        flatten(composed([gaussian, dp_event.NonPrivateDpEvent()]))
