"""Class maps at frame size from what a network puts out, exactly and without full-size logits.

The class map of a frame is the arg-max of the bilinearly upsampled logits. Inside a *cell*, the
square between four neighbouring low-resolution logits, every upsampled value is a convex
combination of the four corners. Two things follow, and are all this module does, in numpy or, where it is
installed, by the same steps in C (``edgeseg.decode_compiled``):

* where the four corners have the same winning class, that class fills the cell;
* elsewhere a class that one other class beats at all four corners cannot win, and only the classes
  that are left are interpolated, at the pixels of that cell alone.

On street scenes 80-94 % of cells are of the first kind. The argument is that the difference of two
classes is bilinear inside a cell, so it takes its extremes at the corners; it needs no property of
the network.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg import decode_compiled
from edgeseg.errors import ModelError

INVALID = 255
"""Pixel value of a mask whose logits were not finite; also the id that scoring ignores."""

_MAX_CLASSES = 255
# Cells are taken in batches whose arrays stay in a core's caches; both measured with benchmarks/decode.py.
_BATCH_PIXELS = 1 << 17
_BATCH_LOGITS = 1 << 19
# With fewer pixels than this in a cell, finding the hopeless classes costs more than it saves.
_MIN_PIXELS_TO_PRUNE = 9
_ARGMAX_TILE = 8192

TAP = np.dtype([("low", "<i4"), ("high", "<i4"), ("weight", "<f4")])
"""Of an output row or column: its two samples, and the weight of the second."""

_Indices = NDArray[np.intp]


class _Axis:
    """Where the output pixels of one axis fall between its low-resolution samples.

    Pixels with the same two neighbouring samples form one cell. Cells hold up to ``pixels`` pixels;
    those with fewer repeat their last, so that every cell has the same shape.

    Attributes:
        low, high: intp [cells], the two samples of each cell; the same one twice where the position
            between them never matters (beyond the outermost samples, or exactly on a sample).
        cell_of: intp [size], the cell of each output pixel.
        offset: intp [cells, pixels], output pixel times ``stride``.
        weight: of ``high``, [pixels, cells], by dtype.
        table: the same for the compiled form.
        taps: ``TAP`` [size], the same pixel by pixel, for decoders elsewhere.
    """

    def __init__(self, samples: int, size: int, stride: int) -> None:
        # In whole numbers, so that a pixel that lies exactly on a sample gets weight 0, not 1e-17.
        position = (2 * np.arange(size, dtype=np.int64) + 1) * samples - size
        cell = position // (2 * size)
        weight = (position - cell * 2 * size) / (2 * size)
        used, first, cell_of, count = np.unique(cell, return_index=True, return_inverse=True, return_counts=True)
        self.pixels = int(count.max())
        self.cell_of: _Indices = cell_of.astype(np.intp)
        pixel = first + np.minimum(np.arange(self.pixels)[:, None], count - 1)
        self.offset: _Indices = np.ascontiguousarray((pixel * stride).T, dtype=np.intp)
        self.weight: dict[Any, NDArray[Any]] = {
            np.dtype(dtype): weight[pixel].astype(dtype) for dtype in (np.float32, np.float64)
        }
        self.low: _Indices = np.clip(used, 0, samples - 1).astype(np.intp)
        beyond = np.clip(used + 1, 0, samples - 1)
        self.high: _Indices = np.where(weight[pixel].any(axis=0), beyond, self.low).astype(np.intp)
        self.table = decode_compiled.AxisTable(samples, size, self.low, self.high, first, weight)
        self.taps = np.empty(size, TAP)
        self.taps["low"], self.taps["high"], self.taps["weight"] = self.low[cell_of], self.high[cell_of], weight


class Decoder:
    """Class map at frame size from low-resolution logits: arg-max of the bilinear upsampling.

    The result is that of ``torch.nn.functional.interpolate(mode="bilinear", align_corners=False)``
    (half-pixel centres, clamped at the edge, no antialiasing when shrinking) followed by the arg-max
    over classes, up to float rounding where two classes are level. Of classes exactly level at a
    pixel the lowest id wins, as in ``numpy.argmax``.

    Holds only tables, so one decoder may be called from several threads.

    Args:
        logits_hw: height and width of the logits.
        size_hw: height and width of the frame; any ratio to ``logits_hw``, larger or smaller.
        num_classes: 1 to 255, because 255 in a mask means "no class".
        compiled: use the compiled form where it is installed; the class maps are the same.

    Attributes:
        rows, cols: ``TAP`` [H] and [W], where the output falls between the logits.
        prune: classes that cannot win in a cell are left out before anything is interpolated there.

    Raises:
        ModelError: a size below 1, or a number of classes outside 1 to 255.

    Source: the convexity argument of this module's docstring; measured against the full
    computation in ``benchmarks/decode.py``.
    """

    def __init__(
        self, logits_hw: tuple[int, int], size_hw: tuple[int, int], num_classes: int, *, compiled: bool = True
    ) -> None:
        if min(*logits_hw, *size_hw) < 1:
            raise ModelError(
                f"cannot resize logits of {logits_hw} to a frame of {size_hw}", "give sizes of at least 1 x 1"
            )
        if not 1 <= num_classes <= _MAX_CLASSES:
            raise ModelError(
                f"a mask cannot hold {num_classes} classes", f"use a model with 1 to {_MAX_CLASSES} classes"
            )
        self.logits_hw = (int(logits_hw[0]), int(logits_hw[1]))
        self.size_hw = (int(size_hw[0]), int(size_hw[1]))
        self.num_classes = int(num_classes)
        self._rows = _Axis(self.logits_hw[0], self.size_hw[0], stride=self.size_hw[1])
        self._cols = _Axis(self.logits_hw[1], self.size_hw[1], stride=1)
        cell_pixels = self._rows.pixels * self._cols.pixels
        self.rows, self.cols = self._rows.taps, self._cols.taps
        self._batch = max(1, min(_BATCH_PIXELS // cell_pixels, _BATCH_LOGITS // (4 * self.num_classes)))
        self.prune = self.num_classes > 2 and cell_pixels >= _MIN_PIXELS_TO_PRUNE
        self._compiled = None
        if compiled and decode_compiled.available():
            self._compiled = decode_compiled.CompiledDecoder(
                self._rows.table, self._cols.table, self.num_classes, self.prune
            )

    def __call__(self, logits_chw: NDArray[Any]) -> tuple[NDArray[np.uint8], bool]:
        """Decode one frame.

        Args:
            logits_chw: float16, float32 or float64 [C, h, w], any memory layout.

        Returns:
            The mask, uint8 [H, W], a new array that the caller may keep, and whether it is valid.
            With a NaN or an infinity anywhere in the logits it is not, and every pixel is 255.

        Raises:
            ModelError: the logits have another shape than the decoder was made for, or are not floats.
        """
        expected = (self.num_classes, *self.logits_hw)
        if logits_chw.shape != expected or logits_chw.dtype.kind != "f":
            raise ModelError(
                f"expected float logits of shape {expected}, got {logits_chw.dtype} {logits_chw.shape}",
                "check the model's output and its card",
            )
        work_dtype = np.float64 if logits_chw.dtype.itemsize > 4 else np.float32
        flat: NDArray[Any] = np.ascontiguousarray(logits_chw, dtype=work_dtype).reshape(self.num_classes, -1)
        scale = _safe_scale(flat)
        if scale is None:
            return np.full(self.size_hw, INVALID, np.uint8), False
        if self.num_classes == 1:
            return np.zeros(self.size_hw, np.uint8), True
        if self.logits_hw == self.size_hw:
            return _argmax(flat).reshape(self.size_hw), True
        if scale != 1.0:
            flat = np.multiply(flat, scale, dtype=flat.dtype)
        if self._compiled is not None and flat.dtype == np.float32:
            return self._compiled(flat), True
        return self._in_numpy(flat), True

    def _in_numpy(self, flat: NDArray[Any]) -> NDArray[np.uint8]:
        winners = _argmax(flat).reshape(self.logits_hw)
        rows, cols = self._rows, self._cols
        left, right = winners.take(cols.low, axis=1), winners.take(cols.high, axis=1)
        mask: NDArray[np.uint8] = left.take(rows.low, axis=0).take(cols.cell_of, axis=1).take(rows.cell_of, axis=0)
        across = left != right
        mixed = left.take(rows.low, axis=0) != left.take(rows.high, axis=0)
        mixed |= across.take(rows.low, axis=0)
        mixed |= across.take(rows.high, axis=0)
        cells = np.flatnonzero(mixed)
        for start in range(0, len(cells), self._batch):
            self._fill(mask.reshape(-1), flat, winners.reshape(-1), cells[start : start + self._batch])
        return mask

    def _fill(
        self, mask_flat: NDArray[np.uint8], flat: NDArray[Any], winners: NDArray[np.uint8], cells: _Indices
    ) -> None:
        """Interpolate the given cells (row-major numbers) and write their pixels into ``mask_flat``."""
        rows, cols, width = self._rows, self._cols, self.logits_hw[1]
        row, col = np.divmod(cells, len(cols.low))
        top, bottom = rows.low[row] * width, rows.high[row] * width
        left, right = cols.low[col], cols.high[col]
        corners = np.empty((4, len(cells)), np.intp)
        for corner, (y, x) in zip(corners, ((top, left), (top, right), (bottom, left), (bottom, right))):
            np.add(y, x, out=corner)
        if self.prune:
            order, slots = _candidates(flat, winners, corners)
            row, col, corners = row[order], col[order], corners.take(order, axis=1)
        else:
            slots = [np.full(len(cells), c, np.uint8) for c in range(self.num_classes)]

        down, right_by = rows.weight[flat.dtype].take(row, axis=1), cols.weight[flat.dtype].take(col, axis=1)
        chosen = np.empty((rows.pixels, cols.pixels, len(cells)), np.uint8)
        chosen[...] = slots[0]
        best = np.empty(0, flat.dtype)
        for slot, ids in enumerate(slots):
            n = len(ids)
            at = _take(flat, ids, corners[:, :n])
            at_left = (at[2] - at[0]) * down[:, :n] + at[0]
            at_right = (at[3] - at[1]) * down[:, :n] + at[1]
            value = (at_right - at_left)[:, None] * right_by[:, :n]
            value += at_left[:, None]
            if slot == 0:
                best = value
                continue
            wins = (value > best[:, :, :n]).view(np.uint8)
            if slot + 1 < len(slots):
                m = len(slots[slot + 1])
                np.maximum(best[:, :, :m], value[:, :, :m], out=best[:, :, :m])
            # Ids ascend from slot to slot, so the larger one is the later one.
            wins *= ids
            np.maximum(chosen[:, :, :n], wins, out=chosen[:, :, :n])
        # Cell by cell: written pixel by pixel across all cells, every byte would go to another cache line.
        pixels = rows.offset.take(row, axis=0)[:, :, None] + cols.offset.take(col, axis=0)[:, None]
        mask_flat[pixels.reshape(-1)] = chosen.reshape(-1, len(cells)).T.reshape(-1)


def classmap_from_logits(logits_chw: NDArray[Any], size_hw: tuple[int, int]) -> tuple[NDArray[np.uint8], bool]:
    """``Decoder`` for a single call; the decoders of the last few shapes are kept.

    Args:
        logits_chw: float16, float32 or float64 [C, h, w].
        size_hw: height and width of the mask.

    Returns:
        The mask, uint8 [H, W], and whether it is valid: see ``Decoder.__call__``.

    Raises:
        ModelError: as ``Decoder``, or the logits are not three-dimensional.
    """
    if logits_chw.ndim != 3:
        raise ModelError(
            f"expected logits of shape [C, h, w], got {logits_chw.shape}", "take one item out of the batch"
        )
    channels, height, width = logits_chw.shape
    return _decoder((height, width), (int(size_hw[0]), int(size_hw[1])), channels)(logits_chw)


def classmap_resized(mask_hw: NDArray[Any], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Nearest-neighbour resize of a class map, for models whose graph ends in an arg-max.

    Half-pixel centres: output pixel ``y`` takes sample ``floor((y + 0.5) * h / H)``, computed in whole
    numbers. An integer factor up repeats every pixel that many times.

    Args:
        mask_hw: integers [h, w], all within 0 to 255.
        size_hw: height and width of the result.

    Returns:
        uint8 [H, W], a new array.

    Raises:
        ModelError: not a two-dimensional integer map, a value outside 0 to 255, or a size below 1.
    """
    if mask_hw.ndim != 2 or mask_hw.dtype.kind not in "biu" or min(*mask_hw.shape, *size_hw) < 1:
        raise ModelError(
            f"cannot resize a class map of {mask_hw.dtype} {mask_hw.shape} to {size_hw}",
            "give integers of shape [h, w] and a size of at least 1 x 1",
        )
    if mask_hw.dtype.itemsize > 1 or mask_hw.dtype.kind == "i":
        least, most = int(mask_hw.min()), int(mask_hw.max())
        if least < 0 or most > INVALID:
            raise ModelError(
                f"a class map holds ids from {least} to {most}",
                f"use a model whose ids lie within 0 to {INVALID}",
            )
    small = mask_hw.astype(np.uint8, copy=False)
    rows, cols = (_nearest(samples, int(size)) for samples, size in zip(small.shape, size_hw))
    if len(rows) < small.shape[0]:
        return small.take(rows, axis=0).take(cols, axis=1)
    return small.take(cols, axis=1).take(rows, axis=0)


