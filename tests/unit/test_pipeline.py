"""The way of frames through the threads. Whatever could hang runs under ``bounded``."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeseg import pipeline
from edgeseg.backends.fake import FakeBackend
from edgeseg.card import ModelCard
from edgeseg.errors import BackendError, SinkError, SourceError, UsageError
from edgeseg.frame import Frame, State
from edgeseg.io.base import Source
from edgeseg.io.sinks import Sink
from edgeseg.io.sources import FrameList
from edgeseg.pipeline import Report, Stream, run
from edgeseg.segmenter import Segmenter, load
from edgeseg.watchdog import HungError

WAIT_S = 10.0
PICTURE = np.zeros((32, 48, 3), np.uint8)


class Scripted(Source):
    """Frames 0 to ``count - 1``; before frame ``i`` (and before the end) it calls ``before(i)``."""

    def __init__(self, count: int, before: Callable[[int], None] = lambda i: None, live: bool = False) -> None:
        super().__init__("scripted")
        self.live, self.count, self.before = live, count, before
        self.made, self.closed = 0, 0

    def _read(self) -> Frame | None:
        self.before(self.made)
        if self.made == self.count:
            return None
        self.made += 1
        return Frame(PICTURE, self.made - 1, time.monotonic())

    def close(self) -> None:
        self.closed += 1


class Gate(FakeBackend):
    """An engine that tells when it begins, and waits to be let through."""

    def __init__(self, card: ModelCard) -> None:
        super().__init__(card)
        self.begun, self.let_through = threading.Semaphore(0), threading.Semaphore(0)

    def infer(self, feed):
        self.begun.release()
        assert self.let_through.acquire(timeout=WAIT_S)
        return super().infer(feed)


class FailingAt(FakeBackend):
    def __init__(self, card: ModelCard, at: int, error: Exception) -> None:
        super().__init__(card)
        self.left, self.failure = at, error

    def infer(self, feed):
        self.left -= 1
        if self.left < 0:
            raise self.failure
        return super().infer(feed)


class Keeping(Sink):
    """Remembers what it was given; ``on_write`` and ``on_close`` may raise."""

    backlog = 8

    def __init__(self, on_write: Callable[[int], None] = lambda i: None, on_close: Callable[[], None] = lambda: None):
        self.indices: list[int] = []
        self.ages_ms: list[float] = []
        self.closed = 0
        self.on_write, self.on_close = on_write, on_close

    def write(self, result) -> None:
        self.on_write(result.frame_index)
        self.indices.append(result.frame_index)
        self.ages_ms.append(1000 * (time.monotonic() - result.captured_at))

    def close(self) -> None:
        self.closed += 1
        self.on_close()


def raising(error: BaseException, at: int = 0) -> Callable[..., None]:
    def call(index: int = 0) -> None:
        if index == at:
            raise error

    return call


@pytest.fixture
def fake(card: ModelCard) -> Segmenter:
    return Segmenter(FakeBackend(card), card)


# --- files -----------------------------------------------------------------------------------------------------


def test_every_frame_of_a_file_passes_in_order(fake: Segmenter, bounded) -> None:
    source, sinks, seen = FrameList([PICTURE] * 25), [Keeping(), Keeping()], []
    report = bounded(
        lambda: run(source, fake, sinks, on_result=lambda r, rep: seen.append((r.frame_index, rep.frames)))
    )
    assert (report.frames, report.dropped, report.invalid, report.error) == (25, 0, 0, None)
    for sink in sinks:
        assert sink.indices == list(range(25))
        assert sink.closed == 1
    assert [index for index, _ in seen] == list(range(25))
    assert all(index < frames <= 25 for index, frames in seen)
    assert source.state is State.ENDED


def test_a_slow_sink_holds_a_file_back_and_loses_nothing(fake: Segmenter, bounded) -> None:
    source, ahead = Scripted(12), []
    sink = Keeping(lambda index: (time.sleep(0.005), ahead.append(source.made - index)))
    report = bounded(lambda: run(source, fake, [sink]))
    assert sink.indices == list(range(12))
    assert report.dropped == 0
    # One in each hand: sink, two waiting for it, engine, two captured, one being captured.
    assert max(ahead) <= 8
    assert source.closed == 1


def test_the_report_as_json(fake: Segmenter, bounded) -> None:
    report = bounded(lambda: run(FrameList([PICTURE] * 5), fake, [Keeping()]))
    figures = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert set(figures) == {"frames", "fps", "wall_s", "latency_ms", "states_s", "dropped", "stale", "invalid",
                            "deadline_ms", "missed_deadlines", "sinks", "error"}  # fmt: skip
    assert set(figures["latency_ms"]) == {"capture", "preprocess", "infer", "decode", "sink", "end_to_end", "age"}
    assert figures["sinks"] == {"sink": {"written": 5, "dropped": 0, "error": None}}
    for stage in figures["latency_ms"].values():
        assert list(stage) == ["p50", "p90", "p95", "p99", "max"]
        assert 0 <= stage["p50"] <= stage["p90"] <= stage["p95"] <= stage["p99"] <= stage["max"]
    assert figures["fps"] == pytest.approx(5 / report.wall_s, rel=0.01)
    assert Report().fps == 0
    assert Report().to_dict()["latency_ms"] == {}


def test_invalid_results_are_delivered_and_counted(card: ModelCard, bounded) -> None:
    logits = np.full((1, 3, 4, 6), np.nan, np.float32)
    segmenter, sink = Segmenter(FakeBackend(card, logits_nchw=logits), card), Keeping()
    report = bounded(lambda: run(FrameList([PICTURE] * 3), segmenter, [sink]))
    assert (report.frames, report.invalid, sink.indices) == (3, 3, [0, 1, 2])


def test_a_source_without_frames(fake: Segmenter, bounded) -> None:
    sink = Keeping()
    report = bounded(lambda: run(FrameList([]), fake, [sink]))
    assert (report.frames, report.fps, report.error, sink.closed) == (0, 0.0, None, 1)


def test_max_frames(fake: Segmenter, bounded) -> None:
    sink, source = Keeping(), Scripted(1000)
    report = bounded(lambda: run(source, fake, [sink], max_frames=3))
    assert (report.frames, sink.indices, sink.closed, source.closed) == (3, [0, 1, 2], 1, 1)
    assert bounded(lambda: run(FrameList([PICTURE] * 2), fake, max_frames=5)).frames == 2
    with pytest.raises(UsageError, match="too few"):
        run(FrameList([PICTURE]), fake, max_frames=0)


def test_stop_from_outside_finishes_what_it_writes(fake: Segmenter, bounded) -> None:
    stop = threading.Event()
    sink, source = Keeping(lambda index: stop.set() if index == 4 else None), Scripted(10**6)
    report = bounded(lambda: run(source, fake, [sink], stop=stop))
    assert sink.indices == list(range(report.frames)), "what was counted was written"
    assert 5 <= report.frames < 10**6
    assert (report.error, report.left_behind, sink.closed, source.closed) == (None, (), 1, 1)


def test_stop_before_the_start(fake: Segmenter, bounded) -> None:
    stop = threading.Event()
    stop.set()
    sink = Keeping()
    report = bounded(lambda: run(Scripted(10**6), fake, [sink], stop=stop))
    assert report.frames < 10
    assert (sink.indices, sink.closed) == (list(range(report.frames)), 1)


def test_stop_is_set_once_a_run_is_over(fake: Segmenter, bounded) -> None:
    stop = threading.Event()
    bounded(lambda: run(FrameList([PICTURE]), fake, stop=stop))
    assert stop.is_set()


def test_frames_that_are_computed_at_once_come_in_order_and_the_same(
    tiny_model: Path, tiny_backend: str, bounded, monkeypatch
) -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (32, 48, 3), np.uint8) for _ in range(12)]
    with load(tiny_model, tiny_backend, threads=2) as segmenter:
        alone = [segmenter(picture).mask for picture in pictures]
        monkeypatch.setattr(pipeline, "LANES_FROM_FRAMES", 10)
        copies, opened = Segmenter.copies, []

        def counted(self: Segmenter, count: int) -> list[Segmenter]:
            made = copies(self, count)
            opened.extend(made)
            return made

        monkeypatch.setattr(Segmenter, "copies", counted)
        results = bounded(lambda: list(Stream(FrameList(pictures), segmenter)))
        assert len(opened) == 2
        with pytest.raises(BackendError, match="closed"):
            opened[0](pictures[0])
        assert [r.frame_index for r in results] == list(range(12))
        for result, mask in zip(results, alone):
            assert np.array_equal(result.mask, mask)
        assert bounded(lambda: run(FrameList(pictures), segmenter, max_frames=10)).frames == 10
        opened.clear()
        bounded(lambda: run(FrameList(pictures[:9]), segmenter))
        bounded(lambda: run(FrameList(pictures), segmenter, max_frames=9))
        assert opened == [], "short files are not worth it"


def test_an_engine_that_fails_in_one_lane_ends_the_run(
    tiny_model: Path, tiny_backend: str, bounded, monkeypatch
) -> None:
    monkeypatch.setattr(pipeline, "LANES_FROM_FRAMES", 1)
    with load(tiny_model, tiny_backend, threads=2) as segmenter:
        pictures: list = [PICTURE] * 5 + [PICTURE[..., :2]] + [PICTURE] * 5
        report = bounded(lambda: run(FrameList(pictures), segmenter))
    assert isinstance(report.error, UsageError)
    assert report.frames == 5


def test_a_single_thread_is_not_shared_out(tiny_model: Path, tiny_backend: str) -> None:
    with load(tiny_model, tiny_backend, threads=1) as segmenter:
        assert segmenter.copies(2) == []


# --- live ------------------------------------------------------------------------------------------------------


def test_the_newest_frame_wins_and_what_it_pushed_out_is_counted(card: ModelCard, bounded) -> None:
    gate = Gate(card)

    def before(index: int) -> None:
        if index == 1:
            assert gate.begun.acquire(timeout=WAIT_S)  # the engine is busy with frame 0 from here on
        elif index == 10:
            gate.let_through.release(2)  # and is free again when frames 1 to 9 have gone by

    source, sink = Scripted(10, before, live=True), Keeping()
    report = bounded(lambda: run(source, Segmenter(gate, card), [sink]))
    assert sink.indices == [0, 9]
    assert report.frames == 2
    assert report.dropped == source.made - report.frames == 8


def test_a_live_source_with_a_slow_engine_stays_fresh(card: ModelCard, bounded) -> None:
    source = Scripted(100, lambda index: time.sleep(0.001), live=True)
    sink = Keeping()
    report = bounded(lambda: run(source, Segmenter(FakeBackend(card, latency_s=0.01), card), [sink]))
    assert sink.indices == sorted(set(sink.indices))
    assert sink.indices[-1] == 99, "the last frame is the newest"
    assert report.dropped == 100 - report.frames > 0
    # A queue would end up a whole run behind.
    assert max(sink.ages_ms) < 5000


def test_frames_that_the_source_itself_passed_over_are_counted_too(fake: Segmenter, bounded) -> None:
    source = Scripted(3, live=True)

    def before(index: int) -> None:
        source.counts.dropped += 5  # the last time after the last frame
        time.sleep(0.02)

    source.before = before
    report = bounded(lambda: run(source, fake))
    assert report.dropped + report.frames == 3 + 4 * 5


def test_a_slow_sink_does_not_make_a_live_source_wait(fake: Segmenter, bounded) -> None:
    source = Scripted(60, lambda index: time.sleep(0.001), live=True)
    sink = Keeping(lambda index: time.sleep(0.01))
    report = bounded(lambda: run(source, fake, [sink]))
    assert source.made == 60
    assert report.dropped == 60 - report.frames
    assert report.sinks["sink"].dropped == report.frames - len(sink.indices) > 0
    assert sink.indices[-1] == 59, "the oldest was dropped, not the newest"


# --- errors ----------------------------------------------------------------------------------------------------


def test_an_error_of_the_source_comes_after_the_good_frames(fake: Segmenter, bounded) -> None:
    source = Scripted(10, raising(SourceError("cable", "push it in"), at=4))
    sink = Keeping()
    report = bounded(lambda: run(source, fake, [sink]))
    assert sink.indices == [0, 1, 2, 3]
    assert isinstance(report.error, SourceError)
    assert report.to_dict()["error"] == "cable. Mend: push it in"
    assert (sink.closed, source.closed, source.state) == (1, 1, State.FAILED)


def test_an_error_of_the_engine_comes_after_the_good_frames(card: ModelCard, bounded) -> None:
    segmenter = Segmenter(FailingAt(card, 3, BackendError("memory", "add some")), card)
    source, sink = Scripted(1000), Keeping()
    report = bounded(lambda: run(source, segmenter, [sink]))
    assert sink.indices == [0, 1, 2]
    assert isinstance(report.error, BackendError)
    assert (sink.closed, source.closed) == (1, 1)


@pytest.mark.parametrize("who", ["source", "engine"])
def test_an_error_before_the_first_result_is_raised(card: ModelCard, bounded, who: str) -> None:
    error = {"source": SourceError, "engine": BackendError}[who]("first", "mend")
    source = Scripted(9, raising(error) if who == "source" else lambda i: None)
    segmenter = Segmenter(FakeBackend(card, error=error if who == "engine" else None), card)
    sink = Keeping()
    with pytest.raises(type(error), match="first"):
        bounded(lambda: run(source, segmenter, [sink]))
    assert (sink.closed, source.closed) == (1, 1)


@pytest.mark.parametrize("who", ["source", "engine", "sink", "close", "callback"])
def test_a_defect_is_not_swallowed_and_files_are_closed_all_the_same(card: ModelCard, bounded, who: str) -> None:
    defect = ZeroDivisionError("defect")
    source = Scripted(9, raising(defect, at=2) if who == "source" else lambda i: None)
    segmenter = Segmenter(FailingAt(card, 2 if who == "engine" else 99, defect), card)
    first = Keeping(
        raising(defect, at=2) if who == "sink" else lambda i: None,
        raising(defect) if who == "close" else lambda: None,
    )
    second = Keeping()

    def on_result(result, report) -> None:
        if who == "callback":
            raise defect

    with pytest.raises(ZeroDivisionError):
        bounded(lambda: run(source, segmenter, [first, second], on_result=on_result))
    assert (first.closed, second.closed, source.closed) == (1, 1, 1)


@pytest.mark.parametrize("who", ["source", "engine", "sink"])
def test_the_first_error_reaches_the_caller_within_a_second(card: ModelCard, bounded, who: str) -> None:
    error, failed_at = SinkError("it", "mend"), []

    def fail(index: int) -> None:
        time.sleep(0.01)
        if index == 3:
            failed_at.append(time.monotonic())
            raise error

    class Failing(FakeBackend):
        def infer(self, feed):
            fail(self.count)
            self.count += 1
            return super().infer(feed)

    engine = Failing(card)
    engine.count = 0 if who == "engine" else 10**9
    source = Scripted(10**6, fail if who == "source" else lambda i: time.sleep(0.01), live=True)
    sink = Keeping(fail if who == "sink" else lambda i: None)
    report = bounded(lambda: run(source, Segmenter(engine, card), [sink], on_sink_error="stop"))
    assert time.monotonic() - failed_at[0] < 1.0
    assert report.error is error


# --- sinks that fail -------------------------------------------------------------------------------------------


def test_a_failing_sink_ends_the_run_of_a_file_and_every_sink_is_closed(fake: Segmenter, bounded) -> None:
    source = Scripted(10**6)
    sinks = [Keeping(), Keeping(raising(SinkError("full", "free some space"), at=3)), Keeping()]
    report = bounded(lambda: run(source, fake, sinks))
    assert [s.indices for s in sinks] == [list(range(report.frames)), [0, 1, 2], list(range(report.frames))]
    assert [s.closed for s in sinks] == [1, 1, 1]
    assert str(report.error) == "full. Mend: free some space"
    assert report.to_dict()["sinks"]["sink 2"]["error"] == "full. Mend: free some space"
    assert (report.sinks["sink 2"].written, report.sinks["sink 2"].dropped) == (3, report.frames - 3)
    assert source.closed == 1


@pytest.mark.parametrize("error", [SinkError("full", "free some space"), ZeroDivisionError("defect")])
def test_a_failing_sink_does_not_stop_a_live_run(fake: Segmenter, bounded, caplog, error: Exception) -> None:
    source = Scripted(40, lambda index: time.sleep(0.002), live=True)
    failing, good, seen = Keeping(raising(error)), Keeping(), []
    failing.on_write = lambda index: raising(error)()
    report = bounded(lambda: run(source, fake, [failing, good], on_result=lambda r, rep: seen.append(r.frame_index)))
    assert failing.indices == []
    assert failing.closed == good.closed == 1
    assert good.indices[-1] == seen[-1] == 39
    assert isinstance(report.error, SinkError)
    assert str(error).partition(".")[0] in str(report.error)
    assert ("ZeroDivisionError" in caplog.text) == isinstance(error, ZeroDivisionError), "a defect leaves a traceback"


def test_a_file_goes_on_without_a_failing_sink_when_told_so(fake: Segmenter, bounded) -> None:
    failing, good = Keeping(raising(SinkError("full", "m"), at=1)), Keeping()
    report = bounded(lambda: run(Scripted(9), fake, [failing, good], on_sink_error="continue"))
    assert (failing.indices, good.indices, report.frames) == ([0], list(range(9)), 9)
    assert str(report.error).startswith("full")
    with pytest.raises(UsageError, match="'ignore'"):
        run(Scripted(9), fake, on_sink_error="ignore")


def test_the_first_error_wins_and_a_later_one_of_closing_does_not_hide_it(fake: Segmenter, bounded) -> None:
    sinks = [
        Keeping(raising(SinkError("first", "m"), at=2), raising(SinkError("second", "m"))),
        Keeping(on_close=raising(SinkError("third", "m"))),
    ]
    report = bounded(lambda: run(Scripted(9), fake, sinks))
    assert str(report.error).startswith("first")
    only = [Keeping(on_close=raising(SinkError("closing", "m")))]
    report = bounded(lambda: run(FrameList([PICTURE] * 2), fake, only))
    assert str(report.error).startswith("closing")
    assert report.frames == 2


def test_a_sink_that_never_returns_holds_up_nothing_and_is_left_behind(fake: Segmenter, bounded, monkeypatch) -> None:
    monkeypatch.setattr(pipeline, "FINISH_S", 0.2)
    never, stop, good = threading.Event(), threading.Event(), Keeping()
    viewer = Keeping(lambda index: never.wait(WAIT_S))
    source = Scripted(10**6, lambda index: time.sleep(0.002), live=True)

    def on_result(result, report) -> None:
        if report.frames >= 50:
            stop.set()

    try:
        begin = time.monotonic()
        report = bounded(lambda: run(source, fake, [viewer, good], stop=stop, on_result=on_result))
        assert time.monotonic() - begin < 5
    finally:
        never.set()
    assert report.frames >= 50
    assert len(good.indices) == report.frames - report.sinks["sink 2"].dropped >= 40
    assert report.left_behind == ("the sink 'sink'",)


class Window(Keeping):
    """A sink on the caller's thread, with a user who acts when it is written to or idle."""

    name, on_main_thread = "window", True

    def __init__(self, on_write: Callable[[int], None] = lambda i: None) -> None:
        super().__init__(on_write)
        self.threads: set[threading.Thread] = set()
        self.idles = 0

    def write(self, result) -> None:
        self.threads.add(threading.current_thread())
        super().write(result)

    def idle(self) -> None:
        self.idles += 1
        if self.paused and self.idles == 5:
            self.paused = False


