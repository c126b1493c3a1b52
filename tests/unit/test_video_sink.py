"""Recordings, by PyAV where it is installed and by OpenCV."""

from __future__ import annotations

import collections
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sink_inputs import fill, result

from edgeseg.errors import SinkError
from edgeseg.io import video_sink
from edgeseg.io.video_sink import ClassmapVideoSink, VideoSink

needs_av = pytest.mark.skipif(importlib.util.find_spec("av") is None, reason="PyAV is not installed")

RNG = np.random.default_rng(0)


def frames_of(path: Path) -> list[np.ndarray]:
    import cv2

    capture, frames = cv2.VideoCapture(str(path)), []
    while True:
        ok, image = capture.read()
        if not ok:
            return frames
        frames.append(image)


def times_of(path: Path) -> list[float]:
    import cv2

    capture, times = cv2.VideoCapture(str(path)), []
    while capture.grab():
        times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
    return times


@pytest.fixture(params=[pytest.param("av", marks=needs_av), "opencv"])
def writer(request, monkeypatch) -> str:
    """Each of the two that write videos."""
    if request.param == "opencv":
        monkeypatch.setattr(video_sink, "av_installed", lambda: False)
    return request.param


# --- videos ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv", "x.avi", "X.MP4"])
@pytest.mark.parametrize("count", [1, 7])
def test_every_frame_reaches_the_video(tmp_path: Path, writer: str, name: str, count: int) -> None:
    import cv2

    path = tmp_path / "folder" / name
    with VideoSink(path, 12.5, alpha=0.0) as sink:
        for i in range(count):
            assert path.exists() == (i > 0)
            sink.write(result(i, value=20 * i))
    sink.close()
    assert os.listdir(path.parent) == [name]
    frames = frames_of(path)
    assert [round(float(f.mean()) / 20) for f in frames] == list(range(count))
    assert frames[0].shape == (48, 64, 3)
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS) == pytest.approx(12.5, rel=0.02)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
@pytest.mark.parametrize("rate_hz", [0.5, 7.3, 14.985, 29.97, 240.0])
def test_no_frame_is_missed_at_odd_rates(tmp_path: Path, writer: str, suffix: str, rate_hz: float) -> None:
    path = tmp_path / f"x{suffix}"
    with VideoSink(path, rate_hz) as sink:
        for i in range(5):
            sink.write(result(i, (16, 16)))
    assert len(frames_of(path)) == 5


@pytest.mark.parametrize(
    ("size_hw", "video_hw"), [((1, 1), (2, 2)), ((33, 47), (32, 46)), ((3, 4097), (2, 4096)), ((4097, 3), (4096, 2))]
)
def test_odd_sizes_are_scaled_to_even_ones(tmp_path: Path, writer: str, size_hw, video_hw) -> None:
    for suffix in (".mp4", ".avi"):
        with VideoSink(tmp_path / f"x{suffix}", 25) as sink:
            sink.write(result(0, size_hw))
        assert [f.shape[:2] for f in frames_of(tmp_path / f"x{suffix}")] == [video_hw]


def test_frames_of_other_sizes_are_scaled_to_the_first(tmp_path: Path, writer: str) -> None:
    with VideoSink(tmp_path / "x.mp4", 25) as sink:
        for i, size in enumerate([(48, 64), (20, 30), (1, 1), (200, 100)]):
            sink.write(result(i, size))
    assert [f.shape[:2] for f in frames_of(tmp_path / "x.mp4")] == [(48, 64)] * 4


def test_the_overlay_is_what_is_written(tmp_path: Path, writer: str) -> None:
    one = result(value=100)
    with VideoSink(tmp_path / "x.avi", 25, alpha=0.75) as sink:
        sink.write(one)
    (frame,) = frames_of(tmp_path / "x.avi")
    assert abs(float(frame.mean()) - float(one.overlay(0.75).mean())) < 5


def test_no_frame_no_file(tmp_path: Path, writer: str) -> None:
    with VideoSink(tmp_path / "new" / "x.mp4", 25):
        pass
    assert os.listdir(tmp_path) == []


