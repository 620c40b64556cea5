"""What `fedcohort site check` and `site approve` show of an extract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from .options import plain

if TYPE_CHECKING:
    from ...fl_client.extract_check import ExtractCheck
    from ...privacy.errors import DataError

__all__ = ["show_check", "show_faults"]


def show_faults(faults: Sequence[DataError], console: Console) -> None:
    """Show the rules that an extract breaks, each with its remedy."""
    table = Table(title="The extract is not ready")
    for head in ("rule", "found", "what to do"):
        table.add_column(head, overflow="fold")
    for fault in faults:
        table.add_row(fault.code, plain(fault), plain(fault.hint))
    console.print(table)


def show_check(check: ExtractCheck, console: Console, *, most: int | None = None) -> None:
    """Show that an extract breaks no rule, and what was noticed.

    Args:
        check: What was found.
        console: Where people read.
        most: The patients that a plan counts at most, where one is looked at.
    """
    told = f"The extract breaks no rule (looked at {check.checked}, data {check.fingerprint[:16]})."
    console.print(told, markup=False, soft_wrap=True)
    if most is not None and check.patients > most:
        console.print(
            f"[bold yellow]It has {check.patients} patients; the plan counts {most} at most[/]: "
            "without noise some are left out; with noise ask for a plan that states your number.",
            soft_wrap=True,
        )
    if not check.warnings:
        return
    table = Table(title="Noticed; for this hospital's eyes")
    for head in ("warning", "column", "text"):
        table.add_column(head, overflow="fold")
    for warning in check.warnings:
        table.add_row(warning.code, plain(warning.column or ""), plain(warning.text))
    console.print(table)
