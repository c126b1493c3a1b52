"""Which frames count as new. Times are given, so every case is exact."""

from __future__ import annotations

import pytest

from edgeseg.io.freshness import DRAIN_S, Freshness

RATE_S = 1 / 30


class Stream:
    """A camera at 30 Hz whose frames carry their time, seen through a ``Freshness``."""

    def __init__(self, *, has_pts: bool = True, shares_clock: bool = False, opened_at: float = 100.0) -> None:
        self.freshness = Freshness(0.25)
        self.freshness.opened(opened_at, shares_clock=shares_clock)
        self.has_pts = has_pts

    def arrive(self, now: float, made_at: float) -> float | None:
        return self.freshness.age_on_arrival_s(now, made_at if self.has_pts else None)

    def run(self, start: float, frames: int, interval_s: float = RATE_S) -> list[float | None]:
        return [self.arrive(start + i * interval_s, start + i * interval_s) for i in range(frames)]


def kept(ages: list[float | None]) -> list[bool]:
    return [age is not None for age in ages]


@pytest.mark.parametrize("has_pts", [True, False])
def test_a_steady_stream_is_fresh_after_its_first_frames(has_pts: bool) -> None:
    ages = Stream(has_pts=has_pts).run(100, 30)
    assert kept(ages) == [False] + [True] * 29
    assert all(age == pytest.approx(0, abs=1e-3) for age in ages[1:])


def test_what_a_server_sends_since_its_last_key_frame_is_passed_over() -> None:
    stream = Stream()
    made = [100 + RATE_S * i for i in range(40)]
    ages = [stream.arrive(max(made_at, 101 + 0.002 * i), made_at) for i, made_at in enumerate(made)]
    assert not any(kept(ages)[:31])
    assert kept(ages)[-5:] == [True] * 5


def test_frames_without_times_at_the_start_do_not_hide_a_burst() -> None:
    stream = Stream()
    times = [None, None, 0.0, 0.0, *(RATE_S * i for i in range(1, 20))]
    assert not any(stream.freshness.age_on_arrival_s(101 + 0.002 * i, pts) for i, pts in enumerate(times))


def test_draining_ends_even_when_the_burst_does_not() -> None:
    stream = Stream()
    kept_at = [t for t in range(300) if stream.arrive(100 + 0.01 * t, 50 + 0.05 * t) is not None]
    assert kept_at[0] == pytest.approx(100 * DRAIN_S, abs=2)


@pytest.mark.parametrize("has_pts", [True, False])
def test_what_lay_in_a_buffer_during_a_gap_is_passed_over(has_pts: bool) -> None:
    stream = Stream(has_pts=has_pts)
    stream.run(100, 30)
    stale = [stream.arrive(103 + 0.001 * i, 101 + RATE_S * i) for i in range(8)]
    assert not any(kept(stale))
    assert kept(stream.run(103.1, 3))[-2:] == [True, True]


def test_a_second_gap_right_after_the_first() -> None:
    stream = Stream(has_pts=False)
    stream.run(100, 30)
    assert stream.arrive(102, 0) is None
    assert stream.arrive(103, 0) is None, "a decoder can hold two frames back, one a time-out"


def test_frames_that_queue_up_on_the_way_are_as_old_as_they_are() -> None:
    stream = Stream()
    stream.run(100, 30)
    # From here on the network carries only nine frames in the time of ten.
    ages = [stream.arrive(101 + i * RATE_S / 0.9, 101 + i * RATE_S) for i in range(200)]
    assert kept(ages)[:40] == [True] * 40
    assert ages[40] == pytest.approx(40 * RATE_S / 9, abs=0.01)
    assert not any(kept(ages)[100:])


def test_a_camera_clock_that_drifts_makes_no_frame_old() -> None:
    stream = Stream()
    ages = [stream.arrive(100 + i * RATE_S, (100 + i * RATE_S) * (1 - 2e-4)) for i in range(30 * 3600)]
    assert all(kept(ages)[1:])


@pytest.mark.parametrize("jump_s", [-500, -0.5, 0.5, 500])
def test_a_camera_clock_that_is_set_makes_no_frame_old(jump_s: float) -> None:
    stream = Stream()
    stream.run(100, 30)
    ages = [stream.arrive(101 + i * RATE_S, 101 + jump_s + i * RATE_S) for i in range(10)]
    assert kept(ages) == [True] * 10


def test_times_that_stand_still_say_nothing() -> None:
    stream = Stream()
    ages = [stream.arrive(100 + i * RATE_S, 7.0) for i in range(300)]
    assert all(kept(ages)[90:])


def test_a_driver_that_shares_the_clock_says_how_old_its_first_frame_is() -> None:
    stream = Stream(shares_clock=True)
    ages = [stream.arrive(100 + i * RATE_S, 100 + i * RATE_S - 0.02) for i in range(10)]
    assert ages[1:] == [pytest.approx(0.02)] * 9


def test_a_driver_with_another_clock_is_taken_as_a_stream() -> None:
    stream = Stream(shares_clock=True)
    ages = [stream.arrive(100 + i * RATE_S, 1.7e9 + i * RATE_S) for i in range(10)]
    assert ages[1:] == [pytest.approx(0, abs=1e-3)] * 9


def test_a_slow_camera_is_not_stalled_between_two_frames() -> None:
    stream = Stream()
    assert kept(stream.run(100, 10, interval_s=1.0)) == [False] + [True] * 9
    assert stream.freshness.patience_s == pytest.approx(2.0)


def test_a_camera_that_slows_down_in_the_dark_is_believed_after_some_frames() -> None:
    stream = Stream()
    stream.run(100, 30)
    assert kept(stream.run(102, 20, interval_s=0.5))[-10:] == [True] * 10


def test_one_stall_does_not_make_it_patient() -> None:
    stream = Stream()
    stream.run(100, 30)
    stream.run(103, 3)
    assert stream.freshness.patience_s == 0.25
