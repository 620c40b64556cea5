"""Options that the commands of a site and of a coordinator share, and how they read files."""

from __future__ import annotations

import datetime as dt
import json
import re
import sys
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from ...hosting import write_new
from ...privacy.errors import ConfigError, PolicyError

if TYPE_CHECKING:
    from ...fl_client.site_folder import SiteFolder

__all__ = [
    "Coordinator",
    "Site",
    "console",
    "out_file",
    "plain",
    "print_json",
    "read_file",
    "the_site",
    "today",
]

Site = Annotated[Path, typer.Option("--folder", envvar="FEDCOHORT_SITE", help="The site's folder.")]
Coordinator = Annotated[
    Path, typer.Option("--folder", envvar="FEDCOHORT_COORDINATOR", help="The coordinator's folder.")
]
console = Console(stderr=True, highlight=False)
_LARGEST = 2**20  # bytes of a file that a person hands over


def the_site(folder: Path) -> SiteFolder:
    """Return a site's folder, which must be one: a wrong `--folder` is no node that is down.

    Raises:
        ConfigError: `site_missing`.
    """
    from ...fl_client.site_folder import SiteFolder

    found = SiteFolder(folder)
    if not found.policy.exists() and not found.identity.exists():
        raise ConfigError(
            "site_missing",
            f"{folder} is no node's folder",
            hint="Name it by --folder or FEDCOHORT_SITE; `fedcohort site init` makes one.",
        )
    return found


def today() -> dt.date:
    """Return the date, UTC, as the node counts it."""
    return dt.datetime.now(dt.UTC).date()


def plain(text: object) -> Text:
    """Return somebody else's text for a terminal: neither markup nor control characters."""
    from ..reporting._view import printable

    return Text(printable(str(text)))


def print_json(document: Any) -> None:
    """Print what scripts read; what a terminal would obey is escaped."""
    text = json.dumps(document, ensure_ascii=False, indent=1)
    sys.stdout.write(re.sub(r"[^ -~\n]", _escaped, text) + "\n")


def _escaped(found: re.Match[str]) -> str:
    one = found[0]
    return one if unicodedata.category(one)[0] != "C" else json.dumps(one)[1:-1]


def read_file(path: Path) -> str:
    """Read a small text file that somebody handed over.

    Raises:
        ConfigError: `file_unreadable`.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_LARGEST + 1)
        if len(raw) > _LARGEST:
            raise ValueError("too large")
        return raw.decode("utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(
            "file_unreadable",
            f"{path} cannot be read as a small text file",
            hint="Name the file that was handed over, unchanged.",
        ) from error


def out_file(path: Path, text: str) -> None:
    """Write a file to hand over, for its owner alone; nothing is overwritten, no link followed.

    Raises:
        ConfigError: `out_exists`.
    """
    try:
        write_new(path, text.encode())
    except PolicyError as error:
        raise ConfigError("out_exists", f"{path} exists", hint="Name another file.") from error
