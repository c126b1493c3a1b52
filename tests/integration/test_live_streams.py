"""Live sources against real servers on loopback that are killed, frozen, restarted and locked.

The servers' pictures carry the time at which they were made, so that "fresh" is measured, not believed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import streams
from streams import WAIT_S, Camera, true_age_s

import edgeseg
from edgeseg.errors import SourceError
from edgeseg.frame import State
from edgeseg.io.base import Source
from edgeseg.io.options import SourceOptions
from edgeseg.io.sources import open_source

OLD_S = 0.6
"""Above the greatest age, 0.25 s, by what a crowded machine may add; unguarded readers are 1 to 20 s behind."""
BACK_S = 2.0
"""From a server's return to its next frame."""

has_av = importlib.util.find_spec("av") is not None
rtsp = pytest.mark.skipif(
    streams.python_with_rtsp() is None,
    reason="no RTSP server: apt install python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-{good,ugly}",
)
needs_av = pytest.mark.skipif(not has_av, reason="needs the extra 'av'")
readers = pytest.mark.parametrize("reader", ["opencv", pytest.param("av", marks=needs_av)])


def ages(source: Source, seconds: float, busy_s: float = 0.03) -> list[float]:
    """True ages of the frames handed out in that time, to a consumer that needs ``busy_s`` for each."""
    seen = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        frame = source.next(0.1)
        if frame is not None:
            seen.append(true_age_s(frame.image))
            time.sleep(busy_s)
    return seen


def wait_for(source: Source, state: State) -> float:
    start = time.monotonic()
    while source.state is not state:
        assert time.monotonic() - start < WAIT_S, f"{source.state}: {source.reason}"
        source.next(0.05)
    return time.monotonic() - start


def first_frame(source: Source, since: float = 0.0):
    """The first frame that arrived after ``since``: one from before a loss may be young enough to be handed out yet."""
    deadline = time.monotonic() + WAIT_S
    while (frame := source.next(0.1)) is None or frame.captured_at < since:
        assert time.monotonic() < deadline, f"{source.state}: {source.reason}"
    return frame


def open_camera(camera: Camera, path: str, options: SourceOptions) -> Source:
    return open_source(path.format(port=camera.port), options)


# --- RTSP ------------------------------------------------------------------------------------------------------


@rtsp
@readers
def test_rtsp_killed_and_back_with_another_size(reader: str) -> None:
    with streams.rtsp_camera() as camera:
        with open_camera(camera, "rtsp://127.0.0.1:{port}/clock", SourceOptions(reader=reader)) as source:
            assert max(ages(source, 1)) < OLD_S, "also the first frames, which the server sends since its key frame"
            camera.kill()
            assert wait_for(source, State.RECONNECTING) < 1
            larger = streams.rtsp_camera((360, 480))
            larger.port = camera.port
            with larger:
                returned = time.monotonic()
                frame = first_frame(source, returned)
                assert time.monotonic() - returned < BACK_S
                assert frame.size_hw == (360, 480)
                seen = ages(source, 1)
        assert len(seen) > 10
        assert max(seen) < OLD_S
        assert source.counts.reconnects == 1


@rtsp
@readers
def test_rtsp_frozen_without_closing(reader: str) -> None:
    with streams.rtsp_camera() as camera:
        with open_camera(camera, "rtsp://127.0.0.1:{port}/clock", SourceOptions(reader=reader)) as source:
            ages(source, 0.7)
            camera.freeze()
            frozen = time.monotonic()
            assert max(ages(source, 2), default=0) < OLD_S
            assert source.state is State.RECONNECTING
            camera.thaw()
            seen = [true_age_s(first_frame(source).image), *ages(source, 1)]
        assert max(seen) < OLD_S, "what lay in buffers meanwhile was handed out"
        assert source.counts.stale > 0
        assert time.monotonic() - frozen < WAIT_S


