"""``synthetic://street`` as a source."""

from __future__ import annotations

import time

from edgeseg.frame import Frame
from edgeseg.io.base import Source
from edgeseg.io.street import Street, StreetOptions


class StreetSource(Source):
    """A drawn driving scene with exact class masks; see ``edgeseg.io.street``.

    Args:
        uri: for messages.
        options: what to draw.
    """

    def __init__(self, uri: str, options: StreetOptions) -> None:
        super().__init__(uri, options.frames, options.rate_hz)
        self._street = Street(size_hw=options.size_hw, rate_hz=options.rate_hz, seed=options.seed)
        self._rate_hz = options.rate_hz
        self._next = 0

    def _read(self) -> Frame | None:
        if self._next == self.frame_count:
            return None
        index = self._next
        self._next += 1
        image, truth = self._street.render(index)
        return Frame(image, index, time.monotonic(), index / self._rate_hz, truth=truth)
