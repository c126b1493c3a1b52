"""Capture, segment and sink, each at its own pace: the way of a frame from a source to everything that wants it.

The source is read on one thread, the network runs on a second, every sink has one of its own; windows, which insist
on it, are served by the caller's. Hand-overs are bounded. From a file every frame passes and the fastest waits.
From a live source the newest frame wins and a slow sink misses results; both are counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from edgeseg.errors import EdgesegError, UsageError
from edgeseg.frame import Frame
from edgeseg.handover import HandOver, join
from edgeseg.io.base import Source
from edgeseg.io.options import SourceOptions
from edgeseg.io.sinks import Sink
from edgeseg.report import Report
from edgeseg.segmentation import Segmentation
from edgeseg.segmenter import Segmenter
from edgeseg.sink_thread import GuardedSink, SinkThread
from edgeseg.stabilize import Stabilizer
from edgeseg.watchdog import Watchdog

__all__ = ["Report", "Stream", "run"]

POLL_S = 0.1
"""No wait lasts longer without a look at whether everything should stop."""

PAUSED_S = 0.03
"""How often a paused window looks for a key."""

FINISH_S = 1.5
"""How long a run that is stopped waits for what is still at work. A robot's supervisor kills after a few seconds."""

LANES = 2
"""Frames of a file that are computed at once, each on a part of the processor: its preprocessing and decoding then fall
into the inference of the other, and no core waits for another within a layer."""

LANES_FROM_FRAMES = 200
"""Shorter files are done before further engines are open."""


