"""What a live source asks of whatever reads its stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class StreamError(Exception):
    """A stream cannot be opened or has broken.

    Args:
        reason: in words, without addresses.
        mend: what the user can do, where the stream cannot be opened at all.
        permanent: trying again soon is pointless: refused credentials, an unknown path, a format nobody decodes.
        cheap: another attempt disturbs nobody: nothing answers, or it is a device of this machine.
    """

    def __init__(
        self, reason: str, mend: str = "check the address", *, permanent: bool = False, cheap: bool = False
    ) -> None:
        super().__init__(reason)
        self.reason, self.mend, self.permanent, self.cheap = reason, mend, permanent, cheap


@dataclass(frozen=True)
class Grab:
    """A frame that has arrived.

    Attributes:
        pts_s: its presentation time in seconds, where the stream has one that can be trusted.
        corrupt: the decoder knows that it is damaged.
    """

    pts_s: float | None = None
    corrupt: bool = False


class Reader(Protocol):
    """An open stream. One thread uses it, and closes it; it is never used again after ``StreamError``.

    Attributes:
        rate_hz: frames a second, where the stream says so.
        shares_clock: its presentation times are of this machine's monotonic clock.
    """

    rate_hz: float | None
    shares_clock: bool

    def grab(self) -> Grab:
        """Wait for the next frame.

        Raises:
            StreamError: none came in time, or the stream has ended.
        """

    def retrieve(self) -> NDArray[np.uint8] | None:
        """The picture of the last ``grab``, uint8 [H, W, 3] BGR, in memory of its own; None where it is damaged."""

    def close(self) -> None:
        """Free the stream."""


OpenReader = Callable[[], Reader]
"""Opens the stream once more; raises ``StreamError``. Called on a thread of its own."""
