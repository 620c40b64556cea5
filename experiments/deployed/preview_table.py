"""A preview for people: a line for each kind of message, what it adds up to, what a reply holds."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from .previewed import Field, Kind, Preview

__all__ = ["reply_in_words", "show_preview"]

_NUMBERS = {"uint32": "words of 32 bits", "uint64": "words of 64 bits", "int64": "whole numbers"}


def show_preview(preview: Preview, console: Console) -> None:
    """Print a preview: what goes out, what comes in, what it costs, what a reply holds."""
    for out, title in ((True, "What this hospital would send"), (False, "What it would be sent")):
        console.print(_table(title, [kind for kind in preview.kinds if kind.out == out]))
    for line in _lines(preview):
        console.print(line, markup=False, soft_wrap=True)


def _table(title: str, kinds: Iterable[Kind]) -> Table:
    table = Table(title=title)
    table.add_column("message", no_wrap=True)
    table.add_column("holds")
    for head in ("bytes each", "bytes in all"):
        table.add_column(head, justify="right")
    for kind in kinds:
        holds = "; ".join(_shown(kind.fields)) or "nothing"
        each = f"{kind.bytes / kind.count:.0f}"
        table.add_row(f"{kind.action} ×{kind.count}", holds, each, str(kind.bytes))
    return table


def _shown(fields: Iterable[Field]) -> list[str]:
    """Return each field in a few words, one whose length varies once.

    >>> _shown([Field(record="vector", name="sum", dtype="uint64", shape=(d,)) for d in (1, 12)])
    ['vector.sum uint64 [1] to [12]']
    """
    shapes: dict[tuple[str, str, str], list[tuple[int, ...]]] = {}
    for field in fields:
        shapes.setdefault((field.record, field.name, field.dtype), []).append(field.shape)
    shown = []
    for (record, name, dtype), found in shapes.items():
        least, most = list(min(found)), list(max(found))
        length = f"{least}" if least == most else f"{least} to {most}"
        shown.append(f"{record}.{name} {dtype}" + (f" {length}" if most else ""))
    return shown


def _lines(preview: Preview) -> Iterable[str]:
    plan, terms = preview.plan, preview.plan.privacy
    yield (
        f"{preview.total_bytes(out=True)} bytes out, {preview.total_bytes(out=False)} bytes in, "
        f"over {preview.rounds} of at most {plan.max_rounds} rounds; made-up rows may take more "
        "rounds than real ones, or fewer."
    )
    if terms is None:
        yield "No noise is added, so there is no epsilon: who learns the sum learns it exactly."
    else:
        yield (
            f"{preview.releases} of at most {terms.releases} noisy sums; the ledger is charged "
            f"for epsilon {terms.epsilon:g} at delta {terms.delta:g} at most, with noise of "
            f"{terms.noise_multiplier:.4g} times what one patient can change ({terms.clip:g})."
        )
    yield reply_in_words(preview)
    if preview.ended:
        yield (
            f"The made-up run ended early ({preview.ended}): messages after that are not shown. "
            "Real rows need not end so."
        )
    yield "All rows here were made up. Nothing was sent and nothing was charged."


def reply_in_words(preview: Preview) -> str:
    """Return what a reply to `train.report` holds, and what it means, in plain words."""
    plan, terms = preview.plan, preview.plan.privacy
    sums = [
        field
        for kind in preview.kinds
        if kind.out and kind.action == "train.report"
        for field in kind.fields
        if field.record == "vector"
    ]
    if not sums:
        return "No reply held a sum."
    widest = max(sums, key=lambda field: field.shape)
    what = _NUMBERS.get(widest.dtype, widest.dtype)
    holds = f"A reply to train.report holds at most {widest.shape[0]} {what}: "
    noise = {
        None: "no noise in it",
        "sum": "this hospital's share of the noise in it",
        "each": "all of the noise in it",
        "local": "noise in each of its local steps",
    }[None if terms is None else terms.sharing]
    if plan.secagg == "masked":
        return holds + (
            f"sums over this hospital's patients, {noise}, under a mask that makes them look "
            f"random. The coordinator opens the sum over {plan.fewest_sites} hospitals or more, "
            "and nothing smaller. The other replies hold names, keys, signatures and encrypted "
            "shares of masks."
        )
    return holds + (
        f"sums over this hospital's patients, {noise}, without a mask. The coordinator can read "
        "them, this hospital's alone."
    )
