"""Take one check out of a copy of the source at a time: does a test that is named for it fail?

    python tests/mutants/run.py [--group ledger] [--only N1 N2] [--workers 2]

Every `*.toml` beside this file is a group of mutants, and every `[[mutant]]` in it has

    id       its name, once in all files
    what     what is taken out, for people
    file     the source file
    old      text that stands there exactly once
    new      what stands there instead
    tests    pytest ids, one of which must fail; the fastest one is enough
    reason   instead of tests: why no test can notice
    pending  instead of tests: where the test will come from; the run fails until it is there

All named tests run once on an untouched copy and must pass. Then each mutant is applied to a
copy, its tests run there, and the file is put back. A mutant is killed if one of its tests ran
and failed. A test that could not be collected or set up, a module that cannot be imported and a
run that hangs kill nothing: such a mutant is invalid. Exits 1 unless every mutant was killed or
has a reason.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import os
import py_compile
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PACKAGE = "fedcohort"  # the repository root, under the name that it is imported by
PATIENCE_S = 900  # longer than any named test; a mutant that hangs is invalid, not killed
LEFT_OUT = shutil.ignore_patterns(
    ".*", "__pycache__", "*.egg-info", "build", "dist", "runs", "outputs", "multirun"
)
# What a pytest around this one says to itself.
OUTER = ("PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST", "PYTEST_XDIST")
BAD = ("failure", "error", "skipped")  # a test's end in pytest's report; `error`: it never began
# A failure of this kind says that the mutant is broken, or that a control of an attack did not
# find the text it weakens. It does not say that a check is gone.
NO_KILL = re.compile(
    r"(\w*\.)*(SyntaxError|IndentationError|ImportError|ModuleNotFoundError|NameError|"
    r"UnboundLocalError)\b|.*\.py holds .* \d+ times",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One check taken out; the fields are those of the files, and the file's name as group."""

    group: str
    id: str
    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...] = ()
    reason: str = ""
    pending: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of one mutant: `killed`, `reason`, `SURVIVED`, `PENDING` or `INVALID`, and why."""

    mutant: Mutant
    word: str
    why: str

    @property
    def good(self) -> bool:
        """Whether the run may succeed with it."""
        return self.word in ("killed", "reason")


def read_mutants(folder: Path = HERE) -> list[Mutant]:
    """Return the mutants of every file of a folder."""
    found = []
    for path in sorted(folder.glob("*.toml")):
        for entry in tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]:
            entry["tests"] = tuple(entry.get("tests", ()))
            found.append(Mutant(group=path.stem, **entry))
    return found


def faults(mutants: Sequence[Mutant], root: Path = ROOT) -> list[str]:
    """Return what is wrong with the mutants before any test runs."""
    times = Counter(mutant.id for mutant in mutants)
    found = [f"{name}: {count} mutants have this id" for name, count in times.items() if count > 1]
    for mutant in mutants:
        found += [f"{mutant.id}: {fault}" for fault in _faults_of(mutant, root)]
    return found


def _faults_of(mutant: Mutant, root: Path) -> Iterator[str]:
    if sum(map(bool, (mutant.tests, mutant.reason, mutant.pending))) != 1:
        yield "it needs one of tests, reason and pending"
    path = root / mutant.file
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if text.count(mutant.old) != 1:
        yield f"its old text stands {text.count(mutant.old)} times in {mutant.file}, not once"
    elif mutant.old == mutant.new:
        yield "it changes nothing"
    else:
        try:
            ast.parse(text.replace(mutant.old, mutant.new))
        except SyntaxError as error:
            yield f"{mutant.file} is no Python with it: {error}"
    for test in mutant.tests:
        file, *_, name = test.split("[")[0].split("::")
        if name not in _functions(root / file):
            yield f"there is no {test}"


@lru_cache(maxsize=128)
def _functions(path: Path) -> frozenset[str]:
    """Names of the functions that a file defines, in classes or outside."""
    if not path.is_file():
        return frozenset()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of the tree that tests can be run in."""

    root: Path

    @classmethod
    def make(cls, source: Path, folder: Path) -> Copy:
        """Copy a tree into a folder, under the name that it is imported by."""
        root = folder / PACKAGE
        shutil.copytree(source, root, ignore=LEFT_OUT)
        # By hash: a mutant of the same size, written in the same second, is compiled anew.
        mode = py_compile.PycInvalidationMode.CHECKED_HASH
        compileall.compile_dir(root, quiet=2, invalidation_mode=mode)
        return cls(root)

    @contextmanager
    def changed(self, mutant: Mutant) -> Iterator[None]:
        """Apply a mutant, and put the file back afterwards."""
        path = self.root / mutant.file
        before = path.read_text(encoding="utf-8")
        path.write_text(before.replace(mutant.old, mutant.new), encoding="utf-8")
        try:
            yield
        finally:
            path.write_text(before, encoding="utf-8")

    def outcomes(self, tests: Sequence[str], *options: str) -> tuple[dict[str, str], str]:
        """Run tests.

        Returns:
            Of each test that was begun `passed`, or `failure`, `error` or `skipped` and its
            message; and what pytest printed. A run that hangs has an outcome named `hung`.
        """
        report = self.root.with_name("report.xml")
        report.unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command += [f"--junitxml={report}", *options, *tests]
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(OUTER)}
        own = {"PYTHONPATH": str(self.root.parent), "PYTHONDONTWRITEBYTECODE": "1"}
        with subprocess.Popen(
            command,
            cwd=self.root,
            env=inherited | own | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                printed, _ = process.communicate(timeout=PATIENCE_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                return {"the run": "hung"}, ""
        return _read(report), printed


def _read(report: Path) -> dict[str, str]:
    found = {}
    if report.is_file():
        tree = ElementTree.parse(report)  # noqa: S314 - our own pytest wrote it
        for case in tree.iter("testcase"):
            name = f"{case.get('classname')}::{case.get('name')}"
            bad = next((child for child in case if child.tag in BAD), None)
            found[name] = "passed" if bad is None else f"{bad.tag}: {bad.get('message')}"
    return found


def judge(mutant: Mutant, copy: Copy) -> Verdict:
    """Apply a mutant and run its tests."""
    if not mutant.tests:
        word = "reason" if mutant.reason else "PENDING"
        return Verdict(mutant=mutant, word=word, why=mutant.reason or mutant.pending)
    with copy.changed(mutant):
        outcomes, printed = copy.outcomes(mutant.tests, "-x")
    bad = {name: said for name, said in outcomes.items() if said != "passed"}
    if outcomes and not bad:
        return Verdict(mutant=mutant, word="SURVIVED", why=", ".join(mutant.tests))
    for name, said in bad.items():
        kind, _, message = said.partition(": ")
        if kind == "failure" and not NO_KILL.match(message):
            return Verdict(mutant=mutant, word="killed", why=name.partition("::")[2])
    why = "; ".join(f"{name} {said[:200]}" for name, said in bad.items()) or printed[-500:]
    return Verdict(mutant=mutant, word="INVALID", why=why)


def untouched(tests: Sequence[str], copy: Copy) -> str:
    """Return why these tests do not all pass on an unchanged copy; empty where they do."""
    if not tests:
        return ""
    outcomes, printed = copy.outcomes(tests)
    passed = bool(outcomes) and all(said == "passed" for said in outcomes.values())
    return "" if passed else printed[-3000:] or str(outcomes)


def run(mutants: Sequence[Mutant], root: Path = ROOT, workers: int = 2) -> tuple[str, bool]:
    """Judge mutants; return the last line to print, and whether all is well."""
    wrong = faults(mutants, root)
    if wrong:
        return "\n".join(wrong), False
    files = sorted({test.split("::")[0] for mutant in mutants for test in mutant.tests})
    named = sorted({test for mutant in mutants for test in mutant.tests})
    shares = [
        [test for test in named if test.split("::")[0] in files[number::workers]]
        for number in range(workers)
    ]
    with (
        tempfile.TemporaryDirectory(prefix="mutants-") as folder,
        ThreadPoolExecutor(workers) as pool,
    ):
        copies = [Copy.make(root, Path(folder) / str(number)) for number in range(workers)]
        failed = "".join(pool.map(untouched, shares, copies))
        if failed:
            return f"{failed}\nThese tests do not pass on the unchanged source.", False
        free: queue.SimpleQueue[Copy] = queue.SimpleQueue()
        for copy in copies:
            free.put(copy)

        def one(mutant: Mutant) -> Verdict:
            copy = free.get()
            try:
                return judge(mutant, copy)
            finally:
                free.put(copy)

        verdicts = []
        for verdict in pool.map(one, mutants):
            verdicts.append(verdict)
            mutant = verdict.mutant
            sys.stdout.write(
                f"{mutant.id:<6} {mutant.what[:70]:<70} {verdict.word:<9} {verdict.why}\n"
            )
            sys.stdout.flush()
    return _summary(verdicts), all(verdict.good for verdict in verdicts)


def _summary(verdicts: Sequence[Verdict]) -> str:
    words = Counter(verdict.word for verdict in verdicts)
    said = f"{len(verdicts)} mutants: {words['killed']} killed, {words['SURVIVED']} survived"
    more = {"reason": "with a reason", "PENDING": "without a test yet", "INVALID": "invalid"}
    return said + "".join(f", {words[key]} {text}" for key, text in more.items() if words[key])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Does a test notice each check that is taken out?")
    parser.add_argument("--group", nargs="+", default=[], help="files beside this one, by stem")
    parser.add_argument("--only", nargs="+", default=[], help="mutants, by id")
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args(arguments)
    mutants = read_mutants()
    known = {name for mutant in mutants for name in (mutant.group, mutant.id)}
    unknown = sorted({*chosen.group, *chosen.only} - known)
    if unknown:
        parser.error(f"no group and no mutant of this name: {', '.join(unknown)}")
    if chosen.group:
        mutants = [mutant for mutant in mutants if mutant.group in chosen.group]
    if chosen.only:
        mutants = [mutant for mutant in mutants if mutant.id in chosen.only]
    if not mutants:
        parser.error("these mutants are in other groups")
    said, good = run(mutants, workers=chosen.workers)
    sys.stdout.write(said + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
