"""Files that survive a power cut: whole, and with the content that was last said to be written.

A rename is on disk when its folder is synced, not before: until then a power cut may bring the old
file back. Every file on which a later claim rests is written here, so that the order (content,
name, folder) stands in one place.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["replace_synced", "sync_folder", "write_synced"]

# Results of a simulation are written on Windows too: it has no O_NOFOLLOW, Linux no O_BINARY.
_NEW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_NEW |= os.O_WRONLY | os.O_CREAT | os.O_EXCL
_PRIVATE = 0o600


def write_synced(path: Path, content: bytes) -> None:
    """Write a new file of mode 0600; content and name are on disk when this returns.

    Raises:
        FileExistsError: It is never overwritten.
    """
    _fill(os.open(path, _NEW, _PRIVATE), content)
    sync_folder(path.parent)


def replace_synced(path: Path, content: bytes, *, mark: str = "", mode: int = _PRIVATE) -> None:
    """Put a file in the place of another at once; it is on disk when this returns.

    Whoever reads, also after a power cut, finds the old file or the new one, never a part. After
    this has returned, nothing but a backup brings the old one back.

    Args:
        path: The file.
        content: Its new content.
        mark: Tells apart the temporary files of writers that hold no common lock.
        mode: Of the file, less the process's umask.
    """
    temporary = path.with_name(f".{path.name}{mark}.tmp")
    temporary.unlink(missing_ok=True)  # left by a crash, or by somebody else
    _fill(os.open(temporary, _NEW, mode), content)
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on disk: those that came, went or changed; where a system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _fill(handle: int, content: bytes) -> None:
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
