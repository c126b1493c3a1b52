from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edgeseg.errors import SinkError, SourceError
from edgeseg.frame import Frame, State
from edgeseg.io import recording
from edgeseg.io.base import Source
from edgeseg.io.recording import EVENTS, Recorder, ReplaySource
from edgeseg.io.sources import FrameList, open_source

STREET = "synthetic://street?size=48x32&rate=50&frames=20&live=1"


def watch(source: Source, busy_s: float = 0.0) -> list[tuple[float, float, Frame]]:
    """When each frame came, how old it was, and the frame."""
    seen = []
    with source:
        while (frame := source.read()) is not None:
            now = time.monotonic()
            seen.append((now, now - frame.captured_at, frame))
            time.sleep(busy_s)
    return seen


def record(folder: Path, uri: str = STREET, busy_s: float = 0.0) -> list[tuple[float, float, Frame]]:
    source = open_source(uri)
    source.attach(Recorder(folder, source.name, source.rate_hz))
    return watch(source, busy_s)


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / EVENTS).read_text(encoding="utf-8").splitlines()]


def test_a_replay_has_the_same_frames_drops_and_ages(tmp_path: Path, bounded) -> None:
    original = bounded(lambda: record(tmp_path / "r", busy_s=0.05))
    replay = open_source(f"replay://{tmp_path / 'r'}")
    assert isinstance(replay, ReplaySource)
    assert (replay.live, replay.rate_hz, replay.state) == (True, 50.0, State.CONNECTING)
    again = bounded(lambda: watch(replay))
    indices = [frame.index for _, _, frame in original]
    assert indices != list(range(len(indices))), "nothing was dropped: this proves nothing"
    assert [frame.index for _, _, frame in again] == indices
    for (came, age_s, frame), (came_again, age_again_s, frame_again) in zip(original, again):
        assert age_again_s == pytest.approx(age_s, abs=0.05)
        assert came_again - again[0][0] == pytest.approx(came - original[0][0], abs=0.15)
        assert frame_again.pts_s == frame.pts_s
        assert np.abs(frame_again.image.astype(int) - frame.image).mean() < 6, "a JPEG of the same picture"
    counts = [line["counts"] for line in lines_of(tmp_path / "r") if "counts" in line][-1]
    assert lines_of(tmp_path / "r")[-1]["state"] == "ended"
    assert (replay.counts.captured, replay.counts.dropped) == (counts["captured"], counts["dropped"])
    assert counts["dropped"] > 0
    assert replay.state is State.ENDED


class Troubled(Source):
    """Two frames with a stall between them."""

    def _read(self) -> Frame | None:
        index = self.counts.captured
        if index == 1:
            self._enter(State.STALLED, "no new frame for 0.25 s")
            time.sleep(0.05)
            self._enter(State.LIVE)
        return Frame(np.zeros((4, 4, 3), np.uint8), index, time.monotonic()) if index < 2 else None


def test_states_come_again_with_their_reasons(tmp_path: Path, bounded) -> None:
    source = Troubled("camera 0")
    source.attach(Recorder(tmp_path / "r", source.name))
    watch(source)
    replay, told = ReplaySource(tmp_path / "r"), []
    replay.on_state(lambda old, new, reason: told.append((new, reason)))
    bounded(lambda: watch(replay))
    assert told == [
        (State.LIVE, ""), (State.STALLED, "no new frame for 0.25 s"), (State.LIVE, ""), (State.ENDED, ""),
    ]  # fmt: skip


def test_waiting_for_a_replayed_frame_is_bounded(tmp_path: Path) -> None:
    source = FrameList([np.zeros((16, 16, 3), np.uint8)] * 2)
    source.attach(Recorder(tmp_path / "r", source.name))
    source.read()
    time.sleep(0.5)
    watch(source)
    with ReplaySource(tmp_path / "r") as replay:
        assert replay.next(1.0).index == 0
        start = time.monotonic()
        assert replay.next(0.05) is None
        assert time.monotonic() - start < 0.4
        assert replay.state is State.LIVE
        assert replay.next(5.0).index == 1


