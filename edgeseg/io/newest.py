"""Newest wins: one slot between whatever makes frames at its own pace and whoever takes them."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

from edgeseg.errors import EdgesegError
from edgeseg.frame import Frame, State
from edgeseg.io.base import Source

_LONG_S, _CLOSE_S = 3600.0, 1.0


class NewestWins(Source):
    """Base of live sources. A thread of the subclass calls ``_publish``; consumers take the newest frame.

    Args:
        name: for messages.
        max_age_s: a frame that waited longer in the slot is passed over and counted as stale.
        rate_hz: frames a second, where that is known.
    """

    live = True

    def __init__(self, name: str, max_age_s: float, rate_hz: float | None = None) -> None:
        super().__init__(name, None, rate_hz)
        self._max_age_s = max_age_s
        self._state = State.CONNECTING
        self._changed = threading.Condition()
        self._slot: Frame | None = None
        self._is_taken = False
        self._is_asked_for = False
        self._is_over = False
        self._end = State.ENDED, ""
        self._error: BaseException | None = None

    @property
    def _patience_s(self) -> float:
        """How long a frame may wait in the slot."""
        return self._max_age_s

    def read(self) -> Frame | None:
        """The newest frame that was not taken yet, waiting for it; None once the source has ended or is closed.

        Raises:
            SourceError: the source has failed for good.
        """
        return self._read()

    def _read(self) -> Frame | None:
        while (frame := self.next(_LONG_S)) is None and not self._is_over:
            pass
        return frame

    def next(self, timeout_s: float) -> Frame | None:
        """``read``, but None also when no frame came within ``timeout_s`` seconds: ``state`` tells which."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._ask()
            while (frame := self._take()) is None:
                if self._is_over:
                    self._enter(*self._end)
                    self._raise_error()
                    return None
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self._changed.wait(left)
        return self._hand_out(frame)

    def latest(self, max_age_s: float) -> Frame | None:
        """The newest frame at once, seen before or not; None when it is older than ``max_age_s`` seconds."""
        with self._changed:
            self._ask()
            if self._is_over:
                self._raise_error()
            frame = self._slot
            if frame is None or time.monotonic() - frame.captured_at > max_age_s:
                return None
            is_new, self._is_taken = not self._is_taken, True
        return self._hand_out(frame, is_new=is_new)

    def _ask(self) -> None:
        """Counting begins when somebody wants frames: what a camera shows while an engine loads is nobody's loss."""
        if not self._is_asked_for:
            self._is_asked_for = True
            self.counts.captured += self._slot is not None

    def _take(self) -> Frame | None:
        frame = self._slot
        if frame is None or self._is_taken:
            return None
        self._is_taken = True
        if time.monotonic() - frame.captured_at > self._patience_s:
            self.counts.stale += 1
            return None
        return frame

    def _raise_error(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _publish(self, frame: Frame) -> None:
        with self._changed:
            if self._is_asked_for and self._slot is not None and not self._is_taken:
                self.counts.dropped += 1
            self._slot, self._is_taken = frame, False
            self._changed.notify_all()

    def _finish(self, state: State, reason: str = "", error: BaseException | None = None) -> None:
        """No frame will follow the one in the slot; whoever asks after it is given the error, once."""
        with self._changed:
            if not self._is_over:
                self._is_over, self._end, self._error = True, (state, reason), error
                if self._slot is None or self._is_taken:
                    self._enter(state, reason)
            self._changed.notify_all()

    def _abandon(self) -> None:
        """The source is closed: nobody will take the frame in the slot."""
        with self._changed:
            self._is_taken = True
            self._finish(State.ENDED)


class PacedSource(NewestWins):
    """A file played at its own pace as if it were a camera: frames nobody takes in time are dropped and counted.

    Time starts with the first frame that is asked for, not while a model still loads.

    Args:
        source: what to play; closed with this one.
        max_age_s: see ``NewestWins``; the pace between two frames counts as well.
    """

    def __init__(self, source: Source, max_age_s: float) -> None:
        self._rate_hz = source.rate_hz or 30.0
        super().__init__(source.name, max(max_age_s, 2 / self._rate_hz), self._rate_hz)
        self.frame_count, self.paths = source.frame_count, source.paths
        self._source = source
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._play, daemon=True)

    def _ask(self) -> None:
        if not self._is_asked_for:
            super()._ask()
            self._thread.start()

    def _play(self) -> None:
        try:
            start = time.monotonic()
            for frame in self._source:
                due = start + (frame.index / self._rate_hz if frame.pts_s is None else frame.pts_s)
                late_s = time.monotonic() - due
                if late_s > 0:
                    # Decoding cannot keep the pace: the file plays more slowly, as a camera would in the dark.
                    start, due = start + late_s, due + late_s
                elif self._stop.wait(-late_s):
                    return
                with self._changed:
                    if self._is_over:
                        return
                    self.counts.captured += 1
                    self._enter(State.LIVE)
                self._publish(replace(frame, captured_at=due))
            self._finish(State.ENDED)
        except BaseException as error:  # raised again where frames are asked for
            self._finish(State.FAILED, error.problem if isinstance(error, EdgesegError) else str(error), error)

    def close(self) -> None:
        """Stop playing and close the file."""
        self._stop.set()
        self._abandon()
        if self._thread.ident is not None:
            self._thread.join(_CLOSE_S)
        self._source.close()
        super().close()