def test_a_window_is_served_by_the_callers_thread_and_q_ends_the_run(fake: Segmenter, bounded) -> None:
    window, callers = Window(), []
    window.on_write = lambda index: setattr(window, "quit", index == 6)

    def call() -> Report:
        callers.append(threading.current_thread())
        return run(Scripted(10**6), fake, [window, Keeping()])

    report = bounded(call)
    assert window.threads == set(callers)
    assert (window.indices, window.closed, report.error) == (list(range(7)), 1, None)


def test_a_paused_window_holds_a_file_and_not_a_camera(fake: Segmenter, bounded) -> None:
    for live in (False, True):
        window, other = Window(), Keeping()
        window.on_write = lambda index, window=window: setattr(window, "paused", index == 3)
        source = Scripted(60, lambda index: time.sleep(0.005), live=live)
        report = bounded(lambda source=source, window=window, other=other: run(source, fake, [window, other]))
        assert window.idles >= 5
        assert source.made == 60
        assert (len(window.indices) < report.frames) is live, "of a camera it missed what came meanwhile"
        assert other.indices[-1] == window.indices[-1] == 59


def test_closing_the_only_place_for_results_ends_the_run_and_one_of_two_does_not(fake: Segmenter, bounded) -> None:
    for others in ([], [Keeping()]):
        window = Window()
        window.on_write = lambda index, window=window: setattr(window, "dismissed", index == 3)
        report = bounded(lambda window=window, others=others: run(Scripted(50), fake, [window, *others]))
        assert window.indices == [0, 1, 2, 3]
        assert (report.frames == 50) is bool(others)


