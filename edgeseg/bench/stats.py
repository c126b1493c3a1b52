"""What a list of latencies comes to: percentiles, bounds that hold with confidence, and tests for a difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from edgeseg.timing import PERCENTILES

BOUND_PERCENTILES = (90, 95, 99)
CONFIDENCE = 0.99


def summary_ms(samples_ms: Sequence[float]) -> dict[str, float]:
    """``{"p50": ms, ..., "p99": ms, "max": ms, "mean": ms}`` of all samples, none left out; at least one."""
    values = np.percentile(samples_ms, PERCENTILES)
    row = {f"p{percentile}": float(value) for percentile, value in zip(PERCENTILES, values)}
    return {**row, "max": float(np.max(samples_ms)), "mean": float(np.mean(samples_ms))}


def bounds_ms(samples_ms: Sequence[float]) -> dict[str, float | None]:
    """``{"p90": ms, ...}``: see ``upper_bound``."""
    return {f"p{percentile}": upper_bound(samples_ms, percentile) for percentile in BOUND_PERCENTILES}


def upper_bound(samples: Sequence[float], percentile: int) -> float | None:
    """What the true percentile does not exceed, with 99 % confidence; None where the samples are too few.

    The early-stopping estimate of MLPerf Inference for the scenario SingleStream (mlcommons/inference,
    ``loadgen/results.cc``; tolerance 0): the ``t``-th slowest sample, with the largest ``t`` for which ``t`` slow
    ones among as many samples would be a coincidence. It takes 64 samples for p90, 130 for p95 and 662 for p99.
    The confidence supposes that samples do not depend on each other, which on a machine that changes its pace they
    do: more rounds make up for it, more frames in a round do not.
    """
    slowest = _discarded(len(samples), percentile)
    return None if slowest is None else float(np.sort(samples)[-slowest])


@lru_cache(maxsize=64)
def _discarded(count: int, percentile: int) -> int | None:
    """The largest ``t`` >= 1 with P(Binomial(count, 1 - p) <= t) <= 1 - confidence."""
    above = 1 - percentile / 100
    cumulative, t = 0.0, -1
    while t < count:
        cumulative += _binomial(count, t + 1, above)
        if cumulative > 1 - CONFIDENCE:
            break
        t += 1
    return t if t >= 1 else None


def _binomial(count: int, hits: int, chance: float) -> float:
    log_ways = math.lgamma(count + 1) - math.lgamma(hits + 1) - math.lgamma(count - hits + 1)
    return math.exp(log_ways + hits * math.log(chance) + (count - hits) * math.log1p(-chance))


def rank_sum_p(a: Sequence[float], b: Sequence[float]) -> float:
    """How likely it is by chance alone that two samples are ordered as differently as these, or more.

    The two-sided test of Mann and Whitney ("On a test of whether one of two random variables is stochastically
    larger than the other", 1947), exact. It supposes nothing about how latencies are distributed.
    """
    beaten = sum((x < y) + 0.5 * (x == y) for x in a for y in b)
    fewest = math.floor(min(beaten, len(a) * len(b) - beaten))
    ways = _orderings(len(a), len(b))
    return min(1.0, 2 * sum(ways[: fewest + 1]) / math.comb(len(a) + len(b), len(a)))


@lru_cache(maxsize=16)
def _orderings(a: int, b: int) -> tuple[int, ...]:
    """In how many orders of ``a + b`` items a given number of pairs is in order, by that number."""
    if a == 0 or b == 0:
        return (1,)
    ways = [0] * (a * b + 1)
    # The largest item is of either sample: of the first it is above all of the second.
    for pairs, count in enumerate(_orderings(a - 1, b)):
        ways[pairs + b] += count
    for pairs, count in enumerate(_orderings(a, b - 1)):
        ways[pairs] += count
    return tuple(ways)
