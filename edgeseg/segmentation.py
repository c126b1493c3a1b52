"""The result for one frame."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgeseg.draw import color_from_classmap, overlay, with_banner
from edgeseg.frame import Frame, State


@dataclass(frozen=True)
class Segmentation:
    """The result for one frame.

    Attributes:
        mask: uint8 [H, W] class ids, at the frame's own size. 255 everywhere where ``valid`` is False.
        classes: class names by id.
        palette: RGB by class id.
        frame: the frame it belongs to.
        timing: milliseconds by stage; see ``edgeseg.timing.STAGES``.
        valid: False where the network gave NaN or infinity.
        state: of a live source when the mask was ready; LIVE for a file.
        finished_at: ``time.monotonic()`` in seconds when the mask was ready.
    """

    mask: NDArray[np.uint8]
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    frame: Frame
    timing: Mapping[str, float]
    valid: bool = True
    state: State = State.LIVE
    finished_at: float = field(default_factory=time.monotonic)

    @property
    def frame_index(self) -> int:
        """Position of the frame in its source."""
        return self.frame.index

    @property
    def captured_at(self) -> float:
        """``time.monotonic()`` in seconds at which the frame reached this process."""
        return self.frame.captured_at

    @property
    def age_ms(self) -> float:
        """Milliseconds from capture until the mask was ready."""
        return 1000.0 * (self.finished_at - self.frame.captured_at)

    def overlay(self, alpha: float = 0.5) -> NDArray[np.uint8]:
        """The frame blended with the painted mask: uint8 [H, W, 3], BGR. ``alpha`` is the colours' share.

        A line on top says so when the source was not live, or the result is not valid.
        """
        picture = overlay(self.frame.image, self.mask, self.palette, alpha)
        words = [] if self.state is State.LIVE else [self.state.value, f"{self.age_ms / 1000:.1f} s old"]
        words += [] if self.valid else ["no valid result"]
        return with_banner(picture, ", ".join(words)) if words else picture

    def color(self) -> NDArray[np.uint8]:
        """The mask painted in its palette: uint8 [H, W, 3], BGR."""
        return color_from_classmap(self.mask, self.palette)