# --- what hangs ------------------------------------------------------------------------------------------------


def test_a_source_that_hangs_is_left_behind(fake: Segmenter, bounded, monkeypatch) -> None:
    monkeypatch.setattr(pipeline, "FINISH_S", 0.1)
    released, stop = threading.Event(), threading.Event()

    def before(index: int) -> None:
        if index == 2:
            stop.set()
            released.wait(WAIT_S)

    sink = Keeping()
    try:
        report = bounded(lambda: run(Scripted(9, before, live=True), fake, [sink], stop=stop), 5)
    finally:
        released.set()
    assert (report.error, report.left_behind) == (None, ("the source",))
    assert sink.closed == 1


@pytest.mark.parametrize("who", ["source", "engine"])
def test_the_watchdog_ends_a_run_that_hangs(card: ModelCard, bounded, monkeypatch, who: str) -> None:
    monkeypatch.setattr(pipeline, "FINISH_S", 0.1)
    released = threading.Event()

    class Hanging(FakeBackend):
        calls = 0

        def infer(self, feed):
            Hanging.calls += 1
            if who == "engine" and Hanging.calls == 3:
                released.wait(WAIT_S)
            return super().infer(feed)

    def before(index: int) -> None:
        if who == "source" and index == 2:
            released.wait(WAIT_S)

    source, sink, begin = Scripted(9, before, live=True), Keeping(), time.monotonic()
    source.before = lambda index: (time.sleep(0.05), before(index))
    try:
        report = bounded(lambda: run(source, Segmenter(Hanging(card), card), [sink], watchdog_s=0.3))
    finally:
        released.set()
    assert isinstance(report.error, HungError)
    assert report.error.exit_code == 4
    assert f"waiting for the {who}" in str(report.error)
    assert 0.3 < time.monotonic() - begin < 3
    assert (report.frames, sink.closed, report.left_behind) == (2, 1, (f"the {who}",))


