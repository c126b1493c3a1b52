"""Where the time of a frame goes. One set of stage names everywhere."""

from __future__ import annotations

from array import array
from collections.abc import Mapping

import numpy as np

STAGES = ("capture", "preprocess", "infer", "decode", "sink", "end_to_end")
"""``end_to_end`` runs from the frame in host memory to its class map in host memory."""

PERCENTILES = (50, 90, 95, 99)


class StageTimes:
    """Every frame's milliseconds by stage, for percentiles at the end. Nothing is trimmed."""

    def __init__(self) -> None:
        # Eight bytes a value, not the thirty of a list: a robot runs for days.
        self._ms = {stage: array("d") for stage in STAGES}

    def add(self, timing_ms: Mapping[str, float]) -> None:
        """Add one frame's stages."""
        for stage, value in timing_ms.items():
            self._ms[stage].append(value)

    def median_ms(self, stage: str, last: int = 100) -> float:
        """Median of the newest frames, for a live line; 0 before the first."""
        recent = self._ms[stage][-last:]
        return float(np.median(recent)) if recent else 0.0

    def summary(self) -> dict[str, dict[str, float]]:
        """``{stage: {"p50": ms, ..., "max": ms}}`` of the stages that ran."""
        result = {}
        for stage, values in self._ms.items():
            if values:
                row = {f"p{p}": float(v) for p, v in zip(PERCENTILES, np.percentile(values, PERCENTILES))}
                result[stage] = {**row, "max": float(max(values))}
        return result
