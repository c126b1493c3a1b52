"""Percentiles by stage, in bounded memory."""

from __future__ import annotations

import pytest

from edgeseg import timing
from edgeseg.timing import StageTimes


def test_percentiles_and_the_maximum() -> None:
    times = StageTimes()
    for ms in range(101):
        times.add({"infer": float(ms), "sink": 1.0})
    summary = times.summary()
    assert set(summary) == {"infer", "sink"}
    assert summary["infer"] == {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "max": 100.0}
    assert times.median_ms("infer", last=3) == 99.0
    assert times.median_ms("decode") == 0.0


def test_memory_is_bounded_and_the_slowest_frame_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "KEPT_FRAMES", 10)
    times = StageTimes()
    times.add({"infer": 500.0})
    for _ in range(50):
        times.add({"infer": 1.0})
    assert len(times._ms["infer"]) == 10
    assert times.summary()["infer"] == {"p50": 1.0, "p90": 1.0, "p95": 1.0, "p99": 1.0, "max": 500.0}
