"""What a coordinator is made of: `coordinator.json` in its folder, and the files beside it."""

from __future__ import annotations

import hmac
import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..hosting import read_private
from ..privacy.errors import ConfigError
from ..study.enrolment import is_jurisdiction

__all__ = ["COORDINATOR_FORMAT", "PASSWORD_HEADER", "CoordinatorSetup", "read_coordinator"]

COORDINATOR_FORMAT = "fedcohort.coordinator/1"
PASSWORD_HEADER = "x-fedcohort-operator"  # noqa: S105  # its name


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorSetup:
    """What a coordinator is made of.

    Attributes:
        folder: Its folder, absolute.
        federation: The federation's name.
        names: Host names and addresses that hospitals reach it by; in its certificate.
        public_host: Address that the public port binds to.
        public_port: The only port that may be reached from outside.
        loopback_port: The port of the operator and of the runner; on this machine only.
        jurisdiction: Where it is, as CN, DE or US-CA; hospitals' policies ask for it.
    """

    folder: Path
    federation: str
    names: tuple[str, ...]
    public_host: str
    public_port: int
    loopback_port: int
    jurisdiction: str
    loopback_host: str = "127.0.0.1"

    def __post_init__(self) -> None:
        ports = (self.public_port, self.loopback_port)
        fits = all(0 < port < 2**16 for port in ports) and ports[0] != ports[1]
        if not fits or not ipaddress.ip_address(self.loopback_host).is_loopback:
            raise ConfigError(
                "coordinator_file",
                "public_port and loopback_port are two ports, the second on loopback",
            )
        if not is_jurisdiction(self.jurisdiction):
            raise ConfigError(
                "coordinator_file",
                "jurisdiction is the coordinator's country, as CN, DE or US-CA",
                hint="Hospitals' policies name the country they deal with; state the true one.",
            )

    @property
    def loopback(self) -> str:
        """HOST:PORT of the operator's port."""
        return f"{self.loopback_host}:{self.loopback_port}"

    @property
    def password(self) -> str:
        """What the operator's calls show on the loopback port; whoever owns the folder has it.

        Raises:
            PolicyError: `file_missing` or `file_mode`.
        """
        return hmac.digest(read_private(self.secret), b"fedcohort operator", "sha256").hex()

    @property
    def pki(self) -> Path:
        """Certificates and their keys."""
        return self.folder / "pki"

    @property
    def ca(self) -> Path:
        """The CA's certificate."""
        return self.pki / "ca.crt"

    @property
    def secret(self) -> Path:
        """What SuperLink and runner share."""
        return self.folder / "runtime.secret"

    @property
    def identity(self) -> Path:
        """The coordinator's Ed25519 key in the roster."""
        return self.folder / "identity.pem"

    @property
    def database(self) -> Path:
        """Flower's state."""
        return self.folder / "state.db"

    @property
    def roster(self) -> Path:
        """The roster in force, signed by its members."""
        return self.folder / "roster.json"

    @property
    def draft(self) -> Path:
        """The next roster, with the signatures it has so far."""
        return self.folder / "roster.draft.json"

    @property
    def sites(self) -> Path:
        """Who was enrolled."""
        return self.folder / "sites.json"

    @property
    def plans(self) -> Path:
        """Submitted plans, by hash."""
        return self.folder / "plans"

    @property
    def runs(self) -> Path:
        """One folder a run: progress, then a result or a failure."""
        return self.folder / "runs"

    @property
    def logs(self) -> Path:
        """One log a process, and the supervisor's state."""
        return self.folder / "logs"

    def to_json(self) -> str:
        """Return `coordinator.json`."""
        document = {
            "format": COORDINATOR_FORMAT,
            "federation": self.federation,
            "names": list(self.names),
            "public_host": self.public_host,
            "public_port": self.public_port,
            "loopback_port": self.loopback_port,
            "jurisdiction": self.jurisdiction,
        }
        return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def read_coordinator(folder: Path) -> CoordinatorSetup:
    """Read `coordinator.json`.

    Raises:
        PolicyError: `file_missing` or `file_mode`.
        ConfigError: `coordinator_file`.
    """
    text = read_private(folder / "coordinator.json").decode("utf-8", "replace")
    try:
        document: Mapping[str, Any] = json.loads(text)
        if document["format"] != COORDINATOR_FORMAT:
            raise ConfigError("coordinator_file", f"it is no {COORDINATOR_FORMAT}")
        return CoordinatorSetup(
            folder=folder.resolve(),
            federation=str(document["federation"]),
            names=tuple(str(name) for name in document["names"]),
            public_host=str(document["public_host"]),
            public_port=int(document["public_port"]),
            loopback_port=int(document["loopback_port"]),
            jurisdiction=str(document["jurisdiction"]),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            "coordinator_file",
            "coordinator.json lacks a field or holds another type",
            hint="Run coordinator init.",
        ) from error
