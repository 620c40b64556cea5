"""Events as JSON: what was released, as class names and numbers of an allow-list.

An event is Google's `DpEvent`: a mechanism, a sample of one, or a list of them. Its JSON is
an object with the class's name and its fields. What is read is checked against `ALLOWED` and
nothing is imported, so that a file can name no code; Google's own `from_named_tuple` imports
the module it is told to. An event that is not on the list counts as one without privacy and
is refused. No field may hold a number of patients, which is why sampling without replacement
is not on the list.

Source: dp-accounting 0.6.0, `dp_event.py` (classes and their meaning).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

from dp_accounting import dp_event

from .errors import ConfigError, PolicyError

__all__ = [
    "ALLOWED",
    "MAX_BYTES",
    "MAX_COUNT",
    "MAX_DEPTH",
    "flatten",
    "from_json",
    "read_events",
    "to_json",
    "write_events",
]

MAX_BYTES = 2**20  # 1 MiB of JSON holds some 5,000 entries
MAX_DEPTH = 8  # events inside events
MAX_COUNT = 10**9  # repetitions that one `SelfComposedDpEvent` may state
NAME = "class_name"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Number:
    """A field that holds a number of a closed range."""

    low: float
    high: float
    whole: bool = False
    optional: bool = False

    @property
    def rule(self) -> str:
        return f"{'a whole number' if self.whole else 'a number'} in [{self.low:g}, {self.high:g}]"

    def accepts(self, value: object) -> bool:
        kinds = int if self.whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds):
            return False
        return self.low <= value <= self.high  # NaN is in no range


_INNER = "an event"
_LIST = "a list of events"
_NOISE = _Number(low=1e-4, high=1e6)
_SHARE = _Number(low=1e-6, high=1.0)
_COST = _Number(low=0.0, high=1e12)

# Class name -> fields. What cannot be said here cannot be read.
ALLOWED: dict[str, dict[str, Any]] = {
    "NoOpDpEvent": {},
    "GaussianDpEvent": {"noise_multiplier": _NOISE},
    "LaplaceDpEvent": {"noise_multiplier": _NOISE},
    "DiscreteLaplaceDpEvent": {
        "noise_parameter": _Number(low=1e-3, high=1e3),
        "sensitivity": _Number(low=1, high=10**5, whole=True),
    },
    "ZCDpEvent": {"rho": _COST, "xi": _Number(low=0.0, high=1e12, optional=True)},
    "PoissonSampledDpEvent": {
        "sampling_probability": _Number(low=1e-12, high=1.0),
        "event": _INNER,
    },
    "SelfComposedDpEvent": {"event": _INNER, "count": _Number(low=0, high=MAX_COUNT, whole=True)},
    "ComposedDpEvent": {"events": _LIST},
}
# What may stand inside a sample: for these a bound under sampling is known.
_SAMPLED = ("GaussianDpEvent", "LaplaceDpEvent")


def to_json(event: dp_event.DpEvent) -> dict[str, Any]:
    """Return an event as JSON's own types.

    Raises:
        PolicyError: `event_unknown`, the event is not on the allow-list.
        ConfigError: `event_unreadable`, a number of it is out of its range.
    """
    name = type(event).__name__
    if type(event) is not getattr(dp_event, name, None):
        _unknown("the event", name)
    document: dict[str, Any] = {NAME: name}
    for field in _fields_of(name, "the event"):
        value = getattr(event, field)
        if field == "event":
            value = to_json(value)
        elif field == "events":
            value = [to_json(inner) for inner in value]
        document[field] = value
    from_json(document)  # what is written can be read
    return document


def write_events(events: Iterable[dp_event.DpEvent]) -> str:
    """Return a list of events as the text of a file that `read_events` reads."""
    return json.dumps([to_json(event) for event in events], allow_nan=False, sort_keys=True)


def read_events(text: str | bytes) -> dp_event.DpEvent:
    """Return what a file says was released: a list of events, or one event.

    Args:
        text: UTF-8 JSON, at most 1 MiB. Order is of no meaning.

    Raises:
        ConfigError: `event_unreadable`: too large, no JSON, too deep, a field that is missing
            or too much, of another type or out of its range.
        PolicyError: `event_unknown`: a class that is not on the list.
    """
    if len(text) > MAX_BYTES:
        _unreadable("the file", f"has {len(text)} bytes, more than {MAX_BYTES}")
    try:
        document = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except RecursionError:
        _unreadable("the file", "is nested too deeply")
    except ValueError as error:  # UnicodeDecodeError is one
        _unreadable("the file", f"is no JSON: {error}")
    if isinstance(document, list):
        document = {NAME: "ComposedDpEvent", "events": document}
    return from_json(document)


def from_json(document: object, *, where: str = "the event", depth: int = 0) -> Any:
    """Return the event that an object says it is.

    Args:
        document: What `to_json` returns, or anything.
        where: Names the place in messages.
        depth: In how many events it stands.

    Raises:
        ConfigError: `event_unreadable`.
        PolicyError: `event_unknown`.
    """
    if depth > MAX_DEPTH:
        _unreadable(where, f"is nested more than {MAX_DEPTH} deep")
    if not isinstance(document, dict) or not isinstance(document.get(NAME), str):
        _unreadable(where, f"is no object with a {NAME!r}")
    name = document[NAME]
    fields = _fields_of(name, where)
    for field in document.keys() - {NAME} - fields.keys():
        _unreadable(where, f"has a field {_short(field)}, which {name} does not have")
    values: dict[str, Any] = {}
    for field, kind in fields.items():
        place = f"{where}.{field}"
        if field not in document:
            if isinstance(kind, _Number) and kind.optional:
                continue
            _unreadable(where, f"has no {field!r}, which {name} needs")
        values[field] = _value(document[field], kind, place, depth)
    if name == "PoissonSampledDpEvent" and type(values["event"]).__name__ not in _SAMPLED:
        _unreadable(f"{where}.event", f"must be one of {', '.join(_SAMPLED)} inside a sample")
    return getattr(dp_event, name)(**values)


def flatten(event: dp_event.DpEvent, count: int = 1) -> Counter[Any]:
    """Return how often each single mechanism is in an event; order and grouping are gone.

    Raises:
        PolicyError: `event_unknown`.

    >>> gaussian = dp_event.GaussianDpEvent(2.0)
    >>> flatten(dp_event.SelfComposedDpEvent(gaussian, 60)) == {gaussian: 60}
    True
    """
    name = type(event).__name__
    _fields_of(name, "the event")
    if name == "NoOpDpEvent" or count == 0:
        return Counter()
    if name == "SelfComposedDpEvent":
        return flatten(event.event, count * event.count)
    if name == "ComposedDpEvent":
        found: Counter[Any] = Counter()
        for inner in event.events:
            found.update(flatten(inner, count))
        return found
    if name == "PoissonSampledDpEvent" and event.sampling_probability == 1:
        return flatten(event.event, count)
    return Counter({event: count})


def _value(value: object, kind: Any, place: str, depth: int) -> Any:
    if kind is _INNER:
        return from_json(value, where=place, depth=depth + 1)
    if kind is _LIST:
        if not isinstance(value, list):
            _unreadable(place, f"must be {_LIST}")
        return [
            from_json(inner, where=f"{place}[{number}]", depth=depth + 1)
            for number, inner in enumerate(value)
        ]
    if not kind.accepts(value):
        _unreadable(place, f"must be {kind.rule}, got {_got(value)}")
    return value if kind.whole else float(value)  # type: ignore[arg-type]  # a number


def _fields_of(name: str, where: str) -> dict[str, Any]:
    if name not in ALLOWED:
        _unknown(where, name)
    return ALLOWED[name]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return document


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _short(value: object) -> str:
    """Show names and numbers, cut short; of anything else only what it is."""
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return repr(value)[:40]
    return type(value).__name__


def _got(value: object) -> str:
    return type(value).__name__ if isinstance(value, str) else _short(value)


def _unknown(where: str, name: str) -> NoReturn:
    raise PolicyError(
        "event_unknown",
        f"{where} is a {_short(name)}: there is no such event here, so it counts as not private",
        hint=f"Known are {', '.join(ALLOWED)}; see docs/reference/events.md.",
    )


def _unreadable(where: str, why: str) -> NoReturn:
    raise ConfigError(
        "event_unreadable",
        f"{where} {why}",
        hint="docs/reference/events.md lists every event with its fields.",
    )
