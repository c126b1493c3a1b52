"""Cameras of the network for the tests of live sources, each a process of its own that can be killed and frozen.

Their pictures carry the time at which they were made, so that the true age of what arrives can be told.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent
BLOCK, COLUMNS = 16, 16
WAIT_S = 15.0


def picture_of(moment_s: float, size_hw: tuple[int, int] = (240, 320)) -> np.ndarray:
    """A picture, uint8 [H, W, 3], with a time of the monotonic clock in two rows of sixteen squares."""
    milliseconds = int(moment_s * 1000) & 0xFFFFFFFF
    bits = [milliseconds >> (31 - i) & 1 for i in range(32)]
    squares = np.array(bits, np.uint8).reshape(2, COLUMNS) * np.uint8(200) + np.uint8(28)
    picture = np.full((*size_hw, 3), 128, np.uint8)
    picture[: 2 * BLOCK, : COLUMNS * BLOCK] = squares.repeat(BLOCK, 0).repeat(BLOCK, 1)[..., None]
    return picture


def true_age_s(image: np.ndarray) -> float:
    """How long ago the picture was made."""
    centres = image[BLOCK // 2 : 2 * BLOCK : BLOCK, BLOCK // 2 : COLUMNS * BLOCK : BLOCK].mean(2) > 128
    milliseconds = int("".join("1" if bit else "0" for bit in centres.flat), 2)
    return ((int(time.monotonic() * 1000) - milliseconds) & 0xFFFFFFFF) / 1000


def python_with_rtsp() -> str | None:
    """A Python that can run GStreamer's RTSP server, or None."""
    return _python_that_runs(
        "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import Gst; Gst.init(None); "
        "assert Gst.ElementFactory.find('x264enc') and Gst.ElementFactory.find('rtph264pay')"
    )


def python_with_gstreamer() -> str | None:
    """A Python whose OpenCV runs GStreamer pipelines, or None."""
    return _python_that_runs("import cv2; assert cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER)")


@functools.lru_cache
def _python_that_runs(code: str) -> str | None:
    for python in (sys.executable, "/usr/bin/python3"):
        with contextlib.suppress(OSError):
            if subprocess.run([python, "-c", code], capture_output=True, timeout=60).returncode == 0:
                return python
    return None


@dataclass
class Camera:
    """A server in a process of its own.

    Attributes:
        words: the command that starts it, with ``{port}`` where its port stands.
        port: of loopback; 0 lets the system choose, and a restart uses the same again.
    """

    words: list[str]
    port: int = 0
    _process: subprocess.Popen[str] | None = field(default=None, repr=False)

    def start(self) -> Camera:
        words = [word.format(port=self.port) for word in self.words]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                                         env=environment)  # fmt: skip
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, f"{words} did not start"
        self.port = int(line) if line.isdigit() else self.port
        return self

    def freeze(self) -> None:
        """It stops without closing anything, as when its power is cut."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate(timeout=WAIT_S)
            self._process = None

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def __enter__(self) -> Camera:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()


def rtsp_camera(size_hw: tuple[int, int] = (240, 320), *credentials: str) -> Camera:
    height, width = size_hw
    script = str(FOLDER / "serve_rtsp.py")
    return Camera([str(python_with_rtsp()), script, "{port}", str(width), str(height), *credentials])


def mjpeg_camera() -> Camera:
    return Camera([sys.executable, str(FOLDER / "serve_mjpeg.py"), "{port}"])


def ts_sender(scheme: str, query: str = "") -> Camera:
    return Camera([sys.executable, str(FOLDER / "send_ts.py"), f"{scheme}://127.0.0.1:{{port}}{query}"], free_port())


def free_port() -> int:
    """A port of loopback on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def silent_host() -> Iterator[int]:
    """The port of a host that accepts connections and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(16)
        yield int(listening.getsockname()[1])
