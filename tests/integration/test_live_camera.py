"""A V4L2 camera without hardware: PipeWire serves one to whoever is started with pw-v4l2. It freezes and goes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

PROGRAMS = ("dbus-daemon", "pipewire", "wireplumber", "pw-v4l2", "gst-launch-1.0")
missing = [program for program in PROGRAMS if shutil.which(program) is None]
pytestmark = pytest.mark.skipif(
    bool(missing),
    reason=f"{', '.join(missing)} missing: apt install dbus pipewire pipewire-v4l2 wireplumber gstreamer1.0-pipewire "
    "gstreamer1.0-tools gstreamer1.0-plugins-base",
)
WAIT_S = 30.0
OLD_S = 0.6

WATCHER = """
import json, sys, time
from edgeseg.io.options import SourceOptions
from edgeseg.io.sources import open_source

def tell(**line):
    print(json.dumps(line), flush=True)

source = open_source(0, SourceOptions(wait_s=float("inf")))
source.on_state(lambda old, new, reason: tell(state=new.value, reason=reason))
while True:
    frame = source.next(0.1)
    if frame is not None:
        tell(age_s=time.monotonic() - frame.captured_at, size=frame.size_hw)
"""


class Desk:
    """PipeWire in a world of its own, with one camera that can be plugged in, frozen and pulled out."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self._stack, self._camera = stack, None
        self.environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder), "OMP_NUM_THREADS": "1"}
        bus = self.start("dbus-daemon", "--session", "--nofork", "--print-address", stdout=subprocess.PIPE)
        stack.callback(bus.stdout.close)
        self.environment["DBUS_SESSION_BUS_ADDRESS"] = bus.stdout.readline().strip()
        self.start("pipewire")
        deadline = time.monotonic() + WAIT_S
        while not (folder / "pipewire-0").exists():
            assert time.monotonic() < deadline, "PipeWire did not start"
            time.sleep(0.05)
        self.start("wireplumber")

    def start(self, *words: str, stdout: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
        process = subprocess.Popen(words, stdout=stdout, stderr=subprocess.DEVNULL, text=True, env=self.environment)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process

    def plug_in(self) -> None:
        self._camera = self.start(
            "gst-launch-1.0", "-q", "videotestsrc", "is-live=true", "!",
            "video/x-raw,format=YUY2,width=320,height=240,framerate=30/1", "!", "pipewiresink", "mode=provide",
            "stream-properties=props,media.class=Video/Source,node.name=camera",
        )  # fmt: skip

    def signal(self, number: int) -> None:
        self._camera.send_signal(number)


class Watcher:
    """A program that watches camera 0, and what it has told so far."""

    def __init__(self, desk: Desk) -> None:
        process = desk.start("pw-v4l2", sys.executable, "-c", WATCHER, stdout=subprocess.PIPE)
        self.lines: list[dict] = []
        threading.Thread(target=self._listen, args=(process,), daemon=True).start()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        with process.stdout:
            self.lines.extend(json.loads(line) for line in process.stdout)

    def wait_for(self, is_it: Callable[[dict], bool], count: int = 1) -> None:
        """Wait until so many such lines are told that are new since the call."""
        seen, deadline = len(self.lines), time.monotonic() + WAIT_S
        while sum(map(is_it, self.lines[seen:])) < count:
            assert time.monotonic() < deadline, self.lines[-5:]
            time.sleep(0.02)


def is_frame(line: dict) -> bool:
    return "age_s" in line


def is_state(*states: str) -> Callable[[dict], bool]:
    return lambda line: line.get("state") in states


def test_a_camera_that_freezes_goes_and_comes_back(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        desk = Desk(tmp_path, stack)
        desk.plug_in()
        watcher = Watcher(desk)
        watcher.wait_for(is_frame, 15)

        desk.signal(signal.SIGSTOP)
        watcher.wait_for(is_state("stalled"))
        desk.signal(signal.SIGCONT)
        watcher.wait_for(is_frame, 15)

        # Longer than the driver's time-out. GStreamer's sink does not survive that its reader leaves meanwhile.
        desk.signal(signal.SIGSTOP)
        watcher.wait_for(is_state("reconnecting"))
        desk.signal(signal.SIGKILL)
        before = len([line for line in watcher.lines if is_frame(line)])
        time.sleep(0.5)
        assert len([line for line in watcher.lines if is_frame(line)]) <= before + 1, "pictures without a camera"
        desk.plug_in()
        watcher.wait_for(is_frame, 15)

        frames = [line for line in watcher.lines if is_frame(line)]
        assert max(line["age_s"] for line in frames) < OLD_S
        assert {tuple(line["size"]) for line in frames} == {(240, 320)}
