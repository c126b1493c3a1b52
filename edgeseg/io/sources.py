"""Where frames come from: cameras, videos, images, and a synthetic street."""

from __future__ import annotations

import glob
import os
import re
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import DataError, SourceError, TruncatedSourceError
from edgeseg.frame import Frame
from edgeseg.images import IMAGE_SUFFIXES, read_image
from edgeseg.io.base import Source
from edgeseg.io.options import SourceOptions


class FrameList(Source):
    """Frames that are already in memory, for tests of programs that embed edgeseg.

    Args:
        images: uint8 [H, W, 3] arrays in BGR.
        rate_hz: for sinks that need one.
    """

    def __init__(self, images: Sequence[NDArray[np.uint8]], rate_hz: float = 30.0) -> None:
        super().__init__("frames in memory", len(images), rate_hz)
        self._images = images
        self._next = 0

    def _read(self) -> Frame | None:
        if self._next >= len(self._images):
            return None
        index = self._next
        self._next += 1
        return Frame(self._images[index], index, time.monotonic(), index / (self.rate_hz or 30.0))


class ImageSource(Source):
    """Still images, one after the other.

    Those that cannot be decoded are passed over; the error that says so comes after the last good one.

    Args:
        paths: image files, at least one.
        name: for messages.
    """

    def __init__(self, paths: Sequence[Path], name: str) -> None:
        super().__init__(name, len(paths))
        self.paths = paths
        self._next = 0
        self._refused: list[DataError] = []

    def _read(self) -> Frame | None:
        while self._next < len(self.paths):
            index, path = self._next, self.paths[self._next]
            self._next += 1
            try:
                return Frame(read_image(path), index, time.monotonic(), name=path.name)
            except DataError as error:
                self._refused.append(error)
        if self._refused:
            raise self._error()
        return None

    def _error(self) -> SourceError:
        refused, self._refused = self._refused, []
        first = refused[0]
        if len(self.paths) == 1:
            return SourceError(first.problem, first.mend)
        count = f"{len(refused)} of the {len(self.paths)} images of {self.name} cannot be read"
        return SourceError(
            f"{count}: {first.problem}", first.mend, exit_code=2 if len(refused) == len(self.paths) else 1
        )


class _Capture:
    """OpenCV's reader, safe against being closed while another thread reads: that would crash the process."""

    def __init__(self, what: int | str) -> None:
        import cv2

        self._error: type[Exception] = cv2.error
        self._busy = threading.Lock()
        try:
            if isinstance(what, str):
                what.encode()  # OpenCV crashes on a name that is not UTF-8
            self._capture: Any = cv2.VideoCapture(what)
        except (cv2.error, UnicodeEncodeError):
            self._capture = cv2.VideoCapture()

    @property
    def is_open(self) -> bool:
        return bool(self._capture.isOpened())

    def read(self) -> NDArray[np.uint8] | None:
        with self._busy:
            try:
                ok, image = self._capture.read()
            except self._error:
                return None
            return image if ok else None

    def get(self, what: int) -> float:
        with self._busy:
            return float(self._capture.get(what))

    def set(self, what: int, value: float) -> None:
        with self._busy:
            self._capture.set(what, value)

    def close(self) -> None:
        # A reader that hangs in a driver keeps its device until the process ends.
        if self._busy.acquire(timeout=0.5):
            try:
                self._capture.release()
            finally:
                self._busy.release()


