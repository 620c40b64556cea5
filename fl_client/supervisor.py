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
from ..privacy.ledger.store import SqliteLedger
from .governance.policy import Policy
from .site_folder import SiteFolder
from .site_gate import in_force

__all__ = ["check_start", "free_port", "site_services", "start_site", "stop_site"]

_LOOPBACK = "127.0.0.1"


def site_services(folder: SiteFolder, policy: Policy, runtime_port: int) -> tuple[Service, Service]:
    """Return the SuperNode and the worker of a site.

    Args:
        folder: The site's.
        policy: In force: it says where the coordinator is.
        runtime_port: Loopback port between the two.
    """
    environment = service_environment(private_folder(folder.flower))
    runtime = f"{_LOOPBACK}:{runtime_port}"
    node = [sys.executable, "-m", "fedcohort.fl_client.supernode"]
    node += ["--superlink", policy.coordinator]
    node += ["--root-certificates", str(folder.ca)]
    node += ["--auth-supernode-private-key", str(folder.node_key)]
    node += ["--host", _LOOPBACK, "--port", str(runtime_port)]
    node += ["--isolation", "process"]
    node += ["--superexec-auth-secret-file", str(folder.secret)]
    worker = [sys.executable, "-m", "fedcohort.fl_client.worker"]
    worker += ["--site-folder", str(folder.root), "--runtime-address", runtime]
    return (
        Service(name="supernode", command=node, environment=environment),
        Service(name="worker", command=worker, environment=environment),
    )


def check_start(root: Path) -> tuple[SiteFolder, Policy]:
    """Look at what the node cannot start without; return its folder and the policy in force.

    Raises:
        ConfigError: `ledger_missing`.
        PolicyError: The policy is not in force, or pins another CA than `ca.crt` or another
            ledger; `file_missing` or `file_mode`.
    """
    folder = SiteFolder(root.resolve())
    for path in (folder.ca, folder.coordinator, folder.node_key, folder.secret, folder.identity):
        read_private(path)
    private_folder(root)
    policy = in_force(folder)
    policy.check_ca(read_private(folder.ca))
    ledger = SqliteLedger(folder.ledger(policy), kind="site")
    try:
        policy.check_ledger(ledger.book.opening)
    finally:
        ledger.dispose()
    return folder, policy


def start_site(root: Path) -> None:
    """Run a site until SIGTERM or SIGINT.

    Raises:
        ConfigError: As `check_start`.
        PolicyError: As `check_start`, or `already_running`.
    """
    folder, policy = check_start(root)
    services = site_services(folder, policy, free_port())
    Supervisor(services, private_folder(folder.logs)).run()


def stop_site(root: Path) -> bool:
    """Ask a running site to stop, and wait; return whether it is down."""
    return stop_supervisor(SiteFolder(root).logs)


def free_port() -> int:
    """Return a loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":  # for a service manager: no command line to import
    start_site(Path(sys.argv[1]))
