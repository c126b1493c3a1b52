"""What a live source does with a stream, told by a script. Real streams: ``tests/integration/test_live_*.py``."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

import edgeseg
from edgeseg.errors import SourceError
from edgeseg.frame import Frame, State
from edgeseg.io import live
from edgeseg.io.live import LiveSource
from edgeseg.io.options import SourceOptions
from edgeseg.io.stream import Grab, StreamError

INTERVAL_S = 0.02
QUICK = SourceOptions(read_timeout_s=0.3, open_timeout_s=0.3)
WAIT_S = 10.0

Steps = Iterable[Grab]


def frames(count: int | None = None, interval_s: float = INTERVAL_S) -> Iterator[Grab]:
    """Frames at a steady pace; without an end where ``count`` is None."""
    made = 0
    while made != count:
        time.sleep(interval_s)
        made += 1
        yield Grab()


class Script:
    """A reader that does what its steps do, one step a grab; after the last the stream has broken off."""

    shares_clock = False
    rate_hz = 1 / INTERVAL_S

    def __init__(self, steps: Steps, size_hw: tuple[int, int] = (4, 6)) -> None:
        self.steps, self.size_hw = iter(steps), size_hw
        self.closed = threading.Event()

    def grab(self) -> Grab:
        for grab in self.steps:
            return grab
        raise StreamError("the stream broke off")

    def retrieve(self):
        return np.zeros((*self.size_hw, 3), np.uint8)

    def close(self) -> None:
        self.closed.set()


class Opener:
    """Gives one reader after the other; the last for ever. An exception in their place is raised."""

    def __init__(self, *turns: Callable[[], Script] | Exception) -> None:
        self.turns, self.opened_at = turns, []

    def __call__(self) -> Script:
        turn = self.turns[min(len(self.opened_at), len(self.turns) - 1)]
        self.opened_at.append(time.monotonic())
        if isinstance(turn, Exception):
            raise turn
        return turn()


@pytest.fixture
def opened():
    """``opened(*turns, options) -> LiveSource``, closed after the test."""
    sources = []

    def make(*turns, options: SourceOptions = QUICK) -> LiveSource:
        sources.append(LiveSource("camera", Opener(*turns), options))
        sources[-1].told = []
        sources[-1].on_state(lambda old, new, reason: sources[-1].told.append((new, reason)))
        return sources[-1]

    yield make
    for source in sources:
        source.close()


@pytest.fixture
def hurried(monkeypatch):
    """Pauses between attempts that do not hold up the tests."""
    monkeypatch.setattr(live, "BACKOFF_FIRST_S", 0.01)
    monkeypatch.setattr(live, "BACKOFF_MOST_S", 0.05)
    monkeypatch.setattr(live, "SLOW_RETRY_S", 0.2)


def take(source: LiveSource, count: int = 1) -> list[Frame]:
    taken = []
    deadline = time.monotonic() + WAIT_S
    while len(taken) < count:
        assert time.monotonic() < deadline, f"{source.state}: {source.reason}"
        if (frame := source.next(0.1)) is not None:
            taken.append(frame)
    return taken


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def steady() -> Script:
    return Script(frames())


# --- the slot --------------------------------------------------------------------------------------------------


def test_the_newest_frame_wins_and_nothing_is_hidden(opened) -> None:
    source = opened(steady)
    taken, ages = [], []
    for _ in range(8):
        taken += take(source)
        ages.append(time.monotonic() - taken[-1].captured_at)
        time.sleep(5 * INTERVAL_S)
    source.close()
    indices = [frame.index for frame in taken]
    assert indices == sorted(set(indices))
    assert max(ages) < QUICK.max_age_s
    counts = source.counts
    assert counts.dropped > 8
    assert counts.captured - len(taken) - counts.dropped - counts.stale - counts.corrupt in (0, 1)


def test_what_comes_before_anybody_asks_is_not_counted(opened) -> None:
    source = opened(steady)
    source.wait_until_live()
    time.sleep(10 * INTERVAL_S)
    assert source.counts.captured == 0
    assert take(source)[0].index == 0
    assert source.counts.dropped == 0


def test_every_array_is_the_takers_own(opened) -> None:
    first, second = take(opened(steady), 2)
    first.image[:] = 9
    assert not second.image.any()


def test_a_wait_is_bounded(opened) -> None:
    source = opened(lambda: Script(frames(interval_s=0.5)), options=SourceOptions())
    source.wait_until_live()
    take(source)
    start = time.monotonic()
    assert source.next(0.05) is None
    assert time.monotonic() - start < 0.3
    assert source.state is State.LIVE


@pytest.fixture
def frozen(opened):
    """A source whose five frames have come; no other follows."""
    came, hold = threading.Event(), threading.Event()

    def steps():
        yield from frames(5)
        came.set()
        hold.wait(WAIT_S)

    source = opened(lambda: Script(steps()), options=SourceOptions(max_age_s=0.5))
    assert came.wait(WAIT_S)
    yield source
    hold.set()


def test_latest_gives_the_same_frame_again_until_it_is_old(frozen) -> None:
    frame = frozen.latest(0.5)
    assert frozen.latest(0.5).index == frame.index
    time.sleep(0.1)
    assert frozen.latest(0.05) is None
    assert frozen.next(0.01) is None, "latest has taken it"
    assert frozen.counts.captured == 1


def test_a_frame_that_grew_old_in_the_slot_is_not_handed_out(frozen) -> None:
    time.sleep(0.6)
    assert frozen.next(0.05) is None
    assert (frozen.counts.captured, frozen.counts.stale) == (1, 1)


# --- states ----------------------------------------------------------------------------------------------------


def test_a_lost_stream_is_opened_again_and_everybody_told(opened, hurried) -> None:
    source = opened(lambda: Script(frames(5)), lambda: Script(frames(), (8, 10)))
    before = take(source, 2)
    wait_for(lambda: source.counts.reconnects == 1)
    after = take(source, 2)
    assert [before[0].size_hw, after[-1].size_hw] == [(4, 6), (8, 10)], "it may come back with another size"
    assert after[0].index > before[-1].index
    assert source.told[-3:] == [(State.LIVE, ""), (State.RECONNECTING, "the stream broke off"), (State.LIVE, "")]


def test_a_stall_is_noticed_while_nobody_asks_and_its_frames_are_passed_over(opened) -> None:
    stale = []

    def steps():
        yield from frames(10)
        time.sleep(0.6)
        stale.append(time.monotonic())
        yield Grab()
        yield from frames()

    source = opened(lambda: Script(steps()), options=SourceOptions())
    take(source)
    wait_for(lambda: source.state is State.STALLED)
    assert "no new frame" in source.reason
    frame = take(source)[0]
    assert source.state is State.LIVE
    assert frame.captured_at > stale[0] + INTERVAL_S / 2, "the first frame after a gap lay in a buffer"
    assert source.counts.stale >= 1
    assert source.counts.reconnects == 0


def test_a_reader_that_hangs_is_given_up_and_closed_when_it_returns(opened, hurried, monkeypatch) -> None:
    monkeypatch.setattr(live, "_GRACE_S", 0.1)
    hold = threading.Event()

    def steps():
        yield from frames(5)
        hold.wait(WAIT_S)
        yield Grab()

    hanging = Script(steps())
    source = opened(lambda: hanging, steady, options=SourceOptions(read_timeout_s=0.2))
    take(source)
    wait_for(lambda: source.counts.reconnects == 1)
    take(source, 3)
    assert not hanging.closed.is_set()
    hold.set()
    assert hanging.closed.wait(WAIT_S), "its thread ends as soon as it returns"
    assert source.state is State.LIVE


def test_only_old_frames_lead_to_a_reconnect(opened, hurried, monkeypatch) -> None:
    monkeypatch.setattr(live, "DRAIN_S", 0.2)

    def falling_behind():
        for step, _ in enumerate(frames()):
            yield Grab(pts_s=step * INTERVAL_S / 10)

    source = opened(lambda: Script(falling_behind()), steady)
    take(source)
    wait_for(lambda: source.counts.reconnects == 1)
    assert (State.RECONNECTING, "only old or damaged frames arrive") in source.told


def test_a_stream_of_damaged_frames_alone_is_no_source(opened, monkeypatch) -> None:
    monkeypatch.setattr(live, "DRAIN_S", 0.1)
    monkeypatch.setattr(live, "_GRACE_S", 0.1)
    source = opened(lambda: Script(Grab(corrupt=True) for _ in frames()), options=SourceOptions(read_timeout_s=0.1))
    with pytest.raises(SourceError, match="only old or damaged frames arrive"):
        source.wait_until_live()


def test_damaged_frames_are_counted_and_not_handed_out(opened) -> None:
    def steps():
        for number, grab in enumerate(frames()):
            yield Grab(corrupt=True) if number % 2 else grab

    source = opened(lambda: Script(steps()))
    first = take(source, 5)[0]
    assert all(frame.index % 2 == first.index % 2 for frame in take(source, 5))
    assert source.counts.corrupt >= 9


def test_a_defect_of_a_reader_is_not_taken_for_a_lost_stream(opened) -> None:
    def steps():
        yield from frames(3)
        raise ZeroDivisionError("a defect")

    source = opened(lambda: Script(steps()))
    with pytest.raises(ZeroDivisionError):
        take(source, 100)
    assert source.state is State.FAILED
    assert source.next(0.1) is None


# --- opening ---------------------------------------------------------------------------------------------------


def test_what_is_not_there_is_an_error_at_once(opened) -> None:
    source = opened(StreamError("nothing answers", "start it"))
    with pytest.raises(SourceError, match=r"camera cannot be opened: nothing answers\. Mend: start it"):
        source.wait_until_live()
    assert source.state is State.FAILED
    assert len(source._open_reader.opened_at) == 1


def test_what_opens_but_gives_nothing_is_an_error(opened) -> None:
    source = opened(lambda: Script([]))
    with pytest.raises(SourceError, match="the stream broke off"):
        source.wait_until_live()


def test_waiting_for_what_is_not_there_yet(opened, hurried) -> None:
    absent = StreamError("nothing answers", cheap=True)
    source = opened(absent, absent, absent, steady, options=SourceOptions(wait_s=float("inf")))
    assert source.next(0.001) is None
    assert source.state is State.CONNECTING
    take(source)
    assert source.counts.reconnects == 0, "it was never lost"


def test_waiting_in_vain_ends_with_an_error(opened, hurried) -> None:
    source = opened(StreamError("nothing answers"), options=SourceOptions(wait_s=0.2))
    with pytest.raises(SourceError, match="nothing answers"):
        source.read()
    assert source.read() is None
    assert len(source._open_reader.opened_at) > 2


def test_refused_credentials_are_not_tried_again_soon(opened, hurried) -> None:
    refused = StreamError("refused (401)", permanent=True)
    waiting = opened(refused, options=SourceOptions(wait_s=60))
    with pytest.raises(SourceError, match="401"):
        waiting.read()
    lost = opened(lambda: Script(frames(5)), refused, steady)
    take(lost)
    wait_for(lambda: lost.state is State.FAILED)
    assert lost.reason == "refused (401)"
    take(lost, 3)
    _, second, third = lost._open_reader.opened_at
    assert third - second > 0.15


def test_pauses_double_up_to_a_limit_and_differ(opened, monkeypatch) -> None:
    monkeypatch.setattr(live, "BACKOFF_FIRST_S", 0.02)
    monkeypatch.setattr(live, "BACKOFF_MOST_S", 0.16)
    source = opened(lambda: Script(frames(3)), StreamError("refused", cheap=False))
    take(source)
    openings = source._open_reader.opened_at
    wait_for(lambda: len(openings) >= 9)
    pauses = np.diff(openings[1:9])
    for pause, meant in zip(pauses, (0.04, 0.08, 0.16, 0.16, 0.16, 0.16, 0.16)):
        assert pause > 0.79 * meant
    assert max(pauses) < 1
    assert len({round(pause, 4) for pause in pauses[2:]}) > 1, "jitter keeps many robots from knocking at once"


def test_two_sources_of_which_one_dies(opened, hurried) -> None:
    dying = opened(lambda: Script(frames(5)), StreamError("gone"))
    living = opened(steady)
    take(dying)
    wait_for(lambda: dying.state is State.RECONNECTING)
    before = living.counts.captured
    assert len(take(living, 10)) == 10
    assert living.state is State.LIVE
    assert living.counts.captured >= before + 9
    dying.next(0.05)  # the last one may still have waited
    assert dying.next(0.05) is None


# --- for ever --------------------------------------------------------------------------------------------------


def test_hundreds_of_reconnects_leave_no_thread_behind(opened, monkeypatch) -> None:
    monkeypatch.setattr(live, "BACKOFF_FIRST_S", 0.0001)
    monkeypatch.setattr(live, "BACKOFF_MOST_S", 0.001)
    source = opened(lambda: Script(frames(4, interval_s=0.001)))
    source.next(0.01)
    wait_for(lambda: source.counts.reconnects > 20)
    threads = threading.active_count()
    wait_for(lambda: source.counts.reconnects > 300)
    assert threading.active_count() <= threads + 1
    assert len(source.told) < 3 * source.counts.reconnects


def test_closing_does_not_wait_for_a_reader_that_hangs(opened, bounded) -> None:
    hold = threading.Event()

    def steps():
        yield from frames(3)
        hold.wait(WAIT_S)

    source = opened(lambda: Script(steps()), options=SourceOptions(read_timeout_s=5))
    take(source)
    start = time.monotonic()
    waiting = threading.Thread(target=source.read)
    waiting.start()
    bounded(source.close)
    waiting.join(1)
    assert not waiting.is_alive()
    assert time.monotonic() - start < 2
    assert source.read() is None
    hold.set()


def test_closing_while_it_opens(opened, bounded) -> None:
    hold = threading.Event()
    source = opened(lambda: hold.wait(WAIT_S), options=SourceOptions(wait_s=60))
    start = time.monotonic()
    bounded(source.close)
    assert time.monotonic() - start < 2
    hold.set()


def test_setting_the_system_clock_changes_nothing(opened, monkeypatch) -> None:
    source = opened(steady)
    take(source)
    told = len(source.told)
    for clock in (0.0, 4e9):
        monkeypatch.setattr(time, "time", lambda clock=clock: clock)
        for frame in take(source, 5):
            assert 0 <= time.monotonic() - frame.captured_at < 5
    assert len(source.told) == told
    assert source.counts.stale <= 1


def test_no_source_looks_at_the_system_clock() -> None:
    clock = re.compile(r"\btime\.time\(|datetime\.now|from time import")
    folder = Path(edgeseg.__file__).parent / "io"
    for name in ("base", "files", "freshness", "live", "newest", "recording", "synthetic", "_opencv", "_pyav"):
        assert not clock.search((folder / f"{name}.py").read_text(encoding="utf-8")), name
