"""Streams and files read by OpenCV."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import MissingDependencyError
from edgeseg.io._ffmpeg import ffmpeg_options, has_pts
from edgeseg.io.options import SourceOptions
from edgeseg.io.probe import why_not
from edgeseg.io.stream import Grab, StreamError
from edgeseg.io.uri import Address

CAMERA_TIMEOUT_S = 2.0
"""A USB camera that adapts to the dark can need this long for its first frame."""

_ENVIRONMENT = threading.Lock()
_FFMPEG_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"


class Capture:
    """``cv2.VideoCapture``, safe against being closed while another thread reads: that would crash the process."""

    def __init__(self, what: int | str, backend: int = 0, parameters: Sequence[int] = ()) -> None:
        import cv2

        self._error: type[Exception] = cv2.error
        self._busy = threading.Lock()
        try:
            if isinstance(what, str):
                what.encode()  # OpenCV crashes on a name that is not UTF-8
            self._capture: Any = cv2.VideoCapture(what, backend, list(parameters))
        except (cv2.error, UnicodeEncodeError):
            self._capture = cv2.VideoCapture()

    @property
    def is_open(self) -> bool:
        """Whether there is anything to read."""
        return bool(self._capture.isOpened())

    def grab(self) -> bool:
        """Wait for the next frame."""
        with self._busy:
            try:
                return bool(self._capture.grab())
            except self._error:
                return False

    def retrieve(self) -> NDArray[np.uint8] | None:
        """The picture of the last ``grab``, uint8 [H, W, 3] BGR, in memory of its own."""
        with self._busy:
            try:
                ok, image = self._capture.retrieve()
            except self._error:
                return None
        return bgr_from_any(image) if ok else None

    def read(self) -> NDArray[np.uint8] | None:
        """Both."""
        return self.retrieve() if self.grab() else None

    def get(self, what: int) -> float:
        """A property."""
        with self._busy:
            return float(self._capture.get(what))

    def set(self, what: int, value: float) -> None:
        """Ask for a property; what came of it has to be read back."""
        with self._busy:
            self._capture.set(what, value)

    @property
    def rate_hz(self) -> float | None:
        """Frames a second as the stream says, where that is believable."""
        import cv2

        rate = self.get(cv2.CAP_PROP_FPS)
        return rate if 0 < rate < 1000 else None

    def close(self) -> None:
        """Free it, unless another thread hangs in it."""
        if self._busy.acquire(timeout=0.5):
            try:
                self._capture.release()
            finally:
                self._busy.release()


def bgr_from_any(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Pictures of cameras that give grey or BGRA, as uint8 [H, W, 3] BGR."""
    import cv2

    if image.ndim == 2 or image.shape[2] == 1:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    elif image.shape[2] == 4:
        image = cv2.cvtColor(image, cv2.COLOR_BGRA2BGR)
    return np.asarray(image, dtype=np.uint8)


class OpenCvReader:
    """A live stream through OpenCV; see ``edgeseg.io.stream.Reader``."""

    def __init__(self, capture: Capture, read_timeout_s: float, *, has_pts: bool, shares_clock: bool = False) -> None:
        import cv2

        self._pts_ms = cv2.CAP_PROP_POS_MSEC
        self._capture, self._read_timeout_s, self._has_pts = capture, read_timeout_s, has_pts
        self.shares_clock = shares_clock
        self.rate_hz = capture.rate_hz

    def grab(self) -> Grab:
        """Wait for the next frame."""
        start = time.monotonic()
        is_there = self._capture.grab()
        # After a time-out FFmpeg first hands out, as good, what its parser and decoder still held.
        if time.monotonic() - start >= 0.9 * self._read_timeout_s:
            raise StreamError(f"no frame for {self._read_timeout_s:g} s", cheap=self.shares_clock)
        if not is_there:
            raise StreamError("the stream broke off", cheap=self.shares_clock)
        if not self._has_pts:
            return Grab()
        pts_s = self._capture.get(self._pts_ms) / 1000
        # A camera's driver that does not stamp its frames gives 0; a stream begins there.
        return Grab(None if self.shares_clock and pts_s <= 0 else pts_s)

    def retrieve(self) -> NDArray[np.uint8] | None:
        """The picture of the last ``grab``."""
        return self._capture.retrieve()

    def close(self) -> None:
        """Free the stream."""
        self._capture.close()


