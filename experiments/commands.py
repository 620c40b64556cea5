"""Everything of `fedcohort` but `run`: look at data, predict, render a report again."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from .. import __version__
from ..privacy.errors import ConfigError, FedCohortError
from .ledger_commands import ledger
from .operating.coordinator_commands import coordinator
from .operating.site_commands import site as site_app
from .privacy_commands import privacy
from .refusals import file_refusal, refuse
from .report_commands import report

if TYPE_CHECKING:  # what reads tables takes half a second: each command that needs it imports it
    from ..datasets import CatalogueEntry, Description, Extract, LoadOptions

__all__ = ["app", "main"]

app = typer.Typer(
    name="fedcohort",
    help="Privacy-preserving federated analytics for hospitals.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="`fedcohort run study=heart-disease` compares federated, local and pooled models; "
    "see `fedcohort run --help`.",
)
data = typer.Typer(
    help="Look at data sets and draft codebooks; nothing leaves.", no_args_is_help=True
)
app.add_typer(data, name="data")
stats = typer.Typer(
    help="Federated statistics that train nothing, beside their pooled value (simulation).",
    no_args_is_help=True,
)
app.add_typer(stats, name="stats")
app.add_typer(ledger, name="ledger")
app.add_typer(privacy, name="privacy")
app.add_typer(report, name="report")
app.add_typer(site_app, name="site")
app.add_typer(coordinator, name="coordinator")
_console = Console(stderr=True, highlight=False)


def main() -> None:
    """Run a command; a refusal is one line and its exit code."""
    try:
        app()
    except FedCohortError as error:
        sys.exit(refuse(error, _console))
    except OSError as error:
        sys.exit(refuse(file_refusal(error), _console))


def _print(document: Any) -> None:
    sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=1) + "\n")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run() -> None:
    """Compare federated, local and pooled models (KEY=VALUE; see `fedcohort run --help`)."""
    raise typer.Exit  # `fedcohort.experiments.cli` hands `run` to Hydra before Typer sees it


@app.command()
def version() -> None:
    """Print the version."""
    sys.stdout.write(f"{__version__}\n")


@data.command("list")
def list_() -> None:
    """List the data sets that come with fedcohort."""
    from ..datasets import list_catalogue

    table = Table(title="Data sets in the catalogue")
    for head in ("name", "task", "source", "licence"):
        table.add_column(head)
    entries = list_catalogue()
    for entry in entries:
        table.add_row(entry.name, _task(entry), entry.source.title, entry.source.licence)
    _console.print(table)
    _print([{"name": e.name, "task": _task(e), **e.source.to_json()} for e in entries])


def _task(entry: CatalogueEntry) -> str:
    return "risk" if entry.defaults.time is None else "survival"


@data.command("describe")
def describe_(
    name: Annotated[str, typer.Argument(help="A catalogue name, or a CSV or Parquet file.")],
    options: Annotated[
        list[str] | None,
        typer.Argument(help="For a file: data.site=COLUMN data.outcome=COLUMN ..."),
    ] = None,
) -> None:
    """Count patients, events and missing values per hospital. For the hospital's own screen."""
    from ..datasets import describe

    extract = _extract(name, options)
    description = describe(extract)
    _show(description)
    for warning in extract.warnings:
        _console.print(f"warning ({warning.code}): {warning.text}", markup=False, soft_wrap=True)
    _print({**description.to_json(), "warnings": [w.to_json() for w in extract.warnings]})


@data.command("codebook")
def codebook(
    table: Annotated[Path, typer.Argument(help="A CSV or Parquet file.")],
    out: Annotated[Path | None, typer.Option(help="Write here instead of stdout.")] = None,
) -> None:
    """Draft a codebook for a table, to be completed by a person from public knowledge."""
    from ..datasets import draft_codebook

    text = draft_codebook(table)
    if out is None:
        sys.stdout.write(text)
        return
    if out.exists():
        raise ConfigError("out_exists", f"{out} exists", hint="Name another file.")
    out.write_text(text, encoding="utf-8")
    _console.print(f"Draft written to {out}: replace every `?` by public knowledge.", markup=False)


_Name = Annotated[str, typer.Argument(help="A catalogue name, or a CSV or Parquet file.")]
_Options = Annotated[
    list[str] | None, typer.Argument(help="For a file: data.site=COLUMN data.outcome=COLUMN ...")
]


@data.command("extract")
def extract_(
    name: _Name,
    options: _Options = None,
    site: Annotated[
        str | None, typer.Option(help="The hospital; without it they are listed.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write into.")] = None,
    mapping: Annotated[
        Path | None, typer.Option(help="The site's mapping.yaml: put the fitting lines there.")
    ] = None,
) -> None:
    """Write one hospital's rows to a file of their own, as its node would hold them."""
    from .one_extract import extract_one, list_hospitals

    asked = _load_options(options or [])
    if site is None:
        _print(list_hospitals(name, asked))
        return
    if out is None:
        hint = f"fedcohort data extract {name} --site {site} --out data"
        raise ConfigError("missing_key", "data extract needs --out FOLDER", hint=hint)
    _print(extract_one(name, site, out, asked, _console, mapping=mapping))


_Epsilon = Annotated[float | None, typer.Option(help="Per patient; no noise without it.")]
_Delta = Annotated[float | None, typer.Option(help="Needed with --epsilon.")]


