"""The app bundle of a release: it names our modules and holds no code.

Flower hands a bundle to every hospital; ours is one TOML file and Flower's manifest, written
byte by byte the same on every machine (stored, not compressed; fixed dates), so that coordinator
and hospitals can each compute its hash from the release they installed and need not trust the
other's word for it.
"""

from __future__ import annotations

import hashlib
import io
import zipfile

from .. import __version__

__all__ = [
    "CLIENT_COMPONENT",
    "MANIFEST",
    "PROJECT_FILE",
    "RUN_CONFIG",
    "SERVER_COMPONENT",
    "bundle_bytes",
    "bundle_sha256",
]

PROJECT_FILE = "pyproject.toml"
MANIFEST = ".info/CONTENT"
SERVER_COMPONENT = "fedcohort.fl_server.deployed:app"
CLIENT_COMPONENT = "fedcohort.fl_client.worker:app"
# What a run may set: its plan, the coordinator's signature under it (see `submission`), and the
# number of an earlier run that it goes on with, where the coordinator had stopped.
RUN_CONFIG = {"plan-sha256": "", "submission": "", "resumes": ""}
_DATE = (1980, 1, 1, 0, 0, 0)

_TEMPLATE = """\
[project]
name = "fedcohort"
version = "{version}"
description = "Runs the release of fedcohort that is installed; holds no code"
license = {{ text = "Apache-2.0" }}
dependencies = []

[tool.flwr.app]
publisher = "fedcohort"

[tool.flwr.app.components]
serverapp = "{server}"
clientapp = "{client}"

[tool.flwr.app.config]
plan-sha256 = ""
submission = ""
resumes = ""
"""


def bundle_bytes(version: str = __version__) -> bytes:
    """Return the bundle of a release.

    >>> bundle_bytes() == bundle_bytes()
    True
    """
    project = _TEMPLATE.format(
        version=version, server=SERVER_COMPONENT, client=CLIENT_COMPONENT
    ).encode()
    manifest = f"{PROJECT_FILE},{hashlib.sha256(project).hexdigest()},{8 * len(project)}".encode()
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_STORED) as bundle:
        for name, content in ((PROJECT_FILE, project), (MANIFEST, manifest)):
            entry = zipfile.ZipInfo(name, _DATE)
            entry.create_system = 3
            entry.external_attr = 0o600 << 16
            bundle.writestr(entry, content)
    return written.getvalue()


def bundle_sha256(version: str = __version__) -> str:
    """Return the bundle's hash, hex: what a hospital's allow-list holds."""
    return hashlib.sha256(bundle_bytes(version)).hexdigest()