@rtsp
@readers
def test_rtsp_that_refuses_the_credentials(reader: str, capfd, caplog) -> None:
    with streams.rtsp_camera((240, 320), "robot", "s3cret") as camera:
        for wrong in ("robot:s3crat@", ""):
            start = time.monotonic()
            with pytest.raises(SourceError, match="refuses the credentials \\(401\\)") as caught:
                open_camera(camera, f"rtsp://{wrong}127.0.0.1:{{port}}/clock", SourceOptions(reader=reader, wait_s=0))
            assert time.monotonic() - start < 5
            assert caught.value.exit_code == 2
            assert "s3cr" not in str(caught.value)
        right = "rtsp://robot:s3cret@127.0.0.1:{port}/clock"
        with open_camera(camera, right, SourceOptions(reader=reader)) as source:
            first_frame(source)
            assert "s3cret" not in source.name
    shown = capfd.readouterr()
    assert "s3cr" not in shown.out + shown.err + caplog.text


@rtsp
@readers
def test_rtsp_with_a_path_nobody_knows(reader: str) -> None:
    with streams.rtsp_camera() as camera, pytest.raises(SourceError, match="no such path \\(404\\)"):
        open_camera(camera, "rtsp://127.0.0.1:{port}/clack", SourceOptions(reader=reader))


@rtsp
def test_of_two_cameras_one_dies() -> None:
    with streams.rtsp_camera() as living, streams.rtsp_camera() as dying:
        path = "rtsp://127.0.0.1:{port}/clock"
        with open_camera(living, path, SourceOptions()) as one, open_camera(dying, path, SourceOptions()) as two:
            assert ages(one, 0.3)
            assert ages(two, 0.3)
            dying.kill()
            wait_for(two, State.RECONNECTING)
            before = one.counts.captured
            assert max(ages(one, 1.5)) < OLD_S
            assert one.counts.captured - before > 25
            assert (one.state, one.counts.reconnects) == (State.LIVE, 0)
            assert two.next(0.01) is None


def slow_consumer(reader: str, seconds: float) -> None:
    with streams.rtsp_camera() as camera:
        with open_camera(camera, "rtsp://127.0.0.1:{port}/clock", SourceOptions(reader=reader)) as source:
            seen = ages(source, seconds, busy_s=5 / 30)
        counts = source.counts
    assert max(seen) < OLD_S
    assert max(seen[-5:]) < max(seen[:5]) + 0.2, "the lag grows"
    assert counts.captured > 20 * seconds
    assert counts.captured - len(seen) - counts.dropped - counts.stale - counts.corrupt in (0, 1)


@rtsp
@readers
def test_a_consumer_five_times_slower_than_its_camera(reader: str) -> None:
    slow_consumer(reader, 4)


@rtsp
@pytest.mark.slow
def test_a_consumer_five_times_slower_than_its_camera_for_a_minute() -> None:
    slow_consumer("auto", 60)


# --- HTTP ------------------------------------------------------------------------------------------------------


@readers
def test_mjpeg_killed_frozen_and_back(reader: str) -> None:
    with contextlib.ExitStack() as stack:
        camera = stack.enter_context(streams.mjpeg_camera())
        options = SourceOptions(reader=reader)
        source = stack.enter_context(open_camera(camera, "http://127.0.0.1:{port}/clock", options))
        assert max(ages(source, 0.7)) < OLD_S
        camera.freeze()
        assert max(ages(source, 0.6), default=0) < OLD_S
        assert source.state is State.STALLED
        camera.thaw()
        assert max(true_age_s(first_frame(source).image), *ages(source, 0.5)) < OLD_S
        camera.kill()
        wait_for(source, State.RECONNECTING)
        camera.start()
        returned = time.monotonic()
        frame = first_frame(source)
        assert time.monotonic() - returned < BACK_S
        assert max(true_age_s(frame.image), *ages(source, 0.5)) < OLD_S


@readers
def test_mjpeg_behind_a_password(reader: str) -> None:
    with streams.mjpeg_camera() as camera:
        with pytest.raises(SourceError, match="credentials \\(401\\)"):
            open_camera(camera, "http://robot:wrong@127.0.0.1:{port}/guarded", SourceOptions(reader=reader))
        with pytest.raises(SourceError, match="no such path \\(404\\)"):
            open_camera(camera, "http://127.0.0.1:{port}/none", SourceOptions(reader=reader))
        with open_camera(camera, "http://robot:s3cret@127.0.0.1:{port}/guarded", SourceOptions(reader=reader)) as one:
            assert "s3cret" not in one.name
            first_frame(one)