def test_recording_never_holds_the_source_up(tmp_path: Path, monkeypatch) -> None:
    import cv2

    encode = cv2.imencode

    def slow(*arguments):
        time.sleep(0.1)
        return encode(*arguments)

    monkeypatch.setattr(cv2, "imencode", slow)
    recorder = Recorder(tmp_path / "r", "x")
    source = FrameList([np.zeros((16, 16, 3), np.uint8)] * 30)
    source.attach(recorder)
    start = time.monotonic()
    for _ in range(30):
        source.read()
    assert time.monotonic() - start < 1, "thirty pictures take three seconds to encode"
    source.close()
    lines = lines_of(tmp_path / "r")
    frames = [line for line in lines if "index" in line]
    assert len(frames) == 30, "a frame without a picture keeps its line"
    assert recorder.lost > 0
    assert sum("file" in line for line in frames) == recorder.written == 30 - recorder.lost


def test_a_recording_that_is_killed_is_readable_to_there(tmp_path: Path, bounded) -> None:
    code = (
        "import sys\nfrom edgeseg.io.sources import open_source\nfrom edgeseg.io.recording import Recorder\n"
        "source = open_source('synthetic://street?size=320x240&rate=100&live=1')\n"
        "source.attach(Recorder(sys.argv[1], source.name, source.rate_hz))\n"
        "for frame in source:\n    print(frame.index, flush=True)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "r")], stdout=subprocess.PIPE, text=True)
    shown = [run.stdout.readline() for _ in range(12)]
    run.send_signal(signal.SIGKILL)
    run.communicate(timeout=10)
    with open(tmp_path / "r" / EVENTS, "a", encoding="utf-8") as events:
        events.write('{"at_s": 1.2, "ag')  # what a power cut leaves of a line
    seen = bounded(lambda: watch(ReplaySource(tmp_path / "r")))
    assert len(seen) >= len(shown) - recording._WAITING
    assert all(frame.size_hw == (240, 320) for _, _, frame in seen)


def test_a_full_disk_ends_the_recording_alone(tmp_path: Path, monkeypatch, caplog, bounded) -> None:
    source = FrameList([np.zeros((16, 16, 3), np.uint8)] * 20)
    recorder = Recorder(tmp_path / "r", source.name)
    source.attach(recorder)
    source.read()
    deadline = time.monotonic() + 5
    while recorder.written == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    monkeypatch.setattr(recording, "FREE_SPACE_FLOOR_BYTES", 1 << 62)
    assert len(bounded(lambda: watch(source))) == 19
    assert "recording to" in caplog.text
    assert "nearly full" in caplog.text
    assert len(bounded(lambda: watch(ReplaySource(tmp_path / "r")))) == recorder.written == 1


def test_only_an_empty_folder_is_recorded_to(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for folder in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(SinkError) as caught:
            Recorder(folder, "x")
        assert caught.value.exit_code == 2
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("content", [None, "", "hello", '{"some": "json"}\n', '{"edgeseg_recording": 1}\nbroken\n{}\n'])
def test_what_is_no_recording(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / EVENTS).write_text(content)
    with pytest.raises(SourceError, match=r"no recording|damaged") as caught:
        open_source(f"replay://{tmp_path}")
    assert caught.value.exit_code == 2


def test_a_picture_that_is_missing_is_named(tmp_path: Path, bounded) -> None:
    source = FrameList([np.zeros((16, 16, 3), np.uint8)] * 3)
    source.attach(Recorder(tmp_path / "r", source.name))
    watch(source)
    os.remove(tmp_path / "r" / "000001.jpg")
    replay = ReplaySource(tmp_path / "r")
    assert replay.read().index == 0
    with pytest.raises(SourceError, match=r"000001\.jpg"):
        replay.read()
    assert replay.state is State.FAILED
