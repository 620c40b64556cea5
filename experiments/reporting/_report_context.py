"""What the page shows, section by section, already in words: the template only lays it out."""

from __future__ import annotations

import math
from typing import Any

from ...privacy.mechanism import is_gaussian_proved
from ._panels import curve_label
from ._view import (
    DASH,
    Line,
    View,
    bytes_text,
    cost_text,
    epsilon_text,
    gain_text,
    headline,
    score_text,
    seconds_text,
    with_epsilon,
)
from ._wording import (
    ADVERSARY,
    ARM,
    RELATION,
    SAVED_MODELS,
    SCOPE,
    SCOPES,
    VERDICT,
    Words,
    arm_name,
    metric_name,
)
from .results import ALL, MEAN_OF_SITES, PrivacyFact, Results, Verdict

__all__ = ["context"]

_LOOK = {
    "gains": ("gains", "\N{BLACK UP-POINTING TRIANGLE}"),
    "loses": ("loses", "\N{BLACK DOWN-POINTING TRIANGLE}"),
    "no clear difference": ("unclear", "\N{BLACK CIRCLE}"),
    "not measurable": ("blank", "\N{MULTIPLICATION SIGN}"),
}
_MANY_SITES = 8
_VERDICT_COLUMNS = 3  # that fit a page beside each other; further ones are folded


def context(view: View) -> dict[str, Any]:
    """Return everything the template shows, already in words."""
    results = view.results
    answer, cost = headline(view)
    percent = f"{results.method.test_fraction:.0%}"
    risk = results.task == "risk"
    return {
        "r": results,
        "task": Words("risk model", "风险模型") if risk else Words("survival model", "生存模型"),
        "created": results.created[:16].replace("T", " ") + " UTC",
        "answer": answer,
        "cost": cost,
        "metric": view.metric,
        "where": _WHERE[_tile_place(view)],
        "level": f"{results.method.level:.0%}",
        "test": percent,
        "train": f"{1 - results.method.test_fraction:.0%}",
        "scope": SCOPE,
        "saved": SAVED_MODELS,
        "models": _model_table(view),
        "tiles": _tiles(view),
        "verdicts": _verdict_table(view, slice(0, _VERDICT_COLUMNS)),
        "more_verdicts": _verdict_table(view, slice(_VERDICT_COLUMNS, None)),
        "curves": _curve_table(view),
        "curve_points": max((len(c.x) for c in results.picture.curves), default=0),
        "arms": _arm_table(view),
        "details": _details(view),
        "privacy": _privacy_table(view),
        "unmasked": any(_shared_unmasked(fact) for fact in results.privacy),
        "personal": any(v.arm == "personalised" and v.epsilon for v in view.lines),
        "notes": [note for note in results.notes if note.code not in _SHOWN_ELSEWHERE],
        "units": [_UNIT.get(u, Words(u, u)) for u in _distinct(results, "unit")],
        "relations": [RELATION.get(r, Words(r, r)) for r in _distinct(results, "relation")],
        "not_covered": list(
            {note.code: note for fact in results.privacy for note in fact.not_covered}.values()
        ),
        "plain": list(dict.fromkeys(line.name for line in view.lines if line.epsilon is None)),
        "sites": _site_table(view),
        "outcome": Words("With the outcome", "阳性") if risk else Words("Events", "事件"),
        "software": list(results.software.items()),
    }


_SHOWN_ELSEWHERE = ("epsilon_scope", "saved_models")  # in a sentence of the page's own
_UNIT = {"patient": Words("a patient, with all their rows", "一名患者及其全部记录")}
_ROLE = {
    "participant": Words("participant", "参与方"),
    "external": Words("external: scored, never trains", "外部：仅评分，不参与训练"),
}


_WHERE = {
    ALL: Words("on the test patients of all hospitals", "全部医院的测试患者"),
    MEAN_OF_SITES: Words(
        "on each hospital's own test patients, mean of hospitals", "各院自己的测试患者，各院平均"
    ),
}


def _tile_place(view: View) -> str:
    """Return where local models can be compared: at home, unless they were scored on all."""
    local = next((line for line in view.lines if line.arm == "local"), None)
    return ALL if local is None or ALL in local.places else MEAN_OF_SITES


