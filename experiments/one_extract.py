"""`fedcohort data extract`: one hospital's rows as a file, and the mapping that fits it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from rich.console import Console

from ..datasets.extract import ONE_ROW_EACH, LoadOptions
from ..datasets.one_hospital import SiteExtract, hospitals_of, write_extract

__all__ = ["extract_one", "list_hospitals", "mapping_of"]

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}  # YAML takes them for values


def list_hospitals(name: str, options: LoadOptions) -> dict[str, Any]:
    """Return the rows of each hospital, as the command prints them."""
    return {"sites": [{"site": s, "rows": n} for s, n in hospitals_of(name, options).items()]}


def extract_one(
    name: str, site: str, out: Path, options: LoadOptions, console: Console
) -> dict[str, Any]:
    """Write one hospital's files, show the lines for its mapping, and return what was written."""
    made = write_extract(name, site, out, options)
    console.print(f"{made.rows} rows of {made.site} written to {made.table}.", markup=False)
    if made.codebook is None:
        console.print(
            "No codebook came with the table: put the study's beside it as codebook.yaml "
            "(`fedcohort data codebook` drafts one)."
        )
    console.print("For mapping.yaml in the site's folder:", soft_wrap=True)
    lines = mapping_of(made)
    console.print(lines, markup=False, soft_wrap=True, end="")
    return {
        "site": made.site,
        "rows": made.rows,
        "table": str(made.table),
        "codebook": None if made.codebook is None else str(made.codebook),
        "mapping": lines,
    }


def mapping_of(made: SiteExtract) -> str:
    """Return the `mapping.yaml` that fits an extract whose folder lies in the site's folder."""
    from ..fl_client.site_data import MAPPING_FORMAT

    options, folder = made.options, made.table.resolve().parent.name
    parts: dict[str, str | None] = {
        "schema": MAPPING_FORMAT,
        "table": f"{folder}/{made.table.name}",
        "codebook": f"{folder}/codebook.yaml",
        "patient": options.patient or ONE_ROW_EACH,
        "outcome": options.outcome,
        "positive": options.positive,
        "time": options.time,
        "event": options.event,
    }
    lines = [f"{key}: {_scalar(value)}" for key, value in parts.items() if value is not None]
    for key, names in (("features", options.features), ("exclude", options.exclude)):
        if names:
            lines.append(f"{key}: [{', '.join(map(_scalar, names))}]")
    return "\n".join(lines) + "\n"


def _scalar(text: str) -> str:
    """Return a text as YAML reads it back: quoted, unless it is a plain word."""
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