@stats.command("kaplan-meier")
def kaplan_meier_(
    name: _Name,
    options: _Options = None,
    intervals: Annotated[int, typer.Option(help="Equal intervals of the time grid.")] = 24,
    epsilon: _Epsilon = None,
    delta: _Delta = None,
) -> None:
    """Survival curve from one binned histogram: event times never leave a site."""
    from .statistics import kaplan_meier

    answer = kaplan_meier(
        _extract(name, options), intervals=intervals, epsilon=epsilon, delta=delta
    )
    table = Table(title="Kaplan-Meier, federated and pooled")
    for head in ("days", "federated", "pooled", "at risk (federated)"):
        table.add_column(head, justify="right")
    curves = answer["federated"], answer["pooled"]
    for day, federated, pooled, at_risk in zip(
        curves[0]["grid_days"],
        curves[0]["survival"],
        curves[1]["survival"],
        curves[0]["at_risk"],
        strict=True,
    ):
        table.add_row(f"{day:.0f}", f"{federated:.3f}", f"{pooled:.3f}", f"{at_risk:.0f}")
    _console.print(table)
    _print(answer)


@stats.command("counts")
def counts_(
    name: _Name,
    options: _Options = None,
    rows: Annotated[str, typer.Option(help="A group: sex, age_band or outcome.")] = "age_band",
    columns: Annotated[str, typer.Option(help="Another group.")] = "outcome",
    epsilon: _Epsilon = None,
    delta: _Delta = None,
) -> None:
    """Contingency table of two groups over their public values."""
    from .statistics import counts

    answer = counts(
        _extract(name, options), rows=rows, columns=columns, epsilon=epsilon, delta=delta
    )
    table = Table(title=f"{rows} by {columns}, federated (pooled)")
    table.add_column(rows)
    for head in answer["columns"]:
        table.add_column(f"{columns} {head}", justify="right")
    tables = answer["federated"]["table"], answer["pooled"]["table"]
    for label, federated, pooled in zip(answer["rows"], *tables, strict=True):
        cells = (f"{a:.0f} ({b:.0f})" for a, b in zip(federated, pooled, strict=True))
        table.add_row(label, *cells)
    _console.print(table)
    _print(answer)


@app.command()
def predict(
    options: Annotated[
        list[str],
        typer.Argument(
            help="model=FILE.safetensors data.path=TABLE [data.patient=COLUMN] "
            "[data.encoding=NAME] [out=FILE.csv]"
        ),
    ],
) -> None:
    """Write a risk per patient, locally, with a model that `fedcohort run` saved."""
    from .predict import predict as write_predictions

    keys = _pairs(options, {"model", "data.path", "data.patient", "data.encoding", "out"})
    for needed in ("model", "data.path"):
        if needed not in keys:
            raise ConfigError(
                "missing_key",
                f"predict needs {needed}=FILE",
                hint="fedcohort predict model=RUN/models/federated.safetensors data.path=t.csv",
            )
    answer = write_predictions(
        Path(keys["model"]),
        Path(keys["data.path"]),
        patient=keys.get("data.patient"),
        encoding=keys.get("data.encoding"),
        out=Path(keys["out"]) if "out" in keys else None,
    )
    _print(answer)


def _extract(name: str, options: list[str] | None) -> Extract:
    from ..datasets import list_catalogue, load_catalogue, load_table

    asked = _load_options(options or [])
    known = [entry.name for entry in list_catalogue()]
    if name in known:
        return load_catalogue(name, asked)
    if not Path(name).suffix:
        raise ConfigError(
            "unknown_data",
            f"there is no data set {name!r} in the catalogue",
            hint=f"It has {', '.join(known)}; or name a CSV or Parquet file.",
        )
    return load_table(Path(name), asked)


def _pairs(options: list[str], known: set[str]) -> dict[str, str]:
    pairs = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or key not in known:
            raise ConfigError(
                "unknown_key",
                f"there is no key {key!r} here",
                hint=f"The keys are KEY=VALUE: {', '.join(sorted(known))}.",
            )
        pairs[key] = value
    return pairs


_DATA_KEYS = ("site", "patient", "outcome", "positive", "time", "event", "feature_set", "encoding")
_DATA_LISTS = ("features", "exclude", "test_sites")


def _load_options(options: list[str]) -> LoadOptions:
    from ..datasets import LoadOptions

    names = (*_DATA_KEYS, *_DATA_LISTS, "codebook")
    pairs = _pairs(options, {f"data.{name}" for name in names})
    values: dict[str, Any] = {key.removeprefix("data."): value for key, value in pairs.items()}
    for name in _DATA_LISTS:
        if name in values:
            parts = values[name].strip("[]").split(",")
            values[name] = tuple(part.strip() for part in parts if part.strip())
    if "codebook" in values:
        values["codebook"] = Path(values["codebook"])
    return LoadOptions(**values)


def _show(description: Description) -> None:
    table = Table(title=f"{description.name}: {description.outcome} ({description.task})")
    for head in ("hospital", "rows", "patients", "with the outcome", "most often missing"):
        table.add_column(head)
    for site in description.sites:
        worst = sorted(site.missing.items(), key=lambda item: -item[1])[:3]
        gaps = ", ".join(f"{column} {share:.0%}" for column, share in worst if share >= 0.005)
        name = f"{site.site} (external)" if site.external else site.site
        table.add_row(name, str(site.rows), str(site.patients), str(site.events), gaps or "-")
    _console.print(table)
