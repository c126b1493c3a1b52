"""Faults of a whole run, each really caused: signals, a silent camera, a supervisor, ten thousand frames."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

WAIT_S = 60.0
END_S = 4.0
"""Two seconds are promised; the rest is for a machine that tests share."""

LIVE = "synthetic://street?size=64x48&rate=30&live=1"


@pytest.fixture
def process(tiny_model: Path, tiny_backend: str) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """``python -m edgeseg run`` with the tiny model, started and not waited for."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: object, file_limit: int | None = None, **environment: str) -> subprocess.Popen[str]:
        def limited() -> None:
            if file_limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))

        hidden = {"DISPLAY", "WAYLAND_DISPLAY", "NOTIFY_SOCKET", "WATCHDOG_USEC"}
        kept = {name: value for name, value in os.environ.items() if name not in hidden}
        command = [sys.executable, "-m", "edgeseg", "run", "--headless", "--model", str(tiny_model)]
        command += ["--backend", tiny_backend, *map(str, words)]
        started.append(
            subprocess.Popen(
                command,
                text=True,
                env={**kept, **environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                preexec_fn=limited,
            )
        )
        return started[-1]

    yield start
    for one in started:
        if one.poll() is None:
            one.kill()
        one.communicate()


def until(condition: Callable[[], object], timeout_s: float = WAIT_S) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def ended_by(started: subprocess.Popen[str], number: int) -> tuple[int, float, str]:
    """The exit code, the seconds it took, and what was said."""
    begin = time.monotonic()
    started.send_signal(number)
    _, err = started.communicate(timeout=WAIT_S)
    return started.returncode, time.monotonic() - begin, err


# --- signals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_model_loads(tmp_path: Path, process, number: int) -> None:
    card = tmp_path / "card.json"
    os.mkfifo(card)  # reading it takes for ever, as some engines do
    started = process("--source", LIVE, "--card", card, "--save", tmp_path / "x.mkv")
    opened: list[int] = []

    def is_read() -> bool:
        try:
            opened.append(os.open(card, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:  # nobody reads yet
            return False
        return True

    until(is_read)
    code, seconds, err = ended_by(started, number)
    os.close(opened[0])
    assert (code, err) == (0, "")
    assert seconds < END_S
    assert os.listdir(tmp_path) == ["card.json"]


@pytest.mark.parametrize("after_s", [0.0, 0.02, 0.1, 0.37, 0.8])
@pytest.mark.parametrize("suffix", [".mkv", ".avi"])
def test_a_signal_at_any_moment_finishes_the_files(tmp_path: Path, process, suffix: str, after_s: float) -> None:
    import cv2

    video, lines = tmp_path / f"x{suffix}", tmp_path / "x.jsonl"
    started = process("--source", LIVE, "--save", video, "--save-jsonl", lines, "--stats", tmp_path / "s.json")
    until(lines.exists)
    time.sleep(after_s)
    code, seconds, err = ended_by(started, signal.SIGTERM)
    assert (code, err) == (0, "")
    assert seconds < END_S
    stats = json.loads((tmp_path / "s.json").read_text())
    written = [json.loads(line) for line in lines.read_text().splitlines()]
    assert len(written) == stats["sinks"]["lines"]["written"] >= 1
    assert stats["sinks"]["video"]["written"] + stats["sinks"]["video"]["dropped"] == stats["frames"]
    if stats["sinks"]["video"]["written"]:
        assert cv2.VideoCapture(str(video)).read()[0]


# --- a disk that is full ---------------------------------------------------------------------------------------


def test_a_live_run_goes_on_when_its_recording_cannot(tmp_path: Path, process) -> None:
    environment = {"PYTHONDONTWRITEBYTECODE": "1"}  # files that may not grow include those of Python
    words = ("--source", LIVE, "--save-jsonl", tmp_path / "x.jsonl", "--max-frames", 60, "--stats", tmp_path / "s.json")
    started = process(*words, file_limit=8_000, **environment)
    _, err = started.communicate(timeout=WAIT_S)
    assert started.returncode == 1
    warning, error = err.splitlines()
    assert warning.startswith("warning: ")
    assert warning.endswith("; segmentation goes on")
    assert error.startswith("error: ")
    assert "x.jsonl (File too large)" in error
    stats = json.loads((tmp_path / "s.json").read_text())
    assert (stats["frames"], stats["sinks"]["lines"]["error"]) == (60, stats["error"])
    assert 0 < stats["sinks"]["lines"]["written"] < 60
    assert stats["sinks"]["lines"]["dropped"] == 60 - stats["sinks"]["lines"]["written"]


# --- a camera that falls silent --------------------------------------------------------------------------------


@pytest.fixture
def silent_camera() -> Iterator[str]:
    """The address of an MJPEG camera that sends a second of pictures on its first connection, and then nothing."""
    import cv2

    jpeg = cv2.imencode(".jpg", np.zeros((48, 64, 3), np.uint8))[1].tobytes()
    part = b"--x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(jpeg), jpeg)
    server = socket.create_server(("127.0.0.1", 0))
    connections: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            connections.append(connection)
            threading.Thread(target=feed, args=(connection, len(connections) == 1), daemon=True).start()

    def feed(connection: socket.socket, first: bool) -> None:
        try:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=x\r\n\r\n")
            for _ in range(100 if first else 3):
                connection.sendall(part)
                time.sleep(0.03)
        except OSError:
            pass

    threading.Thread(target=serve, daemon=True).start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}/video.mjpg"
    server.close()
    for connection in connections:
        connection.close()


def test_the_watchdog_ends_a_run_whose_camera_is_silent(tmp_path: Path, process, silent_camera: str) -> None:
    words = ("--source", silent_camera, "--watchdog-s", 2.5, "--stats", tmp_path / "s.json")
    started = process(*words, "--save-jsonl", tmp_path / "x.jsonl")
    _, err = started.communicate(timeout=WAIT_S)
    assert started.returncode == 4, err
    assert "No result for 2.5 s: waiting for the source" in err
    stats = json.loads((tmp_path / "s.json").read_text())
    assert stats["frames"] == len((tmp_path / "x.jsonl").read_text().splitlines()) > 0
    assert set(stats["states_s"]) & {"stalled", "reconnecting"}


HUNG = """
import sys, time
from edgeseg import cli
from edgeseg.backends.onnxruntime import OnnxRuntimeBackend
infer, calls = OnnxRuntimeBackend.infer, []

def hanging(self, feed):
    calls.append(1)
    if len(calls) > int(sys.argv[1]):
        time.sleep(3600)
    return infer(self, feed)

OnnxRuntimeBackend.infer = hanging
sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.mark.parametrize("source", [LIVE, "synthetic://street?size=64x48&frames=300"], ids=["live", "file"])
@pytest.mark.parametrize("good", [0, 5])
def test_the_watchdog_ends_a_run_whose_engine_hangs(
    tmp_path: Path, tiny_model: Path, tiny_backend: str, source: str, good: int
) -> None:
    if tiny_backend != "onnxruntime":
        pytest.skip("hangs ONNX Runtime, which is not installed")
    words = ["run", "--headless", "--model", tiny_model, "--backend", "onnxruntime", "--source", source]
    words += ["--threads", 2, "--watchdog-s", 1, "--save-jsonl", tmp_path / "x.jsonl"]
    command = [sys.executable, "-c", HUNG, str(good), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == 4, done.stderr
    assert "No result for 1 s: waiting for the engine" in done.stderr
    lines = (tmp_path / "x.jsonl").read_text().splitlines() if good else []
    assert len(lines) == good


# --- systemd ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told(tmp_path: Path, process, abstract: bool) -> None:
    address = f"@edgeseg-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{address[1:]}" if abstract else address)
        listener.settimeout(WAIT_S)
        started = process("--source", LIVE, NOTIFY_SOCKET=address, WATCHDOG_USEC="200000")
        assert listener.recv(4096) == b"READY=1"
        times = []
        for _ in range(4):
            first, _, second = listener.recv(4096).decode().partition("\n")
            assert first == "WATCHDOG=1"
            assert second.startswith("STATUS=live, ")
            times.append(time.monotonic())
        assert times[-1] - times[0] < 3, "at least twice in the time that systemd waits"
        code, _, err = ended_by(started, signal.SIGTERM)
        assert (code, err) == (0, "")
        messages = []
        listener.settimeout(0.2)
        while b"STOPPING=1" not in messages:
            messages.append(listener.recv(4096))


# --- ten thousand frames ---------------------------------------------------------------------------------------

SOAK = """
import threading
import time
import numpy as np
from edgeseg.backends.fake import FakeBackend
from edgeseg.card import ModelCard
from edgeseg.io.sinks import JsonLinesSink
from edgeseg.io.sources import FrameList
from edgeseg.pipeline import run
from edgeseg.segmenter import Segmenter
import sys

def resident_mib():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20

class Endless(FrameList):
    live = sys.argv[2] == "live"
    def _read(self):
        self._next = 0
        if self.live:
            time.sleep(0.0005)  # else it would do nothing but replace its own frames
        return super()._read()

card = ModelCard(classes=("a", "b"), palette=((0, 0, 0), (9, 9, 9)), input_size_hw=(32, 48), name="tiny")
segmenter = Segmenter(FakeBackend(card), card)
marks = {}

def on_result(result, report):
    if report.frames >= 2000 and 2000 not in marks:
        marks[2000] = resident_mib()

source = Endless([np.zeros((64, 96, 3), np.uint8)])
report = run(source, segmenter, [JsonLinesSink(sys.argv[1])], max_frames=12000, on_result=on_result)
print(report.frames, resident_mib() - marks[2000], threading.active_count())
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "live"])
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read as Linux tells it")
def test_ten_thousand_frames_take_no_more_memory(tmp_path: Path, kind: str) -> None:
    command = [sys.executable, "-c", SOAK, str(tmp_path / "x.jsonl"), kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    frames, grown_mib, threads = done.stdout.split()
    assert int(frames) == 12_000
    assert float(grown_mib) < 5
    assert int(threads) == 1
