"""The budgets as people read them in a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ._budget_figures import percent, plain
from ._budget_words import counted
from ._view import DASH, printable

__all__ = ["show_budgets"]


def show_budgets(document: Mapping[str, Any], console: Console) -> None:
    """Print a line for each ledger, and what a reader must not miss."""
    told = [hospital["statement"] for hospital in document["hospitals"]]
    if any(one["kind"] == "simulation" for one in told):
        console.print(Text("SIMULATION: throw-away ledgers, no hospital's budget.", "bold yellow"))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), header_style="dim")
    table.add_column("ledger", overflow="fold")
    for head in ("epsilon", "delta", "spent", "set aside", "left", "refused"):
        table.add_column(head, justify="right", no_wrap=True)
    for hospital in document["hospitals"]:
        table.add_row(*_row(hospital))
    console.print(table, end="")
    for one in told:
        if one["unnoised_releases"]:
            text = (
                f"no guarantee is claimed for {printable(one['hospital'])}: "
                f"{counted(one['unnoised_releases'], 'vector')} left without noise"
            )
            console.print(Text(text, style="bold red"))
    if document["repeats_left_out"]:
        count = document["repeats_left_out"]
        console.print(
            Text(f"left out: {counted(count, 'ledger')} of further repeats; --all adds them")
        )
    console.print(
        Text(
            "epsilon: rdp, for one patient added or removed, once the budget is used up; against "
            "whom, and what is not covered, is in the report",
            style="dim",
        )
    )


def _row(hospital: Mapping[str, Any]) -> list[Text]:
    told = hospital["statement"]
    budget = told["budget"] or {"epsilon": None, "delta": None}
    cells = [
        plain(budget["epsilon"]).text,
        plain(budget["delta"]).text,
        percent(told["spent"]["share"]).text,
        percent(told["reserved"]["share"]).text,
        percent(told["left"]["share"], floor=True).text,
        str(len(told["refused"])) if told["refused"] else DASH,
    ]
    name = Text(printable(told["hospital"]), "bold")
    name.append(f"\n{printable(hospital['source'])}", "dim")
    return [name, *map(Text, cells)]
