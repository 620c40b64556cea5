"""A ledger as one JSON text: what a hospital hands to a reviewer.

Every entry is the canonical text that its hash was made of, so that whoever has SHA-256 can
check the chain, with or without this package.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from ..errors import ConfigError
from .chain import Entry, broken
from .store import read_entries

__all__ = ["EXPORT_FORMAT", "export", "read_export", "read_ledger"]

EXPORT_FORMAT = "fedcohort.ledger_export/1"
_SQLITE = b"SQLite format 3\x00"


def export(entries: Iterable[Entry]) -> str:
    """Return the JSON text of a chain."""
    document = {"format": EXPORT_FORMAT, "entries": [entry.text for entry in entries]}
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def read_export(text: str) -> list[Entry]:
    """Return the entries of an export; `Chain.of` believes or refuses them.

    Raises:
        ConfigError: `ledger_unreadable`: it is something else.
        PolicyError: `ledger_broken`.
    """
    try:
        document = json.loads(text)
        if document["format"] != EXPORT_FORMAT or set(document) != {"format", "entries"}:
            raise ValueError("another format")
        texts = [entry for entry in document["entries"] if isinstance(entry, str)]
        if len(texts) != len(document["entries"]):
            raise broken("an entry of the export is no text")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ConfigError(
            "ledger_unreadable",
            "this is neither a ledger nor the export of one",
            hint="Name a hospital's FILE.ledger, or what `fedcohort ledger export` wrote.",
        ) from error
    return [Entry.from_text(entry) for entry in texts]


def read_ledger(path: Path) -> list[Entry]:
    """Return the entries of a ledger's file or of its export.

    Raises:
        ConfigError: `ledger_missing`.
        PolicyError: `ledger_broken` or `ledger_unavailable`.
    """
    if not path.is_file():
        raise ConfigError(
            "ledger_missing",
            f"there is no ledger at {path}",
            hint="Name a hospital's ledger, or its export.",
        )
    with path.open("rb") as file:
        start = file.read(len(_SQLITE))
    if start == _SQLITE:
        return read_entries(path)
    return read_export(path.read_text(encoding="utf-8", errors="replace"))
