"""What a site is made of: `site.json` in its folder, and the names of the files beside it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..hosting import read_private
from ..privacy.errors import ConfigError

__all__ = ["SITE_FORMAT", "SiteSetup", "read_setup"]

SITE_FORMAT = "fedcohort.site/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteSetup:
    """What a site is made of. Paths are absolute.

    Attributes:
        folder: The site's folder.
        site: The hospital's name in plans.
        data: A catalogue name, or a table's path.
        options: How the table is read: the fields of `datasets.LoadOptions`.
        superlink: HOST:PORT of the coordinator's public port.
        runtime_port: Loopback port between SuperNode and worker.
        unnoised: Analyses whose sums may leave without noise; none by default.
        allowed_bundles: Bundle hashes; empty: the one of the installed release.
    """

    folder: Path
    site: str
    data: str
    superlink: str
    runtime_port: int
    options: Mapping[str, str | tuple[str, ...]] = dataclasses.field(default_factory=dict)
    unnoised: tuple[str, ...] = ()
    allowed_bundles: tuple[str, ...] = ()

    @property
    def ledger(self) -> Path:
        """The privacy ledger."""
        return self.folder / "ledger.sqlite"

    @property
    def identity(self) -> Path:
        """The Ed25519 identity."""
        return self.folder / "identity.pem"

    @property
    def node_key(self) -> Path:
        """The P-384 key of the connection."""
        return self.folder / "node.key"

    @property
    def ca(self) -> Path:
        """The coordinator's CA certificate."""
        return self.folder / "ca.crt"

    @property
    def secret(self) -> Path:
        """What SuperNode and worker share."""
        return self.folder / "runtime.secret"

    @property
    def roster(self) -> Path:
        """The roster this site pinned."""
        return self.folder / "roster.json"

    @property
    def rounds(self) -> Path:
        """The counter of used keys."""
        return self.folder / "rounds.json"

    @property
    def approved(self) -> Path:
        """One plan hash a line."""
        return self.folder / "approved.txt"

    def to_json(self) -> str:
        """Return `site.json`."""
        document = {
            "format": SITE_FORMAT,
            "site": self.site,
            "data": self.data,
            "options": dict(self.options),
            "superlink": self.superlink,
            "runtime_port": self.runtime_port,
            "unnoised": list(self.unnoised),
            "allowed_bundles": list(self.allowed_bundles),
        }
        return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def read_setup(folder: Path) -> SiteSetup:
    """Read `site.json`.

    Raises:
        PolicyError: `file_missing` or `file_mode`.
        ConfigError: `site_file`: it is not what it must be.
    """
    text = read_private(folder / "site.json").decode("utf-8", "replace")
    try:
        document: Mapping[str, Any] = json.loads(text)
        if document["format"] != SITE_FORMAT:
            raise ConfigError("site_file", f"site.json is no {SITE_FORMAT}")
        return SiteSetup(
            folder=folder.resolve(),
            site=str(document["site"]),
            data=str(document["data"]),
            options={
                str(name): tuple(value) if isinstance(value, list) else str(value)
                for name, value in document["options"].items()
            },
            superlink=str(document["superlink"]),
            runtime_port=int(document["runtime_port"]),
            unnoised=tuple(str(name) for name in document["unnoised"]),
            allowed_bundles=tuple(str(name) for name in document["allowed_bundles"]),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            "site_file", "site.json lacks a field or holds another type", hint="Run site init."
        ) from error
