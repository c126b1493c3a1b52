"""Figures of a run in Prometheus' text form, https://prometheus.io/docs/instrumenting/exposition_formats/."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

from edgeseg.frame import State
from edgeseg.web.monitor import BUCKETS_S, Histogram, Monitor

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

MACHINE_GAUGES = {
    "cpu_percent": ("cpu_busy_ratio", 0.01, "Busy share of all cores."),
    "gpu_percent": ("gpu_busy_ratio", 0.01, "Busy share of the GPU."),
    "memory_used_mib": ("memory_used_bytes", 2.0**20, "Main memory in use."),
    "memory_total_mib": ("memory_total_bytes", 2.0**20, "Main memory there is."),
    "power_w": ("power_watts", 1.0, "What the module draws."),
    "temperature_c": ("temperature_celsius", 1.0, "Of the hottest thermal zone."),
}
"""Field of ``edgeseg.telemetry.Reading``: name, factor to Prometheus' base units, help."""


def metrics_text(monitor: Monitor, pictures: int) -> str:
    """All figures. ``pictures`` is how many the page's viewers had encoded."""
    report, counts = monitor.report, monitor.source_counts()
    reconnects = counts.pop("reconnects", 0)
    lines = [
        *_single("frames_total", "counter", "Results made.", report.frames),
        *_single("frames_dropped_total", "counter", "Frames without a result.", report.dropped),
        *_single("frames_invalid_total", "counter", "Results without a valid mask.", report.invalid),
        *_single("deadlines_missed_total", "counter", "Results older than the deadline.", report.missed),
        *_single("frames_per_second", "gauge", "Results, over the last seconds.", report.recent().fps),
        *_labelled("source_state", "gauge", "1 for the state the source is in.", "state", _states(monitor.state)),
        *_labelled("source_frames_total", "counter", "What became of the source's frames.", "fate", counts),
        *_single("source_reconnects_total", "counter", "Times it was opened again.", reconnects),
        *_histogram("latency_seconds", "From the frame in memory to its mask in memory.", monitor.latency),
        *_histogram("age_seconds", "From capture to the mask in memory.", monitor.age),
        *_single("web_pictures_total", "counter", "Pictures encoded for the web page.", pictures),
    ]
    machine = monitor.machine()
    for field, (name, factor, text) in MACHINE_GAUGES.items():
        if field in machine:
            lines += _single(name, "gauge", text, machine[field] * factor)
    return "\n".join(lines) + "\n"


def _states(now: State) -> dict[str, float]:
    return {state.value: float(state is now) for state in State}


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP edgeseg_{name} {text}", f"# TYPE edgeseg_{name} {kind}"]


def _single(name: str, kind: str, text: str, value: float) -> list[str]:
    return [*_head(name, kind, text), f"edgeseg_{name} {value}"]


def _labelled(name: str, kind: str, text: str, label: str, values: Mapping[str, float]) -> list[str]:
    return [*_head(name, kind, text), *(f'edgeseg_{name}{{{label}="{key}"}} {v}' for key, v in values.items())]


def _histogram(name: str, text: str, histogram: Histogram) -> list[str]:
    bounds = [*map(str, BUCKETS_S), "+Inf"]
    at_most = list(accumulate(histogram.counts))
    return [
        *_head(name, "histogram", text),
        *(f'edgeseg_{name}_bucket{{le="{bound}"}} {count}' for bound, count in zip(bounds, at_most)),
        f"edgeseg_{name}_sum {histogram.sum_s}",
        f"edgeseg_{name}_count {at_most[-1]}",
    ]
