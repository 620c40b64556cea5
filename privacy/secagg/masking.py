"""Masks: one pairwise stream per other participant and one of one's own, salted by the plan.

H, the hash of the whole round plan, is the salt of every seed. A coordinator that shows different
plans to different sites (other weights, another model, another cohort) gets masks that do not
cancel, and learns nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import ProtocolError
from .suite import Suite
from .wire import Writer

__all__ = ["Words", "commitment", "pair_seed", "self_seed", "to_signed", "to_words"]

Words = NDArray[np.uint32] | NDArray[np.uint64]

_DTYPES = {32: np.uint32, 64: np.uint64}


def to_words(values: NDArray[np.int64], word_bits: int) -> Words:
    """Return a fresh array of words, two's complement modulo 2^word_bits.

    Raises:
        ProtocolError: `r0_18_word`: the word is not of 32 or 64 bits.
    """
    if word_bits not in _DTYPES:
        raise ProtocolError("r0_18_word", f"words have 32 or 64 bits, not {word_bits}")
    return values.view(np.uint64).astype(_DTYPES[word_bits])


def to_signed(words: Words) -> NDArray[np.int64]:
    """Return the signed numbers that the words stand for, int64."""
    signed = np.int32 if words.dtype.itemsize == 4 else np.int64
    return words.view(signed).astype(np.int64)


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
    low, high = sorted((mine, other))
    info = Writer().raw(b"pair", 4).u16(low).u16(high).done()
    return suite.derive(suite.agree(private, public), salt=plan, info=info)
