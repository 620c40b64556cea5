"""How `fedcohort privacy` shows its answers: one JSON document, or a table and a few lines."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["say"]


def say(document: dict[str, Any], *, as_json: bool) -> None:
    """Write an answer to stdout, numbers for people rounded up."""
    if as_json:
        sys.stdout.write(json.dumps(_finite(document), allow_nan=False, indent=1) + "\n")
        return
    console = Console(file=sys.stdout, highlight=False)
    listed = "mechanisms" in document
    console.print(_mechanisms(document) if listed else _hospitals(document))
    for line in _lines(document):
        console.print(line, markup=False, soft_wrap=True)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return "Infinity" if value == math.inf else value


def _hospitals(document: dict[str, Any]) -> Table:
    table = Table()
    table.add_column("a patient of")
    for head in ("epsilon, PLD", "epsilon, RDP"):
        table.add_column(head, justify="right")
    for row in document["hospitals_per_person"]:
        many = f"{row['hospitals']} hospital{'s' if row['hospitals'] > 1 else ''}"
        table.add_row(many, _shown(row["pld_epsilon"]), _shown(row["rdp_epsilon"]))
    return table


def _mechanisms(document: dict[str, Any]) -> Table:
    table = Table()
    table.add_column("mechanism")
    table.add_column("releases", justify="right")
    for row in document["mechanisms"]:
        table.add_row(_name(row["event"]), str(row["count"]))
    return table


def _name(event: dict[str, Any]) -> str:
    """Return an event in one line.

    >>> _name({"class_name": "GaussianDpEvent", "noise_multiplier": 20.0})
    'Gaussian, noise_multiplier 20'
    """
    inner = event.get("event")
    name = event["class_name"].removesuffix("DpEvent").replace("ZC", "zCDP")
    numbers = [f"{key} {value:g}" for key, value in event.items() if isinstance(value, int | float)]
    return ", ".join([name, *numbers, *([_name(inner)] if inner else [])])


def _lines(document: dict[str, Any]) -> list[str]:
    bounds = {"pld": "epsilon, PLD", "rdp": "epsilon, RDP"}
    lines = [] if "mechanisms" in document else [_asked(document)]
    lines += [
        f"epsilon {_shown(document['epsilon'])} ({document['bound']}), delta "
        f"{document['delta']:g}, {document['relation']}, per {document['unit']}"
    ]
    if "mechanisms" in document:
        both = [f"{bounds[key]}: {_shown(document[f'{key}_epsilon'])}" for key in bounds]
        lines.append("; ".join(both))
    if document.get("ledger"):
        lines.append(_ledger(document))
    accountant = f"{document['accountant']} {document['accountant_version']}"
    return [*lines, *document["notes"], f"By {accountant}, {document['method']}."]


def _asked(document: dict[str, Any]) -> str:
    share = document["sampling_probability"]
    who = "everybody in each" if share == 1 else f"each patient in one with probability {share:g}"
    noise, steps = document["noise_multiplier"], document["steps"]
    return f"{steps} releases at noise multiplier {noise:g}, {who}"


def _ledger(document: dict[str, Any]) -> str:
    ledger, target = document["ledger"], document["target_epsilon"]
    pays = "it pays" if ledger["pays"] else f"it pays from {ledger['noise_multiplier']:g} on"
    return (
        f"A ledger of epsilon {target:g}, delta {document['delta']:g} holds {ledger['limit']:.4g} "
        f"of Renyi DP at order {ledger['order']}; these releases cost {ledger['cost']:.4g}: {pays}."
    )


def _shown(epsilon: float | None) -> str:
    """Return epsilon to four decimals, rounded up."""
    if epsilon is None:
        return "unknown"
    if math.isinf(epsilon):
        return "infinite"
    return f"{math.ceil(epsilon * 1e4 - 1e-6) / 1e4:.4f}"
