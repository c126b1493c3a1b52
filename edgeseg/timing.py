"""Where the time of a frame goes. One set of stage names everywhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from itertools import islice

import numpy as np

STAGES = ("capture", "preprocess", "infer", "decode", "sink", "end_to_end")
"""``end_to_end`` runs from the frame in host memory to its class map in host memory."""

PERCENTILES = (50, 90, 95, 99)

KEPT_FRAMES = 100_000
"""Percentiles are over the newest of these, an hour of a 30 Hz camera: a robot runs for days."""


class StageTimes:
    """Milliseconds by stage, for percentiles at the end. No slow frame is left out.

    The percentiles cover the newest ``KEPT_FRAMES`` frames, the maximum all of them.
    """

    def __init__(self) -> None:
        self._ms: dict[str, deque[float]] = {stage: deque(maxlen=KEPT_FRAMES) for stage in STAGES}
        self._max_ms = dict.fromkeys(STAGES, 0.0)

    def add(self, timing_ms: Mapping[str, float]) -> None:
        """Add one frame's stages."""
        for stage, value in timing_ms.items():
            self._ms[stage].append(value)
            self._max_ms[stage] = max(self._max_ms[stage], value)

    def median_ms(self, stage: str, last: int = 100) -> float:
        """Median of the newest frames, for a live line; 0 before the first."""
        recent = list(islice(reversed(self._ms[stage]), last))
        return float(np.median(recent)) if recent else 0.0

    def summary(self) -> dict[str, dict[str, float]]:
        """``{stage: {"p50": ms, ..., "max": ms}}`` of the stages that ran."""
        result = {}
        for stage, values in self._ms.items():
            if values:
                percentiles = np.percentile(np.fromiter(values, np.float64, len(values)), PERCENTILES)
                row = {f"p{p}": float(v) for p, v in zip(PERCENTILES, percentiles)}
                result[stage] = {**row, "max": self._max_ms[stage]}
        return result
