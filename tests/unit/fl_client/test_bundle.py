"""The gate: one code-less bundle by its hash; everything else by the code of its refusal."""

from __future__ import annotations

import contextlib
import hashlib
import io
import zipfile
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcohort.fl_client.bundle import (
    MAX_BUNDLE_BYTES,
    check_bundle,
    inspect_bundle,
)
from fedcohort.privacy.errors import PolicyError
from fedcohort.study.bundle import MANIFEST, PROJECT_FILE, bundle_bytes, bundle_sha256

OURS = bundle_bytes()
with zipfile.ZipFile(io.BytesIO(OURS)) as _ours:
    PROJECT = _ours.read(PROJECT_FILE)


def manifest_of(project: bytes) -> bytes:
    return f"{PROJECT_FILE},{hashlib.sha256(project).hexdigest()},{8 * len(project)}".encode()


def packed(
    project: bytes = PROJECT,
    more: dict[str, bytes] | None = None,
    *,
    packing: int = zipfile.ZIP_STORED,
    comment: bytes = b"",
) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", packing) as bundle:
        bundle.writestr(PROJECT_FILE, project)
        bundle.writestr(MANIFEST, manifest_of(project))
        for name, content in (more or {}).items():
            bundle.writestr(name, content)
        bundle.comment = comment
    return written.getvalue()


def changed(old: str, new: str) -> bytes:
    assert old.encode() in PROJECT
    return packed(PROJECT.replace(old.encode(), new.encode()))


def linked() -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as bundle:
        entry = zipfile.ZipInfo(PROJECT_FILE)
        entry.external_attr = 0o120777 << 16
        bundle.writestr(entry, b"/etc/passwd")
        bundle.writestr(MANIFEST, manifest_of(b"/etc/passwd"))
    return written.getvalue()


def twice() -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as bundle:
        bundle.writestr(PROJECT_FILE, PROJECT)
        with pytest.warns(UserWarning, match="Duplicate"):
            bundle.writestr(PROJECT_FILE, PROJECT)
        bundle.writestr(MANIFEST, manifest_of(PROJECT))
    return written.getvalue()


def lying_size() -> bytes:
    """A bomb whose directory says that it is small."""
    bomb = packed(b"#" * 10**6, packing=zipfile.ZIP_DEFLATED)
    size = (10**6).to_bytes(4, "little")
    assert bomb.count(size) == 2
    return bomb.replace(size, (10).to_bytes(4, "little"))


def test_the_bundle_of_this_release_is_accepted() -> None:
    assert check_bundle(OURS, {bundle_sha256()}) == bundle_sha256()


def test_two_machines_make_the_same_bundle() -> None:
    assert bundle_bytes() == OURS
    assert bundle_bytes("9.9.9") != OURS
    inspect_bundle(bundle_bytes("9.9.9"))


@given(at=st.integers(0, len(OURS) - 1), by=st.integers(1, 255))
def test_no_changed_byte_passes(at: int, by: int) -> None:
    other = bytearray(OURS)
    other[at] ^= by
    with pytest.raises(PolicyError) as refused:
        check_bundle(bytes(other), {bundle_sha256()})
    assert refused.value.code == "bundle_not_allowed"


@given(st.binary(max_size=2000))
def test_whatever_comes_is_refused_by_a_code_of_ours(content: bytes) -> None:
    with pytest.raises(PolicyError, match="bundle"):
        check_bundle(content, {hashlib.sha256(content).hexdigest()})


@given(at=st.integers(0, len(OURS) - 1), by=st.integers(1, 255))
def test_a_damaged_bundle_never_breaks_the_gate(at: int, by: int) -> None:
    other = bytearray(OURS)
    other[at] ^= by
    with contextlib.suppress(PolicyError):
        inspect_bundle(bytes(other))


