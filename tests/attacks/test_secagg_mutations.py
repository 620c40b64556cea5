"""Every check of the masked sum that is taken out turns the test red that is named for it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest


def the_script() -> Any:
    path = Path(__file__).with_name("mutation_check.py")
    spec = importlib.util.spec_from_file_location("secagg_mutation_check", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_mutation_still_applies_to_the_source() -> None:
    script = the_script()
    for mutation in script.MUTATIONS:
        path = script.ROOT / "privacy/secagg" / f"{mutation.module}.py"
        assert path.read_text().count(mutation.old) == 1, mutation
    assert {"16", "24", "25", "30", "35", "36", "38"} <= {m.check for m in script.MUTATIONS}


@pytest.mark.slow
def test_no_check_can_be_taken_out_unnoticed() -> None:
    printed, good = the_script().table()
    assert good, printed