def open_network(address: Address, options: SourceOptions) -> OpenCvReader:
    """Open a stream of the network.

    Raises:
        StreamError: it is not there, refuses, or cannot be decoded.
    """
    import cv2

    parameters = [
        *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, round(1000 * options.open_timeout_s)),
        *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, round(1000 * options.read_timeout_s)),
        *(cv2.CAP_PROP_N_THREADS, 1),  # every further thread delays all frames by one
    ]
    if options.hwdec:
        parameters += [cv2.CAP_PROP_HW_ACCELERATION, cv2.VIDEO_ACCELERATION_ANY]
    start = time.monotonic()
    with _ffmpeg_environment(ffmpeg_options(address, options)):
        capture = Capture(address.target, cv2.CAP_FFMPEG, parameters)
    if not capture.is_open:
        left_s = options.open_timeout_s - (time.monotonic() - start)
        raise why_not(address, max(left_s, 0.5))
    return OpenCvReader(capture, options.read_timeout_s, has_pts=has_pts(address))


@contextlib.contextmanager
def _ffmpeg_environment(options: dict[str, str]) -> Iterator[None]:
    """Options of FFmpeg that OpenCV takes from the environment alone; those a user has set stay."""
    with _ENVIRONMENT:
        if _FFMPEG_OPTIONS in os.environ or not options:
            yield
            return
        os.environ[_FFMPEG_OPTIONS] = "|".join(f"{name};{value}" for name, value in options.items())
        try:
            yield
        finally:
            del os.environ[_FFMPEG_OPTIONS]


def open_camera(device: int | str, options: SourceOptions) -> OpenCvReader:
    """Open a local camera.

    Args:
        device: its number, or a path such as /dev/video0.
        options: size, rate and codec are asked for; the camera may choose others.

    Raises:
        StreamError: it is not there, busy or forbidden.
    """
    # Ten seconds without a frame, OpenCV's default, is far too long for a robot to wait.
    timeout_s = max(CAMERA_TIMEOUT_S, options.read_timeout_s)
    os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", str(math.ceil(timeout_s)))
    import cv2

    capture = Capture(device, cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY)
    if not capture.is_open:
        raise _no_camera(device)
    if options.codec:
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*options.codec))
    if options.size_hw:
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, options.size_hw[0])
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, options.size_hw[1])
    if options.rate_hz:
        capture.set(cv2.CAP_PROP_FPS, options.rate_hz)
    # Two buffers keep the queue short; with one, cameras behind PipeWire stop for good after a pause.
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 2)
    return OpenCvReader(capture, timeout_s, has_pts=True, shares_clock=True)


def stable_device(text: str) -> int | str:
    """A camera by the socket it is plugged into, where Linux knows it: unplugged and back, its number may differ."""
    device = Path(f"/dev/video{text}" if text.isdigit() else text)
    sockets = Path("/dev/v4l/by-path")
    for link in sorted(sockets.iterdir()) if device.exists() and sockets.is_dir() else ():
        if link.resolve() == device.resolve():
            return str(link)
    return int(text) if text.isdigit() else text


def _no_camera(device: int | str) -> StreamError:
    path = Path(f"/dev/video{device}" if isinstance(device, int) else device)
    mend = "check its number; 'edgeseg doctor' lists cameras"
    if not path.exists():
        return StreamError("there is no such camera", mend, cheap=True)
    if not os.access(path, os.R_OK | os.W_OK):
        return StreamError("this user may not open it", "add the user to the group 'video', then log in again")
    return StreamError("it does not give pictures, or another program has it", mend, cheap=True)


def require_gstreamer() -> None:
    """Refuse a GStreamer pipeline where OpenCV cannot run it.

    Raises:
        MissingDependencyError: says how to get one that can.
    """
    import cv2

    if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        raise MissingDependencyError(
            f"A GStreamer pipeline needs an OpenCV built with GStreamer, and this one ({cv2.__version__} from "
            f"{Path(cv2.__file__).parents[1]}) is not: the wheels of PyPI never are",
            "use the system's OpenCV: pip uninstall opencv-python, apt install python3-opencv, and a virtual "
            "environment with --system-site-packages",
        )


def open_pipeline(pipeline: str, options: SourceOptions) -> OpenCvReader:
    """Run a GStreamer pipeline.

    Raises:
        StreamError: it does not run.
    """
    import cv2

    if "appsink" not in pipeline:
        pipeline += " ! videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"
    capture = Capture(pipeline, cv2.CAP_GSTREAMER)
    if not capture.is_open:
        raise StreamError("the pipeline does not run", "try it with gst-launch-1.0 and autovideosink at its end")
    return OpenCvReader(capture, options.read_timeout_s, has_pts=False)


def csi_pipeline(sensor: int, options: SourceOptions) -> str:
    """The GStreamer pipeline of a camera on a Jetson's CSI connector."""
    height, width = options.size_hw or (720, 1280)
    return (
        f"nvarguscamerasrc sensor-id={sensor} ! video/x-raw(memory:NVMM),width={width},height={height},"
        f"framerate={round(options.rate_hz or 30)}/1,format=NV12 ! nvvidconv ! video/x-raw,format=BGRx"
    )
