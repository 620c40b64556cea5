"""Make a coordinator's folder and start what runs from it."""

from __future__ import annotations

import secrets
import socket
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path

from ..hosting import (
    Service,
    Supervisor,
    private_folder,
    read_private,
    running_state,
    service_environment,
    stop_supervisor,
    write_new,
)
from ..privacy.errors import PolicyError
from ..privacy.secagg.identity import create_identity, load_identity
from .coordinator_setup import CoordinatorSetup, read_coordinator
from .pki import create_pki

__all__ = [
    "coordinator_services",
    "init_coordinator",
    "is_healthy",
    "start_coordinator",
    "stop_coordinator",
]


def init_coordinator(setup: CoordinatorSetup) -> None:
    """Make the folder: certificates, secret, identity, places for plans and runs.

    Raises:
        PolicyError: `file_exists`, `folder_mode` or `identity_exists`: nothing is overwritten.
        ConfigError: `certificate_names`.
    """
    private_folder(setup.folder)
    write_new(setup.folder / "coordinator.json", setup.to_json().encode())
    # Operator and runner reach it by loopback, and check its name as hospitals do.
    names = list(dict.fromkeys([*setup.names, "localhost", setup.loopback_host]))
    create_pki(setup.pki, names, federation=setup.federation)
    write_new(setup.secret, secrets.token_bytes(48))
    create_identity(setup.identity)
    for folder in (setup.plans, setup.runs, setup.logs):
        private_folder(folder)


def coordinator_services(setup: CoordinatorSetup) -> tuple[Service, Service]:
    """Return the SuperLink and the runner."""
    environment = service_environment(private_folder(setup.folder / "flower"))

    def command(module: str) -> list[str]:
        return [sys.executable, "-m", f"fedcohort.fl_server.{module}", str(setup.folder)]

    link = Service(name="superlink", command=command("superlink"), environment=environment)
    runner = Service(name="runner", command=command("runner"), environment=environment)
    return link, runner


def check_start(folder: Path) -> CoordinatorSetup:
    """Look at what a coordinator cannot start without; return its setup.

    Raises:
        ConfigError: `coordinator_file`.
        PolicyError: `already_running`, `port_taken`, or a file or its mode.
    """
    setup = read_coordinator(folder)
    private_folder(folder)
    for path in (setup.ca, setup.pki / "server.key", setup.secret):
        read_private(path)
    load_identity(setup.identity)
    if running_state(setup.logs) is not None:
        raise PolicyError(
            "already_running",
            f"a coordinator runs from {folder} already",
            hint="`fedcohort coordinator status` says how it is, `stop` ends it.",
        )
    for host, port in (
        (setup.public_host, setup.public_port),
        (setup.loopback_host, setup.loopback_port),
    ):
        _check_port(host, port)
    return setup


def start_coordinator(folder: Path) -> None:
    """Run a coordinator until SIGTERM or SIGINT.

    Raises:
        ConfigError: As `check_start`.
        PolicyError: Likewise.
    """
    setup = check_start(folder)
    Supervisor(coordinator_services(setup), private_folder(setup.logs)).run()


def stop_coordinator(folder: Path) -> bool:
    """Ask a running coordinator to stop, and wait; return whether it is down."""
    return stop_supervisor(folder / "logs")


def is_healthy(setup: CoordinatorSetup, *, timeout_s: float = 2.0) -> bool:
    """Whether the SuperLink answers on the loopback port, with our certificate."""
    context = ssl.create_default_context(cadata=read_private(setup.ca).decode())
    url = f"https://{setup.loopback}/health"
    direct = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    try:
        with direct.open(url, timeout=timeout_s) as answer:
            return int(answer.status) == 200
    except (urllib.error.URLError, OSError):
        return False


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PolicyError(
                "port_taken",
                f"{host}:{port} cannot be listened on",
                hint="Stop what runs there, or change the port in coordinator.json.",
            ) from error


if __name__ == "__main__":  # for a service manager: no command line to import
    start_coordinator(Path(sys.argv[1]))
