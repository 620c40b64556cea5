"""A run that is stopped leaves nothing that looks like a result, and nothing in the way."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

LONG = ("run", "study=heart-disease", "arms=[pooled,dp_sum]", "repeats=5000", "out=run")
SHORT = ("run", "study=heart-disease", "arms=[local]", "repeats=1", "out=run")

Start = Callable[..., subprocess.Popen[str]]


def stop_in_the_middle(process: subprocess.Popen[str], cwd: Path, how: signal.Signals) -> str:
    """Wait until the run writes its partial folder, give it a moment, stop it."""
    deadline = time.monotonic() + 60
    while not (cwd / ".run.partial").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(how)
    out, err = process.communicate(timeout=60)
    assert out == ""
    return err


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_leaves_no_result_and_the_next_one_succeeds(
    start: Start, command: Callable[..., Any], tmp_path: Path, how: signal.Signals
) -> None:
    process = start(*LONG)
    try:
        err = stop_in_the_middle(process, tmp_path, how)
    finally:
        process.kill()
    assert process.returncode != 0
    assert not (tmp_path / "run").exists()
    if how is signal.SIGINT:  # it had the time to tidy up, and the person knows why it ended
        assert not (tmp_path / ".run.partial").exists()
        assert "Traceback" not in err
        assert process.returncode == 130
    answer = command(*SHORT)
    assert answer.code == 0, answer.err
    results = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    assert {row["arm"] for row in results["rows"]} == {"local"}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_stopped_run_keeps_the_results_it_was_to_replace(
    start: Start, command: Callable[..., Any], tmp_path: Path
) -> None:
    assert command(*SHORT).code == 0
    before = {
        path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()
    }
    process = start(*LONG, "overwrite=true")
    try:
        stop_in_the_middle(process, tmp_path, signal.SIGKILL)
    finally:
        process.kill()
    after = {
        path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()
    }
    assert after == before


def test_a_second_run_into_the_same_folder_is_told_to_wait(
    start: Start, command: Callable[..., Any], tmp_path: Path
) -> None:
    process = start(*LONG)
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / ".run.partial").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        answer = command(*SHORT)
    finally:
        process.kill()
        process.communicate()
    assert answer.code == 1
    assert answer.err.startswith("refused (out_busy)")
