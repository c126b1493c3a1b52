from __future__ import annotations

import collections
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgeseg.errors import SinkError
from edgeseg.frame import Frame
from edgeseg.io import sinks
from edgeseg.io.sinks import MaskSink, Sink, VideoSink, WindowSink
from edgeseg.segmenter import Segmentation

RNG = np.random.default_rng(0)


def result(
    index: int = 0, size_hw: tuple[int, int] = (48, 64), name: str = "", value: int | None = None
) -> Segmentation:
    image = RNG.integers(0, 256, (*size_hw, 3), np.uint8) if value is None else np.full((*size_hw, 3), value, np.uint8)
    mask = RNG.integers(0, 2, size_hw, np.uint8)
    return Segmentation(
        mask, ("a", "b"), ((0, 0, 0), (255, 255, 255)), Frame(image, index, time.monotonic(), name=name), {}
    )


def frames_of(path: Path) -> list[np.ndarray]:
    import cv2

    capture, frames = cv2.VideoCapture(str(path)), []
    while True:
        ok, image = capture.read()
        if not ok:
            return frames
        frames.append(image)


# --- videos ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv", "x.avi", "X.MP4"])
@pytest.mark.parametrize("count", [1, 7])
def test_every_frame_reaches_the_video(tmp_path: Path, name: str, count: int) -> None:
    import cv2

    path = tmp_path / "folder" / name
    with VideoSink(path, 12.5, alpha=0.0) as sink:
        for i in range(count):
            sink.write(result(i, value=20 * i))
            assert not path.exists()
    sink.close()
    assert os.listdir(path.parent) == [name]
    frames = frames_of(path)
    assert [round(float(f.mean()) / 20) for f in frames] == list(range(count))
    assert frames[0].shape == (48, 64, 3)
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS) == pytest.approx(12.5, rel=0.02)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
@pytest.mark.parametrize("rate_hz", [0.5, 7.3, 14.985, 29.97, 240.0])
def test_no_frame_is_missed_at_odd_rates(tmp_path: Path, suffix: str, rate_hz: float) -> None:
    path = tmp_path / f"x{suffix}"
    with VideoSink(path, rate_hz) as sink:
        for i in range(5):
            sink.write(result(i, (16, 16)))
    assert len(frames_of(path)) == 5


@pytest.mark.parametrize(
    ("size_hw", "video_hw"), [((1, 1), (2, 2)), ((33, 47), (32, 46)), ((3, 4097), (2, 4096)), ((4097, 3), (4096, 2))]
)
def test_odd_sizes_are_scaled_to_even_ones(tmp_path: Path, size_hw, video_hw) -> None:
    for suffix in (".mp4", ".avi"):
        with VideoSink(tmp_path / f"x{suffix}", 25) as sink:
            sink.write(result(0, size_hw))
        assert [f.shape[:2] for f in frames_of(tmp_path / f"x{suffix}")] == [video_hw]


def test_frames_of_other_sizes_are_scaled_to_the_first(tmp_path: Path) -> None:
    with VideoSink(tmp_path / "x.mp4", 25) as sink:
        for i, size in enumerate([(48, 64), (20, 30), (1, 1), (200, 100)]):
            sink.write(result(i, size))
    assert [f.shape[:2] for f in frames_of(tmp_path / "x.mp4")] == [(48, 64)] * 4


def test_the_overlay_is_what_is_written(tmp_path: Path) -> None:
    one = result(value=100)
    with VideoSink(tmp_path / "x.avi", 25, alpha=0.75) as sink:
        sink.write(one)
    (frame,) = frames_of(tmp_path / "x.avi")
    assert abs(float(frame.mean()) - float(one.overlay(0.75).mean())) < 5


def test_no_frame_no_file(tmp_path: Path) -> None:
    with VideoSink(tmp_path / "new" / "x.mp4", 25):
        pass
    assert os.listdir(tmp_path) == []


