"""What the budget page shows, section by section, already in words and figures."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...privacy.errors import FedCohortError
from ...privacy.events import to_json
from ...privacy.mechanism import Mechanism, is_gaussian_proved
from ._budget_figures import down, percent, plain, up
from ._budget_odds import (
    ALARM,
    detection_by_epsilon,
    detection_by_noise,
    mu_of_budget,
    odds_tables,
)
from ._budget_pictures import budget_bar, proved_detection, trade_off
from ._budget_words import (
    FAMILY,
    REFUSAL,
    SHARING,
    STANDING,
    STATUS,
    Told,
    adversary,
    counted,
    guarantee,
    no_guarantee,
    not_covered,
    one_of,
    sampled,
    terms,
)
from ._view import printable
from ._wording import Words

__all__ = ["context"]


def context(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything the template shows."""
    hospitals = _clean(document["hospitals"])
    told = [hospital["statement"] for hospital in hospitals]
    sections = [_section(number, group) for number, group in enumerate(_groups(hospitals), start=1)]
    return {
        "d": document,
        "made": document["made_at"][:16].replace("T", " ") + " UTC",
        "simulation": any(statement["kind"] == "simulation" for statement in told),
        "standing": STANDING,
        "lead": _lead(told),
        "unclaimed": [no_guarantee(one, one_of([one["hospital"]])) for one in told if _broken(one)],
        "sections": sections,
        "odds": odds_tables(
            one["budget"] for one in told if one["budget"] is not None and not _broken(one)
        ),
        "software": list(document["software"].items()),
        "example": _example(hospitals[0]),
    }


def _clean(value: Any) -> Any:
    """Drop control characters, which could turn a line's reading order around."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_clean(entry) for entry in value]
    if isinstance(value, Mapping):
        return {key: _clean(entry) for key, entry in value.items()}
    return value


def _broken(told: Told) -> bool:
    return int(told["unnoised_releases"]) > 0


def _lead(told: Sequence[Told]) -> Words:
    """Return the page's first sentence."""
    with_budget = [one for one in told if one["budget"] is not None]
    if not with_budget:
        return Words("No budget was set: no noisy release may be made.", "未设预算：不得含噪发布。")
    fullest = max(with_budget, key=lambda one: float(one["spent"]["share"]))
    spent, reserved = (percent(fullest[part]["share"]).text for part in ("spent", "reserved"))
    left = percent(fullest["left"]["share"], floor=True).text
    if len(told) == 1:
        return Words(
            f"{spent} of the privacy budget is spent, {reserved} is set aside, {left} is left.",
            f"隐私预算已用 {spent}，已预留 {reserved}，剩余 {left}。",
        )
    return Words(
        f"{len(told)} ledgers. The fullest ({fullest['hospital']}) has spent {spent} of its "
        f"privacy budget, set {reserved} aside and has {left} left.",
        f"共 {len(told)} 本台账。用得最多的（{fullest['hospital']}）已用隐私预算的 {spent}，"
        f"已预留 {reserved}，剩余 {left}。",
    )


