"""Streams read by PyAV: it knows damaged frames, changed sizes, and why a stream did not open."""

from __future__ import annotations

import importlib.util
import time
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import MissingDependencyError, UsageError
from edgeseg.io._ffmpeg import ffmpeg_options, has_pts
from edgeseg.io.options import SourceOptions
from edgeseg.io.probe import refused, why_not
from edgeseg.io.stream import Grab, StreamError
from edgeseg.io.uri import Address


def is_installed() -> bool:
    """Whether PyAV is there."""
    return importlib.util.find_spec("av") is not None


def require(options: SourceOptions) -> None:
    """Refuse what PyAV is asked for in vain.

    Raises:
        MissingDependencyError: it is not installed.
        UsageError: hardware decoding was asked for.
    """
    if not is_installed():
        raise MissingDependencyError.for_extra("av", "av", "The reader 'av'")
    if options.hwdec:
        raise UsageError("The reader 'av' does not decode in hardware here", "use the reader 'opencv' for hwdec")


class PyAvReader:
    """A live stream through PyAV; see ``edgeseg.io.stream.Reader``."""

    shares_clock = False

    def __init__(self, container: Any, read_timeout_s: float, *, has_pts: bool) -> None:
        import av

        self._av: Any = av
        self._container, self._read_timeout_s, self._has_pts = container, read_timeout_s, has_pts
        self._stream: Any = container.streams.video[0]
        self._packets = container.demux(self._stream)
        self._decoded: deque[Any] = deque()
        self._reformatter: Any = av.video.reformatter.VideoReformatter()
        self._frame: Any = None
        rate = self._stream.average_rate
        self.rate_hz = float(rate) if rate and 0 < rate < 1000 else None

    def grab(self) -> Grab:
        """Wait for the next frame."""
        start = time.monotonic()
        try:
            while not self._decoded:
                self._decoded.extend(next(self._packets).decode())
        except StopIteration:
            raise StreamError("the stream broke off") from None
        except self._av.error.InvalidDataError:
            return Grab(corrupt=True)
        except self._av.error.FFmpegError as error:
            self._check_wait(start)
            raise StreamError(f"the stream broke off ({(error.strerror or type(error).__name__).lower()})") from None
        self._check_wait(start)
        self._frame = self._decoded.popleft()
        return Grab(self._frame.time if self._has_pts else None, bool(self._frame.is_corrupt))

    def _check_wait(self, start: float) -> None:
        # After a time-out FFmpeg first hands out, as good, what its parser and decoder still held.
        if time.monotonic() - start >= 0.9 * self._read_timeout_s:
            raise StreamError(f"no frame for {self._read_timeout_s:g} s")

    def retrieve(self) -> NDArray[np.uint8] | None:
        """The picture of the last ``grab``."""
        picture = self._reformatter.reformat(self._frame, format="bgr24").to_ndarray()
        return np.asarray(picture, dtype=np.uint8)

    def close(self) -> None:
        """Free the stream."""
        self._container.close()


def open_network(address: Address, options: SourceOptions) -> PyAvReader:
    """Open a stream of the network.

    Raises:
        StreamError: it is not there, refuses, or cannot be decoded.
    """
    import av

    start = time.monotonic()
    try:
        container = av.open(
            address.target,
            timeout=(options.open_timeout_s, options.read_timeout_s),
            options=ffmpeg_options(address, options),
        )
    except av.error.FFmpegError as error:
        # Of its errors only these tell the truth: a silent host, for one, gives "invalid data".
        statuses = {"HTTPUnauthorizedError": 401, "HTTPForbiddenError": 403, "HTTPNotFoundError": 404}
        if type(error).__name__ in statuses:
            raise refused(statuses[type(error).__name__]) from None
        left_s = options.open_timeout_s - (time.monotonic() - start)
        raise why_not(address, max(left_s, 0.5)) from None
    try:
        if not container.streams.video:
            raise StreamError("it holds no video", permanent=True)
        return PyAvReader(container, options.read_timeout_s, has_pts=has_pts(address))
    except BaseException:
        container.close()
        raise
