"""The command as people run it (a process of its own) and in this process, which is quicker."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra

from fedcohort.conf.schema import register
from fedcohort.experiments import cli
from fedcohort.experiments.settings import Settings

START = (sys.executable, "-m", "fedcohort.experiments.cli")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a command left on its two streams, and its exit code."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def fedcohort() -> Callable[..., Answer]:
    """Run `fedcohort ARGUMENTS` in a process of its own, in the folder `cwd`."""

    def run(*arguments: str, cwd: Path, env: dict[str, str] | None = None) -> Answer:
        done = subprocess.run(
            [*START, *arguments],
            cwd=cwd,
            env=os.environ | (env or {}),
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        return Answer(code=done.returncode, out=done.stdout, err=done.stderr)

    return run


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start `fedcohort ARGUMENTS` in `tmp_path` and come back at once."""

    def popen(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*START, *arguments],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return popen


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Answer]:
    """Run `fedcohort ARGUMENTS` in this process, in `tmp_path`: the same entry, no start-up."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Answer:
        monkeypatch.setattr(sys, "argv", ["fedcohort", *arguments])
        capfd.readouterr()
        code: object = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        out, err = capfd.readouterr()
        return Answer(code=code if isinstance(code, int) else 1, out=out, err=err)

    return run


@pytest.fixture(scope="session")
def settings_of() -> Callable[[Sequence[str]], Settings]:
    """Return the checked settings of a run's overrides, as the command composes them."""

    def settings(overrides: Sequence[str]) -> Settings:
        register()
        try:
            with initialize_config_module(config_module="fedcohort.conf", version_base="1.3"):
                return Settings.of(compose(config_name="config", overrides=list(overrides)))
        finally:
            GlobalHydra.instance().clear()

    return settings
