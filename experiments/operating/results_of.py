"""Read back what a node kept of a study that ended."""

from __future__ import annotations

import datetime as dt
import json

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
        ConfigError: `no_result`.
        PolicyError: A file's mode.
    """
    path = folder.results / f"{plan_sha256}.json"
    if not path.exists():
        raise ConfigError(
            "no_result",
            "that study has not ended with a result here",
            hint="`fedcohort site studies` says where it stands.",
        )
    document = json.loads(read_private(path))
    if document.get("format") != RESULT_FORMAT or document.get("plan_sha256") != plan_sha256:
        raise ConfigError("no_result", "the result's file is not what its name says")
    arrays = {
        name: np.array([float(value) for value in array["values"]]).reshape(array["shape"])
        for name, array in document["arrays"].items()
    }
    return arrays, dt.datetime.fromisoformat(document["ended"])
