"""The tree of refusals: what scripts rely on."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import fedcohort
from fedcohort.privacy import errors
from fedcohort.privacy.errors import (
    BudgetExceededError,
    ConfigError,
    DataError,
    FedCohortError,
    PolicyError,
    ProtocolError,
)

PACKAGE = Path(fedcohort.__file__).parent
CLASSES = {"ConfigError", "DataError", "PolicyError", "BudgetExceededError", "ProtocolError"}


@pytest.mark.parametrize(
    ("kind", "parent", "exit_code"),
    [
        (FedCohortError, Exception, 1),
        (ConfigError, FedCohortError, 1),
        (DataError, FedCohortError, 1),
        (PolicyError, FedCohortError, 3),
        (BudgetExceededError, PolicyError, 3),
        (ProtocolError, FedCohortError, 4),
    ],
)
def test_the_tree_and_its_exit_codes(
    kind: type[FedCohortError], parent: type[Exception], exit_code: int
) -> None:
    assert kind.__bases__ == (parent,)
    assert kind.exit_code == exit_code
    error = kind("the_code", "the rule", hint="the remedy")
    assert (error.code, str(error), error.hint) == ("the_code", "the rule", "the remedy")
    assert kind("the_code", "the rule").hint == ""


def test_the_docstring_draws_every_class_and_the_module_exports_it() -> None:
    assert errors.__doc__ is not None
    for name in errors.__all__:
        assert name in errors.__doc__
        assert issubclass(getattr(errors, name), FedCohortError)


def raised_codes() -> list[tuple[str, str]]:
    """Return (place, code) for every refusal that the package spells out."""
    found = []
    for path in sorted(PACKAGE.glob("[a-z]*/**/*.py")):
        if {"tests", "build", "benchmarks"} & set(path.relative_to(PACKAGE).parts):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            if node.func.id not in CLASSES or not node.args:
                continue
            first = node.args[0]
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                found.append((f"{path.relative_to(PACKAGE)}:{node.lineno}", first.value))
    return found


def test_every_code_is_a_short_snake_case_name() -> None:
    codes = raised_codes()
    assert len(codes) > 30
    for place, code in codes:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", code), place
        # What crosses the wire is padded to 48: a longer one would be cut.
        assert len(code) <= 48, place