@functools.lru_cache(maxsize=8)
def _decoder(logits_hw: tuple[int, int], size_hw: tuple[int, int], num_classes: int) -> Decoder:
    return Decoder(logits_hw, size_hw, num_classes)


@functools.lru_cache(maxsize=16)
def _nearest(samples: int, size: int) -> _Indices:
    return ((2 * np.arange(size, dtype=np.int64) + 1) * samples // (2 * size)).astype(np.intp)


def _safe_scale(flat: NDArray[Any]) -> float | None:
    """A power of two by which differences of these values cannot overflow; None with a NaN or infinity."""
    # Not np.dot, which for logits as large as these wakes up BLAS threads that then spin beside the engine.
    least, most = float(flat.min()), float(flat.max())  # NaN if one value is
    if not (math.isfinite(least) and math.isfinite(most)):
        return None
    return 1.0 if max(-least, most) < np.finfo(flat.dtype).max / 8 else 0.125


def _take(flat: NDArray[Any], classes: NDArray[np.uint8], corners: _Indices) -> NDArray[Any]:
    """Logits [4, cells] of one class per cell, uint8 [cells], at its corners, intp [4, cells]."""
    # Cast first: numpy before 2.0 would multiply as uint8 or int16 and wrap around.
    taken: NDArray[Any] = flat.reshape(-1).take(classes.astype(np.intp) * flat.shape[1] + corners)
    return taken


def _argmax(flat: NDArray[Any]) -> NDArray[np.uint8]:
    """Lowest class of the largest logit, uint8 [n] from [C, n]; some 10 times faster than ``np.argmax``."""
    classes, n = flat.shape
    winners = np.empty(n, np.uint8)
    rank = (255 - np.arange(classes)).astype(np.uint8)[:, None]
    for start in range(0, n, _ARGMAX_TILE):
        tile = flat[:, start : start + _ARGMAX_TILE]
        is_top = (tile == np.maximum.reduce(tile, axis=0)).view(np.uint8)
        is_top *= rank
        np.subtract(255, np.maximum.reduce(is_top, axis=0), out=winners[start : start + _ARGMAX_TILE])
    return winners


def _candidates(
    flat: NDArray[Any], winners: NDArray[np.uint8], corners: _Indices
) -> tuple[_Indices, list[NDArray[np.uint8]]]:
    """The classes that can win somewhere in each cell.

    Args:
        flat: logits [C, n].
        winners: uint8 [n], the arg-max of ``flat``.
        corners: intp [4, cells], positions in ``flat``.

    Returns:
        An order of the cells, most candidates first, and for every slot ``s`` the ``s``-th lowest
        candidate of each cell that has one: uint8 arrays that get shorter, each for a leading part of
        that order.
    """
    at_corners = flat.take(corners, axis=1)
    first, *others = winners.take(corners)
    # Any rivals give a right answer; two different ones of the four winners do nearly all that four do.
    second = np.where(others[0] != first, others[0], np.where(others[1] != first, others[1], others[2]))
    possible = np.ones((len(flat), corners.shape[1]), np.bool_)
    for rival in (first, second):
        holds = at_corners >= _take(flat, rival, corners)
        possible &= holds[:, 0] | holds[:, 1] | holds[:, 2] | holds[:, 3]
    count = np.add.reduce(possible.view(np.uint8), axis=0)
    order = np.argsort(255 - count, kind="stable")
    cell, ids = np.nonzero(np.ascontiguousarray(possible.T))
    count = count.take(order).astype(np.intp)
    start = np.searchsorted(cell, order)
    lengths = len(count) - np.searchsorted(count[::-1], np.arange(count[0]), side="right")
    return order, [ids.take(start[:m] + s).astype(np.uint8) for s, m in enumerate(lengths)]
