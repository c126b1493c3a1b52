"""Two results files: what became faster, slower, more or less accurate beyond noise.

The rule: every round of a row gives one median. A row is faster or slower where a rank-sum test over the rounds of
both files leaves less than 1 % to chance, and the medians of the rounds differ by more than 2 %: rounds of one run
are more alike than two runs on one machine, so smaller differences are not believed however sure the test is.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeseg.bench.results import Row, measured_rows, miou_of, name_of
from edgeseg.bench.stats import rank_sum_p
from edgeseg.errors import UsageError

CHANCE = 0.01
SMALLEST_CHANGE = 0.02
SMALLEST_POINTS = 0.1
"""Smaller differences of mIoU, in points, come from another engine version's rounding."""

ALIKE_CONDITIONS = (
    "cpu", "cpu_features", "cores", "cores_usable", "virtual_machine", "gpu", "jetson", "governor", "power_mode",
    "thread_variables",
)  # fmt: skip
ALIKE_SETTINGS = ("mode", "rate_hz", "threads", "timed_on", "scored_on")

LOAD_APART = 0.5
"""Of the cores: runs that began on a machine so differently busy are not alike."""


@dataclass(frozen=True)
class Change:
    """A row in both files.

    Attributes:
        name: see ``name_of``.
        before_ms, after_ms: medians of the rounds' medians.
        chance: that rounds differ so much without a cause; None where there are too few rounds to tell.
        before_miou, after_miou: in per cent, or None.
        same_file: whether the model's file is the same.
    """

    name: str
    before_ms: float
    after_ms: float
    chance: float | None
    before_miou: float | None
    after_miou: float | None
    same_file: bool

    @property
    def ratio(self) -> float:
        """Time after over time before."""
        return self.after_ms / self.before_ms

    @property
    def verdict(self) -> str:
        """ "faster", "slower", "same", or "unknown"."""
        if self.chance is None:
            return "unknown"
        if self.chance >= CHANCE or abs(self.ratio - 1) <= SMALLEST_CHANGE:
            return "same"
        return "faster" if self.ratio < 1 else "slower"

    @property
    def points(self) -> float | None:
        """Change of mIoU in points."""
        if self.before_miou is None or self.after_miou is None:
            return None
        return self.after_miou - self.before_miou

    @property
    def worse(self) -> bool:
        """Whether it became slower, or less accurate."""
        return self.verdict == "slower" or (self.points is not None and self.points < -SMALLEST_POINTS)

    def text(self) -> str:
        """One line."""
        change = f"{100 * abs(self.ratio - 1):.1f} %"
        said = {
            "faster": f"{change} less time",
            "slower": f"{change} more time",
            "same": f"no difference beyond noise ({100 * (self.ratio - 1):+.1f} %)",
            "unknown": "too few rounds to tell",
        }[self.verdict]
        parts = [f"{self.before_ms:.2f} -> {self.after_ms:.2f} ms, {said}"]
        if self.points is not None:
            parts.append(f"mIoU {self.before_miou:.2f} -> {self.after_miou:.2f} ({self.points:+.2f})")
        if not self.same_file:
            parts.append("another model file")
        return f"{self.name}: {'; '.join(parts)}"


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """The rows that both files have, in the order of the first.

    Raises:
        UsageError: the conditions differ, naming them; or no row is in both.
    """
    unlike = unlike_conditions(before, after)
    if unlike:
        raise UsageError(
            f"The files were not measured under like conditions: {'; '.join(unlike)}",
            "measure both on the same machine, in the same state and with the same options",
        )
    rows = {name_of(row): row for row in measured_rows(after)}
    changes = [_change(row, rows[name_of(row)]) for row in measured_rows(before) if name_of(row) in rows]
    if not changes:
        raise UsageError("The files have no model, precision, size and engine in common", "measure the same models")
    return changes


def unlike_conditions(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What makes two files incomparable, each as "name: value, value".

    Versions may differ: they are often the point.
    """
    a, b = before["conditions"], after["conditions"]
    found = [f"{key}: {a[key]}, {b[key]}" for key in ALIKE_CONDITIONS if a[key] != b[key]]
    x, y = before["settings"], after["settings"]
    found += [f"{key}: {x[key]}, {y[key]}" for key in ALIKE_SETTINGS if x[key] != y[key]]
    sizes = [measured_rows(results)[0]["frame_hw"] for results in (before, after)]
    if sizes[0] != sizes[1]:
        found.append(f"frame_hw: {sizes[0]}, {sizes[1]}")
    loads = [results["load_average_1min"] for results in (a, b)]
    if None not in loads and abs(loads[0] - loads[1]) > LOAD_APART * a["cores"]:
        found.append(f"load before the run: {loads[0]:.2f}, {loads[1]:.2f}")
    throttled = [_throttled(results) for results in (a, b)]
    if throttled[0] != throttled[1]:
        found.append(f"throttled during the run: {throttled[0]}, {throttled[1]}")
    return found


def version_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Software that differs, as "name: old, new"."""
    a, b = before["conditions"]["versions"], after["conditions"]["versions"]
    return [f"{name}: {a.get(name)}, {b.get(name)}" for name in sorted({*a, *b}) if a.get(name) != b.get(name)]


def _throttled(conditions: Mapping[str, Any]) -> bool:
    return (conditions["end"]["throttle_events"] or 0) > (conditions["throttle_events"] or 0)


def _change(before: Row, after: Row) -> Change:
    a, b = ([one["latency_ms"] for one in row["rounds"]] for row in (before, after))
    decidable = 2 / math.comb(len(a) + len(b), len(a)) < CHANCE
    return Change(
        name=name_of(before),
        before_ms=statistics.median(a),
        after_ms=statistics.median(b),
        chance=rank_sum_p(a, b) if decidable else None,
        before_miou=miou_of(before),
        after_miou=miou_of(after),
        same_file=before["sha256"] == after["sha256"],
    )