def test_the_watchdog_lets_a_slow_run_live(card: ModelCard, bounded) -> None:
    segmenter = Segmenter(FakeBackend(card, latency_s=0.1), card)
    assert bounded(lambda: run(Scripted(6), segmenter, watchdog_s=0.4)).error is None


# --- streams ---------------------------------------------------------------------------------------------------


def test_a_stream_in_a_for_loop(fake: Segmenter, bounded) -> None:
    source = Scripted(20)
    assert bounded(lambda: [r.frame_index for r in Stream(source, fake)]) == list(range(20))
    assert source.closed == 1
    source = Scripted(10**6)

    def first_three() -> list[int]:
        with Stream(source, fake) as results:
            return [r.frame_index for r, _ in zip(results, range(3))]

    assert bounded(first_three) == [0, 1, 2]
    assert source.closed >= 1
    with pytest.raises(UsageError, match="too few"):
        Stream(source, fake, max_frames=0)


def test_a_stream_raises_after_the_good_results(fake: Segmenter, bounded) -> None:
    source, seen = Scripted(10, raising(SourceError("cable", "push it in"), at=4)), []
    with pytest.raises(SourceError, match="cable"):
        bounded(lambda: [seen.append(r.frame_index) for r in Stream(source, fake)])
    assert seen == [0, 1, 2, 3]


