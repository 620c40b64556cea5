"""The command itself: what was typed counts as asked for, what a study's file says does not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fedcohort.fl_server.coordinator_setup import CoordinatorSetup


def typed(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedcohort.experiments.cli", "run", "study=heart-disease"]
    command += ["runtime=deployed", f"runtime.coordinator={folder}", "dry_run=true", *words]
    return subprocess.run(command, cwd=folder.parent, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("words", "code"), [((), 0), (("arms=[dp_sum,pooled]",), 1), (("secagg.colluders=0",), 1)]
)
def test_a_list_of_arms_that_was_typed_is_taken_at_its_word(
    setup: CoordinatorSetup, words: tuple[str, ...], code: int
) -> None:
    ended = typed(setup.folder, *words)
    assert ended.returncode == code, ended.stderr
    if code == 0:
        plans = [plan["plan"] for plan in json.loads(ended.stdout)["plans"]]
        assert plans == ["federated", "dp_sum-eps3", "dp_each-eps3"]
    else:
        refused = "arm_not_deployed" if "arms" in words[0] else "roster_colluders"
        assert f"refused ({refused})" in ended.stderr
