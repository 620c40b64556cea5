"""The budget report: what hospitals' ledgers say, as one self-contained page and its JSON.

The page is a function of the JSON alone, and the JSON of the ledgers alone, but for the time it
was made and the versions of what made it. Like the report of a run it has no script, asks
nothing of any network, is in English and Chinese, and escapes every text.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from ...privacy.errors import ConfigError
from ._budget_document import BUDGET_FORMAT, dumps, loads
from ._budget_inputs import read_document
from ._budget_page import context
from .folder import write_atomic

__all__ = ["BUDGET_FORMAT", "budget_document", "dumps", "loads", "render_budget", "write_budget"]


def budget_document(
    paths: Sequence[Path], *, now: dt.datetime | None = None, everything: bool = False
) -> dict[str, Any]:
    """Return the report's document, see `read_document` for arguments and refusals."""
    now = now or dt.datetime.now(dt.UTC)
    made_at = now.astimezone(dt.UTC).isoformat(timespec="seconds")
    return read_document(paths, made_at=made_at, everything=everything)


def render_budget(document: Mapping[str, Any]) -> str:
    """Return the page; the same document gives the same bytes.

    Raises:
        DataError: `budget_report_invalid` or `budget_report_edited`.
    """
    import jinja2
    from markupsafe import Markup

    known = loads(dumps(document))
    folder = resources.files(__package__) / "templates"

    def text(name: str) -> str:
        return (folder / name).read_text(encoding="utf-8")

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        loader=jinja2.DictLoader({"budget": text("budget.html.j2")}),
    )
    # Files of this package, and pictures that hold numbers only.
    css = Markup(f"{text('report.css').strip()}\n{text('budget.css').strip()}")  # noqa: S704
    environment.filters["picture"] = Markup
    return environment.get_template("budget").render(css=css, **context(known))


def write_budget(document: Mapping[str, Any], out: Path, *, overwrite: bool = False) -> list[Path]:
    """Write `out`, an .html, and its JSON beside it.

    Returns:
        Both files.

    Raises:
        ConfigError: `out_not_html`, or `out_exists`.
    """
    if out.suffix != ".html":
        raise ConfigError(
            "out_not_html",
            f"{out} is no name of a page",
            hint="Name the page, --out budget.html; its JSON is put beside it.",
        )
    page, data = render_budget(document), dumps(document).encode()
    beside = out.with_suffix(".json")
    # The JSON that a page is made again from may stand beside it already, as it is.
    kept = beside.is_file() and beside.read_bytes() == data
    taken = [path for path in (out, beside) if path.exists() and not (kept and path == beside)]
    if taken and not overwrite:
        raise ConfigError(
            "out_exists",
            f"{taken[0]} exists",
            hint="Name another page with --out, or replace it with --overwrite.",
        )
    if not kept:
        write_atomic(beside, data)
    write_atomic(out, page.encode())
    return [out, beside]