def test_streams_in_asyncio_leave_the_loop_free(card: ModelCard, bounded) -> None:
    ticks = []

    async def tick() -> None:
        while True:
            ticks.append(time.monotonic())
            await asyncio.sleep(0.005)

    async def segment(source: Source, engine: Segmenter) -> list[int]:
        return [result.frame_index async for result in Stream(source, engine)]

    async def both() -> list[list[int]]:
        ticking = asyncio.create_task(tick())
        engines = [Segmenter(FakeBackend(card, latency_s=0.02), card) for _ in range(2)]
        results = await asyncio.gather(*(segment(Scripted(10), engine) for engine in engines))
        ticking.cancel()
        return results

    assert bounded(lambda: asyncio.run(both())) == [list(range(10))] * 2
    assert len(ticks) > 10


def test_a_cancelled_task_ends_its_stream(fake: Segmenter, bounded) -> None:
    source, begun = Scripted(10**6, lambda index: time.sleep(0.005), live=True), []

    async def watch() -> None:
        async for result in Stream(source, fake):
            begun.append(result)

    async def cancelled() -> None:
        task = asyncio.create_task(watch())
        while not begun:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    bounded(lambda: asyncio.run(cancelled()), 5)
    assert source.closed == 1


# --- several cameras -------------------------------------------------------------------------------------------


