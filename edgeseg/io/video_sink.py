"""Results as videos: overlays to look at, and class maps without loss.

A recording grows under its own name and can be played at any moment, also after the process was killed: written by
PyAV all but its last second (MP4 is in fragments until it is closed), written by OpenCV all but its last five, and
nothing of an .mp4. Times are those of the frames.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol, Union

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import SinkError
from edgeseg.files import check_writable
from edgeseg.io.sinks import Sink, make_folder
from edgeseg.segmentation import Segmentation

PathLike = Union[str, "os.PathLike[str]"]

FREE_SPACE_FLOOR_BYTES = 8 << 20
"""Recording stops before a disk is quite full: a container needs room for its index."""

H264_ENCODERS = ("h264_nvenc", "h264_v4l2m2m", "libx264", "libopenh264")
"""In the order in which they are tried: hardware first."""

CLOCK_HZ = 90_000
"""Frame times are counted in these."""


class Writer(Protocol):
    """Puts pictures into a file."""

    def write(self, picture: NDArray[np.uint8], time_s: float) -> None:
        """Add uint8 [H, W, 3] in BGR, or [H, W], at a time counted from the first picture."""

    def close(self) -> None:
        """Finish the file."""


class _RecordingSink(Sink):
    """What both kinds of recordings share."""

    backlog = 8
    containers: tuple[str, ...] = ()
    lossless = False

    def __init__(self, path: PathLike, rate_hz: float, live: bool = False) -> None:
        self._path, self._rate_hz, self._live = Path(path), rate_hz, live
        self._writer: Writer | None = None
        self._size_hw = (0, 0)
        self._first_s: float | None = None
        self._last_s = -1 / rate_hz
        if self._path.suffix.lower() not in self.containers:
            names = " or ".join(", ".join(self.containers).rsplit(", ", 1))
            raise SinkError(f"{path} names no video container", f"use {names}", exit_code=2)
        _check_utf8(self._path)
        check_writable(self._path)

    def _picture(self, result: Segmentation) -> NDArray[np.uint8]:
        raise NotImplementedError

    def write(self, result: Segmentation) -> None:
        """Add one picture at its time; those of another size than the first are scaled to it."""
        import cv2

        picture = self._picture(result)
        if self._writer is None:
            self._size_hw = self._fitting(picture.shape[:2])
            self._writer = self._open()
        if picture.shape[:2] != self._size_hw:
            how = cv2.INTER_NEAREST if self.lossless else cv2.INTER_AREA
            picture = np.asarray(cv2.resize(picture, self._size_hw[::-1], interpolation=how), np.uint8)
        if shutil.disk_usage(self._path.parent).free < FREE_SPACE_FLOOR_BYTES:
            raise SinkError(f"The disk is full while writing {self._path}", "free some space; what fitted is kept")
        self._writer.write(picture, self._time_s(result))

    def _fitting(self, size_hw: tuple[int, ...]) -> tuple[int, int]:
        height, width = size_hw
        # Encoders with fewer colours than pixels take even sizes only.
        return (height, width) if self.lossless else (max(2, height // 2 * 2), max(2, width // 2 * 2))

    def _open(self) -> Writer:
        make_folder(self._path.parent)
        encoder = "ffv1" if self.lossless else h264_encoder()
        if encoder is not None and av_installed() and self._path.suffix.lower() != ".avi":
            return AvWriter(self._path, self._size_hw, self._rate_hz, encoder)
        return OpenCvWriter(self._path, self._size_hw, self._rate_hz, self.lossless, self._live)

    def _time_s(self, result: Segmentation) -> float:
        frame = result.frame
        own_s = frame.captured_at if self._live else frame.pts_s
        if self._first_s is None:
            self._first_s = own_s or 0.0
        next_s = self._last_s + 1 / self._rate_hz
        time_s = next_s if own_s is None else own_s - self._first_s
        # Still images have no time, and a file that is played in a loop goes back in it.
        self._last_s = time_s if time_s > self._last_s else next_s
        return self._last_s

    def close(self) -> None:
        """Finish the file; see ``Sink.close``."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()


