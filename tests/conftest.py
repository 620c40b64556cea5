"""What every test stands on: the right import path, a quiet Flower, no network, no luck.

`tests/` has no `__init__.py`: under pytest's importlib mode test modules cannot import each
other, so what they share is a fixture, here or in the `conftest.py` of a folder.
"""

import os
import sys
from pathlib import Path

# Before anything imports Flower, which reads them once.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
os.environ["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] = "1"
# Drawn to files, never to a screen.
os.environ.setdefault("MPLBACKEND", "Agg")

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER_MARKERS = {"attacks": "attack", "pages": "browser"}

# `python -m pytest` puts the root on the path, where our `datasets` and `privacy` would pass
# for top-level packages and hide those of others.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]

# The same examples on every run; how long one takes says nothing on a shared machine.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.load_profile("ci")


def _stay_on_this_machine(event: str, arguments: tuple[object, ...]) -> None:
    """Refuse a connection of this process to any other machine."""
    if event != "socket.connect":
        return
    address = arguments[1]
    if isinstance(address, tuple) and not str(address[0]).startswith(
        ("127.", "::1", "::ffff:127.", "localhost")
    ):
        raise RuntimeError(f"a test tried to reach {address[0]}: tests stay on this machine")


sys.addaudithook(_stay_on_this_machine)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of tests/attacks `attack` and those of tests/pages `browser`."""
    for item in items:
        folders = item.path.relative_to(ROOT).parts
        for folder, marker in FOLDER_MARKERS.items():
            if folder in folders:
                item.add_marker(marker)
