"""Results for sinks to write, and sinks that fill a disk."""

from __future__ import annotations

import time

import numpy as np

from edgeseg.errors import SinkError
from edgeseg.frame import Frame
from edgeseg.io.sinks import Sink
from edgeseg.segmentation import Segmentation

RNG = np.random.default_rng(0)


def result(
    index: int = 0, size_hw: tuple[int, int] = (48, 64), name: str = "", value: int | None = None, **more: object
) -> Segmentation:
    """A result of a random frame, or of one of a single value."""
    image = RNG.integers(0, 256, (*size_hw, 3), np.uint8) if value is None else np.full((*size_hw, 3), value, np.uint8)
    mask = RNG.integers(0, 2, size_hw, np.uint8)
    frame = Frame(image, index, **{"captured_at": time.monotonic(), "name": name, **more})
    return Segmentation(mask, ("a", "b"), ((0, 0, 0), (255, 255, 255)), frame, {"infer": 1.25})


def fill(sink: Sink, said: str) -> int:
    """How many results fitted before the sink said that no more do."""
    for count in range(200):
        try:
            sink.write(result(count, (120, 160)))
        except SinkError as error:
            message = str(error)
            break
    else:
        raise AssertionError("the disk never filled up")
    assert said in message
    return count