def _tiles(view: View) -> list[dict[str, Any]]:
    """Return the few numbers to start with: local, federated, pooled, and the private arms."""
    place = _tile_place(view)
    lines = {(line.arm, line.epsilon): line for line in view.lines}
    wanted: list[tuple[str, float | None]] = [("local", None), ("federated", None)]
    wanted += [("dp_sum", epsilon) for epsilon in view.epsilons[:2]] + [("pooled", None)]
    tiles = []
    for key in wanted:
        line = lines.get(key)
        text = score_text(line.places.get(place)) if line else DASH
        if line and text != DASH:
            mean, _, half = text.partition(" ± ")
            tiles.append(
                {"name": line.label, "mean": mean, "half": half, "simulated": line.arm == "pooled"}
            )
    return tiles


def _verdict_table(view: View, part: slice) -> dict[str, Any]:
    groups = list(view.verdict_groups().items())[part]
    sites = list(dict.fromkeys(v.site for _, verdicts in groups for v in verdicts))
    columns = [{verdict.site: verdict for verdict in verdicts} for _, verdicts in groups]
    return {
        "groups": [
            {"name": with_epsilon(arm_name(arm), epsilon), "metric": metric_name(metric)}
            for (arm, epsilon, metric), _ in groups
        ],
        "lines": [
            {"site": _site(site), "cells": [_verdict_cell(column.get(site)) for column in columns]}
            for site in sites
        ],
    }


def _verdict_cell(verdict: Verdict | None) -> dict[str, Any] | None:
    if verdict is None:
        return None
    look, sign = _LOOK[verdict.verdict]
    return {
        "look": look,
        "sign": sign,
        "words": VERDICT[verdict.verdict],
        "mean": None if verdict.mean is None else gain_text(verdict.mean),
        "low": gain_text(verdict.ci_low),
        "high": gain_text(verdict.ci_high),
        "reason": verdict.reason,
    }


def _curve_table(view: View) -> list[dict[str, Any]]:
    curves = view.results.picture.curves
    return [
        {
            "name": curve_label(curve),
            "points": [
                (f"{x:.0f}" if curve.kind == "survival" else f"{x:.2f}", f"{y:.2f}")
                for x, y in zip(curve.x, curve.y, strict=True)
            ],
        }
        for curve in curves
        if curve.x
    ]


def _arm_table(view: View) -> list[dict[str, Any]]:
    table, seen = [], set()
    for line in view.lines:
        costs = line.any
        table.append(
            {
                "first": line.name not in seen,
                "name": line.name,
                "about": ARM[line.arm][1] if line.arm in ARM else None,
                "simulated": line.arm == "pooled",
                "epsilon": epsilon_text(line.epsilon),
                "all": score_text(line.places.get(ALL)),
                "mean": score_text(line.places.get(MEAN_OF_SITES)),
                "rounds": DASH if costs.rounds is None else str(costs.rounds),
                "bytes": bytes_text(costs.bytes_up),
                "seconds": seconds_text(costs.seconds),
            }
        )
        seen.add(line.name)
    return table


def _details(view: View) -> list[dict[str, Any]]:
    """Return the folded tables: the primary metric by hospital, then every other metric."""

    def table(title: Words, heads: list[tuple[str, Words]], lines: list[Line]) -> dict[str, Any]:
        return {
            "title": title,
            "heads": [words for _, words in heads],
            "lines": [
                {
                    "name": line.label,
                    "cells": [score_text(line.places.get(key)) for key, _ in heads],
                }
                for line in lines
            ],
        }

    hospitals = [(site, Words(_site(site), _site(site))) for site in view.sites]
    whole = [
        (ALL, Words("All patients", "全部患者")),
        (MEAN_OF_SITES, Words("Mean of hospitals", "各院平均")),
    ]
    title = Words(f"{view.metric.en} in each hospital", f"各医院的 {view.metric.zh}")
    found = [table(title, hospitals, view.lines)] if hospitals else []
    for metric in view.metrics[1:]:
        heads = whole + (hospitals if len(hospitals) <= _MANY_SITES else [])
        found.append(table(metric_name(metric), heads, view.lines_of(metric)))
    return found


