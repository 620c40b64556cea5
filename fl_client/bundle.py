"""The gate: which app bundles this hospital accepts. Nothing is unpacked to disk or imported.

A bundle is accepted when its hash is on the allow-list, and then only if it holds no code: two
small files, our components and no other, no dependency. The second rule guards the list: a hash
that somebody was talked into allowing still brings no code.
"""

from __future__ import annotations

import hashlib
import io
import tomllib
import zipfile
from collections.abc import Collection, Mapping
from typing import Any

from ..privacy.errors import PolicyError
from ..study.bundle import (
    CLIENT_COMPONENT,
    MANIFEST,
    PROJECT_FILE,
    RUN_CONFIG,
    SERVER_COMPONENT,
)

__all__ = ["MAX_BUNDLE_BYTES", "check_bundle", "inspect_bundle"]

MAX_BUNDLE_BYTES = 16 * 2**10  # 16 KiB; ours has 1
_START = b"PK\x03\x04"
_COMPRESSION = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1
_LINK = 0o120000
_PROJECT_KEYS = {"name", "version", "description", "license", "dependencies"}
_APP_KEYS = {"publisher", "components", "config", "fab-include"}
_CODE = (".py", ".pyc", ".pyd", ".pth", ".so", ".sh", ".egg", ".whl", ".dll", ".pyx", ".ipynb")


def check_bundle(content: bytes, allowed: Collection[str]) -> str:
    """Accept a bundle, or refuse it.

    Args:
        content: The bundle as it came.
        allowed: SHA-256 of the bundles that this site allows, hex.

    Returns:
        The bundle's hash.

    Raises:
        PolicyError: `bundle_too_large`, `bundle_not_allowed`, or as `inspect_bundle`.
    """
    _check_size(content)
    found = hashlib.sha256(content).hexdigest()
    if found not in allowed:  # before anything reads it
        raise _refusal("bundle_not_allowed", f"the bundle {found[:12]} is not on the allow-list")
    inspect_bundle(content)
    return found


def inspect_bundle(content: bytes) -> None:
    """Check that a bundle brings no code; a person does so before allowing its hash.

    Raises:
        PolicyError: `bundle_too_large`, `bundle_unreadable`, `bundle_path`, `bundle_has_code`,
            `bundle_manifest`, `bundle_agentapp`, `bundle_component`, `bundle_dependency` or
            `bundle_setting`.
    """
    _check_size(content)
    files = _read(content)
    project = files[PROJECT_FILE]
    line = f"{PROJECT_FILE},{hashlib.sha256(project).hexdigest()},{8 * len(project)}"
    if files[MANIFEST].strip() != line.encode():
        raise _refusal("bundle_manifest", "the manifest is not that of the file beside it")
    try:
        document = tomllib.loads(project.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _refusal("bundle_unreadable", "its project file is no TOML") from error
    _check_document(document)


def _check_size(content: bytes) -> None:
    if len(content) > MAX_BUNDLE_BYTES:
        raise _refusal(
            "bundle_too_large", f"a bundle has at most {MAX_BUNDLE_BYTES} bytes: it holds no code"
        )


def _read(content: bytes) -> dict[str, bytes]:
    """Return the two files, in memory; refuse every other entry by its name alone."""
    if not content.startswith(_START):
        raise _refusal("bundle_unreadable", "it is no zip file, or something stands before it")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as bundle:
            entries = bundle.infolist()
            _check_entries(entries, bundle.comment)
            return {entry.filename: _bounded(bundle, entry) for entry in entries}
    except PolicyError:
        raise
    except Exception as error:  # a foreign file may make the reader raise anything at all
        raise _refusal("bundle_unreadable", "it is no zip file that can be read") from error


def _check_entries(entries: list[zipfile.ZipInfo], comment: bytes) -> None:
    names = [entry.orig_filename for entry in entries]
    for entry, name in zip(entries, names, strict=True):
        parts = name.replace("\\", "/").split("/")
        odd = name.startswith(("/", "\\")) or ":" in name or "\0" in name or not name.isascii()
        if odd or ".." in parts or name != entry.filename:
            raise _refusal("bundle_path", "an entry's path leads out of the bundle")
        if entry.external_attr >> 16 & 0o170000 == _LINK:
            raise _refusal("bundle_path", "an entry is a link")
        if name.lower().endswith(_CODE):
            raise _refusal("bundle_has_code", "it brings code of its own")
    if sorted(names) != sorted((PROJECT_FILE, MANIFEST)):
        raise _refusal("bundle_has_code", "it holds more than its project file and the manifest")
    if comment:
        raise _refusal("bundle_unreadable", "something hangs at its end")
    for entry in entries:
        locked = entry.flag_bits & _ENCRYPTED
        if locked or entry.compress_type not in _COMPRESSION or entry.is_dir():
            raise _refusal("bundle_unreadable", "an entry is locked or packed in an unknown way")
        if entry.file_size > MAX_BUNDLE_BYTES:
            raise _refusal("bundle_too_large", "an entry unpacks to more than a bundle may hold")


def _bounded(bundle: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    with bundle.open(entry) as file:
        content = file.read(MAX_BUNDLE_BYTES + 1)  # whatever its header says
    if len(content) > MAX_BUNDLE_BYTES:
        raise _refusal("bundle_too_large", "an entry unpacks to more than a bundle may hold")
    return content


def _check_document(document: Mapping[str, Any]) -> None:
    project, app = _table(document, "project"), _table(document, "tool", "flwr", "app")
    components = _table(app, "components")
    if "agentapp" in components:
        raise _refusal("bundle_agentapp", "it asks to run an agent")
    if components != {"serverapp": SERVER_COMPONENT, "clientapp": CLIENT_COMPONENT}:
        raise _refusal("bundle_component", "it names other modules than this release's")
    if project.get("dependencies", []) != [] or "optional-dependencies" in project:
        raise _refusal("bundle_dependency", "it asks for packages to be installed")
    closed = (
        (set(document), {"project", "tool"}),
        (set(_table(document, "tool")), {"flwr"}),
        (set(_table(document, "tool", "flwr")), {"app"}),
        (set(project), _PROJECT_KEYS),
        (set(app), _APP_KEYS),
    )
    if any(found - known for found, known in closed) or _table(app, "config") != RUN_CONFIG:
        raise _refusal("bundle_setting", "it sets what a bundle of ours does not")


def _table(document: Mapping[str, Any], *names: str) -> dict[str, Any]:
    for name in names:
        found = document.get(name)
        if not isinstance(found, dict):
            raise _refusal("bundle_unreadable", f"its project file has no table {name}")
        document = found
    return dict(document)


def _refusal(code: str, text: str) -> PolicyError:
    return PolicyError(
        code,
        f"the app bundle is refused: {text}",
        hint="Coordinator and site must run the same release; no other bundle is accepted.",
    )
