"""`fedcohort data extract`: one hospital's rows as a file, and the mapping that fits it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from rich.console import Console

from ..datasets.extract import LoadOptions
from ..datasets.one_hospital import SiteExtract, hospitals_of, write_extract
from ..hosting import replace_file
from ..privacy.errors import ConfigError

__all__ = ["extract_one", "list_hospitals", "mapping_of"]

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}  # YAML takes them for values


def list_hospitals(name: str, options: LoadOptions) -> dict[str, Any]:
    """Return the rows of each hospital, as the command prints them."""
    return {"sites": [{"site": s, "rows": n} for s, n in hospitals_of(name, options).items()]}


def extract_one(
    name: str,
    site: str,
    out: Path,
    options: LoadOptions,
    console: Console,
    *,
    mapping: Path | None = None,
) -> dict[str, Any]:
    """Write one hospital's files and the lines for its mapping; return what was written.

    Args:
        name: A catalogue name, or a table.
        site: The hospital.
        out: Folder to write into.
        options: What the columns are.
        console: Where people read.
        mapping: The site's mapping.yaml, absent or still as `site init` made it; None: the lines
            are only shown.

    Raises:
        ConfigError: `out_exists`: the mapping was filled in already. Nothing is written.
        DataError: The table, or its hospital.
    """
    if mapping is not None:
        _check_free(mapping)
    made = write_extract(name, site, out, options)
    console.print(f"{made.rows} rows of {made.site} written to {made.table}.", markup=False)
    if made.codebook is None:
        console.print(
            "No codebook came with the table: put the study's beside it as codebook.yaml "
            "(`fedcohort data codebook` drafts one)."
        )
    lines = mapping_of(made)
    if mapping is None:
        console.print("For mapping.yaml in the site's folder:", soft_wrap=True)
    else:
        replace_file(mapping, lines.encode())
        console.print(f"Written to {mapping}:", markup=False, soft_wrap=True)
    console.print(lines, markup=False, soft_wrap=True, end="")
    return {
        "site": made.site,
        "rows": made.rows,
        "table": str(made.table),
        "codebook": None if made.codebook is None else str(made.codebook),
        "mapping": lines,
    }


def _check_free(mapping: Path) -> None:
    from ..fl_client.site_data import mapping_template

    if mapping.exists() and mapping.read_text(encoding="utf-8") != mapping_template():
        raise ConfigError(
            "out_exists",
            f"{mapping} is filled in already",
            hint="Leave --mapping out, and put the lines that are printed there yourself.",
        )


def mapping_of(made: SiteExtract) -> str:
    """Return the `mapping.yaml` that fits an extract whose folder lies in the site's folder."""
    from ..fl_client.site_data import MAPPING_FORMAT

    options, folder = made.options, made.table.resolve().parent.name
    parts: dict[str, str | None] = {
        "schema": MAPPING_FORMAT,
        "table": f"{folder}/{made.table.name}",
        "codebook": f"{folder}/codebook.yaml",
        "patient": options.patient,
        "outcome": options.outcome,
        "positive": options.positive,
        "time": options.time,
        "event": options.event,
    }
    lines = [f"{key}: {_scalar(value)}" for key, value in parts.items() if value is not None]
    if options.patient is None:  # that each row is a person is for somebody to say, not for us
        lines.insert(3, "# patient: COLUMN of the patient's token; or one_row_each, if each is one")
    for key, names in (("features", options.features), ("exclude", options.exclude)):
        if names:
            lines.append(f"{key}: [{', '.join(map(_scalar, names))}]")
    return "\n".join(lines) + "\n"


def _scalar(text: str) -> str:
    """Return a text as YAML reads it back: quoted, unless it is a plain word."""
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
