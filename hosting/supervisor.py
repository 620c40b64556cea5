"""A few processes under one: started together, restarted when they end, stopped together.

Flower's nodes end with exit status 0 when a coordinator forgets them, and are refused for a
minute when they come back too soon; so every end is an end, and a restart waits 10 s or more.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from ..privacy.errors import PolicyError
from .files import replace_file

__all__ = ["Service", "Supervisor", "follow_parent", "running_state", "stop_supervisor"]

_LEAST_BACKOFF_S = 10.0
_MOST_BACKOFF_S = 60.0
_STEADY_S = 300.0  # after so long a life, the next end is a first one
_GRACE_S = 8.0  # between asking and killing
_LOOK_S = 0.2
_LOCK = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A process to keep running.

    Attributes:
        name: Its name in logs and in the state file.
        command: What to start.
        environment: Its whole environment.
        ready: If given, later services wait until it says yes.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    ready: Callable[[], bool] | None = None


@dataclass(slots=True)
class _Kept:
    service: Service
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    due: float = 0.0
    ends: int = 0
    restarts: int = 0
    codes: list[int] = field(default_factory=list)


class Supervisor:
    """See the module's docstring.

    Args:
        services: In the order of their start; stopped in the reverse order.
        folder: Holds `supervisor.json` (what runs), its lock, and one log per service.
        backoff_s: Pause before the first restart, seconds; at least 10.
    """

    def __init__(
        self, services: Sequence[Service], folder: Path, *, backoff_s: float = _LEAST_BACKOFF_S
    ) -> None:
        if backoff_s < _LEAST_BACKOFF_S:
            raise ValueError(f"backoff_s must be >= {_LEAST_BACKOFF_S}, got {backoff_s}")
        self._kept = [_Kept(service=service) for service in services]
        self._folder = folder
        self._backoff_s = backoff_s
        self._stop = threading.Event()

    def stop(self) -> None:
        """Ask `run` to end."""
        self._stop.set()

    def run(self) -> None:
        """Start everything and keep it running until SIGTERM, SIGINT or `stop`.

        Raises:
            PolicyError: `already_running`: another supervisor holds the folder.
        """
        lock = self._only_one()
        before = self._listen()
        try:
            for kept in self._kept:
                self._start(kept)
                self._wait_until_ready(kept)
            while not self._stop.wait(_LOOK_S):
                self._look()
        finally:
            for kept in reversed(self._kept):
                _end(kept.process)
            self._write_state(running=False)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(lock)

    def _look(self) -> None:
        changed = False
        for kept in self._kept:
            process, now = kept.process, time.monotonic()
            if process is None:
                if now >= kept.due:
                    kept.restarts += 1
                    self._start(kept)
            elif process.poll() is not None:
                if now - kept.started > _STEADY_S:
                    kept.ends = 0
                kept.due = now + backoff(kept.ends, self._backoff_s)
                kept.ends += 1
                kept.codes = [*kept.codes[-9:], process.returncode]
                kept.process = None
                changed = True
        if changed:
            self._write_state(running=True)

    def _start(self, kept: _Kept) -> None:
        path = self._folder / f"{kept.service.name}.log"
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        try:
            kept.process = subprocess.Popen(  # noqa: S603  # our own command, no shell
                list(kept.service.command),
                env=dict(kept.service.environment),
                stdin=subprocess.DEVNULL,
                stdout=handle,
                stderr=handle,
                cwd=self._folder,
                umask=0o077,  # what Flower writes is its owner's too
                start_new_session=True,  # Ctrl-C reaches the supervisor, which stops in order
            )
        finally:
            os.close(handle)
        kept.started = time.monotonic()
        self._write_state(running=True)

    def _wait_until_ready(self, kept: _Kept) -> None:
        ready = kept.service.ready
        while ready is not None and not self._stop.is_set():
            if kept.process is None or kept.process.poll() is not None:
                return  # it ended; `_look` restarts it
            if ready():
                return
            self._stop.wait(_LOOK_S)

    def _write_state(self, *, running: bool) -> None:
        services = {
            kept.service.name: {
                "pid": None if kept.process is None else kept.process.pid,
                "restarts": kept.restarts,
                "exit_codes": kept.codes,
            }
            for kept in self._kept
        }
        state = {"running": running, "pid": os.getpid() if running else None, "services": services}
        replace_file(self._folder / "supervisor.json", json.dumps(state, indent=1).encode())

    def _only_one(self) -> int:
        lock = os.open(self._folder / ".supervisor.lock", _LOCK, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise PolicyError(
                "already_running",
                f"a supervisor runs in {self._folder} already",
                hint="Stop it first; `status` names its process.",
            ) from error
        return lock

    def _listen(self) -> dict[int, signal.Handlers | Callable[..., object] | int | None]:
        if threading.current_thread() is not threading.main_thread():
            return {}

        def asked(number: int, frame: FrameType | None) -> None:
            self._stop.set()

        return {number: signal.signal(number, asked) for number in (signal.SIGTERM, signal.SIGINT)}


def backoff(ends: int, least_s: float = _LEAST_BACKOFF_S) -> float:
    """Return the pause before a restart, seconds.

    >>> [backoff(ends) for ends in range(4)]
    [10.0, 20.0, 40.0, 60.0]
    """
    return min(_MOST_BACKOFF_S, least_s * 2.0 ** min(ends, 10))


def running_state(folder: Path) -> dict[str, Any] | None:
    """Return what a folder's supervisor last wrote, or None where none is running."""
    state, lock = folder / "supervisor.json", folder / ".supervisor.lock"
    if not state.exists() or not lock.exists():
        return None
    handle = os.open(lock, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # its lock dies with it, so its process id is still its own
        found: dict[str, Any] = json.loads(state.read_bytes())
        return found if found["running"] else None
    finally:
        os.close(handle)
    return None


def stop_supervisor(folder: Path, *, timeout_s: float = 30.0) -> bool:
    """Ask a folder's supervisor to stop, and wait; return whether it is down."""
    found = running_state(folder)
    if found is None:
        return True
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(found["pid"]), signal.SIGTERM)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if running_state(folder) is None:
            return True
        time.sleep(_LOOK_S)
    return False


def follow_parent(look_s: float = 2.0) -> None:
    """End this process when the one that started it is gone: nothing is left running."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(look_s)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="follow-parent", daemon=True).start()


def _end(process: subprocess.Popen[bytes] | None) -> None:
    if process is None or process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(timeout=_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
