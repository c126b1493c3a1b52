"""Streaming accuracy: latency and accuracy as one number, the mIoU of what a robot has when a frame arrives.

A result is about a moment that is past when it is ready. So every labelled frame is compared with the newest result
that was finished by the time it arrived (Li et al., "Towards Streaming Perception", ECCV 2020; for segmentation
Courdier and Fleuret, "Real-Time Segmentation Networks Should Be Latency Aware", ACCV 2020), here with one confusion
matrix over the clip.

The schedule is computed from the measured time of every single frame rather than run against a clock: drawing or
decoding the clip beside the network would take its cores, and the same measurements always give the same number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.metrics import ConfusionMatrix

SLOWER = (2, 4, 8)
"""How many times slower machines are that the score is foretold for: the robot's own is seldom the fastest."""

_ROUNDING = 1e-9
"""Of a frame period: a result that is finished exactly when a frame arrives counts as there."""


def newest_results(latencies_s: Sequence[float], rate_hz: float) -> list[int | None]:
    """For every frame of a clip, whose result is the newest when it arrives; None before the first is finished.

    The network takes the newest frame whenever it is free, leaves out those it has no time for, and waits where it
    has seen the newest already: what ``edgeseg run`` does with a camera.

    Args:
        latencies_s: seconds from a frame in memory to its class map, for every frame.
        rate_hz: frames a second; frame ``k`` arrives ``k / rate_hz`` seconds after the first.
    """
    results: list[tuple[float, int]] = []
    taken, free_at = -1, 0.0
    while taken < len(latencies_s) - 1:
        newest = min(math.floor(free_at * rate_hz + _ROUNDING), len(latencies_s) - 1)
        taken = max(newest, taken + 1)
        free_at = max(free_at, taken / rate_hz) + latencies_s[taken]
        results.append((free_at * rate_hz - _ROUNDING, taken))
    shown: list[int | None] = []
    for arriving in range(len(latencies_s)):
        while len(results) > 1 and results[1][0] <= arriving:
            results.pop(0)
        shown.append(results[0][1] if results and results[0][0] <= arriving else None)
    return shown


def streaming_scores(
    latencies_s: Sequence[float],
    predicted_nhw: Sequence[NDArray[np.uint8]],
    truth_nhw: Sequence[NDArray[np.uint8]],
    classes: Sequence[str],
    ignore_id: int | None,
    rate_hz: float,
) -> dict[str, Any]:
    """Streaming mIoU of a clip, with what it would be without latency.

    The first frame is left out, because nobody can have a result by its arrival; later frames that arrive before any
    result is finished count as wrong.

    Args:
        latencies_s, rate_hz: see ``newest_results``.
        predicted_nhw, truth_nhw: class ids of every frame, uint8 [H, W]; at least two frames.
        classes: class names by id.
        ignore_id: true id that is not scored, or None.

    Returns:
        ``miou``; ``slower_miou``, the same by factor if every frame took ``SLOWER`` times as long; ``offline_miou``, of
        the same frames with their own results; ``one_frame_late_miou``, of a network without errors whose results are
        one frame old, which is the most that can be reached; ``frames``; ``delay_frames``, the mean age of the shown
        results in frames; ``processed``, the share of frames that the network had time for.

    Raises:
        DataError: see ``ConfusionMatrix``.
    """
    count = len(truth_nhw)
    nothing = np.full_like(truth_nhw[0], 255)

    def miou(shown: Sequence[int | None], results_nhw: Sequence[NDArray[np.uint8]]) -> float:
        confusion = ConfusionMatrix(classes, ignore_id)
        for truth, newest in zip(truth_nhw[1:], shown[1:]):
            confusion.update(truth, nothing if newest is None else results_nhw[newest])
        return confusion.scores().miou

    shown = newest_results(latencies_s, rate_hz)
    delays = [index - newest for index, newest in enumerate(shown) if newest is not None]
    return {
        "rate_hz": rate_hz,
        "frames": count - 1,
        "miou": miou(shown, predicted_nhw),
        "slower_miou": {
            str(factor): miou(newest_results([factor * latency_s for latency_s in latencies_s], rate_hz), predicted_nhw)
            for factor in SLOWER
        },
        "offline_miou": miou(range(count), predicted_nhw),
        "one_frame_late_miou": miou([None, *range(count - 1)], truth_nhw),
        "delay_frames": float(np.mean(delays)) if delays else None,
        "processed": len({newest for newest in shown if newest is not None}) / (count - 1),
    }