def test_cameras_that_share_an_engine_take_turns(card: ModelCard, bounded) -> None:
    class Alone(FakeBackend):
        inside = 0

        def infer(self, feed):
            Alone.inside += 1
            assert Alone.inside == 1, "two threads are in the engine at once"
            time.sleep(0.003)
            Alone.inside -= 1
            return super().infer(feed)

    stop, reports = threading.Event(), [Report(), Report(), Report()]
    segmenter = Segmenter(Alone(card), card)
    cameras = [Scripted(10**6, lambda index: time.sleep(0.001), live=True) for _ in reports]
    threads = [
        threading.Thread(target=run, args=(camera, segmenter), kwargs={"stop": stop, "report": report})
        for camera, report in zip(cameras, reports)
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.6)
    stop.set()
    for thread in threads:
        thread.join(WAIT_S)
    assert [report.error for report in reports] == [None] * 3
    frames = [report.frames for report in reports]
    # An unfair lock lets one of three that always wait starve.
    assert min(frames) > 0.7 * max(frames) > 3


def test_a_camera_that_dies_takes_no_other_along(fake: Segmenter, bounded) -> None:
    dead, report = Report(), Report()

    def two() -> None:
        dying = Scripted(10**6, raising(SourceError("unplugged", "plug it in"), at=5), live=True)
        other = threading.Thread(target=run, args=(dying, fake), kwargs={"report": dead})
        other.start()
        run(Scripted(80, lambda index: time.sleep(0.002), live=True), fake, report=report)
        other.join(WAIT_S)

    bounded(two)
    assert "unplugged" in str(dead.error)
    assert report.error is None
    assert report.frames + report.dropped == 80


