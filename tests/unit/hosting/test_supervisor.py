"""Services: private files, processes that come back, and a stop that leaves nothing behind."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fedcohort.hosting import (
    Service,
    Supervisor,
    append_line,
    private_folder,
    read_private,
    replace_file,
    running_state,
    service_environment,
    stop_supervisor,
    write_new,
)
from fedcohort.hosting import supervisor as module
from fedcohort.privacy.errors import PolicyError


def service(name: str, program: str) -> Service:
    return Service(
        name=name,
        command=[sys.executable, "-c", textwrap.dedent(program)],
        environment=dict(os.environ),
    )


SLEEPER = "import time\nwhile True: time.sleep(0.05)"
STUBBORN = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLEEPER


def until(said: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not said():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def in_thread(one: Supervisor) -> threading.Thread:
    thread = threading.Thread(target=one.run)
    thread.start()
    return thread


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def pid_of(folder: Path, name: str) -> int:
    state = running_state(folder)
    return 0 if state is None else int(state["services"][name]["pid"] or 0)


def test_what_is_started_is_stopped_and_its_output_kept(tmp_path: Path) -> None:
    one = Supervisor([service("a", "print('hello', flush=True)\n" + SLEEPER)], tmp_path)
    thread = in_thread(one)
    until(lambda: (tmp_path / "a.log").exists() and "hello" in (tmp_path / "a.log").read_text())
    pid = pid_of(tmp_path, "a")
    assert alive(pid)
    one.stop()
    thread.join(20)
    assert not alive(pid)
    assert running_state(tmp_path) is None


def test_what_a_service_writes_is_its_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        one = Supervisor([service("a", "open('made', 'w').close()\n" + SLEEPER)], tmp_path)
        thread = in_thread(one)
        until(lambda: (tmp_path / "made").exists())
        one.stop()
        thread.join(20)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o600


def test_what_does_not_listen_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GRACE_S", 0.3)
    one = Supervisor([service("a", STUBBORN)], tmp_path)
    thread = in_thread(one)
    until(lambda: pid_of(tmp_path, "a") > 0)
    time.sleep(0.3)
    pid = pid_of(tmp_path, "a")
    one.stop()
    thread.join(20)
    assert not alive(pid)


def test_what_ends_comes_back_whatever_its_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "backoff", lambda ends, least_s: 0.05)
    one = Supervisor([service("a", "pass"), service("b", SLEEPER)], tmp_path)
    thread = in_thread(one)
    try:
        until(
            lambda: (
                (running_state(tmp_path) or {"services": {"a": {"restarts": 0}}})["services"]["a"][
                    "restarts"
                ]
                >= 2
            )
        )
        state = running_state(tmp_path)
        assert state is not None
        assert set(state["services"]["a"]["exit_codes"]) == {0}
        assert state["services"]["b"]["restarts"] == 0
    finally:
        one.stop()
        thread.join(20)


def test_a_restart_waits_ten_seconds_or_more() -> None:
    assert [module.backoff(ends) for ends in range(5)] == [10, 20, 40, 60, 60]
    with pytest.raises(ValueError, match="backoff_s"):
        Supervisor([], Path(), backoff_s=1)


def test_one_folder_has_one_supervisor(tmp_path: Path) -> None:
    one = Supervisor([service("a", SLEEPER)], tmp_path)
    thread = in_thread(one)
    try:
        until(lambda: running_state(tmp_path) is not None)
        with pytest.raises(PolicyError) as refused:
            Supervisor([], tmp_path).run()
        assert refused.value.code == "already_running"
    finally:
        one.stop()
        thread.join(20)


def test_it_is_stopped_from_another_process(tmp_path: Path) -> None:
    program = f"""
        import sys, os
        from pathlib import Path
        from fedcohort.hosting import Service, Supervisor
        code = [sys.executable, "-c", {SLEEPER!r}]
        one = Service(name="a", command=code, environment=dict(os.environ))
        Supervisor([one], Path({str(tmp_path)!r})).run()
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)])
    try:
        until(lambda: pid_of(tmp_path, "a") > 0)
        pid = pid_of(tmp_path, "a")
        assert stop_supervisor(tmp_path)
        assert not alive(pid)
        assert process.wait(10) == 0
        assert stop_supervisor(tmp_path)  # and it stays stopped
    finally:
        process.kill()
        process.wait()


def test_who_follows_a_parent_ends_with_it(tmp_path: Path) -> None:
    child = "from fedcohort.hosting import follow_parent\nfollow_parent(0.05)\n" + SLEEPER
    program = f"""
        import subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", {child!r}])
        open({str(tmp_path / "pid")!r}, "w").write(str(child.pid) + "\\n")
        time.sleep(60)
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)])
    try:
        until(lambda: (tmp_path / "pid").exists() and "\n" in (tmp_path / "pid").read_text())
        pid = int((tmp_path / "pid").read_text())
        time.sleep(1.0)
        assert alive(pid)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    until(lambda: not alive(pid))


def test_the_log_of_a_dead_supervisor_is_not_believed(tmp_path: Path) -> None:
    replace_file(tmp_path / "supervisor.json", b'{"running": true, "pid": 1, "services": {}}')
    (tmp_path / ".supervisor.lock").touch()
    assert running_state(tmp_path) is None


def test_files_are_private_and_never_overwritten(tmp_path: Path) -> None:
    folder = private_folder(tmp_path / "a" / "b")
    assert folder.stat().st_mode & 0o777 == 0o700
    write_new(folder / "x", b"1")
    with pytest.raises(PolicyError) as refused:
        write_new(folder / "x", b"2")
    assert refused.value.code == "file_exists"
    replace_file(folder / "x", b"3")
    assert read_private(folder / "x") == b"3"
    append_line(folder / "y", "1")
    append_line(folder / "y", "2")
    assert (folder / "y").read_text() == "1\n2\n"
    assert {p.stat().st_mode & 0o777 for p in folder.iterdir()} == {0o600}
    (folder / "x").chmod(0o640)
    with pytest.raises(PolicyError) as refused:
        read_private(folder / "x")
    assert refused.value.code == "file_mode"


def test_no_file_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PolicyError):
        write_new(tmp_path / "link", b"1")
    with pytest.raises(OSError, match="symbolic"):
        append_line(tmp_path / "link", "1")
    assert not (tmp_path / "elsewhere").exists()


def test_a_service_takes_no_module_from_where_its_logs_are(tmp_path: Path) -> None:
    (tmp_path / "fedcohort.py").write_text("print('planted')\n")
    ran = []
    for environment in (dict(os.environ), service_environment(tmp_path)):
        command = [sys.executable, "-m", "fedcohort.hosting"]
        done = subprocess.run(  # our own command
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        ran.append(done.stdout)
    assert ran == ["planted\n", ""]  # with the first environment it does: the test can fail


def test_a_service_inherits_proxies_and_none_of_flowers_switches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    monkeypatch.setenv("FLWR_SOMETHING", "1")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "intranet.example")
    found = service_environment(tmp_path)
    assert found["FLWR_TELEMETRY_ENABLED"] == "0"
    assert "FLWR_SOMETHING" not in found
    assert found["HTTPS_PROXY"] == "http://proxy.example:3128"
    assert found["NO_PROXY"].split(",")[:2] == ["intranet.example", "127.0.0.1"]
