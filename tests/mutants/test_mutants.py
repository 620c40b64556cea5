"""The mutants still fit the source and name tests that exist; and their runner is not fooled."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

MakeMutant = Callable[..., Any]
SUMS = """\
def add(one, other):
    if one < 0:
        raise ValueError("below zero")
    return one + other
"""
TESTS = """\
import pytest
from fedcohort import sums

@pytest.fixture
def three():
    return sums.add(1, 2)

@pytest.mark.parametrize("one", [1, 2])
def test_two_numbers_add_up(one):
    assert sums.add(one, 2) == one + 2

def test_below_zero_is_refused():
    with pytest.raises(ValueError):
        sums.add(-1, 2)

def test_a_fixture_adds_up(three):
    assert three == 3

def test_it_fails_anyway():
    assert sums.add(1, 1) == 3

def test_it_is_skipped():
    pytest.skip("not today")
"""
ADD_UP, BELOW_ZERO = "test_two_numbers_add_up", "test_below_zero_is_refused"


@pytest.fixture(scope="module")
def runner() -> Any:
    """The module run.py beside this file."""
    path = Path(__file__).with_name("run.py")
    spec = importlib.util.spec_from_file_location("mutants_run", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of one module, with its tests, which need no plugin."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    root = tmp_path / "tiny"
    (root / "tests").mkdir(parents=True)
    (root / "__init__.py").touch()
    (root / "sums.py").write_text(SUMS)
    (root / "tests/test_sums.py").write_text(TESTS)
    (root / "setup.cfg").write_text("[tool:pytest]\naddopts = --import-mode=importlib\n")
    return root


@pytest.fixture
def mutant(runner: Any) -> MakeMutant:
    """Return a maker of mutants of the tiny package; a test is named without its file."""
    number = itertools.count(1)

    def make(old: str, new: str, *tests: str, **changes: Any) -> Any:
        named = tuple(f"tests/test_sums.py::{test}" for test in tests)
        name = f"T{next(number)}"
        facts = {"group": "tiny", "id": name, "what": "a check", "file": "sums.py"}
        return runner.Mutant(**(facts | {"old": old, "new": new, "tests": named} | changes))

    return make


def test_every_mutant_applies_once_and_names_tests_that_exist(runner: Any) -> None:
    mutants = runner.read_mutants()
    assert runner.faults(mutants) == []
    assert len({mutant.group for mutant in mutants}) == 13


def test_no_mutant_waits_for_its_test(runner: Any) -> None:
    waiting = [mutant.id for mutant in runner.read_mutants() if mutant.pending]
    assert not waiting, f"no test holds these checks yet: {', '.join(waiting)}"


def test_each_mutant_gets_its_verdict(
    runner: Any, tiny: Path, mutant: MakeMutant, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = [
        (mutant("one + other", "one - other", ADD_UP), "killed"),
        (mutant("if one < 0:", "if False:", ADD_UP, BELOW_ZERO), "killed"),
        (mutant("if one < 0:", "if one < -9:", ADD_UP), "SURVIVED"),
        (mutant("one + other", "one + another", ADD_UP), "INVALID"),  # NameError
        (mutant("def add", "import nothing\ndef add", ADD_UP), "INVALID"),  # not collected
        (mutant("one + other", "1 / 0", "test_a_fixture_adds_up"), "INVALID"),  # not set up
        (mutant("below zero", "below", reason="A text is no check."), "reason"),
        (mutant("below zero", "under", pending="a test to come"), "PENDING"),
    ]
    said, good = runner.run([mutant for mutant, _ in expected], tiny)
    assert not good
    assert said == (
        "8 mutants: 2 killed, 1 survived, 1 with a reason, 1 without a test yet, 3 invalid"
    )
    for (mutant_, word), line in zip(expected, capsys.readouterr().out.splitlines(), strict=True):
        assert line.startswith(mutant_.id)
        assert word in line
    assert (tiny / "sums.py").read_text() == SUMS
    fine = [mutant for mutant, word in expected if word in ("killed", "reason")][1:]
    said, good = runner.run(fine, tiny, workers=1)
    assert (said, good) == ("2 mutants: 1 killed, 0 survived, 1 with a reason", True)


def test_a_mutant_that_does_not_fit_is_named_before_anything_runs(
    runner: Any, tiny: Path, mutant: MakeMutant
) -> None:
    wrong = [
        (mutant("one * other", "one", ADD_UP), "stands 0 times in sums.py"),
        (mutant("one", "other", ADD_UP), "stands 3 times in sums.py"),
        (mutant("one + other", "one + other", ADD_UP), "changes nothing"),
        (mutant("one + other", "one +", ADD_UP), "no Python"),
        (mutant("one + other", "one", "test_nobody_wrote"), "there is no tests/test_sums.py::"),
        (mutant("one + other", "other", ADD_UP, file="gone.py"), "stands 0 times in gone.py"),
        (mutant("one + other", "0"), "one of tests, reason and pending"),
        (mutant("one + other", "1", ADD_UP, reason="None."), "one of tests, reason and pending"),
    ]
    twice = [mutant("one + other", "2", ADD_UP)] * 2
    said, good = runner.run([*(mutant for mutant, _ in wrong), *twice], tiny)
    assert not good
    lines = said.splitlines()
    assert "2 mutants have this id" in lines[0]
    for (mutant_, fault), line in zip(wrong, lines[1:], strict=True):
        assert line.startswith(f"{mutant_.id}: ")
        assert fault in line


@pytest.mark.parametrize(
    ("test", "shown"),
    [
        ("test_it_fails_anyway", "assert 2 == 3"),
        ("test_it_is_skipped", "skipped"),
        (f"{ADD_UP}[3]", "not found"),
    ],
)
def test_a_test_that_does_not_pass_unmutated_kills_nothing(
    runner: Any, tiny: Path, mutant: MakeMutant, test: str, shown: str
) -> None:
    said, good = runner.run([mutant("one + other", "one", test)], tiny, workers=1)
    assert not good
    assert shown in said
    assert "do not pass on the unchanged source" in said


def test_no_run_no_end_and_no_text_to_weaken_kill_nothing(
    runner: Any, tiny: Path, mutant: MakeMutant
) -> None:
    class Scripted(runner.Copy):  # type: ignore[misc]
        outcome = ""

        def outcomes(self, tests: Any, *options: str) -> tuple[dict[str, str], str]:
            return ({"tests.test_sums::test": self.outcome} if self.outcome else {}), ""

    copy = Scripted(tiny)
    for outcome, word in (
        ("", "INVALID"),  # nothing ran
        ("hung", "INVALID"),
        ("skipped: on this machine", "INVALID"),
        ("failure: AssertionError: site.py holds 'a line' 0 times", "INVALID"),
        ("failure: fedcohort.privacy.errors.PolicyError: refused", "killed"),
    ):
        Scripted.outcome = outcome
        assert runner.judge(mutant("one + other", "one", ADD_UP), copy).word == word
