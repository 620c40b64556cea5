"""What `secagg.py` prints and writes: the tables, the bars, and the page."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import benchmarks._common as bench
    import benchmarks._secagg_ours as ours
    from benchmarks.secagg import Cell
else:
    import _common as bench
    import _secagg_ours as ours

__all__ = ["SET_UP", "report"]

SET_UP = ("E0 advertise", "E1 verify, share", "E2 open, acknowledge")
_PHASES = (
    *SET_UP,
    "coordinator: E0",
    "coordinator: E1",
    "coordinator: E2",
    "R0 check the plan",
    "R1 encode, report",
    "R2 check, commit",
    "R3 check, unmask",
    "coordinator: fold one report",
    *ours.OPENING,
)
_LARGE = 10**6  # from here on memory and masks have bars


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A bar and the cell that is nearest to it, or farthest below.

    Attributes:
        what: In words.
        where: The worst cell.
        measured: There.
        rule: `>=` or `<=`.
        limit: The bar.
    """

    what: str
    where: str
    measured: float
    rule: str
    limit: float

    @property
    def reached(self) -> bool:
        """Whether even the worst cell reaches it."""
        return self.measured >= self.limit if self.rule == ">=" else self.measured <= self.limit


Found = Sequence[tuple[str, float]]  # a cell and its figure


def bars(cells: Sequence[Cell]) -> list[Bar]:
    """Return every bar that could be judged."""
    client = [(_name(c), c.flower_client / c.client) for c in cells if c.flower_client]
    server = [
        (f"{_name(c)}, {lost} lost", theirs / c.server[lost][0])
        for c in cells
        for lost, theirs in c.flower_server.items()
    ]
    alike = [
        (f"{_name(c)}, {lost} lost", theirs / c.server[lost][1])
        for c in cells
        for lost, theirs in c.flower_server.items()
    ]
    thousand = [
        (_name(c), c.flower_server[0] / c.server[0][1])
        for c in cells
        if (c.sites, c.size) == (50, 10**4) and c.flower_server
    ]
    large = [c for c in cells if c.size >= _LARGE]
    judged: list[tuple[str, Found, str, float]] = [
        ("client: times less CPU than Flower", client, ">=", 5),
        ("coordinator: times less CPU than Flower", server, ">=", 10),
        ("of it unmasking: times less CPU than Flower", alike, ">=", 10),
        ("the same at n = 50, d = 1e4, no drop-outs", thousand, ">=", 1000),
        ("masks over the keystream's limit", [(_name(c), c.masks) for c in large], "<=", 1.5),
        (
            "vector, bytes a parameter",
            [(_name(c), c.vector_bytes / c.size) for c in large],
            "<=",
            4.01,
        ),
        ("other bytes up a round", [(_name(c), float(c.up_bytes)) for c in large], "<=", 3000),
        (
            "client memory beyond its vector, bytes a parameter",
            [(_name(c), c.extra_bytes / c.size) for c in large],
            "<=",
            6,
        ),
    ]
    found = []
    for what, figures, rule, limit in judged:
        if figures:
            pick = min if rule == ">=" else max
            where, measured = pick(figures, key=lambda figure: figure[1])
            found.append(Bar(what=what, where=where, measured=measured, rule=rule, limit=limit))
    return found


def report(cells: Sequence[Cell], extra: Mapping[str, Any], skipped: str, *, written: bool) -> int:
    """Print and write everything; 1 where a bar was missed."""
    tables = {
        "client": ("Client, CPU of one round", _CLIENT, [_client_row(c) for c in cells]),
        "server": (
            "Coordinator, CPU of opening one sum",
            _SERVER,
            [_server_row(c, lost) for c in cells for lost in c.server],
        ),
        "cost": (
            "Masks, bytes and memory, 32-bit words",
            _COST,
            [_cost_row(c) for c in cells if c.size >= _LARGE],
        ),
        "phases": (
            f"One round of {cells[-1].sites} sites, d = 20, a tenth lost: CPU by phase",
            ("phase", "ms"),
            [[name, _ms(extra["phases"][name])] for name in _PHASES],
        ),
    }
    judged = bars(cells)
    tables["bars"] = ("Bars, each at its worst cell", _BARS, [_bar_row(bar) for bar in judged])
    for title, head, rows in tables.values():
        bench.show(title, head, rows)
    if skipped:
        bench.console.print(f"Flower was not measured: {skipped}", markup=False)
    if written:
        made = bench.facts("make bench-secagg")
        names = ("fedcohort", "cryptography", "numpy", "flwr")
        made["software"] = {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in names},
        }
        document = {
            **made,
            "cells": [asdict(cell) for cell in cells],
            **extra,
            "bars": [{**asdict(bar), "reached": bar.reached} for bar in judged],
            "flower_skipped": skipped,
        }
        bench.write_json("secagg", document)
        text = {key: bench.markdown_table(head, rows) for key, (_, head, rows) in tables.items()}
        bench.page("secagg-speed", made, _TEXT.format(**text, **_said(extra, skipped)))
    return 0 if all(bar.reached for bar in judged) else 1


