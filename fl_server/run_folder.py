"""A run's folder: what happened so far, line by line, and how it ended. Anybody may poll it.

`progress.jsonl` has one event a line; the end is `result.json` or `failure.json`, put there at
once and never changed. What they hold is what the coordinator may know: sums, counts of bytes,
seconds, names of sites, codes.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..hosting import append_line, private_folder, replace_file
from ..privacy.errors import FedCohortError
from ..study.analysis import Result
from .coordinator import Outcome

__all__ = ["RunFolder", "RunState", "result_of"]

_FLOWER_RUN = "flower.json"
# What an event says about where the run stands; the last one counts.
_PHASES = {
    "waiting": "waiting",
    "approval": "approval",
    "online": "running",
    "approved": "running",
    "round": "running",
    "resumed": "submitted",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """Where a run stands.

    Attributes:
        phase: `submitted`, `waiting` for sites to be online, `approval`: people of sites have
            to decide, `running`, `done` or `failed`.
        rounds: Sums opened so far.
        waiting_for: Sites that are not online, or whose people have not decided.
        code: Why it failed.
        text: The same for people.
        hint: What to do about it.
        exit_code: What a script that waited should end with.
    """

    phase: str
    rounds: int = 0
    waiting_for: tuple[str, ...] = ()
    code: str = ""
    text: str = ""
    hint: str = ""
    exit_code: int = 0

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.phase in ("done", "failed")


class RunFolder:
    """One run.

    Args:
        folder: Its folder; made at the first event.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def tell(self, event: str, **facts: object) -> None:
        """Add an event."""
        private_folder(self.folder)
        now = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"at": now, "event": event, **facts}, ensure_ascii=False)
        append_line(self.folder / "progress.jsonl", line)

    def finish(self, plan_sha256: str, outcome: Outcome) -> None:
        """Keep the result."""
        document = {
            "plan_sha256": plan_sha256,
            "rounds": outcome.rounds,
            "result_rounds": outcome.result.rounds,
            "seconds": round(outcome.seconds, 3),
            "bytes_up": outcome.bytes_up,
            "dropped": list(outcome.dropped),
            "liars": list(outcome.liars),
            "arrays": {name: _plain(array) for name, array in outcome.result.arrays.items()},
        }
        private_folder(self.folder)
        text = json.dumps(document, ensure_ascii=False, allow_nan=False)
        replace_file(self.folder / "result.json", text.encode())
        self.tell("done", rounds=outcome.rounds)

    def fail(self, error: FedCohortError) -> None:
        """Keep why there is no result."""
        document = {
            "code": error.code,
            "text": str(error),
            "hint": error.hint,
            "exit_code": error.exit_code,
        }
        private_folder(self.folder)
        if not self.state().ended:  # the first end counts
            replace_file(self.folder / "failure.json", json.dumps(document).encode())
            self.tell("failed", code=error.code)

    def events(self) -> list[dict[str, Any]]:
        """Return what happened so far; a line that a crash cut short is left out."""
        path = self.folder / "progress.jsonl"
        if not path.exists():
            return []
        found = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def state(self) -> RunState:
        """Return where the run stands."""
        events = self.events()
        rounds = max((int(e["round"]) for e in events if e["event"] == "round"), default=0)
        if (self.folder / "result.json").exists():
            return RunState(phase="done", rounds=rounds)
        failure = self.folder / "failure.json"
        if failure.exists():
            found = json.loads(failure.read_bytes())
            return RunState(phase="failed", rounds=rounds, **found)
        telling = [event for event in events if event["event"] in _PHASES]
        if not telling:
            return RunState(phase="submitted", rounds=rounds)
        last = telling[-1]
        waiting_for = tuple(last.get("missing", ()))
        return RunState(phase=_PHASES[last["event"]], rounds=rounds, waiting_for=waiting_for)

    @property
    def stopping(self) -> bool:
        """Whether somebody asked for its end."""
        return any(event["event"] == "stopping" for event in self.events())

    @property
    def flower_run(self) -> int:
        """Flower's number of the run; another one where the run was taken up again."""
        path = self.folder / _FLOWER_RUN
        if path.exists():
            return int(json.loads(path.read_bytes())["run"])
        return int(self.folder.name)

    def is_now(self, flower_run: int) -> None:
        """Say that Flower knows the run by another number from now on."""
        private_folder(self.folder)
        replace_file(self.folder / _FLOWER_RUN, json.dumps({"run": flower_run}).encode())


def result_of(folder: Path) -> Outcome:
    """Read a run's result back, exactly."""
    found = json.loads((folder / "result.json").read_bytes())
    arrays = {name: _array(array) for name, array in found["arrays"].items()}
    return Outcome(
        result=Result(arrays=arrays, rounds=int(found["result_rounds"])),
        rounds=int(found["rounds"]),
        bytes_up=int(found["bytes_up"]),
        seconds=float(found["seconds"]),
        dropped=tuple(found["dropped"]),
        liars=tuple(found["liars"]),
    )


def _plain(array: NDArray[np.float64]) -> dict[str, Any]:
    values = [number if math.isfinite(number) else str(number) for number in array.ravel().tolist()]
    return {"shape": list(array.shape), "values": values}


def _array(found: dict[str, Any]) -> NDArray[np.float64]:
    values = [float(value) for value in found["values"]]
    return np.array(values, dtype=np.float64).reshape(found["shape"])
