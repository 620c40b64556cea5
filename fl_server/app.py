"""The coordinator's Flower ServerApp: hand Flower's Grid to the loop, nothing else."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

__all__ = ["server_app"]


def server_app(run: Callable[[Grid, Context], None]) -> ServerApp:
    """Return a ServerApp whose main calls `run`.

    Args:
        run: Runs plans over the grid and keeps their outcomes.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        """Run what the caller asked for."""
        run(grid, context)

    return app
