"""The environment of every process that imports Flower: it reports, asks and installs nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ["FLOWER_SWITCHES", "loopback_needs_no_proxy", "service_environment"]

FLOWER_SWITCHES = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_LOG_LEVEL": "WARNING",
}
# Vectors are small: threads cost more than they give, and cores are shared with the records.
_SAFE = {"PYTHONSAFEPATH": "1"}  # `-m` takes no module from where it starts: logs/ is written to
_QUIET = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def service_environment(
    flower_home: Path, extra: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the environment of a service: ours, with Flower's switches over it.

    Proxy variables pass through: a hospital's way out may need them. Loopback takes no proxy.

    Args:
        flower_home: Where Flower may write; nobody else's.
        extra: What this service needs besides.
    """
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("FLWR_")}
    return {
        **_QUIET,
        **inherited,
        **loopback_needs_no_proxy(),
        **FLOWER_SWITCHES,
        **_SAFE,
        "FLWR_HOME": str(flower_home),
        **(extra or {}),
    }


def loopback_needs_no_proxy() -> dict[str, str]:
    """Return the proxy exceptions of this process, with this machine among them.

    >>> "127.0.0.1" in loopback_needs_no_proxy()["NO_PROXY"]
    True
    """
    given = os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or ""
    spared = [name.strip() for name in given.split(",") if name.strip()]
    both = ",".join(dict.fromkeys([*spared, "127.0.0.1", "localhost", "::1"]))
    return {"NO_PROXY": both, "no_proxy": both}