# --- figures ---------------------------------------------------------------------------------------------------


def test_results_that_miss_their_deadline_are_counted(card: ModelCard, bounded) -> None:
    segmenter = Segmenter(FakeBackend(card, latency_s=0.03), card)
    assert bounded(lambda: run(Scripted(5), segmenter, deadline_ms=10)).missed == 5
    report = bounded(lambda: run(Scripted(5), segmenter, deadline_ms=10_000))
    assert (report.missed, report.to_dict()["deadline_ms"]) == (0, 10_000)
    assert bounded(lambda: run(Scripted(5), segmenter)).missed == 0


def test_the_report_can_be_read_while_the_run_goes_on(fake: Segmenter, bounded) -> None:
    stop, report, sink = threading.Event(), Report(), Keeping()
    assert report.state is State.CONNECTING
    assert report.recent().fps == 0
    source = Scripted(10**6, lambda index: time.sleep(0.002), live=True)
    thread = threading.Thread(target=run, args=(source, fake, [sink]), kwargs={"stop": stop, "report": report})
    thread.start()
    readings = []
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        readings.append((report.frames, report.recent(), report.to_dict()))
        time.sleep(0.001)
    stop.set()
    thread.join(WAIT_S)
    frames = [reading[0] for reading in readings]
    assert frames == sorted(frames)
    assert frames[-1] > 5
    recent = readings[-1][1]
    assert 5 < recent.fps < 600
    assert set(recent.age_ms) == {"p50", "p90", "p95", "p99"}
    assert 0 < recent.latency_ms["p50"] <= recent.age_ms["p50"]
    assert 0 <= recent.last_age_s < 1
    assert list(report.to_dict()["states_s"]) == ["live"]


