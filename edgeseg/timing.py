"""Where the time of a frame goes. One set of stage names everywhere."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Mapping

import numpy as np

STAGES = ("capture", "preprocess", "infer", "decode", "h2d", "compute", "d2h", "sink", "end_to_end", "age")
"""Where a GPU takes whole frames, ``h2d`` (the copy to it), ``compute`` and ``d2h`` (the copy back), by its own clock,
are in place of ``preprocess``, ``infer`` and ``decode``. ``end_to_end`` runs from the frame in host memory to its
class map in host memory, ``age`` from the frame's capture to its class map, waiting included."""

PERCENTILES = (50, 90, 95, 99)

KEPT_FRAMES = 100_000
"""Percentiles are over the newest of these, an hour of a 30 Hz camera: a robot runs for days."""


class StageTimes:
    """Milliseconds by stage, for percentiles at the end. No slow frame is left out. Any thread may call it.

    The percentiles cover the newest ``KEPT_FRAMES`` frames, the maximum all of them.
    """

    def __init__(self) -> None:
        self._ms = {stage: array("d") for stage in STAGES}
        self._counts = dict.fromkeys(STAGES, 0)
        self._max_ms = dict.fromkeys(STAGES, 0.0)
        self._lock = threading.Lock()

    def add(self, timing_ms: Mapping[str, float]) -> None:
        """Add one frame's stages."""
        with self._lock:
            for stage, value in timing_ms.items():
                values = self._ms[stage]
                if len(values) < KEPT_FRAMES:
                    values.append(value)
                else:
                    values[self._counts[stage] % KEPT_FRAMES] = value
                self._counts[stage] += 1
                self._max_ms[stage] = max(self._max_ms[stage], value)

    def median_ms(self, stage: str, last: int = 100) -> float:
        """Median of the newest frames, for a live line; 0 before the first."""
        with self._lock:
            values, count = self._ms[stage], self._counts[stage]
            recent = [values[(count - 1 - i) % KEPT_FRAMES] for i in range(min(last, len(values)))]
        return float(np.median(recent)) if recent else 0.0

    def summary(self) -> dict[str, dict[str, float]]:
        """``{stage: {"p50": ms, ..., "max": ms}}`` of the stages that ran."""
        with self._lock:
            kept = {stage: np.array(values) for stage, values in self._ms.items() if values}
            most = dict(self._max_ms)
        result = {}
        for stage, values_ms in kept.items():
            row = {f"p{p}": float(v) for p, v in zip(PERCENTILES, np.percentile(values_ms, PERCENTILES))}
            result[stage] = {**row, "max": most[stage]}
        return result
