"""Canonical binary layout: fixed-length integers, length-prefixed bytes, nothing optional.

One message has one encoding. Reading refuses what is too long before it looks inside,
and what is left over at the end.
"""

from __future__ import annotations

import struct

from ..errors import ProtocolError

__all__ = ["Reader", "Writer"]


class Writer:
    """Appends fields in order."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def u8(self, value: int) -> Writer:
        """One byte."""
        self._parts.append(struct.pack(">B", value))
        return self

    def u16(self, value: int) -> Writer:
        """Two bytes, big-endian."""
        self._parts.append(struct.pack(">H", value))
        return self

    def u32(self, value: int) -> Writer:
        """Four bytes, big-endian."""
        self._parts.append(struct.pack(">I", value))
        return self

    def u64(self, value: int) -> Writer:
        """Eight bytes, big-endian."""
        self._parts.append(struct.pack(">Q", value))
        return self

    def raw(self, value: bytes, size: int) -> Writer:
        """Exactly `size` bytes."""
        if len(value) != size:
            raise ValueError(f"a field of {size} bytes got {len(value)}")
        self._parts.append(value)
        return self

    def block(self, value: bytes) -> Writer:
        """Bytes after their length (four bytes)."""
        self._parts.append(struct.pack(">I", len(value)) + value)
        return self

    def positions(self, values: tuple[int, ...]) -> Writer:
        """Positions after their number (two bytes each)."""
        self.u16(len(values))
        self._parts.append(struct.pack(f">{len(values)}H", *values))
        return self

    def done(self) -> bytes:
        """Return the message."""
        return b"".join(self._parts)


class Reader:
    """Reads fields in order; every shortfall is a ProtocolError `message_malformed`."""

    def __init__(self, data: bytes, *, limit: int) -> None:
        if len(data) > limit:
            raise ProtocolError("message_too_long", f"a message exceeds {limit} bytes")
        self._data = data
        self._at = 0

    def _take(self, size: int) -> bytes:
        part = self._data[self._at : self._at + size]
        if len(part) != size:
            raise ProtocolError("message_malformed", "a message ends too early")
        self._at += size
        return part

    def u8(self) -> int:
        """One byte."""
        return self._take(1)[0]

    def u16(self) -> int:
        """Two bytes."""
        return int.from_bytes(self._take(2), "big")

    def u32(self) -> int:
        """Four bytes."""
        return int.from_bytes(self._take(4), "big")

    def u64(self) -> int:
        """Eight bytes."""
        return int.from_bytes(self._take(8), "big")

    def raw(self, size: int) -> bytes:
        """Exactly `size` bytes."""
        return self._take(size)

    def block(self, limit: int) -> bytes:
        """Bytes after their length, at most `limit`."""
        size = self.u32()
        if size > limit:
            raise ProtocolError("message_too_long", f"a field exceeds {limit} bytes")
        return self._take(size)

    def positions(self) -> tuple[int, ...]:
        """Positions after their number."""
        return tuple(self.u16() for _ in range(self.u16()))

    def end(self) -> None:
        """Refuse trailing bytes."""
        if self._at != len(self._data):
            raise ProtocolError("message_malformed", "a message carries trailing bytes")
