"""What is known about a run while it runs."""

from __future__ import annotations

import time
from bisect import bisect_left
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from edgeseg.frame import State
from edgeseg.report import Report
from edgeseg.segmentation import Segmentation
from edgeseg.telemetry import Telemetry

if TYPE_CHECKING:
    from edgeseg.io.base import Source

REFRESH_S, MACHINE_REFRESH_S = 0.25, 1.0
"""Figures are computed again after so long, however many viewers ask."""

BUCKETS_S = (0.005, 0.01, 0.02, 0.033, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
"""Upper bounds of the histograms; a last bucket takes the rest."""


class Histogram:
    """Durations counted by ``BUCKETS_S``.

    Attributes:
        counts: how many fell into each bucket, the one without a bound last.
        sum_s: of all of them.
    """

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.sum_s = 0.0

    def add(self, duration_s: float) -> None:
        """Count one."""
        self.counts[bisect_left(BUCKETS_S, duration_s)] += 1
        self.sum_s += duration_s


class Monitor:
    """Live figures of a run. ``add`` may be called on another thread than the rest.

    Attributes:
        report: of the run.
        latency, age: of every result: frame in memory to mask in memory, and capture to mask.
    """

    def __init__(self) -> None:
        self.report = Report()
        self.latency, self.age = Histogram(), Histogram()
        self._source: Source | None = None
        self._telemetry = Telemetry()
        self._figures: dict[str, Any] = {}
        self._machine: dict[str, Any] = {}
        self._figures_at = self._machine_at = float("-inf")

    def attach(self, source: Source, report: Report) -> None:
        """Tell where the figures are to be read."""
        self._source, self.report = source, report

    def add(self, result: Segmentation) -> None:
        """Count one result."""
        self.latency.add(result.timing["end_to_end"] / 1000)
        self.age.add(result.age_ms / 1000)

    @property
    def state(self) -> State:
        """Of the source; CONNECTING while there is none yet."""
        return State.CONNECTING if self._source is None else self._source.state

    @property
    def reason(self) -> str:
        """Why the source is in this state, in words."""
        return "" if self._source is None else self._source.reason

    def source_counts(self) -> dict[str, int]:
        """What became of the source's frames, see ``edgeseg.io.base.Counts``."""
        return {} if self._source is None else asdict(self._source.counts)

    def figures(self) -> dict[str, Any]:
        """Rate, percentiles and counts for the page, at most ``REFRESH_S`` old."""
        now = time.monotonic()
        if now - self._figures_at >= REFRESH_S:
            self._figures_at, self._figures = now, self._read()
        return self._figures

    def _read(self) -> dict[str, Any]:
        recent = self.report.recent()
        return {
            "fps": recent.fps,
            "latency_ms": recent.latency_ms,
            "age_ms": recent.age_ms,
            "frames": self.report.frames,
            "dropped": self.report.dropped,
            "invalid": self.report.invalid,
            "missed": None if self.report.deadline_ms is None else self.report.missed,
            "source": "" if self._source is None else self._source.name,
            "counts": self.source_counts(),
            "machine": self.machine(),
        }

    def machine(self) -> dict[str, Any]:
        """Load, memory, power and heat where the machine tells them, at most ``MACHINE_REFRESH_S`` old."""
        now = time.monotonic()
        if now - self._machine_at >= MACHINE_REFRESH_S:
            known = asdict(self._telemetry.read())
            self._machine_at, self._machine = now, {k: v for k, v in known.items() if v is not None}
        return self._machine
