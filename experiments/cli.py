"""The command `fedcohort`: `run` is Hydra's own main, everything else is Typer's."""

from __future__ import annotations

import logging
import os
import sys

__all__ = ["main"]

_SWITCHES = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_LOG_LEVEL": "WARNING",
}


def main() -> None:
    """Dispatch; Flower reads its switches at import, so they are set before anything else."""
    os.environ.update(_SWITCHES)
    _log_where_asked()
    try:
        _dispatch(sys.argv[1:])
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped: an unfinished run leaves no results\n")
        sys.exit(130)  # what shells expect after Ctrl-C


def _dispatch(arguments: list[str]) -> None:
    if arguments[:1] == ["run"]:
        from .launch import main as run

        run(arguments[1:])
        return
    from .commands import main as rest

    rest()


def _log_where_asked() -> None:
    """Keep the simulated hospitals' own logs off the screen, unless FEDCOHORT_LOG=LEVEL."""
    level = os.environ.get("FEDCOHORT_LOG", "").upper()
    if level in logging.getLevelNamesMapping():
        logging.basicConfig(stream=sys.stderr)
        logging.getLogger("fedcohort").setLevel(level)
    else:
        logging.getLogger("fedcohort").addHandler(logging.NullHandler())


if __name__ == "__main__":
    main()
