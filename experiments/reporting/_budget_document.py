"""The JSON of `fedcohort.budget_report/1`: statements of ledgers, sealed against slips.

The page is made from this document alone. `sha256` covers everything else in it, so that a
number that was edited by hand is refused; who edits on purpose can compute it anew and is found
by the numbers, which have to follow from one another, and by the ledger itself, whose head is in
the document (`docs/how-to/check-a-budget-report.md`).
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata, resources
from typing import Any

from ...privacy.errors import DataError
from ._budget_consistency import contradiction

__all__ = ["BUDGET_FORMAT", "dumps", "json_schema", "loads", "make_document"]

BUDGET_FORMAT = "fedcohort.budget_report/1"
_SOFTWARE = ("fedcohort", "dp-accounting", "numpy", "scipy", "sqlalchemy")


def make_document(
    statements: Sequence[tuple[str, Mapping[str, Any]]],
    *,
    made_at: str,
    repeats_left_out: int = 0,
) -> dict[str, Any]:
    """Return the report's document.

    Args:
        statements: Where each came from (a name that readers may see), and what it says.
        made_at: ISO 8601, UTC.
        repeats_left_out: Ledgers of a run's further repeats that are not in the report.

    Raises:
        DataError: `budget_report_invalid`.
    """
    body = {
        "format": BUDGET_FORMAT,
        "made_at": made_at,
        "software": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in _SOFTWARE},
        },
        "repeats_left_out": repeats_left_out,
        "hospitals": [{"source": source, "statement": dict(told)} for source, told in statements],
    }
    # One spelling of every value: what is read back is what was written.
    document: dict[str, Any] = json.loads(json.dumps(body, allow_nan=False))
    document["sha256"] = _seal(document)
    _check(document)
    return document


def dumps(document: Mapping[str, Any]) -> str:
    """Return the document as text; the same document gives the same bytes."""
    return json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def loads(text: str) -> dict[str, Any]:
    """Read a report's JSON back.

    Raises:
        DataError: `budget_report_invalid`: another format, or a field that is missing, unknown
            or of another type; `budget_report_edited`: its numbers are not those it was made
            with, or do not follow from one another.
    """
    try:
        document = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _invalid(f"it is no JSON: {error}") from error
    if not isinstance(document, dict) or document.get("format") != BUDGET_FORMAT:
        found = document.get("format") if isinstance(document, dict) else None
        raise _invalid(f"its format is {str(found)[:60]!r}, not {BUDGET_FORMAT!r}")
    _check(document)
    return document


def _check(document: dict[str, Any]) -> None:
    import jsonschema

    for error in jsonschema.Draft202012Validator(json_schema()).iter_errors(document):
        raise _invalid(f"field {error.json_path}: {error.message[:200]}")
    if document["sha256"] != _seal(document):
        raise _edited("its sha256 is not that of its content")
    for number, hospital in enumerate(document["hospitals"], start=1):
        if wrong := contradiction(hospital["statement"]):
            raise _edited(f"{wrong} of statement {number} does not follow from its own numbers")


def _seal(document: Mapping[str, Any]) -> str:
    body = {key: value for key, value in document.items() if key != "sha256"}
    text = json.dumps(
        body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def json_schema() -> Any:
    """Return the published JSON Schema of a budget report."""
    path = resources.files(__package__) / "templates" / "budget.schema.json"
    return json.loads(path.read_text(encoding="utf-8"))


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _invalid(why: str) -> DataError:
    return DataError(
        "budget_report_invalid",
        f"this is no budget report that can be read: {why}",
        hint="Read it with the fedcohort that wrote it, or make it again from the ledger.",
    )


def _edited(why: str) -> DataError:
    return DataError(
        "budget_report_edited",
        f"the report's JSON was changed after it was made: {why}",
        hint="Make it again from the ledger; do not rely on this file.",
    )
