"""The tutorial, pasted as it stands: three hospitals and a coordinator, up to their verdicts."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.deploy, pytest.mark.slow]
SITES = ("cleveland", "hungarian", "switzerland")
PAGE = Path(__file__).parents[3] / "docs/tutorial/first-federation.md"
MOST_S = 600.0
VERDICTS = {"gains", "loses", "no clear difference", "not measurable"}


def script() -> str:
    """Return the blocks of the page as one script; installing is done, ports are free ones."""
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    pasted = [block for block in blocks if "make install" not in block]
    assert len(blocks) - len(pasted) == 1
    told = "\n".join(pasted)
    with socket.socket() as one, socket.socket() as other:
        for probe, port in ((one, "9092"), (other, "9093")):
            probe.bind(("127.0.0.1", 0))
            assert f"-port {port}" in told
            told = told.replace(f"-port {port}", f"-port {probe.getsockname()[1]}")
    return told


@pytest.fixture
def empty_folder(tmp_path: Path) -> Iterator[Path]:
    """An empty folder; whatever still runs from it afterwards is stopped."""
    tmp_path.chmod(0o700)
    try:
        yield tmp_path
    finally:
        made = tmp_path / "first-federation"
        for role, name in [*(("site", site) for site in SITES), ("coordinator", "coordinator")]:
            if (made / name / "logs").exists():
                typed = [sys.executable, "-m", "fedcohort.experiments.cli", role, "stop"]
                subprocess.run([*typed, "--folder", made / name], check=False, capture_output=True)


def paths() -> str:
    """Return a PATH whose `fedcohort` and `python` are this environment's."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def test_whoever_pastes_the_tutorial_has_a_federation_and_its_result_in_ten_minutes(
    empty_folder: Path,
) -> None:
    pasted = empty_folder / "pasted.sh"
    pasted.write_text(script(), encoding="utf-8")
    with (empty_folder / "seen.log").open("wb") as seen:
        shell = subprocess.Popen(
            ["/bin/bash", "-euo", "pipefail", str(pasted)],
            cwd=empty_folder,
            stdin=subprocess.DEVNULL,
            stdout=seen,
            stderr=seen,
            env={**os.environ, "PATH": paths()},
        )
        try:
            code = shell.wait(MOST_S)
        finally:
            shell.kill()
            shell.wait()
    told = (empty_folder / "seen.log").read_text(encoding="utf-8", errors="replace")
    assert code == 0, told[-4000:]
    made = empty_folder / "first-federation"
    result = json.loads((made / "result/deployed.json").read_text(encoding="utf-8"))
    assert [arm["phase"] for arm in result["arms"]] == ["done"]
    assert (made / "result" / result["arms"][0]["model"]).exists()
    found = re.findall(r'^  "verdict": "([a-z ]+)"', told, flags=re.MULTILINE)
    assert len(found) == len(SITES)
    assert set(found) <= VERDICTS
    assert (made / "budget.html").exists()
    assert "refused (" not in told
