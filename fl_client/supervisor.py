"""A site's two processes under one supervisor.

Flower's SuperNode talks to the coordinator and holds no data; our worker holds the data and
talks to nobody but that SuperNode.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from ..hosting import (
    Service,
    Supervisor,
    private_folder,
    read_private,
    service_environment,
    stop_supervisor,
)
from ..privacy.errors import PolicyError
from .site_setup import SiteSetup, read_setup

__all__ = ["site_services", "start_site", "stop_site"]

_LOOPBACK = "127.0.0.1"


def site_services(setup: SiteSetup) -> tuple[Service, Service]:
    """Return the SuperNode and the worker of a site."""
    environment = service_environment(private_folder(setup.folder / "flower"))
    runtime = f"{_LOOPBACK}:{setup.runtime_port}"
    node = [sys.executable, "-m", "fedcohort.fl_client.supernode"]
    node += ["--superlink", setup.superlink]
    node += ["--root-certificates", str(setup.ca)]
    node += ["--auth-supernode-private-key", str(setup.node_key)]
    node += ["--host", _LOOPBACK, "--port", str(setup.runtime_port)]
    node += ["--isolation", "process"]
    node += ["--superexec-auth-secret-file", str(setup.secret)]
    worker = [sys.executable, "-m", "fedcohort.fl_client.worker"]
    worker += ["--site-folder", str(setup.folder), "--runtime-address", runtime]
    return (
        Service(name="supernode", command=node, environment=environment),
        Service(name="worker", command=worker, environment=environment),
    )


def start_site(folder: Path) -> None:
    """Run a site until SIGTERM or SIGINT.

    Raises:
        ConfigError: `site_file`.
        PolicyError: `already_running`, `port_taken`, `file_missing` or `file_mode`.
    """
    setup = read_setup(private_folder(folder))
    for path in (setup.ca, setup.node_key, setup.secret, setup.identity):
        read_private(path)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_LOOPBACK, setup.runtime_port))
        except OSError as error:
            raise PolicyError(
                "port_taken",
                f"port {setup.runtime_port} of this machine is taken",
                hint="Stop what runs there, or change runtime_port in site.json.",
            ) from error
    Supervisor(site_services(setup), private_folder(setup.folder / "logs")).run()


def stop_site(folder: Path) -> bool:
    """Ask a running site to stop, and wait; return whether it is down."""
    return stop_supervisor(folder / "logs")


if __name__ == "__main__":  # for a service manager: no command line to import
    start_site(Path(sys.argv[1]))
