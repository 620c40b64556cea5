"""Starting: quickly, without what is not needed, and without a trace outside the run's folder."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

MOST_MODULES = 3_000  # 2,321 as measured

HEAVY = (
    *("torch", "matplotlib", "flwr", "opacus", "pandas", "pandera", "scipy", "hydra", "duckdb"),
    *("dp_accounting", "opendp", "numpy", "sqlalchemy", "jinja2"),
)


def python(script: str, cwd: Path) -> str:
    """Run a script in a fresh interpreter and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def loaded_by(statement: str, cwd: Path) -> set[str]:
    script = f"import sys\n{statement}\nprint(*(name for name in {HEAVY!r} if name in sys.modules))"
    return set(python(script, cwd).split())


def test_the_entry_point_imports_nothing_heavy(tmp_path: Path) -> None:
    assert loaded_by("import fedcohort.experiments.cli", tmp_path) == set()


def test_a_refused_run_needs_neither_torch_nor_flower_nor_matplotlib(tmp_path: Path) -> None:
    statement = "import fedcohort.experiments.launch"
    assert not loaded_by(statement, tmp_path) & {"torch", "matplotlib", "flwr", "opacus"}


def test_the_commands_beside_run_need_neither_torch_nor_flower_nor_matplotlib(
    tmp_path: Path,
) -> None:
    statement = "import fedcohort.experiments.commands"
    assert not loaded_by(statement, tmp_path) & {"torch", "matplotlib", "flwr", "opacus"}


def commands(*words: str) -> str:
    """Return the statements that give one command to `fedcohort` and then go on."""
    return f"""
sys.argv = ["fedcohort", *{words!r}]
from fedcohort.experiments import cli
out, sys.stdout = sys.stdout, sys.stderr
try:
    cli.main()
except SystemExit as end:
    assert not end.code
sys.stdout = out
"""


@pytest.mark.parametrize("words", [("version",), ("--help",), ("ledger", "--help")])
def test_a_command_that_computes_nothing_imports_nothing_heavy(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    assert loaded_by(commands(*words), tmp_path) == set()


def test_showing_a_ledger_that_paid_for_nothing_needs_no_accountant(tmp_path: Path) -> None:
    opening = ("--hospital", "h03", "--population", "p", "--epsilon", "3", "--delta", "1e-5")
    made = commands("ledger", "create", "h.ledger", *opening)
    assert loaded_by(made + commands("ledger", "show", "h.ledger"), tmp_path) == {
        "numpy", "sqlalchemy",
    }  # fmt: skip


@pytest.mark.parametrize("module", ["fl_client.worker", "fl_server.runner"])
def test_a_resident_process_starts_without_the_accountant(module: str, tmp_path: Path) -> None:
    loaded = loaded_by(f"import fedcohort.{module}", tmp_path)
    assert not loaded & {"dp_accounting", "torch", "matplotlib", "hydra"}
    assert "flwr" in loaded


def test_prediction_needs_no_flower(tmp_path: Path) -> None:
    statement = "import fedcohort.experiments.predict"
    assert not loaded_by(statement, tmp_path) & {"torch", "matplotlib", "flwr", "opacus"}


# As on the light installation, which has no torch.
NO_TORCH = """
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "opacus"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, NoTorch())
from fedcohort.experiments import cli
"""


def test_a_linear_model_runs_without_torch(tmp_path: Path) -> None:
    script = """
sys.argv = ["fedcohort", "run", "study=heart-disease", "repeats=1", "out=run",
            "arms=[local,federated,dp_sum]"]
cli.main()
"""
    assert '"out": "run"' in python(NO_TORCH + script, tmp_path)


def test_a_network_without_torch_is_told_what_to_install(tmp_path: Path) -> None:
    script = """
sys.argv = ["fedcohort", "run", "study=heart-disease", "model=mlp", "repeats=1"]
sys.stderr = sys.stdout
try:
    cli.main()
except SystemExit as end:
    print("exit", end.code)
"""
    said = python(NO_TORCH + script, tmp_path)
    assert "refused (missing_extra)" in said
    assert "pip install 'fedcohort[deep]'" in said
    assert said.endswith("exit 1")
    assert list(tmp_path.iterdir()) == []


def test_a_run_writes_into_its_folder_and_nowhere_else(
    fedcohort: Callable[..., Any], tmp_path: Path
) -> None:
    """Home, temporary and working folder stay empty: no log, no identity, no setting.

    Matplotlib keeps its list of the machine's fonts in the user's cache; it is no trace of a run.
    """
    places = {name: tmp_path / name for name in ("home", "tmp", "work")}
    for place in places.values():
        place.mkdir()
    env = {
        "HOME": str(places["home"]),
        "TMPDIR": str(places["tmp"]),
        "XDG_CACHE_HOME": str(places["home"] / ".cache"),
        "XDG_CONFIG_HOME": str(places["home"] / ".config"),
    }
    answer = fedcohort(
        "run", "study=heart-disease", "repeats=1", "arms=[local,federated,dp_sum]",
        "out=there/run", cwd=places["work"], env=env,
    )  # fmt: skip
    assert answer.code == 0, answer.err
    files = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    strays = [path for path in files if path.parts[:3] != ("work", "there", "run")]
    assert [path for path in strays if not path.name.startswith("fontlist-")] == []


def test_the_first_round_comes_without_what_it_does_not_need(tmp_path: Path) -> None:
    """From the start of Python to the first sum that is asked for: what was loaded until then."""
    script = f"""
        import os, sys
        from fedcohort.experiments import cli
        os.environ.update(cli._SWITCHES)
        from fedcohort.fl_server import coordinator
        def first(*arguments):
            heavy = [name for name in {HEAVY!r} if name in sys.modules]
            print(len(sys.modules), *heavy, flush=True)
            os._exit(0)
        coordinator.MaskedSums.collect = first
        sys.argv = ["fedcohort", "run", "study=heart-disease", "repeats=1", "arms=[federated]"]
        cli.main()
    """
    modules, *heavy = python(script, tmp_path).split()
    assert int(modules) < MOST_MODULES
    assert not {"torch", "opacus", "matplotlib", "jinja2"} & set(heavy)
