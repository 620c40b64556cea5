"""A small table of two hospitals, and a way to spoil it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fedcohort.datasets import Extract, LoadOptions, load_table

CODEBOOK = """
columns:
  age: {type: number, range: [0, 110], centre: 60, scale: 10}
  sex: {type: category, values: [female, male], other: false}
  smoker: {type: boolean, true: ["Yes", "1"], false: ["No", "0"]}
"""

Load = Callable[..., Extract]


@pytest.fixture
def frame() -> pd.DataFrame:
    """80 patients, 40 at each of two hospitals, nothing wrong with them."""
    random = np.random.default_rng(7)
    rows = 80
    age = random.integers(30, 90, rows)
    return pd.DataFrame(
        {
            "record": [f"K-{number:03d}" for number in range(rows)],
            "hospital": ["north", "south"] * (rows // 2),
            "age": age.astype(str),
            "sex": random.choice(["female", "male"], rows),
            "smoker": random.choice(["Yes", "No"], rows),
            "ill": (random.random(rows) < 0.4).astype(int).astype(str),
            "days": random.integers(1, 900, rows).astype(str),
            "seen": random.choice(["0", "1"], rows),
        }
    )


@pytest.fixture
def risk() -> LoadOptions:
    """The options of a risk study on `frame`."""
    return LoadOptions(site="hospital", patient="record", outcome="ill", exclude=("days", "seen"))


@pytest.fixture
def survival() -> LoadOptions:
    """The options of a survival study on `frame`."""
    return LoadOptions(
        site="hospital", patient="record", time="days", event="seen", exclude=("ill",)
    )


@pytest.fixture
def codebook(tmp_path: Path) -> Path:
    """A complete codebook of `frame`'s three features."""
    path = tmp_path / "codebook.yaml"
    path.write_text(CODEBOOK)
    return path


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Write a frame to CSV and load it; keywords replace options."""

    def loaded(frame: pd.DataFrame, options: LoadOptions, **changes: object) -> Extract:
        path = tmp_path / "extract.csv"
        frame.to_csv(path, index=False)
        return load_table(path, replace(options, **changes))  # type: ignore[arg-type]

    return loaded