def test_the_old_video_stays_until_the_new_one_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "x.avi"
    path.write_text("old")
    with VideoSink(path, 25) as sink:
        sink.write(result())
        assert path.read_text() == "old"
    assert len(frames_of(path)) == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("x.gif", "no video container"),
        ("x", "no video container"),
        ("file/x.mp4", "is a file"),
        ("folder.mp4", "is a folder"),
        ("n" * 300 + ".mp4", "too long"),
        (os.fsdecode(b"\xff.mp4"), "not UTF-8"),
    ],
)
def test_what_cannot_be_a_video_is_refused_before_the_first_frame(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(SinkError) as caught:
        VideoSink(tmp_path / name, 25)
    assert said in str(caught.value)
    assert caught.value.exit_code == 2
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.mp4"]


def test_a_folder_that_vanishes_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "a" / "x.avi", 25)
    sink.write(result())
    shutil.rmtree(tmp_path / "a")
    with pytest.raises(SinkError):
        sink.close()
    sink.close()


def test_a_rate_no_encoder_takes(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "x.mp4", -1.0)
    with pytest.raises(SinkError, match="cannot write"):
        sink.write(result())
    sink.close()
    assert os.listdir(tmp_path) == []


def test_recording_stops_before_the_disk_is_full(tmp_path: Path, monkeypatch) -> None:
    free = iter([1 << 30] * 3 + [sinks.FREE_SPACE_FLOOR_BYTES - 1] * 9)
    usage = collections.namedtuple("usage", "free")
    monkeypatch.setattr(sinks.shutil, "disk_usage", lambda path: usage(next(free)))
    sink = VideoSink(tmp_path / "x.mp4", 25)
    for i in range(3):
        sink.write(result(i))
    with pytest.raises(SinkError, match="disk is full"):
        sink.write(result(3))
    sink.close()
    assert len(frames_of(tmp_path / "x.mp4")) == 3
    assert os.listdir(tmp_path) == ["x.mp4"]


@pytest.fixture
def small_disk(tmp_path: Path):
    """Makes a file system of so many bytes; skips where this process may not mount one."""
    mounted = []

    def make(size_bytes: int) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode != 0:
            pytest.skip("needs the right to mount a small file system")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


def fill(sink: Sink, said: str) -> int:
    """How many results fitted before the sink said that no more do."""
    for count in range(200):
        try:
            sink.write(result(count, (120, 160)))
        except SinkError as error:
            message = str(error)
            break
    else:
        raise AssertionError("the disk never filled up")
    assert said in message
    return count


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_a_full_disk_keeps_the_video_that_fitted(small_disk, suffix: str) -> None:
    folder = small_disk(sinks.FREE_SPACE_FLOOR_BYTES + (256 << 10))
    sink = VideoSink(folder / f"x{suffix}", 25)
    written = fill(sink, "disk is full")
    sink.close()
    assert 0 < written < 200
    assert len(frames_of(folder / f"x{suffix}")) == written
    assert os.listdir(folder) == [f"x{suffix}"]


def test_a_full_disk_keeps_the_masks_that_fitted(small_disk) -> None:
    import cv2

    folder = small_disk(64 << 10)
    sink = MaskSink(folder)
    written = fill(sink, "No space left on device")
    sink.close()
    assert sorted(os.listdir(folder)) == [f"{i:06d}.png" for i in range(written)]
    assert all(cv2.imread(str(p), cv2.IMREAD_UNCHANGED).shape == (120, 160) for p in folder.iterdir())


# --- masks -----------------------------------------------------------------------------------------------------


def test_masks_are_class_ids_of_one_channel(tmp_path: Path) -> None:
    import cv2

    results = [result(0, (5, 7)), result(1, (1, 1)), result(7, (3, 4097), "street.001.jpg")]
    results[1].mask[:] = 255
    with MaskSink(tmp_path / "a" / "b") as sink:
        for one in results:
            sink.write(one)
    sink.close()
    names = ["000000.png", "000001.png", "street.001.png"]
    assert sorted(os.listdir(tmp_path / "a" / "b")) == names
    for one, name in zip(results, names):
        mask = cv2.imread(str(tmp_path / "a" / "b" / name), cv2.IMREAD_UNCHANGED)
        assert mask.dtype == np.uint8
        assert np.array_equal(mask, one.mask)