def test_the_time_in_each_state_is_kept(fake: Segmenter, bounded) -> None:
    source = Scripted(30, lambda index: time.sleep(0.005), live=True)

    def before(index: int) -> None:
        time.sleep(0.005)
        if index == 10:
            source._enter(State.STALLED, "no frame")
            time.sleep(0.1)
        elif index == 11:
            source._enter(State.LIVE)

    source.before = before
    report = bounded(lambda: run(source, fake))
    states = report.to_dict()["states_s"]
    assert set(states) == {"live", "stalled", "ended"}
    assert states["stalled"] == pytest.approx(0.1, abs=0.08)


def test_a_result_says_that_its_camera_has_gone_since(card: ModelCard, bounded) -> None:
    states = []
    gate = Gate(card)
    source = Scripted(2, live=True)

    def before(index: int) -> None:
        if index == 1:
            assert gate.begun.acquire(timeout=WAIT_S)
            source._enter(State.STALLED, "no frame")
            gate.let_through.release(2)

    source.before = before
    bounded(lambda: run(source, Segmenter(gate, card), on_result=lambda r, rep: states.append(r.state)))
    assert states[0] is not State.LIVE


def test_a_frame_that_grew_old_while_the_engine_was_busy_is_not_segmented(card: ModelCard, bounded) -> None:
    gate, report = Gate(card), Report()

    def before(index: int) -> None:
        if index == 1:
            assert gate.begun.acquire(timeout=WAIT_S)
        elif index == 2:  # frame 1 waits, and the camera stalls
            time.sleep(0.2)
            gate.let_through.release(3)
            end = time.monotonic() + WAIT_S
            while not report.stale and time.monotonic() < end:
                time.sleep(0.001)

    source, sink = Scripted(3, before, live=True), Keeping()
    bounded(lambda: run(source, Segmenter(gate, card), [sink], max_age_s=0.15, report=report))
    assert sink.indices == [0, 2]
    assert (report.stale, report.dropped, report.frames) == (1, 1, 2)


def test_the_age_under_a_slow_engine_is_bounded(card: ModelCard, bounded) -> None:
    inference_s, interval_s, stop = 0.1, 0.02, threading.Event()
    source = Scripted(10**6, lambda index: time.sleep(interval_s), live=True)
    sink = Keeping()
    timer = threading.Timer(1.5, stop.set)
    timer.start()
    report = bounded(lambda: run(source, Segmenter(FakeBackend(card, latency_s=inference_s), card), [sink], stop=stop))
    assert report.frames > 8
    assert report.dropped > report.frames
    # With a queue each result would be older than the one before.
    assert max(sink.ages_ms) < 1000 * (3 * inference_s + interval_s)
