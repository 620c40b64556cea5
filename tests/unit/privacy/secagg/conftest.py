"""What the tests of the secure sum share: a federation in one process."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.unit.privacy.secagg import driver as driver_module


@pytest.fixture(scope="session")
def driver() -> Any:
    """The module driver.py beside this file, loaded by path."""
    spec = importlib.util.spec_from_file_location(
        "secagg_driver", Path(__file__).with_name("driver.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["secagg_driver"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def federation(driver: Any) -> type[driver_module.Federation]:
    """Factory: `federation.of(sites, ...)`, then `.set_up(...)` and `.round(...)`."""
    kind: type[driver_module.Federation] = driver.Federation
    return kind
