"""Masks: one pairwise stream per other participant and one of one's own, salted by the plan.

H, the hash of the whole round plan, is the salt of every seed. A coordinator that shows different
plans to different sites (other weights, another model, another cohort) gets masks that do not
cancel, and learns nothing.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from ..errors import ProtocolError
from .suite import BLOCK_BYTES, Suite
from .wire import Writer

__all__ = [
    "Signed",
    "Words",
    "commitment",
    "masked",
    "pair_seed",
    "pair_seeds",
    "self_seed",
    "to_signed",
    "unmask",
    "words_of_nothing",
]

Words = NDArray[np.uint32] | NDArray[np.uint64]
Signed = NDArray[np.int32] | NDArray[np.int64]

_DTYPES: dict[int, np.dtype[np.uint32] | np.dtype[np.uint64]] = {
    32: np.dtype(np.uint32),
    64: np.dtype(np.uint64),
}


def masked(
    suite: Suite, values: NDArray[np.int64], word_bits: int, keys: Sequence[tuple[bytes, int]]
) -> bytes:
    """Return the little-endian words of a vector with its masks on.

    They are made in the memory that is returned (a BytesIO hands its buffer over): one vector of
    words is all that this takes.

    Args:
        suite: The roster's suite.
        values: int64 [d].
        word_bits: 32 or 64.
        keys: Of the masks, with their signs.

    Raises:
        ProtocolError: `r0_18_word`: the word is not of 32 or 64 bits.
    """
    dtype = _dtype(word_bits).newbyteorder("<")
    made = io.BytesIO(bytes(values.size * dtype.itemsize))
    words = cast(Words, np.frombuffer(made.getbuffer(), dtype=dtype))
    add, source = suite.streams(keys, words.dtype), values.view(np.uint64)
    for part in _blocks(words):
        words[part] = source[part]  # modulo 2^word_bits
        add(words[part])
    del words
    return made.getvalue()


def words_of_nothing(size: int, word_bits: int) -> Words:
    """Return `size` words that are zero: where a sum begins.

    Raises:
        ProtocolError: `r0_18_word`: the word is not of 32 or 64 bits.
    """
    return np.zeros(size, dtype=_dtype(word_bits))


def unmask(suite: Suite, words: Words, keys: Sequence[tuple[bytes, int]]) -> Signed:
    """Take the masks off a sum, in place, and return the signed numbers its words stand for.

    They share the words' memory and stay as long as they are: a second vector would cost more
    time than taking a mask off.
    """
    add = suite.streams(keys, words.dtype)
    for part in _blocks(words):
        add(words[part])
    return to_signed(words)


def to_signed(words: Words) -> Signed:
    """Return the signed numbers that the words stand for, in the same memory."""
    return words.view(np.int32) if words.dtype.itemsize == 4 else words.view(np.int64)


def commitment(suite: Suite, self_mask: bytes, key: int) -> bytes:
    """Return what a site commits its self mask of round `key` with."""
    return suite.hash(b"b", self_mask, Writer().u16(key).done())


def self_seed(suite: Suite, self_mask: bytes, plan: bytes) -> bytes:
    """Return the key of a site's own mask stream."""
    return suite.derive(self_mask, salt=plan, info=b"self")


def pair_seed(
    suite: Suite, private: bytes, public: bytes, *, mine: int, other: int, plan: bytes
) -> bytes:
    """Return the key of the stream that two participants share; the same from both sides."""
    return pair_seeds(suite, private, {other: public}, mine=mine, plan=plan)[other]


def pair_seeds(
    suite: Suite, private: bytes, publics: Mapping[int, bytes], *, mine: int, plan: bytes
) -> dict[int, bytes]:
    """Return the key of the stream that one participant shares with each of these others."""
    agree = suite.agreement(private)
    seeds = {}
    for other, public in publics.items():
        low, high = sorted((mine, other))
        info = Writer().raw(b"pair", 4).u16(low).u16(high).done()
        seeds[other] = suite.derive(agree(public), salt=plan, info=info)
    return seeds


def _dtype(word_bits: int) -> np.dtype[np.uint32] | np.dtype[np.uint64]:
    if word_bits not in _DTYPES:
        raise ProtocolError("r0_18_word", f"words have 32 or 64 bits, not {word_bits}")
    return _DTYPES[word_bits]


def _blocks(words: Words) -> Iterator[slice]:
    step = BLOCK_BYTES // words.itemsize
    return (slice(start, start + step) for start in range(0, words.size, step))