class VideoSource(Source):
    """A video file, decoded by OpenCV. Every frame is read, none is dropped."""

    def __init__(self, path: Path) -> None:
        import cv2

        self._cv2 = cv2
        self._capture = _Capture(str(path))
        if not self._capture.is_open:
            raise SourceError(
                f"{path} is not a video or image that can be decoded",
                "check the file; it may be cut off, or its name not be UTF-8",
            )
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        super().__init__(str(path), count if count > 0 else None, rate if 0 < rate < 1000 else None)
        self.paths = [path]
        self._next = 0
        self._pts_s = 0.0

    def _read(self) -> Frame | None:
        image = self._capture.read()
        if image is None:
            self._check_complete()
            return None
        index = self._next
        self._next += 1
        pts_ms = self._capture.get(self._cv2.CAP_PROP_POS_MSEC)
        self._pts_s = pts_ms / 1000 if pts_ms > 0 else index / (self.rate_hz or 30.0)
        return Frame(image, index, time.monotonic(), self._pts_s)

    def _check_complete(self) -> None:
        if self._next == 0:
            raise SourceError(f"{self.name} holds no frame that can be decoded", "check the file; it may be cut off")
        if not self.frame_count or not self.rate_hz:
            return
        # The count in a header is an estimate for some containers and for variable frame rates: only a
        # file that is short both in frames and in time was cut.
        duration_s = self.frame_count / self.rate_hz
        short_in_frames = self._next < 0.95 * self.frame_count - 1
        if short_in_frames and self._pts_s + 2 / self.rate_hz < 0.95 * duration_s:
            raise TruncatedSourceError(
                f"{self.name} breaks off after {self._next} of {self.frame_count} frames",
                "the frames before the break were processed; copy or record the file again",
            )

    def close(self) -> None:
        """Close the file."""
        self._capture.close()


class CameraSource(Source):
    """A V4L2 or other local camera through OpenCV.

    Args:
        device: camera number or path such as /dev/video0.
    """

    live = True

    def __init__(self, device: int | str) -> None:
        # Ten seconds without a frame, OpenCV's default, is far too long for a robot to wait.
        os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "2")
        import cv2

        self._cv2 = cv2
        self._capture = _Capture(device)
        if not self._capture.is_open:
            raise _no_camera(device)
        # Two buffers keep the queue short; with one, cameras behind PipeWire stop for good after a pause.
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 2)
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        super().__init__(f"camera {device}", None, rate if 0 < rate < 1000 else None)
        self._next = 0

    def _read(self) -> Frame | None:
        start = time.monotonic()
        image = self._capture.read()
        if image is not None and time.monotonic() - start > 1.0:
            # After a stall the driver hands out what it had queued: those pictures are old.
            for _ in range(4):
                image = self._capture.read()
        if image is None:
            raise SourceError(f"{self.name} stopped delivering frames", "check its cable, then start again")
        now = time.monotonic()
        driver_s = self._capture.get(self._cv2.CAP_PROP_POS_MSEC) / 1000
        index = self._next
        self._next += 1
        # Linux drivers stamp frames with the same monotonic clock; others give something else.
        captured_at = driver_s if 0 <= now - driver_s < 2 else now
        return Frame(image, index, captured_at)

    def close(self) -> None:
        """Release the camera."""
        self._capture.close()


class StreetSource(Source):
    """``synthetic://street``: a drawn driving scene with exact class masks; see ``edgeseg.io.street``.

    With ``live=1`` it behaves like a camera: frames appear at its rate, and those nobody fetched in time are
    dropped and counted.
    """

    def __init__(self, uri: str) -> None:
        from edgeseg.io.street import Street, street_from_uri

        options = street_from_uri(uri)
        super().__init__(uri, options.frames, options.rate_hz)
        self._street = Street(size_hw=options.size_hw, rate_hz=options.rate_hz, seed=options.seed)
        self._rate_hz = options.rate_hz
        self.live = options.live
        self._last = -1
        self._start: float | None = None

    def _read(self) -> Frame | None:
        end = sys.maxsize if self.frame_count is None else self.frame_count
        captured_at = time.monotonic()
        index = self._last + 1
        if self.live and index < end:
            # The first frame appears when it is first asked for, not while the model still loads.
            self._start = captured_at if self._start is None else self._start
            # Rounding may put this moment before the frame that was just waited for.
            index = max(index, int(min((captured_at - self._start) * self._rate_hz, end)))
            self.counts.dropped += index - self._last - 1
            self.counts.captured += index - self._last - 1
            captured_at = self._start + index / self._rate_hz
            _sleep_until(captured_at if index < end else 0.0)
        self._last = index if index < end else end - 1
        if index >= end:
            return None
        image, truth = self._street.render(index)
        return Frame(image, index, captured_at, index / self._rate_hz, truth=truth)


