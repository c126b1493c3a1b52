"""How far a build is, where TensorRT tells it (from version 9 on)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

Progress = Callable[["float | None", str], object]
"""Called several times a second while building: the share that is done, None where TensorRT does not tell, and the
phase it is in."""


def new_monitor(trt: ModuleType) -> Any:
    """A ``tensorrt.IProgressMonitor`` that keeps what it is told."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.stopped = False
            self._lock = threading.Lock()
            self._phases: dict[str, _Phase] = {}
            self._furthest = 0.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                self._phases[phase_name] = _Phase(parent_phase, max(num_steps, 1))

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._lock:
                if phase_name in self._phases:
                    self._phases[phase_name].steps_done = step + 1
            return not self.stopped

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                self._phases.pop(phase_name, None)

        def done(self) -> tuple[float, str]:
            with self._lock:
                self._furthest = max(self._furthest, _share_done(self._phases, None))
                return self._furthest, next(reversed(list(self._phases)), "")

    return Monitor()


@dataclass
class _Phase:
    parent: str | None
    steps: int
    steps_done: int = 0


def _share_done(phases: dict[str, _Phase], parent: str | None) -> float:
    """How far the phases below ``parent`` are. A phase inside another is one step of it."""
    share = 0.0
    for name, phase in phases.items():
        if phase.parent == parent:
            share = max(share, min(1.0, (phase.steps_done + _share_done(phases, name)) / phase.steps))
    return share
