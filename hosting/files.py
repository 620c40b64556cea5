"""Files of a service: folders of mode 0700, files of mode 0600, nothing overwritten by accident."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ..privacy.errors import PolicyError

__all__ = ["append_line", "private_folder", "read_private", "replace_file", "write_new"]

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW


def private_folder(path: Path) -> Path:
    """Make a folder that only its owner may enter, or check that it is one.

    Raises:
        PolicyError: `folder_mode`: others may enter it, or it is no folder.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.is_symlink() or stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise PolicyError(
            "folder_mode",
            f"{path} is open to others than its owner",
            hint=f"chmod 700 {path}, and think whether somebody has looked inside.",
        )
    return path


def write_new(path: Path, content: bytes) -> None:
    """Write a new file of mode 0600, synced.

    Raises:
        PolicyError: `file_exists`: it is never overwritten.
    """
    try:
        handle = os.open(path, _NEW, 0o600)
    except FileExistsError as error:
        raise PolicyError(
            "file_exists",
            f"{path} exists and is not overwritten",
            hint="Keep it, or name another folder.",
        ) from error
    _fill(handle, content)


def replace_file(path: Path, content: bytes) -> None:
    """Put a file of mode 0600 in the place of another at once: nobody sees half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    _fill(os.open(temporary, _NEW, 0o600), content)
    temporary.replace(path)


def append_line(path: Path, line: str) -> None:
    """Add one line in one write: a reader sees whole lines only."""
    handle = os.open(path, _APPEND, 0o600)
    try:
        os.write(handle, line.encode() + b"\n")
    finally:
        os.close(handle)


def read_private(path: Path) -> bytes:
    """Read a file that only its owner may read.

    Raises:
        PolicyError: `file_missing` or `file_mode`.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError as error:
        raise PolicyError(
            "file_missing",
            f"there is no {path}",
            hint="Run `init` first; or name the right --folder.",
        ) from error
    if mode & 0o077:
        raise PolicyError(
            "file_mode",
            f"{path} has mode {mode:o}: others than its owner may use it",
            hint=f"chmod 600 {path}, and think whether somebody has read it.",
        )
    return path.read_bytes()


def _fill(handle: int, content: bytes) -> None:
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
