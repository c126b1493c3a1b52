"""Capture, segment and sink, each at its own pace: the way of a frame from a source to everything that wants it.

``source`` is read on one thread, ``segmenter`` runs on a second, and the caller's thread writes the sinks
(windows insist on it). Hand-overs are bounded. From a file every frame passes and the fastest waits; from a
live source the newest frame wins, and what it pushed out is counted.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Generic, TypeVar

from edgeseg.errors import EdgesegError, UsageError
from edgeseg.frame import Frame
from edgeseg.io.sinks import Sink
from edgeseg.io.sources import Source
from edgeseg.segmentation import Segmentation
from edgeseg.segmenter import Segmenter
from edgeseg.timing import StageTimes

T = TypeVar("T")

POLL_S = 0.1
"""No wait lasts longer without a look at whether everything should stop."""

ENGINE_GRACE_S, SOURCE_GRACE_S = 5.0, 1.0
"""How long the end of a run waits for an inference and for a source that are still at work."""


class Background(Generic[T]):
    """Runs an iterable on a thread of its own and hands its items over, in order.

    An error of the iterable is raised to the consumer after the items before it.

    Args:
        items: consumed on the thread.
        stop: ends both sides within ``POLL_S``.
        depth: items that may wait.
        newest_wins: a full hand-over drops its oldest item (counted in ``dropped``) instead of waiting.
    """

    def __init__(self, items: Iterable[T], stop: threading.Event, *, depth: int = 1, newest_wins: bool = False) -> None:
        self._items, self._stop, self._depth, self._newest_wins = items, stop, depth, newest_wins
        self._waiting: deque[T] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._error: BaseException | None = None
        self.dropped = 0
        self._thread = threading.Thread(target=self._produce, daemon=True)
        self._thread.start()

    def _produce(self) -> None:
        try:
            for item in self._items:
                if not self._put(item):
                    break
        except BaseException as error:  # raised again on the consumer's thread
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _put(self, item: T) -> bool:
        with self._changed:
            if self._newest_wins and len(self._waiting) >= self._depth:
                self._waiting.popleft()
                self.dropped += 1
            while len(self._waiting) >= self._depth and not self._stop.is_set():
                self._changed.wait(POLL_S)
            if self._stop.is_set():
                return False
            self._waiting.append(item)
            self._changed.notify_all()
            return True

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                while not self._waiting and not self._ended and not self._stop.is_set():
                    self._changed.wait(POLL_S)
                if self._stop.is_set():
                    return
                if not self._waiting:
                    break
                item = self._waiting.popleft()
                self._changed.notify_all()
            yield item
        if self._error is not None:
            raise self._error

    def join(self, timeout_s: float) -> None:
        """Wait for the thread after ``stop``; one that hangs in a driver is left behind after ``timeout_s``."""
        self._thread.join(timeout_s)


@dataclass
class Report:
    """What a run did.

    Attributes:
        frames: results delivered.
        dropped: frames of a live source that no result was made for.
        invalid: results without a valid mask (NaN or infinity in the logits).
        wall_s: seconds from the first frame's arrival to the last result's delivery.
        times: milliseconds by stage.
        error: what ended the run early, or None.
    """

    frames: int = 0
    dropped: int = 0
    invalid: int = 0
    wall_s: float = 0.0
    times: StageTimes = field(default_factory=StageTimes)
    error: EdgesegError | None = None

    @property
    def fps(self) -> float:
        """Results a second, end to end."""
        return self.frames / self.wall_s if self.wall_s > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The part of ``--stats`` that a run decides."""
        return {
            "frames": self.frames,
            "fps": round(self.fps, 3),
            "wall_s": round(self.wall_s, 4),
            "latency_ms": self.times.summary(),
            "dropped": self.dropped,
            "invalid": self.invalid,
            "error": None if self.error is None else str(self.error),
        }


def run(
    source: Source,
    segmenter: Segmenter,
    sinks: Sequence[Sink] = (),
    *,
    max_frames: int | None = None,
    stop: threading.Event | None = None,
    on_result: Callable[[Segmentation, Report], None] | None = None,
) -> Report:
    """Segment a source until it ends, and write every result to every sink.

    Args:
        source: closed at the end.
        segmenter: stays open.
        sinks: closed at the end, also after an error.
        max_frames: stop after this many results.
        stop: ends the run from outside within a tenth of a second, files finished; set once the run is over.
        on_result: called on this thread after the sinks, with the result and the report so far.

    Returns:
        The report. An error of the source or a sink that came after the first result is in ``report.error``.

    Raises:
        EdgesegError: nothing could be done at all.
    """
    if max_frames is not None and max_frames < 1:
        raise UsageError(f"{max_frames} frames are too few", "give max_frames=1 or more, or None")
    stop = stop or threading.Event()
    report = Report()
    started: list[float] = []

    def stamped(frames: Iterable[Frame]) -> Iterator[Frame]:
        for frame in frames:
            if not started:
                started.append(time.perf_counter() - (frame.capture_ms or 0.0) / 1000)
            yield frame

    captured = Background(source, stop, depth=1 if source.live else 2, newest_wins=source.live)
    results = Background(segmenter.stream(stamped(captured)), stop)

    def halt() -> None:
        stop.set()
        # An engine ends what it began; a camera without pictures may never return.
        results.join(ENGINE_GRACE_S)
        captured.join(SOURCE_GRACE_S)

    with contextlib.ExitStack() as ending:
        for sink in reversed(sinks):
            ending.callback(_close, sink, report)
        ending.callback(source.close)
        ending.callback(halt)
        try:
            for result in results:
                begin = time.perf_counter()
                for sink in sinks:
                    sink.write(result)
                now = time.perf_counter()
                report.times.add({**result.timing, "sink": 1000 * (now - begin)})
                report.frames += 1
                report.invalid += not result.valid
                report.wall_s = now - started[0]
                report.dropped = captured.dropped + source.dropped
                if on_result is not None:
                    on_result(result, report)
                if report.frames == max_frames:
                    break
        except EdgesegError as error:
            report.error = error
        # A live source can pass over frames after its last one was delivered.
        report.dropped = captured.dropped + source.dropped
    if report.error is not None and report.frames == 0:
        raise report.error
    return report


def _close(sink: Sink, report: Report) -> None:
    try:
        sink.close()
    except EdgesegError as error:
        report.error = report.error or error


@contextlib.contextmanager
def stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """Inside the block SIGINT and SIGTERM set ``stop`` instead of ending the process; a second one ends it.

    Outside the main thread, which alone may handle signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # Not stop.is_set(): a run that has ended by itself sets it too, and then still finishes its files.
    received: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        received.append(number)
        stop.set()
        if len(received) > 1:
            raise KeyboardInterrupt

    previous = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in previous.items():
            # None stands for a handler that was not set from Python.
            signal.signal(number, signal.SIG_DFL if old is None else old)
