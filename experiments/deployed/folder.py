"""A deployed run's folder: plans at once, then the state, then each arm's result as it ends.

Hospitals need days to approve, so the folder is there from the first minute, and whoever waits
may stop and take it up again: `deployed.json` says which runs are whose.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...privacy.errors import ConfigError
from ...study.plan import Plan
from ..reporting.folder import write_atomic
from .arm_run import ArmRun

__all__ = ["DEPLOYED", "DEPLOYED_FORMAT", "DeployedFolder"]

DEPLOYED = "deployed.json"
DEPLOYED_FORMAT = "fedcohort.deployed/1"
_ENDED = ("done", "failed")


class DeployedFolder:
    """Where one deployed run puts its files.

    Args:
        path: The folder that people read.
        facts: What holds for the whole run; the fields of `deployed.json` beside its arms.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self.path = path
        self._facts = facts

    def open(self, arms: Sequence[ArmRun], *, overwrite: bool) -> list[ArmRun]:
        """Make the folder, or take an unfinished run of the same plans up again.

        Returns:
            The arms, with the plans and the runs that the folder has where it was taken up.

        Raises:
            ConfigError: `out_exists` or `out_not_a_folder`.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(
                "out_not_a_folder", f"{self.path} is a file", hint="Name a folder as out=..."
            )
        held = self._held()
        if held is not None and not overwrite:
            found = self._taken_up(arms, held)
            if found is None:
                raise ConfigError(
                    "out_exists",
                    f"{self.path} holds a run that has ended, or one of other plans",
                    hint="Name another folder with out=..., or replace it with overwrite=true.",
                )
            return found
        self.path.mkdir(parents=True, exist_ok=True)
        for entry in [*self.path.glob("plan-*.json"), *self.path.glob("models/*")]:
            entry.unlink()
        for arm in arms:
            self.write(arm.file, arm.plan.to_json() + "\n")
        self.tell(arms)
        return list(arms)

    def write(self, name: str, text: str) -> Path:
        """Write one file and return where it is."""
        write_atomic(self.path / name, text.encode())
        return self.path / name

    def tell(self, arms: Iterable[ArmRun]) -> None:
        """Write `deployed.json` as it stands."""
        document = {**self._facts, "arms": [arm.to_json() for arm in arms]}
        self.write(DEPLOYED, json.dumps(document, indent=1, ensure_ascii=False) + "\n")

    def _held(self) -> Mapping[str, Any] | None:
        try:
            found = json.loads((self.path / DEPLOYED).read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def _taken_up(self, arms: Sequence[ArmRun], held: Mapping[str, Any]) -> list[ArmRun] | None:
        """Return the arms as the folder has them; None where it is another run, or has ended."""
        same = ("format", "coordinator", "schema_sha256")
        if any(held.get(key) != self._facts[key] for key in same):
            return None
        rows = {row["name"]: row for row in held["arms"]}
        if list(rows) != [arm.name for arm in arms]:
            return None
        if all(row["phase"] in _ENDED for row in rows.values()):
            return None
        found = []
        for arm in arms:
            plan = Plan.from_json((self.path / arm.file).read_text(encoding="utf-8"))
            # Planned on another day, it ends on another; all else must be what is asked now.
            if replace(arm.plan, expires=plan.expires) != plan:
                return None
            found.append(replace(arm, plan=plan, run=rows[arm.name]["run"]))
        return found
