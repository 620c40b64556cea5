"""A hospital's verdict on its own screen: one sentence, one table, and what not to do with it."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..reporting._view import gain_text, printable
from ..reporting._wording import metric_name
from .verdict import Compared, Verdict

__all__ = ["show_verdict"]

_LOOK = {
    "gains": ("green", "▲"),
    "no clear difference": ("", "●"),
    "loses": ("red", "▼"),
    "not measurable": ("dim", "×"),
}
_WHY = {
    "few_patients": "fewer than 10 held-out patients, or nobody to train on",
    "one_class": "all held-out patients have the same outcome",
    "few_events": "fewer than 5 held-out patients with the outcome, or without it",
    "no_pairs": "no two held-out patients can be compared",
}
_SCOPE = (
    "For this hospital's own eyes: it is made of its patients' outcomes, without noise, and no "
    "epsilon covers it."
)


def show_verdict(verdict: Verdict, console: Console) -> None:
    """Print a verdict.

    Args:
        verdict: The hospital's.
        console: Of the hospital's terminal.
    """
    style, sign = _LOOK[verdict.verdict]
    console.print(Text(f"{printable(verdict.study)} at {printable(verdict.site)}", style="bold"))
    line = Text(f"{sign} {verdict.verdict}", style=style)
    name = metric_name(verdict.metric).en
    line.append(f"  by {name}, against training alone", style="default")
    console.print(line)
    if verdict.reason is not None:
        console.print(Text(f"  {_WHY.get(verdict.reason, verdict.reason)}", style="dim"))
    if any(one.shared is not None for one in verdict.compared):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
        for head in ("metric", f"shared ({verdict.arm})", "alone", "difference", "95 % interval"):
            table.add_column(head)
        for one in verdict.compared:
            table.add_row(*_cells(one))
        console.print(table)
    trained, tested = verdict.training_patients, verdict.held_out_patients
    console.print(Text(f"{trained} patients in training, {tested} held out", style="dim"))
    console.print(Text(_SCOPE, style="dim"))


def _cells(one: Compared) -> tuple[str, ...]:
    name = metric_name(one.metric).en
    if one.shared is None or one.local is None:
        return name, "-", "-", one.reason or "-", ""
    name = f"{name} (lower is better)" if one.lower_is_better else name
    interval = "" if one.low is None else f"[{gain_text(one.low)}, {gain_text(one.high)}]"
    return name, f"{one.shared:.3f}", f"{one.local:.3f}", gain_text(one.difference), interval
