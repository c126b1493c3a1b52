"""Where frames come from: cameras, videos, images, and a synthetic street."""

from __future__ import annotations

import glob
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from edgeseg.dataset import IMAGE_SUFFIXES, read_image
from edgeseg.errors import SourceError, TruncatedSourceError
from edgeseg.frame import Frame, State


class Source(ABC):
    """A sequence of frames. Iterate over it, or call ``read`` until it returns None.

    Attributes:
        name: what it was opened with, for messages.
        live: frames arrive at their own pace and old ones are worthless; files wait to be read.
        frame_count: how many frames there will be, where that is known.
        rate_hz: frames a second, where that is known.
        state: how the source is doing.
        dropped: frames the source itself passed over.
    """

    live = False

    def __init__(self, name: str, frame_count: int | None = None, rate_hz: float | None = None) -> None:
        self.name, self.frame_count, self.rate_hz = name, frame_count, rate_hz
        self.state = State.LIVE
        self.dropped = 0

    def read(self) -> Frame | None:
        """The next frame, or None once the source has ended.

        Raises:
            SourceError: it cannot be read any further; what came before was good.
        """
        start = time.perf_counter()
        try:
            frame = self._read()
        except SourceError:
            self.state = State.FAILED
            raise
        if frame is None:
            self.state = State.ENDED
            return None
        return replace(frame, capture_ms=1000 * (time.perf_counter() - start))

    @abstractmethod
    def _read(self) -> Frame | None: ...

    def close(self) -> None:  # noqa: B027 - most sources hold nothing to free
        """Free the device or file. Closing twice is allowed."""

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self.read()) is not None:
            yield frame

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class FrameList(Source):
    """Frames that are already in memory, for tests of programs that embed edgeseg.

    Args:
        images: uint8 [H, W, 3] arrays in BGR.
        rate_hz: for sinks that need one.
    """

    def __init__(self, images: Sequence[np.ndarray[Any, np.dtype[np.uint8]]], rate_hz: float = 30.0) -> None:
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

    Args:
        paths: image files, at least one.
        name: for messages.
    """

    def __init__(self, paths: Sequence[Path], name: str) -> None:
        super().__init__(name, len(paths))
        self._paths = paths
        self._next = 0

    def _read(self) -> Frame | None:
        if self._next >= len(self._paths):
            return None
        index, path = self._next, self._paths[self._next]
        self._next += 1
        return Frame(read_image(path), index, time.monotonic(), name=path.name)


class VideoSource(Source):
    """A video file, decoded by OpenCV. Every frame is read, none is dropped."""

    def __init__(self, path: Path) -> None:
        import cv2

        self._cv2 = cv2
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise SourceError(
                f"{path} is not a video or image that can be decoded", "check the file; it may be cut off"
            )
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        super().__init__(str(path), count if count > 0 else None, rate if 0 < rate < 1000 else None)
        self._next = 0
        self._pts_s = 0.0

    def _read(self) -> Frame | None:
        ok, image = self._capture.read()
        if not ok:
            self._check_complete()
            return None
        index = self._next
        self._next += 1
        pts_ms = float(self._capture.get(self._cv2.CAP_PROP_POS_MSEC))
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
        self._capture.release()


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
        self._capture = cv2.VideoCapture(device)
        if not self._capture.isOpened():
            raise SourceError(
                f"Camera {device} cannot be opened",
                "check its number and permissions; 'edgeseg doctor' lists cameras",
            )
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        super().__init__(f"camera {device}", None, rate if 0 < rate < 1000 else None)
        self._next = 0

    def _read(self) -> Frame | None:
        start = time.monotonic()
        ok, image = self._capture.read()
        if ok and time.monotonic() - start > 1.0:
            # After a stall the driver hands out what it had queued: those pictures are old.
            for _ in range(4):
                ok, image = self._capture.read()
        if not ok:
            raise SourceError(f"{self.name} stopped delivering frames", "check its cable, then start again")
        now = time.monotonic()
        driver_s = float(self._capture.get(self._cv2.CAP_PROP_POS_MSEC)) / 1000
        index = self._next
        self._next += 1
        # Linux drivers stamp frames with the same monotonic clock; others give something else.
        captured_at = driver_s if 0 <= now - driver_s < 2 else now
        return Frame(image, index, captured_at)

    def close(self) -> None:
        """Release the camera."""
        self._capture.release()


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
        self._start = time.monotonic()

    def _read(self) -> Frame | None:
        index = self._last + 1
        captured_at = time.monotonic()
        if self.live:
            due = self._start + index / self._rate_hz
            if due > captured_at:
                time.sleep(due - captured_at)
            else:
                index = int((captured_at - self._start) * self._rate_hz)
            self.dropped += index - self._last - 1
            captured_at = self._start + index / self._rate_hz
        if self.frame_count is not None and index >= self.frame_count:
            return None
        self._last = index
        image, truth = self._street.render(index)
        return Frame(image, index, captured_at, index / self._rate_hz, truth=truth)


def open_source(uri: str | int | os.PathLike[str]) -> Source:
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
    if text.isdigit():
        return CameraSource(int(text))
    if re.fullmatch(r"/dev/video\d+", text):
        return CameraSource(text)
    if text.startswith("synthetic:"):
        return StreetSource(text)
    if "://" in text:
        scheme = text.split("://", 1)[0]
        raise SourceError(
            f"Sources of the kind {scheme}:// are not supported yet",
            "use a camera number, a file, a folder, a quoted glob or synthetic://street",
        )
    return _open_path(text)


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
        return _open_images(_lines(path), text, f"{text} lists no image")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return ImageSource([path], text)
    return VideoSource(path)


def _open_images(paths: Sequence[Path], name: str, nothing: str) -> Source:
    images = [p for p in paths if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()]
    if not images:
        raise SourceError(nothing, f"give one with {', '.join(IMAGE_SUFFIXES[:4])} files")
    return ImageSource(images, name)


def _lines(path: Path) -> list[Path]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SourceError(f"{path} is not a text file", "list one image path a line") from error
    return [path.parent / line.strip() for line in text.splitlines() if line.strip()]


def _natural(path: Path) -> list[int | str]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(path))]