def test_the_old_video_stays_until_the_first_frame_of_the_new_one(tmp_path: Path, writer: str) -> None:
    path = tmp_path / "x.mkv"
    path.write_text("old")
    with VideoSink(path, 25) as sink:
        assert path.read_text() == "old"
        sink.write(result())
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


def test_a_folder_that_vanishes_is_an_error_and_leaves_nothing(tmp_path: Path, writer: str) -> None:
    sink = VideoSink(tmp_path / "a" / "x.avi", 25)
    sink.write(result())
    shutil.rmtree(tmp_path / "a")
    with pytest.raises(SinkError):
        sink.close()
    sink.close()  # the second time there is nothing to do


def test_a_rate_no_encoder_takes(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(video_sink, "av_installed", lambda: False)
    sink = VideoSink(tmp_path / "x.mp4", -1.0)
    with pytest.raises(SinkError, match="cannot write"):
        sink.write(result())
    sink.close()
    assert os.listdir(tmp_path) == []


def test_recording_stops_before_the_disk_is_full(tmp_path: Path, writer: str, monkeypatch) -> None:
    free = iter([1 << 30] * 3 + [video_sink.FREE_SPACE_FLOOR_BYTES - 1] * 9)
    usage = collections.namedtuple("usage", "free")
    monkeypatch.setattr(video_sink.shutil, "disk_usage", lambda path: usage(next(free)))
    sink = VideoSink(tmp_path / "x.mp4", 25)
    for i in range(3):
        sink.write(result(i))
    with pytest.raises(SinkError, match="disk is full"):
        sink.write(result(3))
    sink.close()
    assert len(frames_of(tmp_path / "x.mp4")) == 3
    assert os.listdir(tmp_path) == ["x.mp4"]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_a_full_disk_keeps_the_video_that_fitted(small_disk, writer: str, suffix: str) -> None:
    folder = small_disk(video_sink.FREE_SPACE_FLOOR_BYTES + (256 << 10))
    sink = VideoSink(folder / f"x{suffix}", 25)
    written = fill(sink, "disk is full")
    sink.close()
    assert 0 < written < 200
    assert len(frames_of(folder / f"x{suffix}")) == written
    assert os.listdir(folder) == [f"x{suffix}"]


# --- times -----------------------------------------------------------------------------------------------------


@needs_av
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_frames_keep_their_times(tmp_path: Path, suffix: str) -> None:
    times = [0.0, 0.04, 0.3, 0.34, 1.5]
    with VideoSink(tmp_path / f"x{suffix}", 25) as sink:
        for i, pts_s in enumerate(times):
            sink.write(result(i, pts_s=pts_s + 7))
    assert times_of(tmp_path / f"x{suffix}") == pytest.approx(times, abs=0.0011)


@needs_av
def test_a_live_recording_keeps_the_times_of_capture(tmp_path: Path) -> None:
    start, times = time.monotonic(), [0.0, 0.033, 0.9, 0.95]
    with VideoSink(tmp_path / "x.mkv", 30, live=True) as sink:
        for i, after_s in enumerate(times):
            sink.write(result(i, captured_at=start + after_s, pts_s=100.0 - i))
    assert times_of(tmp_path / "x.mkv") == pytest.approx(times, abs=0.0011)


def test_without_pyav_a_live_recording_keeps_the_time_by_repeating(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(video_sink, "av_installed", lambda: False)
    start = time.monotonic()
    with VideoSink(tmp_path / "x.mkv", 10, alpha=0.0, live=True) as sink:
        for i, after_s in enumerate([0.0, 0.01, 0.1, 0.5]):
            sink.write(result(i, value=60 * i, captured_at=start + after_s))
    seen = [round(float(frame.mean()) / 60) for frame in frames_of(tmp_path / "x.mkv")]
    assert seen == [0, 2, 3, 3, 3, 3], "the second is left out, the last fills the gap before it"


def test_time_never_goes_back(tmp_path: Path, writer: str) -> None:
    with VideoSink(tmp_path / "x.mkv", 25) as sink:
        for i, pts_s in enumerate([0.0, 0.04, 0.0, 0.04, None, None]):
            sink.write(result(i, pts_s=pts_s))
    times = times_of(tmp_path / "x.mkv")
    assert len(times) == 6
    assert times == sorted(set(times))


# --- a killed process ------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys, time
import numpy as np
from edgeseg.frame import Frame
from edgeseg.io import video_sink
from edgeseg.segmentation import Segmentation
if sys.argv[2] == "opencv":
    video_sink.av_installed = lambda: False
sink = video_sink.VideoSink(sys.argv[1], 30)
rng = np.random.default_rng(0)
for i in range(450):
    image = rng.integers(0, 256, (48, 64, 3), np.uint8)
    frame = Frame(image, i, time.monotonic())
    sink.write(Segmentation(np.zeros((48, 64), np.uint8), ("a",), ((0, 0, 0),), frame, {}))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ("writer_name", "suffix"),
    [pytest.param("av", ".mp4", marks=needs_av), pytest.param("av", ".mkv", marks=needs_av),
     ("opencv", ".mkv"), ("opencv", ".avi")],
)  # fmt: skip
def test_a_recording_survives_a_kill(tmp_path: Path, writer_name: str, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), writer_name], capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    # OpenCV keeps up to five seconds to itself, PyAV at most one.
    assert len(frames_of(path)) >= (290 if writer_name == "opencv" else 415)
    assert os.listdir(tmp_path) == [path.name]


