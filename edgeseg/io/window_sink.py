"""Results in a window, and whether one can be opened."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from pathlib import Path
from typing import Union

from edgeseg.draw import with_banner
from edgeseg.errors import SinkError
from edgeseg.files import replacing
from edgeseg.frame import State
from edgeseg.io.base import Source
from edgeseg.io.sinks import Sink, png_from_mask
from edgeseg.report import Report
from edgeseg.segmentation import Segmentation

PathLike = Union[str, "os.PathLike[str]"]

STALE_S = 0.5
"""When the picture of a live source is older than this, the window says so."""


class WindowSink(Sink):
    """Overlays in a window. Space pauses (a live source runs on unseen), s saves the picture and its class map.

    ``quit`` becomes True when the user presses q or Escape, ``dismissed`` also when the window is closed otherwise.

    Args:
        title: of the window.
        alpha: share of the class colours, 0 to 1.
        snapshots: the folder for saved pictures.
    """

    name = "window"
    on_main_thread = True

    def __init__(self, title: str = "edgeseg", alpha: float = 0.5, snapshots: PathLike = ".") -> None:
        self._title, self._alpha, self._snapshots = title, alpha, Path(snapshots)
        self._source: Source | None = None
        self._last: Segmentation | None = None
        self._note, self._note_until = "", 0.0

    def attach(self, source: Source, report: Report) -> None:
        """Show the state of ``source`` when it is not live."""
        self._source = source

    def write(self, result: Segmentation) -> None:
        """Show one overlay."""
        first, self._last = self._last is None, result
        self._show(first)

    def idle(self) -> None:
        """Keep the window alive, and say that its picture is old."""
        if self._last is not None:
            self._show()

    def _show(self, first: bool = False) -> None:
        assert self._last is not None
        if self.dismissed:
            return
        import cv2

        picture = self._last.overlay(self._alpha)
        if words := self._words(self._last):
            picture = with_banner(picture, words)
        try:
            if first:
                # Without Qt's tool bar: it hides a part of small pictures, and its missing fonts flood the terminal.
                cv2.namedWindow(self._title, cv2.WINDOW_AUTOSIZE | cv2.WINDOW_GUI_NORMAL)
            cv2.imshow(self._title, picture)
            key = cv2.waitKey(1) & 0xFF
            gone = not first and cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) < 1
        except cv2.error as error:
            raise SinkError("No window can be opened", "add --headless, or install opencv-python") from error
        self.quit = key in (ord("q"), 27)
        self.dismissed = self.quit or gone
        if key == ord(" "):
            self.paused = not self.paused
        elif key == ord("s"):
            self._save(self._last)
        self.paused = self.paused and not self.dismissed

    def _words(self, shown: Segmentation) -> str:
        if time.monotonic() < self._note_until:
            return self._note
        if self.paused:
            return "paused"
        age_s = time.monotonic() - shown.captured_at
        if self._source is None or not self._source.live or age_s < STALE_S:
            return ""
        state = self._source.state
        return f"{'' if state is State.LIVE else state.value + ', '}{age_s:.1f} s old"

    def _save(self, result: Segmentation) -> None:
        import cv2

        path = self._snapshots / time.strftime(f"edgeseg-%Y%m%d-%H%M%S-{result.frame_index:06d}.png")
        try:
            with replacing(path) as temporary:
                cv2.imwrite(str(temporary), result.overlay(self._alpha))
            with replacing(path.with_name(f"{path.stem}-mask.png")) as temporary:
                temporary.write_bytes(png_from_mask(result))
        except SinkError as error:
            self._note = error.problem
        else:
            self._note = f"saved {path.name}"
        self._note_until = time.monotonic() + 2

    def close(self) -> None:
        """Close the window."""
        if self._last is not None:
            import cv2

            self._last = None
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