# --- MPEG-TS ---------------------------------------------------------------------------------------------------


@needs_av
@readers
@pytest.mark.parametrize(("scheme", "query"), [("tcp", "?listen=1"), ("udp", "?pkt_size=1316")])
def test_transport_streams(reader: str, scheme: str, query: str) -> None:
    with streams.ts_sender(scheme, query) as sender:
        options = SourceOptions(reader=reader, wait_s=10, open_timeout_s=3)
        with open_camera(sender, f"{scheme}://127.0.0.1:{{port}}", options) as source:
            first_frame(source)
            assert max(ages(source, 1)) < OLD_S
            sender.freeze()
            assert max(ages(source, 1.5), default=0) < OLD_S
            sender.thaw()
            assert true_age_s(first_frame(source).image) < OLD_S


# --- GStreamer -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(
    streams.python_with_gstreamer() is None, reason="no OpenCV with GStreamer: apt install python3-opencv"
)
def test_a_gstreamer_pipeline_that_ends_is_run_again() -> None:
    code = (
        "import time\nfrom edgeseg.io.sources import open_source\n"
        "pipeline = 'videotestsrc is-live=true num-buffers=15 ! video/x-raw,width=64,height=48,framerate=30/1'\n"
        "with open_source(pipeline) as source:\n"
        "    end, frame = time.monotonic() + 20, None\n"
        "    while source.counts.reconnects < 2 and time.monotonic() < end:\n"
        "        frame = source.next(0.1) or frame\n"
        "    print(frame.size_hw, source.counts.captured > 20, source.counts.reconnects)\n"
    )
    root = str(Path(edgeseg.__file__).parents[1])
    words = [str(streams.python_with_gstreamer()), "-c", code]
    run = subprocess.run(words, env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True, timeout=60)
    assert run.stdout.strip() == "(48, 64) True 2", run.stdout + run.stderr


# --- nobody there ----------------------------------------------------------------------------------------------


@readers
@pytest.mark.parametrize("scheme", ["rtsp", "http", "tcp"])
def test_nobody_listens(reader: str, scheme: str) -> None:
    start = time.monotonic()
    with pytest.raises(SourceError, match="connection refused at 127\\.0\\.0\\.1"):
        open_source(f"{scheme}://127.0.0.1:{streams.free_port()}/x", SourceOptions(reader=reader))
    assert time.monotonic() - start < 3


@readers
@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_host_that_accepts_and_says_nothing(reader: str, scheme: str) -> None:
    with streams.silent_host() as port:
        start = time.monotonic()
        with pytest.raises(SourceError, match="sends nothing"):
            open_source(f"{scheme}://127.0.0.1:{port}/x", SourceOptions(reader=reader, open_timeout_s=0.7))
        assert time.monotonic() - start < 4


def test_a_camera_that_is_switched_on_later() -> None:
    camera = streams.mjpeg_camera()
    camera.port = streams.free_port()
    options = SourceOptions(wait_s=float("inf"))
    with open_camera(camera, "http://127.0.0.1:{port}/clock", options) as source:
        assert source.next(0.5) is None
        assert source.state is State.CONNECTING
        with camera:
            started = time.monotonic()
            first_frame(source)
            assert time.monotonic() - started < BACK_S + 0.5


def test_closing_in_every_state_is_quick() -> None:
    with streams.silent_host() as port:
        source = open_source(f"rtsp://127.0.0.1:{port}/x", SourceOptions(wait_s=60))
        reading = threading.Thread(target=source.read)
        reading.start()
        time.sleep(0.3)
        start = time.monotonic()
        source.close()
        reading.join(2)
        assert not reading.is_alive()
        assert time.monotonic() - start < 2


def test_both_readers_show_the_same_picture() -> None:
    if not has_av:
        pytest.skip("needs the extra 'av'")
    with streams.mjpeg_camera() as camera:
        pictures = []
        for reader in ("opencv", "av"):
            with open_camera(camera, "http://127.0.0.1:{port}/clock", SourceOptions(reader=reader)) as source:
                pictures.append(first_frame(source).image[2 * streams.BLOCK :].astype(int))
        assert np.abs(pictures[0] - pictures[1]).max() <= 2
