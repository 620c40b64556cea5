"""Files of a service: folders of mode 0700, files of mode 0600, nothing overwritten by accident.

What a function here has written is on disk when it returns: a power cut takes nothing back.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ..privacy.durable_files import replace_synced, sync_folder, write_synced
from ..privacy.errors import PolicyError

__all__ = [
    "append_line",
    "private_folder",
    "read_private",
    "remove_file",
    "replace_file",
    "write_new",
]

_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW


def private_folder(path: Path) -> Path:
    """Make a folder that only its owner may enter, or check that it is one.

    Raises:
        PolicyError: `folder_mode`: others may enter it, or it is no folder.
    """
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for made in new:
        sync_folder(made.parent)
    if path.is_symlink() or stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise PolicyError(
            "folder_mode",
            f"{path} is open to others than its owner",
            hint=f"chmod 700 {path}, and think whether somebody has looked inside.",
        )
    return path


def write_new(path: Path, content: bytes) -> None:
    """Write a new file of mode 0600.

    Raises:
        PolicyError: `file_exists`: it is never overwritten.
    """
    try:
        write_synced(path, content)
    except FileExistsError as error:
        raise PolicyError(
            "file_exists",
            f"{path} exists and is not overwritten",
            hint="Keep it, or name another folder.",
        ) from error


def replace_file(path: Path, content: bytes) -> None:
    """Put a file of mode 0600 in the place of another at once: nobody sees half of it.

    When this returns, no power cut brings the old file back.
    """
    replace_synced(path, content, mark=f".{os.getpid()}")


def remove_file(path: Path) -> None:
    """Remove a file, if it is there; when this returns, no power cut brings it back."""
    path.unlink(missing_ok=True)
    if path.parent.is_dir():
        sync_folder(path.parent)


def append_line(path: Path, line: str) -> None:
    """Add one line in one write: a reader sees whole lines only."""
    is_new = not path.exists()
    handle = os.open(path, _APPEND, 0o600)
    try:
        os.write(handle, line.encode() + b"\n")
        os.fsync(handle)
    finally:
        os.close(handle)
    if is_new:
        sync_folder(path.parent)


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
