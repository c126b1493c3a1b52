"""Telling frames of now from frames of then.

A decoder that says a frame is good does not say that it is new. After a gap, readers hand out what lay in their
parsers and buffers; after opening, a server sends everything since its last key frame; and over a slow network
frames queue up on the way. No reader tells. Arrival times and presentation times together do.
"""

from __future__ import annotations

import statistics
from collections import deque

DRAIN_S = 2.0
"""Longest time after opening, or after a gap, in which frames that come in a burst are passed over."""

CLOCK_DRIFT = 0.0005
"""How fast a camera's clock may run against this machine's, in seconds a second."""

_GAPS = 5


class Freshness:
    """Judges the frames of one source as they arrive. All times are monotonic seconds, given by the caller.

    Args:
        max_age_s: a frame that is further behind is old.
    """

    def __init__(self, max_age_s: float) -> None:
        self._max_age_s = max_age_s
        self._gaps: deque[float] = deque(maxlen=_GAPS)
        self.opened(0.0)

    def opened(self, now: float, *, shares_clock: bool = False) -> None:
        """The source was opened (again): nothing learned about its clock holds any longer.

        Args:
            now: the moment.
            shares_clock: presentation times are of the same clock as ``now``.
        """
        self._shares_clock = shares_clock
        self._drains_since: float | None = now
        self._arrived: float | None = None
        self._pts_s: float | None = None
        self._edge_s: float | None = None

    @property
    def patience_s(self) -> float:
        """How long without a frame is too long: the greatest age, or two frame intervals where that is longer."""
        # The median: one stall must not make it patient, a camera that slows down in the dark must.
        return max(self._max_age_s, 2 * statistics.median(self._gaps) if self._gaps else 0.0)

    def age_on_arrival_s(self, now: float, pts_s: float | None) -> float | None:
        """How old a frame is that arrives now, in seconds; None: too old, pass over it.

        Args:
            now: the moment.
            pts_s: its presentation time, where it is known and runs as fast as the clock.
        """
        gap = None if self._arrived is None else now - self._arrived
        step = None if pts_s is None or self._pts_s is None else pts_s - self._pts_s
        self._arrived, self._pts_s = now, pts_s
        lag = self._lag_s(now, pts_s, gap or 0.0, step)
        if gap is None:
            # The first one may date from the camera's last key frame.
            return None
        patience, known = self.patience_s, bool(self._gaps)
        if known and gap > patience:
            # It lay in a buffer since before the gap, and more may follow it.
            self._gaps.append(gap)
            self._drains_since = now
            return None
        if self._drains_since is not None:
            due = step if step is not None and step > 0 else (statistics.median(self._gaps) if known else 0.0)
            # The first frames of a stream can lack their times, or share one: that tells nothing about a burst.
            unclear = pts_s is not None and (step is None or step <= 0)
            if (unclear or gap < due / 2) and now - self._drains_since < DRAIN_S:
                return None
            self._drains_since = None
        self._gaps.append(gap)
        return lag if lag <= patience else None

    def _lag_s(self, now: float, pts_s: float | None, gap: float, step: float | None) -> float:
        """How far behind the least delayed frame so far this one is."""
        if pts_s is None:
            return 0.0
        delay = now - pts_s
        if self._edge_s is None or (step is not None and step <= 0):
            # The first frame, or the camera's clock was set back or stands.
            self._shares_clock = self._shares_clock and 0 <= delay < 1
            self._edge_s = 0.0 if self._shares_clock else delay
        drift = 0.0 if self._shares_clock else CLOCK_DRIFT * gap
        self._edge_s = min(self._edge_s + drift, delay)
        return delay - self._edge_s
