"""The results as people read them in a terminal, on stderr: colours only where there are any.

Narrow terminals (and pipes, 80 columns) get the hospitals in a table of their own; more than
eight hospitals are folded into the lowest, the median and the highest.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rich import box
from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ._view import (
    DASH,
    Line,
    View,
    bytes_text,
    cost_text,
    epsilon_text,
    gain_text,
    headline,
    printable,
    score_text,
    seconds_text,
)
from ._wording import SAVED_MODELS, SCOPE, SCOPES, arm_name
from .results import ALL, GIVEN_SPLIT, MEAN_OF_SITES, Results, Verdict

__all__ = ["show"]

_MANY_SITES = 8
_FOLDS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "lowest": min,
    "median": statistics.median,
    "highest": max,
}
_ONE_TABLE = 76  # columns that arm, totals and costs need together
_SCORE = 13  # columns of one score with its padding
_VERDICT_STYLE = {
    "gains": ("green", "▲"),
    "no clear difference": ("", "●"),
    "loses": ("red", "▼"),
    "not measurable": ("dim", "×"),
}


class Column(NamedTuple):
    """A column of scores: its head, and where it looks."""

    head: str
    places: tuple[str, ...]
    fold: str = ""  # '', or which of the places' scores: lowest, median, highest


def show(results: Results, *, console: Console | None = None, paths: Sequence[Path] = ()) -> None:
    """Print the comparison.

    Args:
        results: What was found.
        console: Where to; stderr by default.
        paths: Files to name at the end.
    """
    console = console or Console(stderr=True, highlight=False)
    view = View(results)
    answer, cost = headline(view)
    console.print()
    console.print(Text(answer.en, style="bold"))
    if cost:
        console.print(Text(cost.en))
    groups = [*_arm_tables(view, console.width), *_verdict_tables(view, console.width)]
    for table in [*groups, *_model_tables(results)]:
        console.print()
        console.print(table, end="")
    _print_warnings(results, console)
    console.print()
    for path in paths:
        console.print(Text(str(path), style="cyan"), soft_wrap=True)
    console.print(Text(f"SIMULATION. {SCOPE.en} {SAVED_MODELS.en}", style="dim"))


def _arm_tables(view: View, width: int) -> list[Group]:
    """Return one wide table, or the totals and then the hospitals as wide as there is room."""
    totals = [Column("all", (ALL,)), Column("mean of sites", (MEAN_OF_SITES,))]
    sites = _site_columns(view)
    level = f"{view.results.method.level:.0%}"
    title = f"{view.metric.en}, ± half the {level} interval"
    if width >= _ONE_TABLE + _SCORE * len(sites):
        return [_arm_table(view, title, totals + sites, costs=True)]
    each = max(1, (width - 24) // _SCORE)
    parts = [sites[start : start + each] for start in range(0, len(sites), each)]
    title_sites = f"{view.metric.en} in each hospital"
    return [
        _arm_table(view, title, totals, costs=True),
        *(_arm_table(view, title_sites, part, costs=False) for part in parts),
    ]


def _site_columns(view: View) -> list[Column]:
    if len(view.sites) <= _MANY_SITES:
        return [Column(site, (site,)) for site in view.sites]
    places = tuple(view.sites)
    return [Column(f"{fold} of {len(places)}", places, fold) for fold in _FOLDS]


def _arm_table(view: View, title: str, columns: Sequence[Column], *, costs: bool) -> Group:
    table, caption = _table(), ""
    table.add_column("arm", no_wrap=True)
    table.add_column("eps", justify="right", no_wrap=True)
    for column in columns:
        table.add_column(
            Text(printable(column.head), overflow="fold"), justify="right", max_width=_SCORE - 2
        )
    if costs:
        for head in ("rounds", "sent", "s"):
            table.add_column(head, justify="right", no_wrap=True)
    before = ""
    for line in view.lines:
        name = line.name.en
        if before and line.epsilon is not None and name != before and len(view.epsilons) > 1:
            table.add_section()
        cells = [_score(line, column) for column in columns]
        style = "dim" if line.arm == "pooled" else ""
        note = "*" if line.arm == "pooled" else ""
        extra = _costs(line) if costs else []
        table.add_row(Text(name + note), epsilon_text(line.epsilon), *cells, *extra, style=style)
        before = name
    if costs:
        told = ["* simulation only"] if any(line.arm == "pooled" for line in view.lines) else []
        told += [f"eps holds {SCOPES[GIVEN_SPLIT].en}"] if view.epsilons else []
        caption = "  ".join(told)
    return _titled(title, table, caption)


def _score(line: Line, column: Column) -> str:
    if not column.fold:
        return score_text(line.places.get(column.places[0])).replace(" ", "")
    found = [line.places[place].mean for place in column.places if place in line.places]
    means = [mean for mean in found if mean is not None]
    return f"{_FOLDS[column.fold](means):.3f}" if means else DASH


def _costs(line: Line) -> list[str]:
    costs = line.any
    return [
        DASH if costs.rounds is None else str(costs.rounds),
        bytes_text(costs.bytes_up),
        seconds_text(costs.seconds),
    ]


def _verdict_tables(view: View, width: int) -> list[Group]:
    """Return the verdicts: in full as far as there is room, then the other arms in short."""
    groups = list(view.verdict_groups().items())
    full, short = max(1, (width - 18) // 29), max(1, (width - 18) // 20)
    parts = [groups[:full]]
    parts += [groups[start : start + short] for start in range(full, len(groups), short)]
    title = "each hospital against training alone"
    return [
        _verdict_table(f"{title}{'' if not number else ' (other arms)'}", part, brief=number > 0)
        for number, part in enumerate(parts)
        if part
    ]


def _verdict_table(
    title: str,
    groups: Sequence[tuple[tuple[str, float | None, str], Sequence[Verdict]]],
    *,
    brief: bool,
) -> Group:
    table = _table()
    table.add_column("hospital", max_width=24)
    for (arm, epsilon, metric), _ in groups:
        asked = "" if epsilon is None else f", eps {epsilon_text(epsilon)}"
        table.add_column(Text(f"{arm}{asked}\n{metric}"))
    for site in dict.fromkeys(v.site for _, verdicts in groups for v in verdicts):
        found = [[v for v in verdicts if v.site == site] for _, verdicts in groups]
        table.add_row(Text(printable(site)), *(_verdict(v[0], brief) if v else "" for v in found))
    caption = "▲ gains  ● no clear difference  ▼ loses  × not measurable" if brief else ""
    return _titled(title, table, caption)


def _verdict(verdict: Verdict, brief: bool) -> Text:
    style, sign = _VERDICT_STYLE[verdict.verdict]
    if brief:
        return Text(f"{sign} {gain_text(verdict.mean)}", style=style)
    text = Text(f"{sign} {verdict.verdict}", style=style)
    if verdict.mean is not None:
        low, high = gain_text(verdict.ci_low), gain_text(verdict.ci_high)
        text.append(f"\n  {gain_text(verdict.mean)} [{low}, {high}]")
    elif verdict.reason:
        text.append(f"\n  {verdict.reason}", style="dim")
    return text


def _model_tables(results: Results) -> list[Group]:
    """Return one table of the saved models with noise; none without any."""
    noisy = [model for model in results.models if model.epsilon_scope is not None]
    if not noisy:
        return []
    table = _table()
    for head in ("model", "eps", "spent", "delta", "eps holds"):
        table.add_column(head, justify="left" if head in ("model", "eps holds") else "right")
    for model in noisy:
        table.add_row(
            Text(arm_name(model.arm).en),
            epsilon_text(model.epsilon),
            cost_text(model.epsilon_spent),
            DASH if model.delta is None else f"{model.delta:g}",
            SCOPES[model.epsilon_scope].en if model.epsilon_scope else DASH,
        )
    return [_titled("saved models with noise, fitted on all patients", table, "")]


def _print_warnings(results: Results, console: Console) -> None:
    if results.warnings:
        console.print()
        console.print(Text("warnings", style="bold yellow"))
    for warning in results.warnings:
        where = ", ".join(part for part in (warning.site, warning.column) if part)
        text = Text(f"{warning.code} ", style="yellow")
        text.append(printable(f"{where}: " if where else ""), style="default")
        text.append(printable(warning.text), style="default")
        console.print(Padding(text, (0, 0, 0, 2)))


def _titled(title: str, table: Table, caption: str) -> Group:
    """Put words above and below a table, which may be wider than the table is."""
    below = [Text(caption, style="dim")] if caption else []
    return Group(Text(title, style="bold"), table, *below)


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), header_style="dim")
