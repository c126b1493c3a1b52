"""What a source hands over: a frame, with where and when it came from."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


class State(enum.Enum):
    """How a source is doing. A file is LIVE until it is ENDED; only files end by themselves."""

    CONNECTING = "connecting"
    LIVE = "live"
    STALLED = "stalled"
    RECONNECTING = "reconnecting"
    ENDED = "ended"
    FAILED = "failed"


@dataclass(frozen=True)
class Frame:
    """One picture from a source.

    Attributes:
        image: uint8 [H, W, 3], BGR. Whoever holds the frame owns the array: sources never write to it again.
        index: position in the source, from 0. Gaps are frames the source dropped.
        captured_at: ``time.monotonic()`` in seconds at which the frame reached this process; of a live source less
            what it was late by.
        pts_s: presentation time in seconds from the start of the source, where it is known.
        name: file name of a still image, or a short label.
        truth: uint8 [H, W] class ids where the source knows them (``synthetic://``), else None.
        capture_ms: how long reading it took: of a file with waiting, of a live source from its arrival on. None where
            it came from elsewhere.
    """

    image: NDArray[np.uint8]
    index: int
    captured_at: float
    pts_s: float | None = None
    name: str = ""
    truth: NDArray[np.uint8] | None = None
    capture_ms: float | None = None

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self.image.shape[0]), int(self.image.shape[1])
