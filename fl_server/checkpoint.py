"""Where a run stands, to the last bit: what a coordinator that stopped goes on from.

Written after every opened sum, synced, in the place of the one before. It holds what the
coordinator may know and every site saw: sums' results and counts, no share and no key.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..hosting import private_folder, read_private, replace_file
from ..privacy.errors import ProtocolError
from ..study.analysis import Result, State, Vector
from ..study.rounds import state_sha256

__all__ = ["Checkpoint", "read_checkpoint", "write_checkpoint"]

_FORMAT = "fedcohort.checkpoint/1"
_NAME = "checkpoint.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Where a run stands.

    Attributes:
        plan_sha256: Its plan.
        attempt: What its terms are bound to; the same over all lives of its coordinator.
        life: How often it was taken up again.
        state: What the next sum is asked at; None before the first sum, and after the last.
        result: The analysis' result, after the last sum.
        rounds: Sums opened.
        bytes_up: See `Outcome`, and so are the others.
        seconds: Likewise.
        dropped: Likewise.
        liars: Likewise.
    """

    plan_sha256: str
    attempt: str
    life: int = 0
    state: State | None = None
    result: Result | None = None
    rounds: int = 0
    bytes_up: int = 0
    seconds: float = 0.0
    dropped: tuple[str, ...] = ()
    liars: tuple[str, ...] = ()


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Keep a checkpoint in a run's folder; once this returns, it is there."""
    document = {
        field.name: getattr(checkpoint, field.name) for field in dataclasses.fields(checkpoint)
    }
    document["format"] = _FORMAT
    state, result = checkpoint.state, checkpoint.result
    if state is not None:
        document["state"] = {"round": state.round, "arrays": _written(state.arrays)}
    if result is not None:
        document["result"] = {"rounds": result.rounds, "arrays": _written(result.arrays)}
    private_folder(folder)
    replace_file(folder / _NAME, json.dumps(document, allow_nan=False).encode())


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """Return a run's checkpoint; None where it has none.

    Raises:
        ProtocolError: `checkpoint_unreadable`.
        PolicyError: `file_mode`.
    """
    if not (folder / _NAME).exists():
        return None
    try:
        document = json.loads(read_private(folder / _NAME))
        if document.pop("format") != _FORMAT:
            raise ValueError("another format")
        state, result = document.pop("state"), document.pop("result")
        if state is not None:
            state = State(round=int(state["round"]), arrays=_read(state["arrays"]))
        if result is not None:
            result = Result(rounds=int(result["rounds"]), arrays=_read(result["arrays"]))
        for name in ("dropped", "liars"):
            document[name] = tuple(document[name])
        return Checkpoint(state=state, result=result, **document)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ProtocolError(
            "checkpoint_unreadable",
            "the run's checkpoint cannot be read, so it cannot go on",
            hint="Submit the plan again under a new name.",
        ) from error


def _written(arrays: Mapping[str, Vector]) -> dict[str, Any]:
    """Return shapes and little-endian bytes; a hash over them tells a damaged file."""
    found: dict[str, Any] = {"": state_sha256(arrays)}
    for name, array in arrays.items():
        content = np.ascontiguousarray(array, dtype="<f8").tobytes()
        found[name] = {"shape": list(array.shape), "f8": base64.b64encode(content).decode()}
    return found


def _read(found: dict[str, Any]) -> dict[str, Vector]:
    expected = found.pop("")
    arrays: dict[str, Vector] = {}
    for name, array in found.items():
        values = np.frombuffer(base64.b64decode(array["f8"], validate=True), dtype="<f8")
        arrays[name] = values.astype(np.float64).reshape(array["shape"])
    if state_sha256(arrays) != expected:
        raise ValueError("its arrays are not those that were written")
    return arrays