def _groups(hospitals: Iterable[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Put the ledgers of a simulation together that say the same of several hospitals."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for number, hospital in enumerate(hospitals):
        told = hospital["statement"]
        key = str(number)
        if told["kind"] == "simulation":
            same = {**told, "hospital": None, "chain": None}
            same["plans"] = [
                {**plan, "reserved_at": None, "last_release_at": None} for plan in told["plans"]
            ]
            same["refused"] = [{**refusal, "time": None} for refusal in told["refused"]]
            same["source"] = hospital["source"].rpartition("/")[0]
            key = json.dumps(same, sort_keys=True)
        groups.setdefault(key, []).append(hospital)
    return list(groups.values())


def _section(number: int, group: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    told = group[0]["statement"]
    names = [one["statement"]["hospital"] for one in group]
    hospital = " / ".join(names)
    budget = told["budget"]
    section: dict[str, Any] = {
        "id": f"ledger-{number}",
        "hospital": hospital,
        "names": names,
        "told": told,
        "run": group[0]["source"].rpartition("/")[0].rpartition("/")[2],
        "budget": budget,
        "claimed": budget is not None and not _broken(told),
        "unnoised": no_guarantee(told, one_of(names)) if _broken(told) else None,
        "not_covered": not_covered(told),
        "sampled": sampled(told),
        "single": len(group) == 1,
        "rows": group,
        "releases": [_release(plan) for plan in told["plans"]],
        "refused": [_refused(refusal) for refusal in told["refused"]],
        "chains": [_chain(one) for one in group],
        "events": _events(told),
    }
    if budget is not None:
        section |= _priced(number, told, one_of(names))
    return section


def _chain(hospital: Mapping[str, Any]) -> dict[str, Any]:
    told = hospital["statement"]
    length = counted(told["chain"]["entries"], "entry", "entries")
    return {
        **told["chain"],
        "length": length,
        "hospital": told["hospital"],
        "source": hospital["source"],
    }


def _priced(number: int, told: Told, hospital: Words) -> dict[str, Any]:
    budget = told["budget"]
    mu = mu_of_budget(budget["order"], budget["limit"])
    holds, mind = guarantee(told, hospital, proved_detection(ALARM, budget))
    return {
        "guarantee": holds,
        "mind": mind,
        "terms": terms(told),
        "adversary": adversary(told),
        "bar": budget_bar(told["spent"]["share"], told["reserved"]["share"], number=number),
        "trade_off": trade_off(budget),
        "detected": {
            "worst": percent(detection_by_epsilon(ALARM, budget["epsilon"], budget["delta"])),
            "proved": percent(proved_detection(ALARM, budget)),
            "noise": percent(detection_by_noise(ALARM, mu)),
        },
        "mu": up(mu),
        "untouched": told["spent"]["rdp"] == told["reserved"]["rdp"] == 0,
        "amounts": [_amount(name, told) for name in ("spent", "reserved", "left")],
        "epsilon": plain(budget["epsilon"]),
        "delta": plain(budget["delta"]),
        "limit": up(budget["limit"]),
        "same_variance": told["same_variance"]
        and {
            **told["same_variance"],
            "epsilon": up(told["same_variance"]["epsilon"]),
            "proved": _same_variance_is_proved(told),
        },
        "sites": [
            {
                "sites": row["sites"],
                "spent": up(row["epsilon_spent"]),
                "budget": up(row["epsilon_budget"]),
            }
            for row in told["sites_per_person"]
        ],
    }


def _same_variance_is_proved(told: Told) -> bool:
    """Whether the epsilon of continuous noise is true of the integer noise that was added."""
    made = [plan["mechanism"] for plan in told["plans"] if plan["releases_executed"]]
    return is_gaussian_proved(
        [(noise["noise_multiplier"], noise["sampling_probability"]) for noise in made if noise],
        epsilon=told["same_variance"]["epsilon"],
        delta=told["budget"]["delta"],
    )


_AMOUNT = {
    "spent": Words("spent", "已用"),
    "reserved": Words("set aside for plans that run", "为进行中的方案预留"),
    "left": Words("left", "剩余"),
}


def _amount(name: str, told: Told) -> dict[str, Any]:
    part, floor = told[name], name == "left"
    return {
        "name": name,
        "words": _AMOUNT[name],
        "rdp": down(part["rdp"]) if floor else up(part["rdp"]),
        "share": percent(part["share"], floor=floor),
        "epsilon": down(part["epsilon"]) if floor else up(part["epsilon"]),
    }


def _release(plan: Mapping[str, Any]) -> dict[str, Any]:
    mechanism, sharing = plan["mechanism"], plan["sharing"]
    shares = plan["min_survivors"] - plan["colluders"]
    days = [time[:10] for time in (plan["reserved_at"], plan["last_release_at"]) if time]
    return {
        "plan": plan,
        "days": " – ".join(dict.fromkeys(days)),
        "status": STATUS[plan["status"]],
        "family": None if mechanism is None else FAMILY[mechanism["family"]],
        "sharing": None
        if sharing is None
        else Words(
            *(text.format(shares=shares, sites=plan["min_survivors"]) for text in SHARING[sharing])
        ),
        "z": plain(mechanism and mechanism["noise_multiplier"]),
        "q": plain(mechanism and mechanism["sampling_probability"]),
        "clip": plain(plan["clip"]),
        "rdp": up(plan["rdp"]),
        "rdp_planned": up(plan["rdp_planned"]),
        "alone": up(plan["epsilon_alone"]),
        "together": up(plan["epsilon_together"]),
    }


def _refused(refusal: Mapping[str, Any]) -> dict[str, Any]:
    words = REFUSAL.get(refusal["code"])
    return {**refusal, "words": words, "rdp": up(refusal["rdp_asked"])}


def _events(told: Told) -> str | None:
    """Return what was released, as `fedcohort privacy compose` reads it; None if it cannot."""
    executed = [
        (Mechanism(**_known(plan["mechanism"])), plan["releases_executed"])
        for plan in told["plans"]
        if plan["mechanism"] is not None and plan["releases_executed"]
    ]
    try:
        events = [to_json(mechanism.event(releases)) for mechanism, releases in executed]
    except FedCohortError:
        return None
    return json.dumps(events, sort_keys=True) if events else None


def _known(mechanism: Mapping[str, Any]) -> dict[str, float]:
    return {name: mechanism[name] for name in ("noise_multiplier", "sampling_probability")}


def _example(hospital: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of the commands that check the first ledger."""
    return {
        "ledger": shlex.quote(hospital["source"]),
        "head": hospital["statement"]["chain"]["head"],
        "delta": f"{(hospital['statement']['budget'] or {'delta': 1e-5})['delta']:g}",
    }
