"""Files as sources: every frame is read, none is dropped."""

from __future__ import annotations

import glob
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import DataError, SourceError, TruncatedSourceError, UsageError
from edgeseg.frame import Frame
from edgeseg.images import IMAGE_SUFFIXES, read_image
from edgeseg.io._opencv import Capture, bgr_from_any
from edgeseg.io.base import Source
from edgeseg.io.options import SourceOptions


class FrameList(Source):
    """Frames that are already in memory, for tests of programs that embed edgeseg.

    Args:
        images: uint8 [H, W, 3] arrays in BGR; grey [H, W] and BGRA [H, W, 4] are converted.
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
        image = self._images[index]
        image = image if image.ndim == 3 and image.shape[2] == 3 else bgr_from_any(image)
        return Frame(image, index, time.monotonic(), index / (self.rate_hz or 30.0))


class ImageSource(Source):
    """Still images, one after the other.

    Those that cannot be decoded are passed over; the error that says so comes after the last good one.

    Args:
        paths: image files, at least one.
        name: for messages.
        rate_hz: frames a second, where they are a sequence.
    """

    def __init__(self, paths: Sequence[Path], name: str, rate_hz: float | None = None) -> None:
        super().__init__(name, len(paths), rate_hz)
        self.paths = paths
        self._next = 0
        self._refused: list[DataError] = []

    def _read(self) -> Frame | None:
        while self._next < len(self.paths):
            index, path = self._next, self.paths[self._next]
            self._next += 1
            try:
                pts_s = None if self.rate_hz is None else index / self.rate_hz
                return Frame(read_image(path), index, time.monotonic(), pts_s, path.name)
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


class VideoSource(Source):
    """A video file, decoded by OpenCV. Every frame is read, none is dropped.

    Args:
        path: of the file.
        hwdec: decode in hardware where OpenCV can, else in software.
    """

    def __init__(self, path: Path, *, hwdec: bool = False) -> None:
        import cv2

        self._cv2 = cv2
        hardware = (cv2.CAP_PROP_HW_ACCELERATION, cv2.VIDEO_ACCELERATION_ANY)
        self._capture = Capture(str(path), cv2.CAP_ANY, hardware if hwdec else ())
        if not self._capture.is_open:
            raise SourceError(
                f"{path} is not a video or image that can be decoded",
                "check the file; it may be cut off, or its name not be UTF-8",
            )
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        super().__init__(str(path), count if count > 0 else None, self._capture.rate_hz)
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
        super().close()


class LoopedSource(Source):
    """A file that begins again at its end, for ever. Indices and times go on.

    Args:
        open_file: opens it once more.
    """

    def __init__(self, open_file: Callable[[], Source]) -> None:
        self._open_file, self._source = open_file, open_file()
        super().__init__(self._source.name, None, self._source.rate_hz)
        self.paths = self._source.paths
        self._first, self._first_s = 0, 0.0
        self._last: Frame | None = None

    def _read(self) -> Frame | None:
        frame = self._source.read()
        if frame is None:
            if self._last is not None:
                self._first = self._last.index + 1
                self._first_s = (self._last.pts_s or 0.0) + 1 / (self.rate_hz or 30.0)
            self._source.close()
            self._source = self._open_file()
            frame = self._source.read()
        if frame is None:
            return None
        pts_s = None if frame.pts_s is None else self._first_s + frame.pts_s
        self._last = replace(frame, index=self._first + frame.index, pts_s=pts_s)
        return self._last

    def close(self) -> None:
        """Close the file."""
        self._source.close()
        super().close()


def open_path(text: str, options: SourceOptions) -> Source:
    """Open a video, an image, a folder of images, a glob, or a list of images.

    Raises:
        SourceError: it does not exist, is empty, or cannot be decoded.
    """
    path = Path(text)
    if path.is_dir():
        return _open_images(sorted(path.iterdir(), key=_natural), text, f"The folder {text} holds no image", options)
    if not path.exists() and glob.has_magic(text):
        found = sorted((Path(p) for p in glob.glob(text, recursive=True)), key=_natural)
        return _open_images(found, text, f"Nothing that matches {text} is an image", options)
    if not path.exists():
        raise SourceError(f"There is no file, folder or camera {text}", "check the path; quote a glob")
    if not os.access(path, os.R_OK):
        raise SourceError(f"{text} cannot be read", "check its permissions")
    if path.stat().st_size == 0:
        raise SourceError(f"{text} is empty", "give a video or image with content")
    if path.suffix.lower() == ".txt":
        return _image_source(_listed(path), text, options)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return _image_source([path], text, options)
    if options.rate_hz:
        raise UsageError(f"The video {text} has a rate of its own", "leave out 'rate'")
    return VideoSource(path, hwdec=options.hwdec)


def _open_images(paths: Sequence[Path], name: str, nothing: str, options: SourceOptions) -> Source:
    images = [p for p in paths if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()]
    if not images:
        raise SourceError(nothing, f"give one with {', '.join(IMAGE_SUFFIXES[:4])} files")
    return _image_source(images, name, options)


def _image_source(paths: Sequence[Path], name: str, options: SourceOptions) -> Source:
    if options.hwdec:
        raise UsageError(f"Images such as {name} are not decoded in hardware", "leave out 'hwdec'")
    return ImageSource(paths, name, options.rate_hz)


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