class VideoSink(_RecordingSink):
    """Overlays as a video file (.mp4, .mkv, .avi).

    H.264 by PyAV where it is installed and has an encoder; else MPEG-4 by OpenCV, whose frame rate is fixed (in a
    live run, pictures are repeated or left out to keep the time) and whose .mp4 is lost when the process is killed.
    .avi is always Motion JPEG by OpenCV.

    Args:
        path: the file; replaced by the first frame.
        rate_hz: frames a second, where frames do not bring their own times.
        alpha: share of the class colours, 0 to 1.
        live: the times of capture count, not those in the file.

    Raises:
        SinkError: the path cannot be written, or its suffix names no container.
    """

    name = "video"
    containers = (".mp4", ".mkv", ".avi")

    def __init__(self, path: PathLike, rate_hz: float, alpha: float = 0.5, *, live: bool = False) -> None:
        super().__init__(path, rate_hz, live)
        self._alpha = alpha

    def _picture(self, result: Segmentation) -> NDArray[np.uint8]:
        return result.overlay(self._alpha)


class ClassmapVideoSink(_RecordingSink):
    """Class maps as a lossless video (FFV1, one channel): a pixel's value is its class id, 255 is invalid.

    Args:
        path: the file; replaced by the first frame.
        rate_hz, live: see ``VideoSink``.

    Raises:
        SinkError: see ``VideoSink``.
    """

    name = "class maps"
    containers = (".mkv",)
    lossless = True

    def _picture(self, result: Segmentation) -> NDArray[np.uint8]:
        return result.mask