class Stream:
    """The results of a source: ``for result in Stream(...)``, or ``async for``.

    It begins to work when it is made. Close it, use it in a ``with`` block, or iterate to the end.

    Args:
        source: closed at the end.
        segmenter: stays open. Several streams may share one: they take turns.
        max_frames: end after this many results.
        report: is kept up to date; None makes a new one.
        max_age_s: no frame of a live source that is older is segmented, unless the source's own pace is slower.
        stabilizer: gets every result and gives the one to hand on.
        outlets: further hand-overs that get every result.

    Raises:
        UsageError: ``max_frames`` is below 1.
    """

    def __init__(
        self,
        source: Source,
        segmenter: Segmenter,
        *,
        max_frames: int | None = None,
        report: Report | None = None,
        max_age_s: float = SourceOptions.max_age_s,
        stabilizer: Stabilizer | None = None,
        outlets: Sequence[HandOver[Segmentation]] = (),
    ) -> None:
        if max_frames is not None and max_frames < 1:
            raise UsageError(f"{max_frames} frames are too few", "give max_frames=1 or more, or None")
        self.report = Report() if report is None else report
        self.report.watch(source)
        self._source, self._segmenter, self._max_frames, self._stabilizer = source, segmenter, max_frames, stabilizer
        # At two frames a second half a second is no sign of a stall.
        self._max_age_s = max(max_age_s, 2 / source.rate_hz if source.rate_hz else 0.0)
        self._captured: HandOver[Frame] = HandOver(1 if source.live else 2, newest_wins=source.live)
        self._results: HandOver[Segmentation] = HandOver(newest_wins=source.live)
        self._outlets = (*outlets, self._results)
        self._error: BaseException | None = None
        self.at_work = "the engine"
        self._ready = threading.Event()
        self._lanes: list[Segmenter] = []
        self._capturing = threading.Thread(target=self._capture, name="edgeseg capture", daemon=True)
        self._segmenting = threading.Thread(target=self._segment, name="edgeseg segment", daemon=True)
        self._capturing.start()
        self._segmenting.start()

    def _capture(self) -> None:
        try:
            self._ready.wait()
            for frame in self._source:
                if not self._captured.put(frame):
                    break
        except BaseException as error:  # raised again where the results are read
            self._error = self._error or error
        finally:
            self._captured.end()

    def _segment(self) -> None:
        try:
            if not self._source.live and _is_long(self._source, self._max_frames):
                self._lanes = self._segmenter.copies(LANES)
            # Not before: the first frame begins the time of the run.
            self._ready.set()
            with contextlib.closing(self._steadied(self._in_lanes() if self._lanes else self._one_by_one())) as results:
                for count, result in enumerate(results, 1):
                    self.at_work = "a sink"
                    self.report.record(result)
                    for outlet in self._outlets:
                        outlet.put(result)
                    if count == self._max_frames:
                        break
        except BaseException as error:  # raised again where the results are read
            self._error = self._error or error
        finally:
            self._ready.set()
            self._captured.end()
            self._captured.clear()
            for outlet in self._outlets:
                outlet.end()
            for lane in self._lanes:
                lane.close()

    def _next_frame(self) -> Frame | None:
        self.at_work = "the source"
        while (frame := self._captured.get()) is not None:
            if not self._source.live or time.monotonic() - frame.captured_at <= self._max_age_s:
                return frame
            self.report.stale += 1
        return None

    def _one_by_one(self) -> Iterator[Segmentation]:
        while (frame := self._next_frame()) is not None:
            self.at_work = "the engine"
            result = self._segmenter(frame)
            # The camera may have gone while the network was at work: a robot wants to know.
            yield dataclasses.replace(result, state=self._source.state) if self._source.live else result

    def _in_lanes(self) -> Iterator[Segmentation]:
        """The same, in the same order, computed several at once."""
        pool, begun = ThreadPoolExecutor(len(self._lanes), "edgeseg lane"), deque[Future[Segmentation]]()
        try:
            for lane in itertools.cycle(self._lanes):
                frame = self._next_frame()
                if frame is None:
                    break
                self.at_work = "the engine"
                done = begun.popleft().result() if len(begun) == len(self._lanes) else None
                begun.append(pool.submit(lane, frame))  # free, because its result was just taken
                if done is not None:
                    yield done
            self.at_work = "the engine"
            while begun:
                yield begun.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _steadied(self, results: Iterator[Segmentation]) -> Generator[Segmentation, None, None]:
        if self._stabilizer is None:
            yield from results
            return
        for result in results:
            steadied = self._stabilizer(result)
            if steadied is not None:
                yield steadied
        last = self._stabilizer.finish()
        if last is not None:
            yield last

    def get(self, timeout_s: float) -> Segmentation | None:
        """The next result of a file, the newest of a live source; None if none came in ``timeout_s`` seconds.

        Raises:
            EdgesegError: a stage failed; results from before it were delivered. ``finished`` is True from then on.
        """
        result = self._results.get(timeout_s)
        # A live source can pass over frames after its last one was delivered.
        self.report.dropped = self._captured.dropped + self._source.dropped + self.report.stale
        if result is None and self._results.finished and self._error is not None:
            error, self._error = self._error, None
            raise error
        return result

    @property
    def finished(self) -> bool:
        """True once no more results will come and no error is waiting to be raised."""
        return self._results.finished and self._error is None

    def __iter__(self) -> Iterator[Segmentation]:
        try:
            while not self.finished:
                result = self.get(POLL_S)
                if result is not None:
                    yield result
        finally:
            self.close()

    async def __aiter__(self) -> AsyncIterator[Segmentation]:
        try:
            while not self.finished:
                result = await asyncio.to_thread(self.get, POLL_S)
                if result is not None:
                    yield result
        finally:
            await asyncio.to_thread(self.close)

    def close(self, timeout_s: float = FINISH_S) -> None:
        """End the work and close the source; what is still at work after ``timeout_s`` is left behind."""
        end = time.monotonic() + timeout_s
        self._captured.end()
        self._captured.clear()
        self._results.end()
        # A camera without pictures may only come back when it is closed.
        join([self._capturing], min(0.2, timeout_s))
        join([self._segmenting], end - time.monotonic())
        for outlet in self._outlets:
            outlet.end()
        self._source.close()
        running = join([self._capturing, self._segmenting], max(0.2, end - time.monotonic()))
        names = {self._capturing: "the source", self._segmenting: self.at_work}
        self.report.left_behind += tuple(names[thread] for thread in running)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def run(
    source: Source,
    segmenter: Segmenter,
    sinks: Sequence[Sink] = (),
    *,
    max_frames: int | None = None,
    stop: threading.Event | None = None,
    on_result: Callable[[Segmentation, Report], None] | None = None,
    report: Report | None = None,
    on_sink_error: str | None = None,
    max_age_s: float = SourceOptions.max_age_s,
    deadline_ms: float | None = None,
    watchdog_s: float | None = None,
    stabilizer: Stabilizer | None = None,
) -> Report:
    """Segment a source until it ends, and write every result to every sink.

    Args:
        source: closed at the end.
        segmenter: stays open. Several runs may share one: they take turns.
        sinks: closed at the end, also after an error.
        max_frames: stop after this many results.
        stop: ends the run from outside, files finished; set once the run is over.
        on_result: called on this thread with a result and the report so far. Of a live source it may miss some.
        report: is kept up to date, to be read from other threads; None makes a new one.
        on_sink_error: "stop" ends the run when a sink fails, "continue" goes on without it. None continues with a
            live source, because a robot needs its eyes more than a recording, and stops with a file.
        max_age_s: no frame of a live source that is older is segmented, unless the source's own pace is slower.
        deadline_ms: count the results that are older.
        watchdog_s: end the run when no result comes for so long.
        stabilizer: gets every result and gives the one to hand on.

    Returns:
        The report. An error that came after the first result is in ``report.error``.

    Raises:
        EdgesegError: nothing could be done at all.
        UsageError: ``max_frames`` or ``on_sink_error`` is none.
    """
    if on_sink_error not in (None, "stop", "continue"):
        raise UsageError(f"'{on_sink_error}' is no way to treat a failing sink", "use stop or continue")
    stop = stop or threading.Event()
    report = Report() if report is None else report
    report.deadline_ms = deadline_ms
    goes_on = goes_on_without_sink(source, on_sink_error)
    for each in sinks:
        each.attach(source, report)
    guarded = [GuardedSink(sink, report) for sink in sinks]
    here = [sink for sink in guarded if sink.on_main_thread]
    threads = [SinkThread(sink, source.live) for sink in guarded if not sink.on_main_thread]
    outlets = [thread.outlet for thread in threads]
    stream = Stream(source, segmenter, max_frames=max_frames, report=report, max_age_s=max_age_s, stabilizer=stabilizer,
                    outlets=outlets)  # fmt: skip
    watchdog = Watchdog(watchdog_s, report, stream)
    for thread in threads:
        thread.start()
    try:
        while not (stop.is_set() or stream.finished or _unwanted(guarded, goes_on)):
            if any(sink.paused for sink in here):
                watchdog.feed()
                stop.wait(PAUSED_S)
                result = None
            else:
                watchdog.check()
                result = stream.get(POLL_S)
            for sink in here:
                sink.idle() if result is None else sink.write(result)
            if result is not None and on_result is not None:
                on_result(result, report)
    except EdgesegError as error:
        report.fail(error)
    finally:
        end = time.monotonic() + FINISH_S
        stream.close()
        for sink in here:
            sink.close()
        _finish(threads, stop, end, report)
        stop.set()
        for sink in guarded:
            sink.count.dropped = report.frames - sink.count.written
    for sink in guarded:
        if sink.error is not None and not goes_on and not isinstance(sink.error, EdgesegError):
            raise sink.error
    if report.error is not None and report.frames == 0:
        raise report.error
    return report