def test_two_images_of_one_name_keep_both_masks(tmp_path: Path) -> None:
    with MaskSink(tmp_path) as sink:
        for i, name in enumerate(["1.jpg", "2.jpg", "1.png", "1.bmp"]):
            sink.write(result(i, (4, 4), name))
    assert sorted(os.listdir(tmp_path)) == ["1.png", "1_000002.png", "1_000003.png", "2.png"]
    with MaskSink(tmp_path) as sink:
        sink.write(result(0, (9, 9), "1.jpg"))
    assert len(os.listdir(tmp_path)) == 4, "another run replaces its own masks"


def test_no_mask_no_folder(tmp_path: Path) -> None:
    MaskSink(tmp_path / "new").close()
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "x"):
        with pytest.raises(SinkError) as caught:
            MaskSink(folder)
        assert caught.value.exit_code == 2


# --- windows ---------------------------------------------------------------------------------------------------


@pytest.fixture
def screen(monkeypatch):
    """What the user does at a window that is not there: keys, visibility; and what was shown and closed."""
    import cv2

    screen = SimpleNamespace(key=-1, visible=1.0, shown=[], closed=0)

    def close() -> None:
        screen.closed += 1

    monkeypatch.setattr(cv2, "namedWindow", lambda title, flags: None)
    monkeypatch.setattr(cv2, "imshow", lambda title, picture: screen.shown.append((title, picture.shape)))
    monkeypatch.setattr(cv2, "waitKey", lambda ms: screen.key)
    monkeypatch.setattr(cv2, "getWindowProperty", lambda title, what: screen.visible)
    monkeypatch.setattr(cv2, "destroyAllWindows", close)
    return screen


@pytest.mark.parametrize(
    ("key", "visible", "closed"), [(-1, 1.0, False), (ord("x"), 1.0, False), (ord("q"), 1.0, True), (27, 1.0, True),
                                   (-1, 0.0, True), (-1, -1.0, True)]
)  # fmt: skip
def test_a_window_is_closed_by_q_escape_or_its_cross(screen, key: int, visible: float, closed: bool) -> None:
    sink = WindowSink("title")
    sink.close()
    assert screen.closed == 0, "what was never shown is not closed"
    sink.write(result(size_hw=(4, 6)))
    assert not sink.closed
    screen.key, screen.visible = key, visible
    sink.write(result(size_hw=(4, 6)))
    assert sink.closed is closed
    sink.close()
    sink.close()
    assert screen.shown == [("title", (4, 6, 3))] * 2
    assert screen.closed == 1


def test_a_window_that_cannot_open_is_an_error_with_a_mend(monkeypatch) -> None:
    import cv2

    def refuse(*anything):
        raise cv2.error("The function is not implemented")

    monkeypatch.setattr(cv2, "namedWindow", refuse)
    with pytest.raises(SinkError, match="--headless"):
        WindowSink().write(result())


def test_a_display_counts_where_it_answers(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sinks.sys, "platform", "linux")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    for none in ("", ":", "x", ":x", ":4711", "unix:4711.0", "127.0.0.1:4711"):
        monkeypatch.setenv("DISPLAY", none)
        assert not sinks.display_available(), none
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("DISPLAY", f"127.0.0.1:{server.getsockname()[1] - 6000}.0")
        assert sinks.display_available()
    monkeypatch.delenv("DISPLAY")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert not sinks.display_available()
    (tmp_path / "wayland-0").touch()
    assert sinks.display_available()
    monkeypatch.delenv("WAYLAND_DISPLAY")
    monkeypatch.setattr(sinks.sys, "platform", "darwin")
    assert sinks.display_available()
