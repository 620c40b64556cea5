"""`fedcohort report`: a run's page again, and what the ledgers of hospitals say."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

__all__ = ["report"]

report = typer.Typer(
    help="Pages for people: a run's results, and hospitals' privacy budgets.",
    no_args_is_help=True,
)
_console = Console(stderr=True, highlight=False)


@report.command("run")
def run_(
    run_folder: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    out: Annotated[Path | None, typer.Option(help="Where to write; stdout otherwise.")] = None,
) -> None:
    """Render a run's report again from its results.json, byte for byte."""
    from .reporting.report import make

    page = make(run_folder)
    if out is None:
        sys.stdout.write(page)
    else:
        out.write_text(page, encoding="utf-8")


@report.command()
def budget(
    ledgers: Annotated[
        list[Path],
        typer.Argument(help="Ledgers, exports, a run's folder; or one budget report's JSON."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="The page to write, its JSON beside it; stdout otherwise.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace both files.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Of a run every repeat, not only the first.")
    ] = False,
) -> None:
    """Say what was released about whom, what it cost, what is left and what was refused."""
    from .reporting._budget_table import show_budgets
    from .reporting.budget import budget_document, dumps, write_budget

    document = budget_document(ledgers, everything=everything)
    paths = [] if out is None else write_budget(document, out, overwrite=overwrite)
    show_budgets(document, _console)
    for path in paths:
        _console.print(str(path), style="cyan", markup=False, soft_wrap=True)
    if out is None:
        sys.stdout.write(dumps(document))
