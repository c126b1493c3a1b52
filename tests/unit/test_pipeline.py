"""The way of frames through the threads. Whatever could hang runs under ``bounded``."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from edgeseg import pipeline
from edgeseg.backends.fake import FakeBackend
from edgeseg.card import ModelCard
from edgeseg.errors import BackendError, SinkError, SourceError, UsageError
from edgeseg.frame import Frame, State
from edgeseg.io.sinks import Sink
from edgeseg.io.sources import FrameList, Source
from edgeseg.pipeline import Background, Report, run, stopped_by_signals
from edgeseg.segmenter import Segmenter

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
    assert seen == [(i, i + 1) for i in range(25)]
    assert source.state is State.ENDED


def test_a_slow_sink_holds_a_file_back_and_loses_nothing(fake: Segmenter, bounded) -> None:
    source, ahead = Scripted(12), []
    sink = Keeping(lambda index: (time.sleep(0.005), ahead.append(source.made - index)))
    report = bounded(lambda: run(source, fake, [sink]))
    assert sink.indices == list(range(12))
    assert report.dropped == 0
    # One in each hand: sink, hand-over, engine, two captured, one being captured.
    assert max(ahead) <= 7
    assert source.closed == 1


def test_the_report_as_json(fake: Segmenter, bounded) -> None:
    report = bounded(lambda: run(FrameList([PICTURE] * 5), fake, [Keeping()]))
    figures = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert set(figures) == {"frames", "fps", "wall_s", "latency_ms", "dropped", "invalid", "error"}
    assert set(figures["latency_ms"]) == {"capture", "preprocess", "infer", "decode", "sink", "end_to_end"}
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
    assert sink.indices == [0, 1, 2, 3, 4]
    assert (report.frames, report.error, sink.closed, source.closed) == (5, None, 1, 1)


def test_stop_before_the_start(fake: Segmenter, bounded) -> None:
    stop = threading.Event()
    stop.set()
    sink = Keeping()
    assert bounded(lambda: run(Scripted(10**6), fake, [sink], stop=stop)).frames == 0
    assert sink.closed == 1


def test_stop_is_set_once_a_run_is_over(fake: Segmenter, bounded) -> None:
    stop = threading.Event()
    bounded(lambda: run(FrameList([PICTURE]), fake, stop=stop))
    assert stop.is_set()


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
    assert report.dropped == 60 - report.frames > 0
    assert sink.indices[-1] == 59


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


def test_a_failing_sink_ends_the_run_and_every_sink_is_closed(fake: Segmenter, bounded) -> None:
    source = Scripted(1000)
    sinks = [Keeping(), Keeping(raising(SinkError("full", "free some space"), at=3)), Keeping()]
    report = bounded(lambda: run(source, fake, sinks))
    assert [s.indices for s in sinks] == [[0, 1, 2, 3], [0, 1, 2], [0, 1, 2]]
    assert [s.closed for s in sinks] == [1, 1, 1]
    assert (report.frames, str(report.error)) == (3, "full. Mend: free some space")
    assert source.closed == 1


@pytest.mark.parametrize("who", ["source", "engine", "sink"])
def test_an_error_before_the_first_result_is_raised(card: ModelCard, bounded, who: str) -> None:
    error = {"source": SourceError, "engine": BackendError, "sink": SinkError}[who]("first", "mend")
    source = Scripted(9, raising(error) if who == "source" else lambda i: None)
    segmenter = Segmenter(FakeBackend(card, error=error if who == "engine" else None), card)
    sink = Keeping(raising(error) if who == "sink" else lambda i: None)
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


def test_a_source_that_hangs_is_left_behind(fake: Segmenter, bounded, monkeypatch) -> None:
    monkeypatch.setattr(pipeline, "SOURCE_GRACE_S", 0.05)
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
    assert report.error is None
    assert sink.closed == 1


# --- hand-over -------------------------------------------------------------------------------------------------


def test_background_hands_everything_over_in_order(bounded) -> None:
    stop = threading.Event()
    background = Background(iter(range(1000)), stop, depth=3)
    assert bounded(lambda: list(background)) == list(range(1000))
    background.join(WAIT_S)
    assert background.dropped == 0


def test_background_raises_after_the_items_before(bounded) -> None:
    def items():
        yield from (1, 2)
        raise KeyError("x")

    seen: list[int] = []
    background = Background(items(), threading.Event(), depth=5)
    with pytest.raises(KeyError):
        bounded(lambda: [seen.append(i) for i in background])
    assert seen == [1, 2]


def test_background_stops_on_both_sides(bounded) -> None:
    stop = threading.Event()
    pulled = []

    def endless():
        while True:
            pulled.append(1)
            yield 1

    full = Background(endless(), stop, depth=2)
    silent = Background((threading.Event().wait(0.01) for _ in iter(lambda: stop.is_set(), True)), stop)
    iterator = iter(full)
    assert next(iterator) == 1
    stop.set()
    assert bounded(lambda: list(iterator)) == []
    for background in (full, silent):
        background.join(WAIT_S)
        assert not background._thread.is_alive()
    assert len(pulled) <= 5


def test_background_newest_wins_keeps_the_last(bounded) -> None:
    done = threading.Event()

    def items():
        yield from range(10)
        done.set()

    background = Background(items(), threading.Event(), newest_wins=True)
    assert done.wait(WAIT_S)
    background.join(WAIT_S)
    assert bounded(lambda: list(background)) == [9]
    assert background.dropped == 9


# --- signals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_stops_and_the_second_ends(number: int) -> None:
    stop = threading.Event()
    before = signal.getsignal(number)
    with stopped_by_signals(stop):
        os.kill(os.getpid(), number)
        assert stop.wait(WAIT_S)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_a_first_signal_while_files_are_finished_does_not_break_them_off() -> None:
    stop = threading.Event()
    with stopped_by_signals(stop):
        stop.set()  # as at the end of every run
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)


def test_outside_the_main_thread_signals_are_left_alone(bounded) -> None:
    before = signal.getsignal(signal.SIGINT)

    def work() -> None:
        with stopped_by_signals(threading.Event()):
            assert signal.getsignal(signal.SIGINT) is before

    bounded(work)
