"""The compiled form of ``edgeseg.decode``: the same class map from ``_decode.c``, in less time.

Installing edgeseg compiles it where there is a C compiler. Elsewhere, and for float64, the numpy form does the work.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LIBRARY = Path(__file__).with_name("_decode.so")

_VERSION = 1
_LANES = 4


class AxisTable(ctypes.Structure):
    """``Axis`` of ``_decode.c``.

    Args:
        samples, size: of the logits and of the frame along this axis.
        low, high: the two samples of each cell, [cells].
        first: the first output pixel of each cell, [cells].
        weight: of ``high`` at each output pixel, [size].
    """

    _fields_ = [
        ("samples", ctypes.c_int32),
        ("size", ctypes.c_int32),
        ("cells", ctypes.c_int32),
        ("low", ctypes.c_void_p),
        ("high", ctypes.c_void_p),
        ("start", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
    ]

    def __init__(
        self, samples: int, size: int, low: NDArray[Any], high: NDArray[Any], first: NDArray[Any], weight: NDArray[Any]
    ) -> None:
        # Read in whole registers, the last one beyond the end.
        padded = np.zeros(size + _LANES - 1, np.float32)
        padded[:size] = weight
        # The structure holds addresses only.
        self._kept = (low.astype(np.int32), high.astype(np.int32), np.append(first, size).astype(np.int32), padded)
        super().__init__(samples, size, len(low), *(array.ctypes.data for array in self._kept))


class CompiledDecoder:
    """Class map from finite float32 logits of one shape; may be called from several threads.

    Args:
        rows, cols: the two axes.
        num_classes: 2 to 255.
        prune: leave out classes that cannot win in a cell.
    """

    def __init__(self, rows: AxisTable, cols: AxisTable, num_classes: int, prune: bool) -> None:
        self._rows, self._cols, self._num_classes, self._prune = rows, cols, num_classes, prune

    def __call__(self, logits_flat: NDArray[np.float32]) -> NDArray[np.uint8]:
        """uint8 [H, W] from C-contiguous float32 [C, h * w]; other Python threads run meanwhile."""
        mask = np.empty((self._rows.size, self._cols.size), np.uint8)
        winners = np.empty((self._rows.samples, self._cols.samples), np.uint8)
        _function()(
            logits_flat.ctypes.data,
            self._num_classes,
            self._prune,
            self._rows,
            self._cols,
            winners.ctypes.data,
            mask.ctypes.data,
        )
        return mask


def available() -> bool:
    """Whether the compiled form is installed."""
    return _function() is not None


@functools.lru_cache(maxsize=1)
def _function() -> Any:
    try:
        library = ctypes.CDLL(str(LIBRARY))
        # A file that an older version left behind in a checkout.
        if library.edgeseg_decode_version() != _VERSION:
            return None
    except (OSError, AttributeError):
        return None
    function = library.edgeseg_decode
    axis = ctypes.POINTER(AxisTable)
    function.argtypes = [
        ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, axis, axis, ctypes.c_void_p, ctypes.c_void_p,
    ]  # fmt: skip
    function.restype = None
    return function
