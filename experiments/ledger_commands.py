"""`fedcohort ledger`: open a hospital's ledger, look at it, price a plan, check it, hand it out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from ..privacy.errors import BudgetExceededError, ConfigError, PolicyError

__all__ = ["ledger"]

ledger = typer.Typer(
    help="The hospital's privacy ledger: what was released, what it cost, what is left.",
    no_args_is_help=True,
)
_console = Console(stderr=True, highlight=False)

_Path = Annotated[Path, typer.Argument(help="A ledger's file, or its export.")]


def _print(document: Any) -> None:
    sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=1) + "\n")


@ledger.command()
def create(
    path: Annotated[Path, typer.Argument(help="The new file.")],
    hospital: Annotated[str, typer.Option(help="Whose ledger it is, as plans name the site.")],
    population: Annotated[str, typer.Option(help="Whom it counts for, and the data's epoch.")],
    epsilon: Annotated[float, typer.Option(help="Per patient, over all studies, for ever.")],
    delta: Annotated[float, typer.Option(help="Below 1 / patients.")],
    allow_unnoised: Annotated[
        bool,
        typer.Option(
            "--allow-unnoised",
            help="Write down releases without noise too; no guarantee holds after the first.",
        ),
    ] = False,
) -> None:
    """Open a ledger and set its budget, once: there is no renewal in this release."""
    from ..privacy.budget import Budget
    from ..privacy.ledger.charges import Opening
    from ..privacy.ledger.store import SqliteLedger

    try:
        opening = Opening(
            hospital=hospital,
            population=population,
            kind="site",
            budget=Budget(epsilon=epsilon, delta=delta),
            unnoised=allow_unnoised,
        )
    except ValueError as error:
        raise ConfigError(
            "ledger_opening_invalid",
            f"the ledger cannot be opened: {error}",
            hint="Name hospital and population; epsilon > 0, delta in (0, 1).",
        ) from error
    if epsilon > 10 or delta >= 1e-3:
        _console.print(
            "[bold red]This budget promises hardly anything:[/] beyond epsilon 10 or delta 0.001 "
            "an attacker may be nearly sure of a patient. It is set for ever."
        )
    made = SqliteLedger.create(path, opening)
    head = made.head
    made.dispose()
    _console.print(
        f"Opened {path}. Write its head down elsewhere: {head}", markup=False, soft_wrap=True
    )
    _print({"ledger": str(path), "head": str(head), **opening.to_json()})


@ledger.command()
def show(path: _Path) -> None:
    """Show the budget, what is spent, set aside and left, and every plan."""
    from ..privacy.ledger.statement import statement

    told = statement(_entries(path))
    _show(told)
    _print(told)


@ledger.command()
def price(
    plan: Annotated[Path, typer.Argument(help="A plan's JSON, or a run's plan.json.")],
    path: _Path,
) -> None:
    """Say what a plan would cost under this ledger, and what would be left; nothing is changed."""
    from ..privacy.ledger.chain import Chain
    from ..study.plan import reservation_of

    entries = _entries(path)
    table = Table(title=f"Price under {path.name} (Renyi DP at the ledger's order)")
    for head in ("plan", "noisy sums", "noise", "cost", "left", "after", "answer"):
        table.add_column(
            head, justify="left" if head in ("plan", "answer") else "right", no_wrap=head == "plan"
        )
    answers = []
    for name, asked in _plans(plan).items():
        book = Chain.of(entries).book
        reservation = reservation_of(asked)
        cost, before = book.cost(reservation.mechanism, reservation.releases), book.left
        answer, after = "fits", before
        try:
            new = book.reserve(reservation)
            answer, after = ("fits" if new else "reserved already"), book.left
        except PolicyError as error:
            over = isinstance(error, BudgetExceededError)
            answer = "too expensive" if over else f"no ({error.code})"
        noisy = reservation.mechanism
        answers.append(
            {
                "plan": name,
                "plan_sha256": asked.sha256,
                "releases": reservation.releases,
                "noise_multiplier": None if noisy is None else noisy.noise_multiplier,
                "epsilon": None if asked.privacy is None else asked.privacy.epsilon,
                "delta": None if asked.privacy is None else asked.privacy.delta,
                "cost": None if noisy is None else cost,
                "left_before": before,
                "left_after": after,
                "answer": answer,
            }
        )
        table.add_row(
            name,
            str(reservation.releases) if noisy else "none",
            f"{noisy.noise_multiplier:.3f}" if noisy else "-",
            f"{cost:.4f}" if noisy else "-",
            f"{before:.4f}",
            f"{after:.4f}",
            answer,
        )
    _console.print(table)
    if len(answers) > 1:
        _console.print("Each plan is priced by itself, as if it came first.")
    _print(answers)


@ledger.command("close")
def close_(
    path: Annotated[Path, typer.Argument(help="A hospital's ledger.")],
    plan_sha256: Annotated[str, typer.Argument(help="The plan's hash, as `show` prints it.")],
) -> None:
    """End a plan whose coordinator is gone: what was set aside and never left is free again."""
    from ..privacy.ledger.store import SqliteLedger

    held = SqliteLedger(path, kind="site")
    named = [full for full in held.book.accounts if full.startswith(plan_sha256)]
    account = held.book.accounts[named[0]] if len(named) == 1 and len(plan_sha256) > 7 else None
    if account is None:
        raise ConfigError(
            "plan_unknown_here",
            "no plan of this hash was reserved here, or several begin with it",
            hint="Copy the hash from `fedcohort ledger show`, eight digits or more.",
        )
    held.close(account.reservation.plan_sha256)
    book, head = held.book, held.head
    held.dispose()
    _console.print(
        f"The plan has ended: {account.executed} of {account.reservation.releases} noisy sums "
        f"were paid. Head: {head}",
        markup=False,
        soft_wrap=True,
    )
    _print({"plan_sha256": account.reservation.plan_sha256, "head": str(head), "left": book.left})


@ledger.command()
def verify(
    path: _Path,
    head: Annotated[
        str | None, typer.Option(help="NUMBER:SHA256 from an earlier report; must be in it.")
    ] = None,
) -> None:
    """Read the whole chain again, run every decision again, and compare with a known head."""
    from ..privacy.ledger.chain import Chain, Head, broken

    entries = _entries(path)
    chain = Chain.of(entries)
    if head is not None:
        known = Head.parse(head)
        within = 1 <= known.number <= len(entries)
        if not within or entries[known.number - 1].sha256 != known.sha256:
            raise broken(f"entry {known.number} is not the one of the head that was given")
    _console.print(
        f"{chain.head.number} entries, each follows from the one before and from the rules. "
        f"Head: {chain.head}",
        markup=False,
        soft_wrap=True,
    )
    if head is None:
        _console.print(
            "Without --head nothing proves the newest entry, nor that none was cut off after it: "
            "compare with a head that was written down elsewhere.",
            soft_wrap=True,
        )
    _print({"entries": chain.head.number, "head": str(chain.head), "contains_head": head})


@ledger.command("export")
def export_(
    path: _Path,
    out: Annotated[Path | None, typer.Option(help="Write here instead of stdout.")] = None,
) -> None:
    """Write every entry as JSON, for a reviewer who checks it without this package."""
    from ..privacy.ledger.chain import Chain
    from ..privacy.ledger.export import export

    entries = _entries(path)
    Chain.of(entries)  # nothing broken is handed out
    text = export(entries)
    if out is None:
        sys.stdout.write(text)
        return
    if out.exists():
        raise ConfigError("out_exists", f"{out} exists", hint="Name another file.")
    out.write_text(text, encoding="utf-8")
    _console.print(f"{len(entries)} entries written to {out}.", markup=False)


def _entries(path: Path) -> list[Any]:
    """Return a ledger's entries; say so where a hospital's file has lost its head."""
    from ..privacy.ledger.export import read_ledger
    from ..privacy.ledger.witness import read_head

    if path.is_dir():
        raise ConfigError(
            "ledger_missing", f"{path} is a folder", hint="Name the ledger in it, FILE.ledger."
        )
    entries = read_ledger(path)
    exported = path.suffix == ".json"
    site = bool(entries) and entries[0].body.get("kind") == "site"
    if site and not exported and read_head(path) is None:
        _console.print(
            f"[bold red]There is no {path.name}.head beside this ledger:[/] nothing tells here "
            "whether it was put back from a backup, and its node would refuse it.",
            soft_wrap=True,
        )
    return entries


def _plans(path: Path) -> dict[str, Any]:
    """Return the plans of a file, by name: one plan's own JSON, or all of a run's."""
    from ..study.plan import PLAN_FORMAT, Plan

    if not path.is_file():
        raise ConfigError(
            "plan_missing",
            f"there is no plan at {path}",
            hint="Name a plan's JSON, or the plan.json in a run's folder.",
        )
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        document = json.loads(text)
        if document.get("format") == PLAN_FORMAT:
            return {document["analysis"]: Plan.from_json(text)}
        found = document["plans"]
        return {str(name): Plan.from_json(json.dumps(plan)) for name, plan in found.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise PolicyError(
            "plan_unreadable",
            f"{path} holds no plan that can be read",
            hint="Name a plan's JSON, or the plan.json in a run's folder.",
        ) from error


def _show(told: dict[str, Any]) -> None:
    if told["kind"] == "simulation":
        _console.print("SIMULATION: a throw-away ledger, no hospital's.")
    budget = told["budget"]
    title = f"{told['hospital']}: {told['population']}"
    if budget is not None:
        title += (
            f"; budget epsilon {budget['epsilon']:g} at delta {budget['delta']:g} per patient "
            f"(Renyi DP {budget['limit']:.4f} at order {budget['order']})"
        )
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    heads = ("study", "plan", "analysis", "rounds", "noisy sums", "noise", "epsilon", "together")
    for head in heads:
        table.add_column(
            head,
            justify="left" if head in heads[:3] else "right",
            no_wrap=head in ("plan", "analysis", "epsilon", "together"),
        )
    for plan in told["plans"]:
        noise = plan["mechanism"]
        table.add_row(
            plan["study"],
            plan["plan_sha256"][:12],
            plan["analysis"],
            f"{plan['rounds_executed']} of {plan['rounds']}",
            f"{plan['releases_executed']} of {plan['releases']}",
            "none" if noise is None else f"{noise['noise_multiplier']:.3f}",
            "-" if plan["epsilon_alone"] is None else f"{plan['epsilon_alone']:.3f}",
            "-" if plan["epsilon_together"] is None else f"{plan['epsilon_together']:.3f}",
        )
    _console.print(table)
    if budget is not None:
        parts = (f"{name} {told[name]['share']:.1%}" for name in ("spent", "reserved", "left"))
        _console.print(", ".join(parts) + " of the budget", markup=False)
    if told["unnoised_releases"]:
        _console.print(
            f"{told['unnoised_releases']} releases left without noise: no guarantee is claimed "
            "for this population.",
            markup=False,
        )
    for refusal in told["refused"]:
        _console.print(f"refused: {refusal['code']} ({refusal['study'] or '-'})", markup=False)