def is_camera(uri: str) -> bool:
    """True for a camera number or a video device (/dev/videoN, or a link to one)."""
    return (uri.isascii() and uri.isdigit()) or bool(re.fullmatch(r"/dev/video\d+", os.path.realpath(uri)))


def _no_camera(device: int | str) -> SourceError:
    return SourceError(
        f"Camera {device} cannot be opened", "check its number and permissions; 'edgeseg doctor' lists cameras"
    )


def open_source(uri: str | int | os.PathLike[str], options: SourceOptions | None = None) -> Source:
    """Open anything that gives frames.

    Args:
        uri: a camera number (0 or "0") or device (/dev/video0); a video or image file; a folder of images;
            a glob ('images/*.jpg'); a .txt file with one image path a line; or
            ``synthetic://street?size=1280x720&rate=30&seed=0&frames=300&live=1``.

    Raises:
        SourceError: it does not exist, is empty, or cannot be decoded.
        UsageError: a ``synthetic://`` address is misspelt.
    """
    text = os.fspath(uri) if not isinstance(uri, int) else str(uri)
    if is_camera(text):
        return CameraSource(int(text) if text.isdigit() else text)
    if text.startswith("synthetic:"):
        return StreetSource(text)
    if "://" in text:
        scheme = text.split("://", 1)[0]
        raise SourceError(
            f"Sources of the kind {scheme}:// are not supported yet",
            "use a camera number, a file, a folder, a quoted glob or synthetic://street",
        )
    if not text.strip():
        raise SourceError("The name of the source is empty", "give a camera number, a file, a folder or a quoted glob")
    try:
        return _open_path(text)
    except OSError as error:
        raise SourceError(
            f"{text} cannot be opened ({error.strerror})", "check the path and its permissions"
        ) from error


def _open_path(text: str) -> Source:
    path = Path(text)
    if path.is_dir():
        return _open_images(sorted(path.iterdir(), key=_natural), text, f"The folder {text} holds no image")
    if not path.exists() and glob.has_magic(text):
        found = sorted((Path(p) for p in glob.glob(text, recursive=True)), key=_natural)
        return _open_images(found, text, f"Nothing that matches {text} is an image")
    if not path.exists():
        raise SourceError(f"There is no file, folder or camera {text}", "check the path; quote a glob")
    if not os.access(path, os.R_OK):
        raise SourceError(f"{text} cannot be read", "check its permissions")
    if path.stat().st_size == 0:
        raise SourceError(f"{text} is empty", "give a video or image with content")
    if path.suffix.lower() == ".txt":
        return ImageSource(_listed(path), text)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return ImageSource([path], text)
    return VideoSource(path)


def _open_images(paths: Sequence[Path], name: str, nothing: str) -> Source:
    images = [p for p in paths if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()]
    if not images:
        raise SourceError(nothing, f"give one with {', '.join(IMAGE_SUFFIXES[:4])} files")
    return ImageSource(images, name)


def _listed(path: Path) -> list[Path]:
    mend = "list one image path a line, relative to the list"
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise SourceError(f"{path} is not a text file", mend) from error
    # A listed file that is missing is not left out here: reading it says so.
    images = [path.parent / line.strip() for line in lines if line.strip()]
    if not images:
        raise SourceError(f"{path} lists no image", mend)
    for image in images:
        if image.suffix.lower() not in IMAGE_SUFFIXES:
            raise SourceError(f"{path} lists {image.name[:80]!r}, which is not an image file", mend)
    return images


def _natural(path: Path) -> list[int | str]:
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"([0-9]+)", str(path)))]


def _sleep_until(moment: float) -> None:
    while (left := moment - time.monotonic()) > 0:
        time.sleep(min(left, 60.0))
