"""Where results go: a video, masks, a window."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Union

import numpy as np

from edgeseg.errors import SinkError
from edgeseg.files import check_writable, check_writable_folder, replacing, temporary_beside
from edgeseg.segmentation import Segmentation

PathLike = Union[str, "os.PathLike[str]"]

FREE_SPACE_FLOOR_BYTES = 8 << 20
"""Recording stops before a disk is quite full: a container needs room for its index."""


class Sink(ABC):
    """Takes results one by one, always on the same thread. ``close`` finishes what it writes, also after an error.

    Attributes:
        name: for messages and reports.
        on_main_thread: it must be used on the thread that calls ``run``, as windows must.
        backlog: results of a live source that may wait for it; beyond them the oldest is dropped.
        paused: it wants no results for now.
    """

    name = "sink"
    on_main_thread = False
    backlog = 1
    paused = False

    @abstractmethod
    def write(self, result: Segmentation) -> None:
        """Take one result.

        Raises:
            SinkError: it cannot be written.
        """

    def idle(self) -> None:  # noqa: B027 - most sinks have nothing to do then
        """Called about ten times a second while no result comes."""

    @abstractmethod
    def close(self) -> None:
        """Finish. Closing twice is allowed.

        Raises:
            SinkError: the file could not be finished.
        """

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class VideoSink(Sink):
    """Overlays as a video file; the container follows the suffix (.mp4, .mkv, .avi).

    It grows under a temporary name beside ``path`` and takes its own name once it is closed and readable.

    Args:
        path: the file.
        rate_hz: frames a second.
        alpha: share of the class colours, 0 to 1.

    Raises:
        SinkError: the path cannot be written, or its suffix names no container.
    """

    name = "video"
    backlog = 8

    def __init__(self, path: PathLike, rate_hz: float, alpha: float = 0.5) -> None:
        self._path = Path(path)
        self._temporary = temporary_beside(self._path)
        self._rate_hz, self._alpha = rate_hz, alpha
        self._writer: Any = None
        self._size_hw: tuple[int, int] | None = None
        self._written = 0
        if self._path.suffix.lower() not in (".mp4", ".mkv", ".avi"):
            raise SinkError(f"{path} names no video container", "use .mp4, .mkv or .avi", exit_code=2)
        _check_utf8(self._path)
        check_writable(self._path)

    def write(self, result: Segmentation) -> None:
        """Add one overlay; frames of another size than the first are scaled to it."""
        import cv2

        picture = result.overlay(self._alpha)
        if self._writer is None:
            # Encoders take even sizes only.
            self._size_hw = (max(2, picture.shape[0] // 2 * 2), max(2, picture.shape[1] // 2 * 2))
            self._writer = self._open(self._size_hw)
        assert self._size_hw is not None
        if picture.shape[:2] != self._size_hw:
            picture = np.asarray(cv2.resize(picture, self._size_hw[::-1], interpolation=cv2.INTER_AREA), np.uint8)
        if shutil.disk_usage(self._temporary.parent).free < FREE_SPACE_FLOOR_BYTES:
            raise SinkError(f"The disk is full while writing {self._path}", "free some space; what fitted is kept")
        # OpenCV 4 returns None whatever happens, OpenCV 5 a bool.
        if self._writer.write(picture) is False:
            raise SinkError(f"Writing {self._path} failed", "check the space left on the disk")
        self._written += 1

    def _open(self, size_hw: tuple[int, int]) -> Any:
        import cv2

        _make_folder(self._path.parent)
        codec = "MJPG" if self._path.suffix.lower() == ".avi" else "mp4v"
        writer = cv2.VideoWriter(str(self._temporary), cv2.VideoWriter.fourcc(*codec), self._rate_hz, size_hw[::-1])
        if not writer.isOpened():
            self._temporary.unlink(missing_ok=True)
            raise SinkError(f"OpenCV cannot write {self._path}", "choose another suffix, such as .avi")
        return writer

    def close(self) -> None:
        """Finish the file and give it its name; see ``Sink.close``."""
        if self._writer is None:
            return
        self._writer.release()
        self._writer = None
        try:
            readable = _readable_frames(self._temporary, self._written)
            if readable == 0:
                raise SinkError(f"The video {self._path} could not be finished", "check the space left on the disk")
            os.replace(self._temporary, self._path)
        except OSError as error:
            raise SinkError(f"Cannot write {self._path} ({error.strerror})", "choose another folder") from error
        finally:
            with contextlib.suppress(OSError):
                self._temporary.unlink()
        if readable < self._written:
            raise SinkError(
                f"Only {readable} of {self._written} frames reached {self._path}",
                "check the space left on the disk",
            )


class MaskSink(Sink):
    """Masks as single-channel 8-bit PNGs, pixel = class id, named by frame index or by the image's name.

    A second image of one name (``a/1.jpg`` and ``b/1.jpg``, or ``1.jpg`` and ``1.png``) adds its frame index.

    Args:
        folder: made with the first mask if missing.

    Raises:
        SinkError: the folder cannot be written.
    """

    name = "masks"
    backlog = 8

    def __init__(self, folder: PathLike) -> None:
        self._folder = Path(folder)
        self._names: set[str] = set()
        check_writable_folder(self._folder)

    def write(self, result: Segmentation) -> None:
        """Write one PNG."""
        import cv2

        number = f"{result.frame_index:06d}"
        stem = Path(result.frame.name).stem or number
        if stem in self._names:
            stem = f"{stem}_{number}"
        self._names.add(stem)
        ok, png = cv2.imencode(".png", result.mask)
        if not ok:
            raise SinkError(f"The mask of frame {result.frame_index} cannot be encoded", "check the frame's size")
        with replacing(self._folder / f"{stem}.png") as temporary:
            temporary.write_bytes(png.tobytes())

    def close(self) -> None:
        """Nothing is left to finish."""


class WindowSink(Sink):
    """Overlays in a window. ``closed`` becomes True when the user presses q or Escape, or closes it.

    Args:
        title: of the window.
        alpha: share of the class colours, 0 to 1.
    """

    name = "window"
    on_main_thread = True

    def __init__(self, title: str = "edgeseg", alpha: float = 0.5) -> None:
        self._title, self._alpha = title, alpha
        self._shown = False
        self.closed = False

    def write(self, result: Segmentation) -> None:
        """Show one overlay."""
        import cv2

        try:
            if not self._shown:
                # Without Qt's tool bar: it hides a part of small pictures, and its missing fonts flood the terminal.
                cv2.namedWindow(self._title, cv2.WINDOW_AUTOSIZE | cv2.WINDOW_GUI_NORMAL)
            cv2.imshow(self._title, result.overlay(self._alpha))
            key = cv2.waitKey(1) & 0xFF
            gone = self._shown and cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) < 1
        except cv2.error as error:
            raise SinkError("No window can be opened", "add --headless, or install opencv-python") from error
        self._shown = True
        self.closed = self.closed or gone or key in (ord("q"), 27)

    def close(self) -> None:
        """Close the window."""
        if self._shown:
            import cv2

            self._shown = False
            cv2.destroyAllWindows()


def display_available() -> bool:
    """True where a window can be opened.

    A display that is named but does not answer counts as none: Qt, which OpenCV uses, would end the process.
    """
    if sys.platform in ("win32", "darwin"):
        return True
    wayland, x11 = os.environ.get("WAYLAND_DISPLAY"), os.environ.get("DISPLAY", "")
    if wayland and os.path.exists(os.path.join(os.environ.get("XDG_RUNTIME_DIR", "/"), wayland)):
        return True
    host, colon, number = x11.rpartition(":")
    number = number.partition(".")[0]
    return bool(colon) and number.isdecimal() and _answers(host, int(number))


def _answers(host: str, display: int) -> bool:
    """Whether an X server can be reached."""
    local = f"/tmp/.X11-unix/X{display}"
    try:
        if host not in ("", "unix"):
            socket.create_connection((host, 6000 + display), timeout=2).close()
            return True
    except OSError:
        return False
    for address in ("\0" + local, local):  # Linux's own name space first, then the file
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as server:
            server.settimeout(2)
            server.connect(address)
            return True
    return False


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SinkError(
            f"The folder {folder} cannot be made ({error.strerror})", "choose a folder you may write to"
        ) from error


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
