"""What a budget report is made from: ledgers, their exports, folders of them, or its own JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...privacy.errors import ConfigError, PolicyError
from ...privacy.ledger.chain import Entry, Head
from ...privacy.ledger.export import read_ledger
from ...privacy.ledger.statement import statement
from ._budget_document import BUDGET_FORMAT, loads, make_document

__all__ = ["read_document"]

_LEDGERS = "ledgers"  # the folder of a run's
_SUFFIX = ".ledger"
_TRAINING = re.compile(
    r"(?P<arm>.+)-eps(?P<epsilon>[^-]+)-(?:all-patients|repeat(?P<repeat>\d+))"
)  # the folders of `simulation.ledgers`


_Named = tuple[str, dict[str, Any]]  # where it came from, what it says


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    path: Path
    name: str


def read_document(paths: Sequence[Path], *, made_at: str, everything: bool) -> dict[str, Any]:
    """Return the report's document.

    Args:
        paths: Ledgers, exports, folders, of which each ledger is taken once; or one budget
            report's JSON, which is read back.
        made_at: ISO 8601, UTC; of a report that is read back, its own stands.
        everything: Take every training of a run; otherwise, of each arm and epsilon, the one on all
            patients, whose model is saved, or the first repeat of a run that has none.

    Raises:
        ConfigError: `ledger_missing`.
        DataError: `budget_report_invalid` or `budget_report_edited`.
        PolicyError: `ledger_broken`, `ledger_rolled_back`, `ledger_kind`, `ledger_unavailable`,
            `head_unreadable`.
    """
    if len(paths) == 1 and (text := _report_text(paths[0])) is not None:
        return loads(text)
    found: list[_Source] = []
    left_out = 0
    for path in _different(paths):
        more, fewer = _sources(path, everything=everything)
        found += more
        left_out += fewer
    statements = _once((source.name, statement(_entries(source.path))) for source in found)
    _refuse_mixture(told["kind"] for _, told in statements)
    return make_document(statements, made_at=made_at, repeats_left_out=left_out)


def _report_text(path: Path) -> str | None:
    """Return the text of a budget report's JSON, or of JSON that is no ledger's either."""
    if path.suffix != ".json" or not path.is_file():
        return None
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None  # the ledger's reader says what is wrong with it
    told = document.get("format") if isinstance(document, dict) else None
    return text if str(told).startswith(BUDGET_FORMAT.partition("/")[0]) else None


def _sources(path: Path, *, everything: bool) -> tuple[list[_Source], int]:
    """Return the ledgers that a path stands for, and how many of other trainings it leaves out."""
    if not path.is_dir():
        return [_Source(path=path, name=path.name)], 0
    root = path / _LEDGERS if (path / _LEDGERS).is_dir() else path
    found = [_source(file, path) for file in _files(root)]
    taken: set[tuple[str, str]] = set()
    left_out = 0
    for folder, match in _trainings(root):
        key = (match["arm"], match["epsilon"])
        if key in taken and not everything:
            left_out += len(_files(folder))
            continue
        taken.add(key)
        found += [_source(file, path) for file in _files(folder)]
    if not found:
        raise ConfigError(
            "ledger_missing",
            f"there is no ledger in {path}",
            hint=f"Name a run's folder, or one that holds *{_SUFFIX} files.",
        )
    return found, left_out


def _different(paths: Sequence[Path]) -> list[Path]:
    first: dict[Path, Path] = {}
    for path in paths:
        first.setdefault(path.resolve(), path)
    return list(first.values())


def _source(file: Path, given: Path) -> _Source:
    return _Source(path=file, name=file.relative_to(given).as_posix())


def _once(told: Iterable[_Named]) -> list[_Named]:
    """Leave out a ledger that was given twice, as a file and as its export for one."""
    first: dict[tuple[str, str], _Named] = {}
    for name, one in told:
        # In a run the arms' ledgers are apart, were they alike to the millisecond.
        arm = name.rpartition("/")[0] if one["kind"] == "simulation" else ""
        first.setdefault((one["chain"]["head"], arm), (name, one))
    return list(first.values())


def _trainings(root: Path) -> list[tuple[Path, re.Match[str]]]:
    """Return the folders of a run's arms, in reading order: the fit on all patients first."""
    folders = [folder for folder in root.iterdir() if folder.is_dir()]
    pairs = [(folder, _TRAINING.fullmatch(folder.name)) for folder in folders]
    found = [(folder, match) for folder, match in pairs if match is not None]

    def order(pair: tuple[Path, re.Match[str]]) -> tuple[str, float, str, int]:
        arm, epsilon, repeat = pair[1].groups()
        number = -1 if repeat is None else int(repeat)
        try:
            return arm, float(epsilon), epsilon, number
        except ValueError:
            return arm, 0.0, epsilon, number

    return sorted(found, key=order)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(f"*{_SUFFIX}") if path.is_file())


def _entries(path: Path) -> list[Entry]:
    """Return a ledger's entries; the head beside it, if there is one, has to be among them."""
    beside = path.with_name(f"{path.name}.head")
    # Read first: a site may be writing, and its ledger may be ahead of its head, never behind.
    head = None
    if beside.is_file():
        head = Head.parse(beside.read_text(encoding="ascii", errors="replace"))
    entries = read_ledger(path)
    if head is not None:
        kept = head.number <= len(entries) and entries[head.number - 1].sha256 == head.sha256
        if not kept:
            raise PolicyError(
                "ledger_rolled_back",
                f"{path.name} is older than the head beside it, or has another past",
                hint="No report is made of it. Bring the newest file and its head together.",
            )
    return entries


def _refuse_mixture(kinds: Iterable[str]) -> None:
    if len(set(kinds)) > 1:
        raise PolicyError(
            "ledger_kind",
            "some of these ledgers are hospitals' own and some are a simulation's",
            hint="Make a report of each: a simulation's numbers are nobody's budget.",
        )
