"""Which of the measured combinations to use, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgeseg.bench.results import Row, headline_ms, measured_rows, miou_of, name_of
from edgeseg.errors import UsageError

PERCENTILE = "p90"
"""That of MLPerf's SingleStream: the deadline of one frame in ten may be missed, and no more."""


def budget_ms(row: Row) -> float:
    """The p90 that holds with 99 % confidence; where there were too few frames for that, the p90 as measured."""
    bound = row["bounds_ms"][PERCENTILE]
    return headline_ms(row)[PERCENTILE] if bound is None else float(bound)


def pick_within(results: Mapping[str, Any], max_ms: float) -> str:
    """The most accurate combination whose p90 is within a time, in words.

    Raises:
        UsageError: nothing was scored, or nothing is fast enough; names what comes nearest.
    """
    rows = _scored(results)
    fitting = [row for row in rows if budget_ms(row) <= max_ms]
    if not fitting:
        fastest = min(rows, key=budget_ms)
        raise UsageError(
            f"Nothing measured stays within {max_ms:g} ms; the nearest is {_described(fastest)}",
            "allow more time, or measure a smaller input, INT8, or a smaller network",
        )
    best = max(fitting, key=lambda row: (_miou(row), -budget_ms(row)))
    why = f"the most accurate of {len(fitting)} of {len(rows)} that stay within {max_ms:g} ms"
    slower = [row for row in rows if _miou(row) > _miou(best)]
    beyond = min(slower, key=budget_ms) if slower else None
    more = f"\n{_miou(beyond) - _miou(best):.2f} points more would need {_described(beyond)}" if beyond else ""
    return f"{_described(best)}\nWhy: {why}.{more}"


def pick_accurate(results: Mapping[str, Any], min_miou: float) -> str:
    """The combination with the lowest p90 among those that reach a mIoU in per cent, in words.

    Raises:
        UsageError: nothing was scored, or nothing is so accurate; names what comes nearest.
    """
    rows = _scored(results)
    fitting = [row for row in rows if _miou(row) >= min_miou]
    if not fitting:
        finest = max(rows, key=_miou)
        raise UsageError(
            f"Nothing measured reaches {min_miou:g} % mIoU; the nearest is {_described(finest)}",
            "ask for less, or measure a larger input or a larger network",
        )
    best = min(fitting, key=lambda row: (budget_ms(row), -_miou(row)))
    why = f"the fastest of {len(fitting)} of {len(rows)} that reach {min_miou:g} %"
    faster = [row for row in rows if budget_ms(row) < budget_ms(best)]
    below = max(faster, key=_miou) if faster else None
    more = f"\nFaster, but {_miou(best) - _miou(below):.2f} points less: {_described(below)}" if below else ""
    return f"{_described(best)}\nWhy: {why}.{more}"


def _scored(results: Mapping[str, Any]) -> Sequence[Row]:
    rows = [row for row in measured_rows(results) if miou_of(row) is not None]
    if not rows:
        raise UsageError("The results hold no accuracy", "measure with --data data.yaml")
    return rows


def _miou(row: Row) -> float:
    miou = miou_of(row)
    assert miou is not None
    return miou


def _described(row: Row) -> str:
    bound = "p90" if row["bounds_ms"][PERCENTILE] is None else "p90 at most"
    median_ms = headline_ms(row)["p50"]
    return f"{name_of(row)}: {_miou(row):.2f} % mIoU, {bound} {budget_ms(row):.2f} ms, p50 {median_ms:.2f} ms"