def _is_long(source: Source, max_frames: int | None) -> bool:
    return min(source.frame_count or LANES_FROM_FRAMES, max_frames or LANES_FROM_FRAMES) >= LANES_FROM_FRAMES


def goes_on_without_sink(source: Source, on_sink_error: str | None) -> bool:
    """Whether a run outlives a failing sink; see ``run``."""
    return on_sink_error == "continue" or (on_sink_error is None and source.live)


def _unwanted(sinks: Sequence[GuardedSink], goes_on: bool) -> bool:
    """Whether no more results are wanted: said at a window, every place for them closed, or one failed that counts."""
    nowhere = bool(sinks) and all(sink.dismissed for sink in sinks)
    return nowhere or any(sink.quit or (sink.error is not None and not goes_on) for sink in sinks)


def _finish(threads: Sequence[SinkThread], stop: threading.Event, end: float, report: Report) -> None:
    """Let the sinks write what waits for them; not beyond ``end`` or, when stopped only now, not much longer."""
    asked = stop.is_set()
    for thread in threads:
        thread.outlet.end()
    while running := [thread for thread in threads if thread.is_alive()]:
        if stop.is_set() and not asked:
            asked, end = True, time.monotonic() + FINISH_S
        if asked and time.monotonic() > end:
            break
        running[0].join(POLL_S)
    report.left_behind += tuple(thread.name for thread in running)
