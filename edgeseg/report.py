"""What a run has done so far; readable from any thread while it goes on."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeseg.errors import EdgesegError
from edgeseg.frame import State
from edgeseg.segmentation import Segmentation
from edgeseg.timing import PERCENTILES, StageTimes

if TYPE_CHECKING:
    from edgeseg.io.base import Source

RECENT_S = 5.0
"""The span of ``Report.recent``."""

RECENT_FRAMES = 2048
"""The most results that span holds."""


@dataclass(frozen=True)
class Recent:
    """The last ``RECENT_S`` seconds of a run.

    Attributes:
        fps: results a second; it falls to 0 while none come.
        latency_ms: percentiles of frame in memory to class map in memory, by name ("p50" ...); empty without results.
        age_ms: the same of capture to class map, waiting included.
        last_age_s: seconds since the newest result's frame was captured; None before the first.
    """

    fps: float
    latency_ms: dict[str, float]
    age_ms: dict[str, float]
    last_age_s: float | None


@dataclass
class SinkReport:
    """What one sink was given.

    Attributes:
        written: results it took.
        dropped: results it was too slow for.
        error: why it takes no more, or None.
    """

    written: int = 0
    dropped: int = 0
    error: EdgesegError | None = None

    def to_dict(self) -> dict[str, Any]:
        """For ``--stats``."""
        return {
            "written": self.written,
            "dropped": self.dropped,
            "error": None if self.error is None else str(self.error),
        }


@dataclass
class Report:
    """What a run did. Every figure may be read, and every method called, from any thread while the run goes on.

    Attributes:
        frames: results made.
        dropped: frames of a live source that no result was made for, the stale ones among them.
        stale: frames that were too old when the engine was free for them.
        invalid: results without a valid mask (NaN or infinity in the logits).
        missed: results that were older than ``deadline_ms``.
        deadline_ms: the age a result may have, or None.
        wall_s: seconds from the first frame's arrival to the last result.
        times: milliseconds by stage.
        sinks: what became of the results, by the name of the sink.
        error: what ended the run early, or a sink's failure; None if all went well.
        left_behind: what was still at work when the run ended, and runs on in its thread.
        source: where the frames come from; None before the run.
    """

    frames: int = 0
    dropped: int = 0
    stale: int = 0
    invalid: int = 0
    missed: int = 0
    deadline_ms: float | None = None
    wall_s: float = 0.0
    times: StageTimes = field(default_factory=StageTimes)
    sinks: dict[str, SinkReport] = field(default_factory=dict)
    error: EdgesegError | None = None
    left_behind: tuple[str, ...] = ()
    source: Source | None = None
    _recent: deque[tuple[float, float, float]] = field(default_factory=lambda: deque(maxlen=RECENT_FRAMES), repr=False)
    _began: float | None = None
    _state_s: dict[State, float] = field(default_factory=dict, repr=False)
    _state_since: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def fps(self) -> float:
        """Results a second over the whole run, end to end."""
        return self.frames / self.wall_s if self.wall_s > 0 else 0.0

    @property
    def state(self) -> State:
        """How the source is doing; CONNECTING before the run."""
        return State.CONNECTING if self.source is None else self.source.state

    def watch(self, source: Source) -> None:
        """Follow the state of a source from now on."""
        with self._lock:
            self.source, self._state_since = source, time.monotonic()
        source.on_state(self._on_state)

    def _on_state(self, old: State, new: State, reason: str) -> None:
        now = time.monotonic()
        with self._lock:
            self._state_s[old] = self._state_s.get(old, 0.0) + now - self._state_since
            self._state_since = now

    def states_s(self) -> dict[str, float]:
        """Seconds that the source spent in each state, the present one included."""
        with self._lock:
            seconds = dict(self._state_s)
            if self.source is not None:
                seconds[self.state] = seconds.get(self.state, 0.0) + time.monotonic() - self._state_since
        return {state.value: value for state, value in seconds.items()}

    def fail(self, error: EdgesegError) -> None:
        """Keep the first error."""
        with self._lock:
            self.error = self.error or error

    def record(self, result: Segmentation) -> None:
        """Count one result."""
        with self._lock:
            if self._began is None:
                self._began = result.captured_at - (result.frame.capture_ms or 0.0) / 1000
            self.wall_s = result.finished_at - self._began
            self.frames += 1
            self.invalid += not result.valid
            self.missed += self.deadline_ms is not None and result.age_ms > self.deadline_ms
            self.times.add({**result.timing, "age": result.age_ms})
            self._recent.append((result.finished_at, result.timing.get("end_to_end", 0.0), result.age_ms))

    def recent(self) -> Recent:
        """Rate, latency and age over the last ``RECENT_S`` seconds."""
        now = time.monotonic()
        with self._lock:
            rows = [row for row in self._recent if row[0] > now - RECENT_S]
            last = self._recent[-1] if self._recent else None
            began = self._began
        # A run that began just now has had less than the whole span.
        span_s = RECENT_S if began is None else min(RECENT_S, now - began)
        return Recent(
            fps=len(rows) / span_s if rows else 0.0,
            latency_ms=_percentiles([row[1] for row in rows]),
            age_ms=_percentiles([row[2] for row in rows]),
            last_age_s=None if last is None else now - last[0] + last[2] / 1000,
        )

    def to_dict(self) -> dict[str, Any]:
        """The part of ``--stats`` that a run decides."""
        return {
            "frames": self.frames,
            "fps": round(self.fps, 3),
            "wall_s": round(self.wall_s, 4),
            "latency_ms": self.times.summary(),
            "states_s": {state: round(seconds, 3) for state, seconds in self.states_s().items()},
            "dropped": self.dropped,
            "stale": self.stale,
            "invalid": self.invalid,
            "deadline_ms": self.deadline_ms,
            "missed_deadlines": self.missed,
            "sinks": {name: sink.to_dict() for name, sink in self.sinks.items()},
            "error": None if self.error is None else str(self.error),
        }


def _percentiles(values_ms: list[float]) -> dict[str, float]:
    if not values_ms:
        return {}
    return {f"p{p}": float(v) for p, v in zip(PERCENTILES, np.percentile(values_ms, PERCENTILES))}
