from __future__ import annotations

import socket
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sink_inputs import result

from edgeseg.errors import SinkError
from edgeseg.frame import State
from edgeseg.io import window_sink
from edgeseg.io.sources import FrameList
from edgeseg.io.window_sink import WindowSink
from edgeseg.report import Report
from edgeseg.segmentation import Segmentation

# --- windows ---------------------------------------------------------------------------------------------------


@pytest.fixture
def screen(monkeypatch):
    """What the user does at a window that is not there: keys, visibility; and what was shown and closed."""
    import cv2

    screen = SimpleNamespace(key=-1, visible=1.0, shown=[], pictures=[], closed=0)

    def show(title: str, picture: np.ndarray) -> None:
        screen.shown.append((title, picture.shape))
        screen.pictures.append(picture)

    def close() -> None:
        screen.closed += 1

    monkeypatch.setattr(cv2, "namedWindow", lambda title, flags: None)
    monkeypatch.setattr(cv2, "imshow", show)
    monkeypatch.setattr(cv2, "waitKey", lambda ms: screen.key)
    monkeypatch.setattr(cv2, "getWindowProperty", lambda title, what: screen.visible)
    monkeypatch.setattr(cv2, "destroyAllWindows", close)
    return screen


@pytest.mark.parametrize(
    ("key", "visible", "closed", "ended"),
    [(-1, 1.0, False, False), (ord("x"), 1.0, False, False), (ord("q"), 1.0, True, True), (27, 1.0, True, True),
     (-1, 0.0, True, False), (-1, -1.0, True, False)],
)  # fmt: skip
def test_a_window_is_closed_by_q_escape_or_its_cross(
    screen, key: int, visible: float, closed: bool, ended: bool
) -> None:
    sink = WindowSink("title")
    sink.close()
    assert screen.closed == 0, "what was never shown is not closed"
    sink.write(result(size_hw=(4, 6)))
    assert not sink.dismissed
    screen.key, screen.visible = key, visible
    sink.write(result(size_hw=(4, 6)))
    assert (sink.dismissed, sink.quit) == (closed, ended)
    sink.write(result(size_hw=(4, 6)))
    assert len(screen.shown) == 2 + (not closed), "a closed window does not open again"
    sink.close()
    sink.close()
    assert screen.closed == 1


def test_space_pauses_and_a_key_while_paused_is_heard(screen) -> None:
    sink = WindowSink()
    sink.write(result())
    screen.key = ord(" ")
    sink.idle()
    assert sink.paused
    screen.key = -1
    sink.idle()
    assert sink.paused
    screen.key = ord(" ")
    sink.idle()
    assert not sink.paused
    screen.key = ord(" ")
    sink.write(result())
    screen.key = ord("q")
    sink.idle()
    assert (sink.paused, sink.dismissed, sink.quit) == (False, True, True)


def test_s_saves_the_picture_and_its_class_map(screen, tmp_path: Path) -> None:
    import cv2

    sink, one = WindowSink(alpha=0.3, snapshots=tmp_path / "new"), result(7)
    screen.key = ord("s")
    sink.write(one)
    picture, mask = sorted((tmp_path / "new").iterdir(), key=lambda path: "mask" in path.name)
    assert picture.name.endswith("-000007.png")
    assert np.array_equal(cv2.imread(str(picture)), one.overlay(0.3))
    assert np.array_equal(cv2.imread(str(mask), cv2.IMREAD_UNCHANGED), one.mask)
    (tmp_path / "file").write_text("x")
    sink = WindowSink(snapshots=tmp_path / "file")
    sink.write(one)
    assert "cannot" in sink._note.lower(), "a snapshot that fails is said on the picture, and the run goes on"


def test_an_old_picture_is_said_to_be_old(screen, monkeypatch) -> None:
    source, sink = FrameList([]), WindowSink()
    sink.attach(source, Report())
    old = result(captured_at=time.monotonic() - 3)
    sink.write(old)
    assert not banner_on(screen.pictures[-1], old), "a file has no age"
    source.live = True
    sink.idle()
    assert banner_on(screen.pictures[-1], old)
    source._enter(State.STALLED, "no frame")
    assert sink._words(old).startswith("stalled, 3.")
    fresh = result()
    sink.write(fresh)
    assert not banner_on(screen.pictures[-1], fresh)


def banner_on(picture: np.ndarray, one: Segmentation) -> bool:
    return not np.array_equal(picture, one.overlay(0.5))


def test_a_window_that_cannot_open_is_an_error_with_a_mend(monkeypatch) -> None:
    import cv2

    def refuse(*anything):
        raise cv2.error("The function is not implemented")

    monkeypatch.setattr(cv2, "namedWindow", refuse)
    with pytest.raises(SinkError, match="--headless"):
        WindowSink().write(result())


def test_a_display_counts_where_it_answers(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(window_sink.sys, "platform", "linux")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    for none in ("", ":", "x", ":x", ":4711", "unix:4711.0", "127.0.0.1:4711"):
        monkeypatch.setenv("DISPLAY", none)
        assert not window_sink.display_available(), none
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("DISPLAY", f"127.0.0.1:{server.getsockname()[1] - 6000}.0")
        assert window_sink.display_available()
    monkeypatch.delenv("DISPLAY")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert not window_sink.display_available()
    (tmp_path / "wayland-0").touch()
    assert window_sink.display_available()
    monkeypatch.delenv("WAYLAND_DISPLAY")
    monkeypatch.setattr(window_sink.sys, "platform", "darwin")
    assert window_sink.display_available()
