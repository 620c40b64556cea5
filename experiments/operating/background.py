"""Start a supervisor that outlives its command, and wait until it is there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ...hosting import private_folder
from ...privacy.errors import ConfigError

__all__ = ["background", "wait_for_start"]

_READY_S = 120.0  # a laptop that starts three nodes at once is slow
_END_S = 30.0


def background(module: str, folder: Path, logs: Path) -> subprocess.Popen[bytes]:
    """Start a supervisor in the background; what it says goes to its log.

    Args:
        module: Run with the folder as its only argument.
        folder: The site's or the coordinator's.
        logs: Gets `supervisor.log`.
    """
    path = private_folder(logs) / "supervisor.log"
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    try:
        return subprocess.Popen(  # noqa: S603  # our own module, no shell
            [sys.executable, "-P", "-m", module, str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            umask=0o077,
            start_new_session=True,
        )
    finally:
        os.close(log)


def wait_for_start(
    process: subprocess.Popen[bytes], ready: Callable[[], bool], what: str, logs: Path
) -> None:
    """Wait until a supervisor's services are there; stop it where they do not come.

    Raises:
        ConfigError: `not_started`.
    """
    deadline = time.monotonic() + _READY_S
    while process.poll() is None and time.monotonic() < deadline:
        if ready():
            return
        time.sleep(0.1)
    if process.poll() is None:
        process.terminate()  # it would try again and again, unseen
        process.wait(_END_S)
    raise ConfigError(
        "not_started",
        f"the {what} did not come up",
        hint=f"Look into {logs}" + (", and at `fedcohort site doctor`." if what == "node" else "."),
    )