def _privacy_table(view: View) -> list[dict[str, Any]]:
    table, seen = [], set()
    for fact in view.results.privacy:
        name = arm_name(fact.arm)
        table.append(
            {
                "first": name not in seen,
                "name": name,
                "epsilon": epsilon_text(fact.epsilon),
                "spent": cost_text(fact.epsilon_spent),
                "scope": SCOPES[fact.epsilon_scope],
                "delta": DASH if fact.delta is None else f"{fact.delta:.2g}",
                "bound": (fact.bound or DASH).upper(),
                "several": " / ".join(cost_text(epsilon) for epsilon in fact.sites_per_person[1:])
                or DASH,
                "same_variance": cost_text(fact.same_variance_epsilon),
                "proved": _same_variance_is_proved(fact),
                "noise": DASH if fact.noise_multiplier is None else f"{fact.noise_multiplier:.4g}",
                "clip": DASH if fact.clip is None else f"{fact.clip:.4g}",
                "rounds": DASH if fact.rounds is None else str(fact.rounds),
                "adversary": _adversary(fact),
                "survivors": DASH if fact.min_survivors is None else str(fact.min_survivors),
                "odds": _odds(fact),
            }
        )
        seen.add(name)
    return table


def _model_table(view: View) -> list[dict[str, Any]]:
    """Return the saved models, one line for each arm and epsilon."""
    return [
        {
            "name": arm_name(model.arm),
            "epsilon": epsilon_text(model.epsilon),
            "spent": cost_text(model.epsilon_spent),
            "delta": DASH if model.delta is None else f"{model.delta:.2g}",
            "scope": SCOPES[model.epsilon_scope] if model.epsilon_scope else None,
            "files": len(model.files),
            "file": model.files[0],
            "sites": model.sites,
            "patients": model.patients,
            "home": model.stays_home,
            "seconds": seconds_text(model.seconds),
        }
        for model in view.results.models
    ]


def _same_variance_is_proved(fact: PrivacyFact) -> bool:
    """Whether the epsilon of continuous noise is true of the integer noise that was added."""
    facts = fact.noise_multiplier, fact.sampling_probability, fact.same_variance_epsilon, fact.delta
    noise, share, epsilon, delta = facts
    if noise is None or share is None or epsilon is None or delta is None:
        return False
    return is_gaussian_proved([(noise, share)], epsilon=epsilon, delta=delta)


def _shared_unmasked(fact: PrivacyFact) -> bool:
    """Whether the coordinator saw each site's share of a noise that only the sum has whole."""
    whole = fact.sharing in ("each", "local") or (
        fact.sharing is None and fact.arm in ("dp_each", "dp_fedavg")
    )
    return not whole and not fact.masked


def _adversary(fact: PrivacyFact) -> Words:
    """Return from whom the guarantee protects: never more than what was run."""
    if _shared_unmasked(fact):
        return ADVERSARY["total"]
    if fact.sharing == "sum" or (fact.sharing is None and fact.arm == "dp_sum"):
        count = fact.colluders
        sites = Words(f"{count} site{'' if count == 1 else 's'}", f"{count} 家医院")
        english, chinese = ADVERSARY["masked"]
        return Words(english.format(sites=sites.en), chinese.format(sites=sites.zh))
    return ADVERSARY["each"]


def _odds(fact: PrivacyFact, prior: float = 0.1) -> str:
    """Return how sure someone who was 10 % sure can become: e**eps on the odds, rounded up."""
    epsilon = fact.epsilon if fact.epsilon_spent is None else fact.epsilon_spent
    if epsilon is None:
        return DASH
    sure = prior / (prior + (1 - prior) * math.exp(-epsilon))
    return f"{min(math.ceil(sure * 1000) / 10, 99.9):.1f} %" if sure < 0.9995 else "~100 %"


def _site_table(view: View) -> list[dict[str, Any]]:
    return [
        {
            "site": _site(site.site),
            "role": _ROLE[site.role],
            "patients": site.patients,
            "rows": site.rows,
            "outcome": site.events_or_positives,
            "share": f"{site.events_or_positives / site.patients:.0%}" if site.patients else "",
        }
        for site in view.results.sites
    ]


def _site(name: str) -> str:
    return name.replace("_", " ")


def _distinct(results: Results, field: str) -> list[str]:
    return list(dict.fromkeys(getattr(fact, field) for fact in results.privacy))
