"""The sum without masks: the coordinator sees each site's (possibly noisy) integers.

It exists so that the arithmetic of the masked sum can be compared with it bit by bit, and
for studies that say `secagg=plain`. Its name says what it is.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import ProtocolError

__all__ = ["UnsafePlaintextSum"]


class UnsafePlaintextSum:
    """Adds vectors modulo 2^64, as the masked sum will.

    Args:
        size: d, the length every vector must have.
    """

    mode = "plain"

    def __init__(self, size: int) -> None:
        self._size = size

    def add(self, vectors: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
        """Return the wrap-around sum, int64 [d].

        Raises:
            ProtocolError: `vector_shape`: a vector is not int64 [d].
        """
        total = np.zeros(self._size, dtype=np.uint64)
        for vector in vectors:
            if vector.dtype != np.int64 or vector.shape != (self._size,):
                raise ProtocolError("vector_shape", f"a site's vector must be int64 [{self._size}]")
            total += vector.view(np.uint64)
        return total.view(np.int64)
