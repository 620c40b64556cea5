"""Read back what a node kept of a study that ended: arrays that a coordinator made."""

from __future__ import annotations

import datetime as dt
import json
import math
from typing import Any

import numpy as np

from ...fl_client.site_folder import SiteFolder
from ...fl_client.site_gate import RESULT_FORMAT
from ...hosting import read_private
from ...privacy.errors import ConfigError
from ...study.analysis import Vector

__all__ = ["read_result"]


def read_result(folder: SiteFolder, plan_sha256: str) -> tuple[dict[str, Vector], dt.datetime]:
    """Return the arrays of a result, and when it came.

    Raises:
        ConfigError: `no_result`: none came, or what came is no arrays of finite numbers.
        PolicyError: A file's mode.
    """
    path = folder.results / f"{plan_sha256}.json"
    if not path.exists():
        raise ConfigError(
            "no_result",
            "that study has not ended with a result here",
            hint="`fedcohort site studies` says where it stands.",
        )
    try:
        document = json.loads(read_private(path))
        if (document["format"], document["plan_sha256"]) != (RESULT_FORMAT, plan_sha256):
            raise ValueError("another file's name")
        arrays = {str(name): _array(array) for name, array in document["arrays"].items()}
        return arrays, dt.datetime.fromisoformat(document["ended"])
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        raise ConfigError(
            "no_result",
            "what the coordinator sent as the result of that study cannot be read",
            hint="Ask the coordinator; its own copy is in the run's folder.",
        ) from None


def _array(kept: dict[str, Any]) -> Vector:
    values = kept["values"]
    if not all(type(value) in (int, float) and math.isfinite(value) for value in values):
        raise ValueError("no finite number")
    return np.array(values, dtype=np.float64).reshape(kept["shape"])