_CLIENT = ("n", "d", "Flower", "ours", "times less")
_SERVER = ("n", "d", "lost", "Flower", "ours", "times less", "of it unmasking", "times less")
_COST = (
    "n",
    "d",
    "masks / limit",
    "limit, GB/s",
    "vector, B a parameter",
    "other bytes up",
    "memory, B a parameter",
)
_BARS = ("bar", "worst cell", "measured", "limit", "reached")

_TEXT = """# What masked sums cost

CPU seconds of one site's client and of the coordinator, for n sites and vectors of length d, and
the same for Flower's SecAgg+ (flwr 1.41), whose own functions are called directly. Words have 64
bits up to d = 100,000 and 32 bits above. All sites are real, and every sum that was opened
is the exact one.

## Bars

They were set before anything was measured. Where one is missed, it stays here.

{bars}
{flower}
## Client

Ours: encode, agree with n - 1 sites, mask, hash, sign. Flower's: `_collect_masked_vectors`, which
quantises, agrees, masks and serialises. Both get the same vector (Flower in float32, its quicker
case).

{client}

Not in these figures is what comes before a round. Flower's clients make and share keys anew in
every round: {share_keys}.
Ours do it once for 100 rounds, in all {set_up};
the hundredth part is a round's.

## Coordinator

Ours: from the survivors' reports to the exact integer sum, all signatures and messages checked.
Flower's: combine the shares, make the masks again, dequantise (`unmask_stage`). *Of it unmasking*
leaves out what Flower's lines do not have: signatures, and messages to be read. What they have
and ours does not is the step to floats, one more pass over the vector.

{server}

## Masks, bytes, memory

*Limit*: the time in which AES-256-CTR alone writes as many bytes as the masks have, measured in
the same run. *Other bytes up*: report, commitment and unmasking of one site. *Memory*: peak of
encoding and report beyond the vector of float64, which is encoded in its own memory{memory}.

{cost}

Once for 100 rounds, a site sends {set_up_bytes}.

## Phases of a round

50 sites, d = 20 (a logistic regression), five sites lost, set-up for 100 rounds. Site phases are
one site's, *fold* is for one report, other coordinator phases are for all sites together.

{phases}
"""


def _said(extra: Mapping[str, Any], skipped: str) -> dict[str, str]:
    def by_sites(figures: Mapping[int, float], form: str, scale: float) -> str:
        parts = [f"{form.format(scale * value)} (n = {sites})" for sites, value in figures.items()]
        return ", ".join(parts)

    shared = by_sites(extra["share_keys"], "{:,.0f} ms", 1e3)
    memory = f"; Flower's client takes {extra['memory']:.0f}" if "memory" in extra else ""
    return {
        "flower": f"\nFlower was not measured: {skipped}.\n" if skipped else "",
        "share_keys": shared or "not measured here",
        "set_up": by_sites(extra["set_up"], "{:,.0f} ms", 1e3),
        "set_up_bytes": by_sites(extra["set_up_bytes"], "{:,.0f} kB", 1e-3),
        "memory": memory,
    }


def _name(cell: Cell) -> str:
    return f"n = {cell.sites}, d = {cell.size:.0e}".replace("e+0", "e")


def _client_row(cell: Cell) -> list[str]:
    theirs = cell.flower_client
    return [
        *_head(cell),
        _ms(theirs),
        _ms(cell.client),
        _times(theirs, cell.client),
    ]


def _server_row(cell: Cell, lost: int) -> list[str]:
    whole, alone = cell.server[lost]
    theirs = cell.flower_server.get(lost)
    ratios = _times(theirs, whole), _times(theirs, alone)
    return [*_head(cell), str(lost), _ms(theirs), _ms(whole), ratios[0], _ms(alone), ratios[1]]


def _cost_row(cell: Cell) -> list[str]:
    return [
        *_head(cell),
        f"{cell.masks:.2f}",
        f"{cell.keystream / 1e9:.1f}",
        f"{cell.vector_bytes / cell.size:.2f}",
        f"{cell.up_bytes:,}",
        f"{cell.extra_bytes / cell.size:.2f}",
    ]


def _bar_row(bar: Bar) -> list[str]:
    measured = f"{bar.measured:,.0f}" if bar.measured >= 100 else f"{bar.measured:.2f}"
    reached = "yes" if bar.reached else "**no**"
    return [bar.what, bar.where, measured, f"{bar.rule} {bar.limit:g}", reached]


def _head(cell: Cell) -> list[str]:
    return [str(cell.sites), f"{cell.size:.0e}".replace("e+0", "e")]


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{1e3 * seconds:,.0f} ms" if seconds >= 0.1 else f"{1e3 * seconds:.3g} ms"


def _times(theirs: float | None, mine: float) -> str:
    if theirs is None:
        return "-"
    ratio = theirs / mine
    return f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.1f}"
