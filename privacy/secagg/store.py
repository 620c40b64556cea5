"""The round counter of a site: written and synced before a report leaves, never taken back.

Epoch keys live in memory only, so a restarted or restored site has none and starts a new
epoch; the counter sees to it that even a copied process cannot use a key twice.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Protocol

from ..durable_files import replace_synced
from ..errors import ProtocolError

__all__ = ["FileRoundStore", "MemoryRoundStore", "RoundStore"]


_LOCK = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW


class RoundStore(Protocol):
    """Remembers which keys were used."""

    def use(self, epoch: bytes, key: int) -> None:
        """Mark a key as used, durably.

        Raises:
            ProtocolError: `r1_29_key_used`: it, or a later one, was used before.
        """
        ...


class MemoryRoundStore:
    """For simulation: dies with the process, as the keys do."""

    def __init__(self) -> None:
        self._last: dict[bytes, int] = {}

    def use(self, epoch: bytes, key: int) -> None:
        """See `RoundStore.use`."""
        _refuse_reuse(self._last.get(epoch, -1), key)
        self._last[epoch] = key


class FileRoundStore:
    """One small file, mode 0600, replaced atomically.

    Args:
        path: The file; made at the first use.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def use(self, epoch: bytes, key: int) -> None:
        """See `RoundStore.use`."""
        lock = os.open(self._path.with_name(f".{self._path.name}.lock"), _LOCK, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a copied process reads after this one has written
            last = self._read()
            _refuse_reuse(last.get(epoch.hex(), -1), key)
            last[epoch.hex()] = key
            replace_synced(self._path, json.dumps(last, sort_keys=True).encode())
        finally:
            os.close(lock)

    def _read(self) -> dict[str, int]:
        if not self._path.exists():
            return {}
        try:
            return {
                str(epoch): int(key) for epoch, key in json.loads(self._path.read_text()).items()
            }
        except (ValueError, TypeError, AttributeError) as error:
            raise ProtocolError(
                "store_broken",
                "the round counter's file cannot be read",
                hint="Start a new epoch with a new file; never restore this one from a backup.",
            ) from error


def _refuse_reuse(last: int, key: int) -> None:
    if key <= last:
        raise ProtocolError("r1_29_key_used", f"key {key} of this epoch was used before")
