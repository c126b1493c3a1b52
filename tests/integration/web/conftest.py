"""A run for the web page to show, without an engine: a source whose state the test sets, and drawn results."""

from __future__ import annotations

import contextlib
import threading
import time
from urllib.parse import urlsplit

import numpy as np
import pytest

from edgeseg.frame import Frame, State
from edgeseg.io.base import Source
from edgeseg.report import Report
from edgeseg.segmentation import Segmentation
from edgeseg.web import WebSink
from edgeseg.web.address import Address

pytest.importorskip("starlette", reason="needs the extra 'serve'")
pytest.importorskip("uvicorn", reason="needs the extra 'serve'")

SIZE_HW = (90, 160)
TOKEN = "a-token-of-16-ch"


class Camera(Source):
    """Gives no frames: its state and counts are what the test says."""

    live = True

    def __init__(self) -> None:
        super().__init__("rtsp://camera/1")

    def _read(self) -> None:
        return None

    def enter(self, state: State, reason: str = "") -> None:
        self._enter(state, reason)


class Run:
    """A web page and what it shows: grey frames that grow brighter, three classes beside each other."""

    classes = ("road", "sky", "car")
    palette = ((200, 40, 40), (60, 200, 60), (40, 90, 220))

    def __init__(self, token=None) -> None:
        self.sink = WebSink(Address("127.0.0.1", 0), token)
        self.camera, self.report = Camera(), Report()
        self.sink.attach(self.camera, self.report)
        self.port = urlsplit(self.sink.url).port
        self._index = 0

    def give(self, image=None, valid=True) -> Segmentation:
        """One more result."""
        image = np.full((*SIZE_HW, 3), 60 + self._index % 100, np.uint8) if image is None else image
        height, width = image.shape[:2]
        mask = np.broadcast_to((np.arange(width) * 3 // width).astype(np.uint8), (height, width)).copy()
        frame = Frame(image, self._index, time.monotonic() - 0.02)
        result = Segmentation(mask, self.classes, self.palette, frame, {"end_to_end": 15.0}, valid)
        self._index += 1
        self.report.record(result)
        self.sink.write(result)
        return result

    @contextlib.contextmanager
    def giving(self, rate_hz=20.0):
        """Results all the time, from a thread as in a run."""
        stop = threading.Event()

        def give():
            while not stop.wait(1 / rate_hz):
                self.give()

        thread = threading.Thread(target=give)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


@pytest.fixture
def run():
    """A page without a token."""
    run = Run()
    yield run
    run.sink.close()


@pytest.fixture
def locked():
    """A page that asks for ``TOKEN``."""
    run = Run(TOKEN)
    yield run
    run.sink.close()