REFUSED: dict[str, tuple[str, Callable[[], bytes]]] = {
    "code": ("bundle_has_code", lambda: packed(more={"evil.py": b""})),
    "compiled code": ("bundle_has_code", lambda: packed(more={"evil.so": b""})),
    "a start-up file": ("bundle_has_code", lambda: packed(more={"evil.pth": b"import os"})),
    "a package like ours": (
        "bundle_has_code",
        lambda: packed(more={"fedcohort/__init__.py": b""}),
    ),
    "data": ("bundle_has_code", lambda: packed(more={"weights.bin": b""})),
    "a folder": ("bundle_has_code", lambda: packed(more={"folder/": b""})),
    "the project file twice": ("bundle_has_code", twice),
    "a way out": ("bundle_path", lambda: packed(more={"../evil.py": b""})),
    "a way out of Windows": ("bundle_path", lambda: packed(more={"..\\evil.py": b""})),
    "the root": ("bundle_path", lambda: packed(more={"/etc/evil": b""})),
    "a drive": ("bundle_path", lambda: packed(more={"C:evil": b""})),
    "a look-alike name": ("bundle_path", lambda: packed(more={"pypr\u043eject.toml": b""})),
    "a link": ("bundle_path", linked),
    "an agent": (
        "bundle_agentapp",
        lambda: changed("clientapp =", 'agentapp = "evil:app"\nclientapp ='),
    ),
    "another component": (
        "bundle_component",
        lambda: changed("fedcohort.fl_client.worker:app", "evil:app"),
    ),
    "one component more": (
        "bundle_component",
        lambda: changed("clientapp =", 'other = "evil:app"\nclientapp ='),
    ),
    "a dependency": ("bundle_dependency", lambda: changed("= []", '= ["evil"]')),
    "an extra": (
        "bundle_dependency",
        lambda: changed(
            "[tool.flwr.app]", "[project.optional-dependencies]\nx=['evil']\n[tool.flwr.app]"
        ),
    ),
    "a setting": (
        "bundle_setting",
        lambda: changed("[tool.flwr.app.config]", "[tool.flwr.app.config]\na=1"),
    ),
    "a tool": (
        "bundle_setting",
        lambda: changed("[tool.flwr.app]", "[tool.uv]\na=1\n[tool.flwr.app]"),
    ),
    "a build system": (
        "bundle_setting",
        lambda: changed("[tool.flwr.app]", "[build-system]\nrequires=[]\n[tool.flwr.app]"),
    ),
    "another default": ("bundle_setting", lambda: changed('plan-sha256 = ""', 'plan-sha256 = "x"')),
    "no TOML": ("bundle_unreadable", lambda: packed(b"[project")),
    "no text": ("bundle_unreadable", lambda: packed(b"\xff\xfe")),
    "no table": ("bundle_unreadable", lambda: packed(b"project = 1")),
    "something before it": ("bundle_unreadable", lambda: b"#!/bin/sh\n" + OURS),
    "a comment": ("bundle_unreadable", lambda: packed(comment=b"x")),
    "unknown packing": ("bundle_unreadable", lambda: packed(packing=zipfile.ZIP_BZIP2)),
    "no zip file": ("bundle_unreadable", lambda: b"PK\x03\x04"),
    "a lying size": ("bundle_unreadable", lying_size),
    "a bomb": (
        "bundle_too_large",
        lambda: packed(b"#" * 10**6, packing=zipfile.ZIP_DEFLATED),
    ),
    "a large file": ("bundle_too_large", lambda: packed(b"#" * MAX_BUNDLE_BYTES)),
    "a wrong manifest": (
        "bundle_manifest",
        lambda: OURS.replace(hashlib.sha256(PROJECT).hexdigest().encode(), b"0" * 64),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_even_an_allowed_hash_brings_none_of_this(name: str) -> None:
    code, made = REFUSED[name]
    content = made()
    with pytest.raises(PolicyError) as refused:
        check_bundle(content, {hashlib.sha256(content).hexdigest()})
    if name == "a wrong manifest":  # its checksum breaks first
        assert refused.value.code in (code, "bundle_unreadable")
    else:
        assert refused.value.code == code