def boxes_of(path: Path) -> list[str]:
    """The names of an MP4's outermost boxes."""
    data, names, at = path.read_bytes(), [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        names.append(data[at + 4 : at + 8].decode())
        at += size if size > 1 else int.from_bytes(data[at + 8 : at + 16], "big")
    return names


@needs_av
def test_the_encoder_is_h264(tmp_path: Path) -> None:
    import av

    if video_sink.h264_encoder() is None:
        pytest.skip("this PyAV has no H.264 encoder")
    for suffix in (".mp4", ".mkv"):
        with VideoSink(tmp_path / f"x{suffix}", 25) as sink:
            for i in range(3):
                sink.write(result(i))
        with av.open(str(tmp_path / f"x{suffix}")) as container:
            assert container.streams.video[0].codec_context.name == "h264"
    assert boxes_of(tmp_path / "x.mp4")[-1] == "moov", "a finished MP4 is an ordinary one: no fragments"


# --- class maps ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size_hw", [(48, 64), (33, 47), (1, 1)])
def test_class_maps_come_back_exactly(tmp_path: Path, writer: str, size_hw) -> None:
    if writer == "opencv" and size_hw[0] % 2:
        with ClassmapVideoSink(tmp_path / "x.mkv", 25) as sink, pytest.raises(SinkError, match=r"edgeseg\[av\]"):
            sink.write(result(0, size_hw))
        assert os.listdir(tmp_path) == []
        return
    results = [result(i, size_hw) for i in range(6)]
    for one in results:
        one.mask[:] = RNG.integers(0, 256, size_hw, np.uint8)
    with ClassmapVideoSink(tmp_path / "x.mkv", 25) as sink:
        for one in results:
            sink.write(one)
    frames = frames_of(tmp_path / "x.mkv")
    assert len(frames) == len(results)
    for one, frame in zip(results, frames):
        for channel in range(3):
            assert np.array_equal(frame[..., channel], one.mask)


def test_class_maps_of_another_size_keep_whole_ids(tmp_path: Path, writer: str) -> None:
    with ClassmapVideoSink(tmp_path / "x.mkv", 25) as sink:
        for i, size in enumerate([(48, 64), (20, 30)]):
            one = result(i, size)
            one.mask[:] = np.where(one.mask == 1, 200, 0)
            sink.write(one)
    assert all(set(frame.flat) == {0, 200} for frame in frames_of(tmp_path / "x.mkv"))


def test_a_lossy_container_is_refused_for_class_maps(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"use \.mkv"):
        ClassmapVideoSink(tmp_path / "x.mp4", 25)