class AvWriter:
    """A container written by PyAV (FFmpeg), at the times that are given.

    Args:
        path: its suffix chooses the container.
        size_hw: of every picture.
        rate_hz: frames a second as they are meant, for players that ask.
        encoder: FFmpeg's name for it.

    Raises:
        SinkError: the file cannot be opened.
    """

    def __init__(self, path: Path, size_hw: tuple[int, int], rate_hz: float, encoder: str) -> None:
        import av

        self._av, self._path = av, path
        # Everything reaches the disk within a second, and MP4 becomes an ordinary one when it is closed.
        options = {"flush_packets": "1"}
        if path.suffix.lower() == ".mp4":
            options["movflags"] = "hybrid_fragmented+frag_keyframe"
        else:
            options["cluster_time_limit"] = "1000"
        self._container: Any = None
        with self._explained():
            rate = Fraction(rate_hz).limit_denominator(1001)
            self._container = av.open(str(path), "w", container_options=options)
            stream = self._container.add_stream(encoder, rate=rate)
            stream.height, stream.width = size_hw
            stream.pix_fmt = "gray" if encoder == "ffv1" else "yuv420p"
            stream.codec_context.time_base = Fraction(1, CLOCK_HZ)
            stream.codec_context.gop_size = 1 if encoder == "ffv1" else max(1, round(rate_hz))
            if encoder == "libx264":
                stream.options = {"preset": "veryfast", "tune": "zerolatency"}
            stream.codec_context.open()
            self._stream = stream

    def write(self, picture: NDArray[np.uint8], time_s: float) -> None:
        """Add a picture; see ``Writer``."""
        with self._explained():
            frame = self._av.VideoFrame.from_ndarray(picture, format="gray" if picture.ndim == 2 else "bgr24")
            frame.pts, frame.time_base = round(time_s * CLOCK_HZ), Fraction(1, CLOCK_HZ)
            self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Finish the file."""
        with self._explained():
            try:
                self._container.mux(self._stream.encode(None))
            finally:
                self._container.close()

    @contextlib.contextmanager
    def _explained(self) -> Any:
        try:
            yield
        except (OSError, ValueError, self._av.FFmpegError) as error:
            reason = getattr(error, "strerror", None) or error
            raise SinkError(f"Cannot write {self._path} ({reason})", "check the space left on the disk") from error


class OpenCvWriter:
    """A video written by OpenCV, at one frame rate.

    Args:
        path: its suffix chooses the container and the codec.
        size_hw: of every picture.
        rate_hz: frames a second.
        lossless: FFV1 of one channel.
        live: repeat or leave out pictures so that the file keeps the time; else every picture is one frame.

    Raises:
        SinkError: the file cannot be opened.
    """

    def __init__(self, path: Path, size_hw: tuple[int, int], rate_hz: float, lossless: bool, live: bool) -> None:
        import cv2

        self._path, self._rate_hz, self._live = path, rate_hz, live
        codec = "FFV1" if lossless else "MJPG" if path.suffix.lower() == ".avi" else "mp4v"
        if lossless and (size_hw[0] % 2 or size_hw[1] % 2):
            # It would cut off the last row or column without a word.
            size = f"{size_hw[1]}x{size_hw[0]}"
            raise SinkError(f"OpenCV cannot write class maps of {size}: even sizes only", "pip install 'edgeseg[av]'")
        self._writer: Any = cv2.VideoWriter(
            str(path), cv2.VideoWriter.fourcc(*codec), rate_hz, size_hw[::-1], isColor=not lossless
        )
        if not self._writer.isOpened():
            with contextlib.suppress(OSError):
                path.unlink()
            raise SinkError(f"OpenCV cannot write {path}", "choose another suffix, such as .avi")
        self._written = 0

    def write(self, picture: NDArray[np.uint8], time_s: float) -> None:
        """Add a picture; see ``Writer``."""
        due = round(time_s * self._rate_hz) + 1 - self._written if self._live else 1
        for _ in range(due):
            # OpenCV 4 returns None whatever happens, OpenCV 5 a bool.
            if self._writer.write(picture) is False:
                raise SinkError(f"Writing {self._path} failed", "check the space left on the disk")
            self._written += 1

    def close(self) -> None:
        """Finish the file, and read its end to see what reached the disk."""
        self._writer.release()
        readable = _readable_frames(self._path, self._written)
        if readable == 0:
            with contextlib.suppress(OSError):
                self._path.unlink()
            raise SinkError(f"The video {self._path} could not be finished", "check the space left on the disk")
        if readable < self._written:
            raise SinkError(
                f"Only {readable} of {self._written} frames reached {self._path}", "check the space left on the disk"
            )


def av_installed() -> bool:
    """True where PyAV can be imported."""
    try:
        import av  # noqa: F401
    except ImportError:
        return False
    return True


@functools.cache
def h264_encoder() -> str | None:
    """FFmpeg's name of the first H.264 encoder that really encodes on this machine; None without PyAV or any."""
    if not av_installed():
        return None
    import av

    for name in H264_ENCODERS:
        try:
            encoder: Any = av.CodecContext.create(name, "w")
            encoder.height, encoder.width, encoder.pix_fmt = 256, 256, "yuv420p"
            encoder.framerate, encoder.time_base = Fraction(30), Fraction(1, 30)
            frame = av.VideoFrame.from_ndarray(np.zeros((384, 256), np.uint8), format="yuv420p")
            frame.pts = 0
            if [*encoder.encode(frame), *encoder.encode(None)]:
                return name
        except (OSError, ValueError, av.FFmpegError):
            continue  # not in this FFmpeg, or no such hardware here
    return None


def _check_utf8(path: Path) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        # OpenCV crashes on such a name.
        raise SinkError(f"The name {path} is not UTF-8", "choose another", exit_code=2) from error


def _readable_frames(path: Path, expected: int) -> int:
    """How many frames a finished video holds, without reading it all unless its last frame is missing."""
    import cv2

    # The count in the header is what was meant to be written, not what reached the disk.
    capture = cv2.VideoCapture(str(path))
    told, rate_hz = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
    capture.set(cv2.CAP_PROP_POS_FRAMES, expected - 1)
    # Seeking beyond the end leads to the last frame there is: its time tells.
    complete = capture.grab() and capture.get(cv2.CAP_PROP_POS_MSEC) * rate_hz > 1000 * (expected - 1.5)
    capture.release()
    if complete and told >= expected:
        return expected
    capture, count = cv2.VideoCapture(str(path)), 0
    while capture.grab():
        count += 1
    capture.release()
    return count
