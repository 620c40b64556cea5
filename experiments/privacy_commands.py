"""`fedcohort privacy`: what noise costs, how much of it a price needs, what a list adds up to.

Numbers come as text and are checked here, so that every refusal is one line with a remedy. The
result goes to stdout: a table for people or, with `--json`, one JSON document. An infinite
epsilon is the string "Infinity" in it: JSON has no such number, and null would pass for 0.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from ..privacy.errors import ConfigError, PolicyError
from .privacy_tables import say

__all__ = ["privacy"]

privacy = typer.Typer(
    help="The calculator: epsilon of noise, noise of an epsilon, the sum of a list.",
    no_args_is_help=True,
)

_Noise = Annotated[str, typer.Option(help="z = sigma / clip norm; 0 is no noise.")]
_Steps = Annotated[str, typer.Option(help="T, in how many releases a patient may be.")]
_Delta = Annotated[str, typer.Option(help="Below 1 / patients.")]
_Share = Annotated[str, typer.Option(help="q of a Poisson sample; 1 is everybody, always.")]
_Which = Annotated[str, typer.Option(help="add-remove; or replace-one, twice as sensitive.")]
_Json = Annotated[bool, typer.Option("--json", help="One JSON document, and nothing else.")]

_IN_A_SUM = "RDP is the bound that holds for integer noise in a sum; PLD is for continuous noise."
_PROVED = (
    "PLD is proved for integer noise in a sum too, for a list fixed beforehand; ledgers count RDP."
)
_SEVERAL = "A patient of k hospitals changes a sum by k clip norms: noise multiplier / k."
_NOT_COVERED = "No privacy loss distribution covers all of it, so that RDP is the bound."


@privacy.command("epsilon")
def epsilon_(
    noise_multiplier: _Noise,
    steps: _Steps,
    delta: _Delta,
    sampling_probability: _Share = "1",
    relation: _Which = "add-remove",
    json_: _Json = False,
) -> None:
    """Say what so many noisy releases cost one patient."""
    noise = _number("noise_multiplier", noise_multiplier, 1e-3, 1e6, zero=True)
    share = _number("sampling_probability", sampling_probability, 1e-6, 1.0, zero=True)
    document = _priced(noise, _whole(steps, 0), _delta(delta), share, relation)
    say(document, as_json=json_)


@privacy.command("calibrate")
def calibrate_(
    epsilon: Annotated[str, typer.Option(help="What all releases may cost a patient.")],
    delta: _Delta,
    steps: _Steps,
    sampling_probability: _Share = "1",
    relation: _Which = "add-remove",
    for_ledger: Annotated[
        bool, typer.Option("--for-ledger", help="So that a budget of this epsilon can pay.")
    ] = False,
    json_: _Json = False,
) -> None:
    """Find the least noise at which so many releases cost no more than epsilon."""
    from ..privacy.pld import Relation

    target, chance = _number("epsilon", epsilon, 1e-6, 1e6), _delta(delta)
    releases = _whole(steps, 1)
    share = _number("sampling_probability", sampling_probability, 1e-6, 1.0)
    which = _relation(relation)
    if for_ledger and which is not Relation.ADD_REMOVE:
        _invalid("relation", relation, "add-remove: a ledger knows no other", "Leave it out.")
    ledger = _ledger(target, chance, releases, share) if which is Relation.ADD_REMOVE else None
    if for_ledger and ledger is None:
        _invalid("epsilon", epsilon, "larger for so small a delta", "Ask for more epsilon.")
    with _bounded(relation):
        if for_ledger and ledger is not None:
            noise = ledger["noise_multiplier"]
        else:
            noise = _calibrated(target, chance, releases, share, which)
    document = _priced(noise, releases, chance, share, relation, bound="rdp" if for_ledger else "")
    document |= {"target_epsilon": target, "for_ledger": for_ledger, "ledger": None}
    if ledger is not None:
        document["ledger"] = ledger | _charged(ledger, noise, releases, share)
    say(document, as_json=json_)


@privacy.command("compose")
def compose_(
    events: Annotated[Path, typer.Argument(help="JSON: a list of events, or one event.")],
    delta: _Delta,
    relation: _Which = "add-remove",
    json_: _Json = False,
) -> None:
    """Add up a list of releases; fields of its events: docs/reference/events.md."""
    from ..privacy.events import MAX_BYTES, flatten, read_events, to_json

    chance, which = _delta(delta), _relation(relation)
    with events.open("rb") as file:
        event = read_events(file.read(MAX_BYTES + 1))
    single = sorted(flatten(event).items(), key=lambda item: repr(item[0]))
    document = _bounds(event, chance, relation) | _terms(chance, str(which))
    document["releases"] = sum(count for _, count in single)
    document["mechanisms"] = [{"count": count, "event": to_json(leaf)} for leaf, count in single]
    covered = document["bound"] == "pld"
    document["notes"] = [] if covered else [_NOT_COVERED]
    say(document, as_json=json_)


def _calibrated(epsilon: float, delta: float, steps: int, share: float, which: Any) -> float:
    from ..privacy.pld import calibrate_pld

    try:
        return calibrate_pld(epsilon, delta, steps, share, which)
    except ValueError:  # every argument has been checked: it takes more noise than we price
        rule = "larger: it takes a noise multiplier above 1e6"
        _invalid("epsilon", f"{epsilon:g}", rule, "Ask for more epsilon, or fewer steps.")


def _priced(
    noise: float, steps: int, delta: float, share: float, relation: str, *, bound: str = ""
) -> dict[str, Any]:
    """Return what so many releases cost a patient of one, two and three hospitals."""
    from ..privacy.pld import gaussian_event

    several = []
    for hospitals in (1, 2, 3):
        event = gaussian_event(noise / hospitals, steps, share)
        several.append(_bounds(event, delta, relation, bound=bound) | {"hospitals": hospitals})
    document = {key: value for key, value in several[0].items() if key != "hospitals"}
    document |= {"noise_multiplier": noise, "steps": steps, "sampling_probability": share}
    document |= _terms(delta, relation)
    document["hospitals_per_person"] = several
    document["notes"] = [*_in_a_sum(noise, share, document), _SEVERAL]
    return document


def _in_a_sum(noise: float, share: float, document: dict[str, Any]) -> list[str]:
    """Return which bound holds where the noise is integer and in a sum over hospitals."""
    from ..privacy.mechanism import is_gaussian_proved

    if share != 1:
        return []
    several = [row["pld_epsilon"] for row in document["hospitals_per_person"]]
    worst = math.inf if None in several else max(several)
    proved = is_gaussian_proved([(noise, share)], epsilon=worst, delta=document["delta"])
    return [_PROVED if proved else _IN_A_SUM]


def _bounds(event: Any, delta: float, relation: str, *, bound: str = "") -> dict[str, Any]:
    """Return epsilon by every bound there is; the least, or that of `bound`, comes first."""
    from dp_accounting import UnsupportedEventError

    from ..privacy.pld import price, rdp_epsilon

    which = _relation(relation)
    with _bounded(relation):
        found = price(event, delta, which)
        try:
            renyi: float | None = rdp_epsilon(event, delta, which)
        except UnsupportedEventError:
            renyi = None
    tight = found.epsilon if found.bound == "pld" else None
    by_renyi = renyi is not None and (bound == "rdp" or found.bound == "rdp")
    return {
        "epsilon": renyi if by_renyi else found.epsilon,
        "bound": "rdp" if by_renyi else found.bound,
        "method": "the best order" if by_renyi else found.method,
        "pld_epsilon": tight,
        "rdp_epsilon": renyi,
    }


def _terms(delta: float, relation: str) -> dict[str, Any]:
    """Return what every epsilon must be quoted with."""
    from importlib.metadata import version

    return {
        "delta": delta,
        "relation": relation,
        "unit": "patient",
        "adversary": "whoever sees every release and knows none of the noise counted here",
        "accountant": "dp-accounting",
        "accountant_version": version("dp-accounting"),
    }


def _ledger(epsilon: float, delta: float, steps: int, share: float) -> dict[str, Any] | None:
    """Return what a ledger of this budget adds up, and the noise it can pay; None if it cannot."""
    from ..privacy.accounting import calibrate
    from ..privacy.budget import Budget
    from ..privacy.pld import round_up

    try:
        budget = Budget(epsilon=epsilon, delta=delta)
    except ValueError:
        return None
    noise = round_up(calibrate(epsilon, delta, steps, share))
    return {"order": budget.order, "limit": budget.limit, "noise_multiplier": noise}


def _charged(ledger: dict[str, Any], noise: float, steps: int, share: float) -> dict[str, Any]:
    from ..privacy.mechanism import Mechanism

    mechanism = Mechanism(noise_multiplier=noise, sampling_probability=share)
    cost = steps * mechanism.rdp(ledger["order"])
    return {"cost": cost, "pays": cost <= ledger["limit"]}


# ---- what is typed


def _number(key: str, text: str, low: float, high: float, *, zero: bool = False) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if (zero and number == 0) or low <= number <= high:  # NaN is neither
        return number
    rule = f"{'0 or ' if zero else ''}a number in [{low:g}, {high:g}]"
    _invalid(key, text, rule, f"As in {_option(key)} {'0.1' if high == 1 else '3'}.")


def _delta(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if 0 < number < 1:
        return number
    _invalid("delta", text, "a number in (0, 1)", "Below 1 / patients, as in --delta 1e-5.")


def _whole(text: str, least: int) -> int:
    most = 10**9
    if text.isascii() and text.isdigit() and len(text) < 12 and least <= int(text) <= most:
        return int(text)
    _invalid("steps", text, f"a whole number in [{least}, {most:.0e}]", "As in --steps 20.")


def _relation(text: str) -> Any:
    from ..privacy.pld import Relation

    if text in list(Relation):
        return Relation(text)
    _invalid("relation", text, " or ".join(Relation), "The ledger and all runs use add-remove.")


def _option(key: str) -> str:
    return "--" + key.replace("_", "-")


def _invalid(key: str, text: str, rule: str, hint: str) -> NoReturn:
    raise ConfigError(
        f"{key}_invalid", f"{_option(key)} must be {rule}, got {text[:40]}", hint=hint
    )


@contextmanager
def _bounded(relation: str) -> Iterator[None]:
    """Say in our words that no bound is known, and keep the accountant's own notes off."""
    from dp_accounting import UnsupportedEventError

    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)  # orders that do not converge are left out, which is right
    try:
        yield
    except UnsupportedEventError as error:
        raise PolicyError(
            "event_unsupported",
            f"no bound covers these releases together under {relation}",
            hint="Use --relation add-remove, or a larger delta for samples.",
        ) from error
    finally:
        logger.setLevel(level)
