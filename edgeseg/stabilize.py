"""Class maps that flicker less, one frame late.

A class that appears at a point for a single frame is most often an error. ``Stabilizer`` follows the motion of the
picture from each frame to the one before and the one after; where both say the same class, and the frame itself
another, theirs is taken. Edges stay where they are, because the neighbours are moved onto the frame first.

Motion is dense inverse search: Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.segmentation import Segmentation

FLOW_WIDTH = 240
"""Motion is looked for in pictures of this width."""

MAX_GAP_S = 0.5
"""Frames further apart have too little in common to follow the motion between them."""

UNSEEN = 255
"""Stands where a neighbour did not see the point."""


@dataclass(frozen=True)
class _Seen:
    """A result, and its picture small and grey."""

    result: Segmentation
    grey: NDArray[np.uint8]


class Stabilizer:
    """Call it with every result of one source, in order: it returns the one before, steadied.

    The first call returns None, and ``finish`` the last result. What has no neighbour close in time, or one without
    a valid mask, stays as it is.
    """

    def __init__(self) -> None:
        import cv2

        self._cv2 = cv2
        self._motion: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._before: _Seen | None = None
        self._waiting: _Seen | None = None

    def __call__(self, result: Segmentation) -> Segmentation | None:
        """The result before this one, as old as it is now; None for the first."""
        newest = _Seen(result, self._small_grey(result.frame.image))
        before, waiting = self._before, self._waiting
        self._before, self._waiting = waiting, newest
        if waiting is None:
            return None
        mask = waiting.result.mask
        if before is not None and _adjacent(before.result, waiting.result) and _adjacent(waiting.result, result):
            one, other = self._moved(before, waiting), self._moved(newest, waiting)
            mask = np.where((one == other) & (one != UNSEEN), one, mask)
        return dataclasses.replace(waiting.result, mask=mask, finished_at=time.monotonic())

    def finish(self) -> Segmentation | None:
        """The last result, unchanged; None if there was none."""
        waiting, self._before, self._waiting = self._waiting, None, None
        return None if waiting is None else waiting.result

    def _small_grey(self, image_hwc: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = image_hwc.shape[:2]
        # The search needs a few of its 8-pixel patches each way.
        size = (FLOW_WIDTH, max(32, round(FLOW_WIDTH * height / width)))
        small = self._cv2.resize(image_hwc, size, interpolation=self._cv2.INTER_AREA)
        return np.asarray(self._cv2.cvtColor(small, self._cv2.COLOR_BGR2GRAY), np.uint8)

    def _moved(self, neighbour: _Seen, onto: _Seen) -> NDArray[np.uint8]:
        """The neighbour's class map where its points are in ``onto``: uint8 [H, W]."""
        flow = self._motion.calc(onto.grey, neighbour.grey, None)
        height, width = onto.result.mask.shape
        scale_xy = np.array([width / flow.shape[1], height / flow.shape[0]], np.float32)
        map_xy = self._cv2.resize(flow, (width, height)) * scale_xy
        map_xy[..., 0] += np.arange(width, dtype=np.float32)
        map_xy[..., 1] += np.arange(height, dtype=np.float32)[:, None]
        moved = self._cv2.remap(
            neighbour.result.mask, map_xy, None, self._cv2.INTER_NEAREST, borderMode=self._cv2.BORDER_CONSTANT,
            borderValue=UNSEEN,
        )  # fmt: skip
        return np.asarray(moved, np.uint8)


def _adjacent(earlier: Segmentation, later: Segmentation) -> bool:
    a, b = earlier.frame, later.frame
    # A file is not read at the pace at which it plays: its own times count where it has them.
    gap_s = b.captured_at - a.captured_at if a.pts_s is None or b.pts_s is None else b.pts_s - a.pts_s
    return earlier.valid and later.valid and earlier.mask.shape == later.mask.shape and 0 <= gap_s < MAX_GAP_S
