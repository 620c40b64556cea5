"""Who may import whom: the contracts of setup.cfg, kept, and shown to bite."""

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fedcohort

pytest.importorskip("importlinter")

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(fedcohort.__file__).parent
FLOWER = {"flwr.app", "flwr.clientapp", "flwr.serverapp"}


def lint_imports(folder: Path, config: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter in `folder`, on the fedcohort that is found from there."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    return subprocess.run(
        [*command, "--config", str(config)],
        cwd=folder,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


def modules() -> list[Path]:
    """Return every module of the package."""
    tops = [init.parent for init in PACKAGE.glob("*/__init__.py")]
    return sorted(path for top in tops for path in top.rglob("*.py"))


def imports_of(path: Path) -> Iterator[str]:
    """Yield the dotted names a module imports absolutely; `from a import b` gives `a.b`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a folder with a copy of the package's modules, free to be bent."""
    for path in [PACKAGE / "__init__.py", *modules()]:
        target = tmp_path / "fedcohort" / path.relative_to(PACKAGE)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return tmp_path


def test_the_contracts_of_setup_cfg_are_kept() -> None:
    outcome = lint_imports(ROOT, ROOT / "setup.cfg")
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("fl_server/_bent.py", "from ..datasets import _", "The coordinator has no code path"),
        ("privacy/_bent.py", "from ..study import _", "the roles stand on the ground BROKEN"),
        ("privacy/_bent.py", "import torch", "privacy is arithmetic and state"),
        ("study/_bent.py", "import flwr.app", "Flower carries messages"),
        ("conf/_bent.py", "from ..privacy import _", "the roles stand on the ground BROKEN"),
        ("study/_bent.py", "from ..conf import _", "Only experiments and the command lines"),
    ],
)
def test_an_import_against_the_arrows_is_caught(
    copy: Path, module: str, line: str, contract: str
) -> None:
    (copy / "fedcohort" / module).write_text(f"{line}\n", encoding="utf-8")
    outcome = lint_imports(copy, ROOT / "setup.cfg")
    assert outcome.returncode == 1
    broken = [text for text in outcome.stdout.splitlines() if text.endswith("BROKEN")]
    assert any(contract in text for text in broken), outcome.stdout


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_reaches_its_neighbours_by_relative_imports(path: Path) -> None:
    # Tools that read files, not imports, see none of the absolute ones.
    assert [name for name in imports_of(path) if name.split(".")[0] == "fedcohort"] == []


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_from_flower_come_the_public_modules_only(path: Path) -> None:
    if path.name in ("flower_compat.py", "flower_control.py"):
        pytest.skip("the one place of its role for what cannot be avoided")
    flower = [name for name in imports_of(path) if name.split(".")[0] == "flwr"]
    assert [name for name in flower if ".".join(name.split(".")[:2]) not in FLOWER] == []
