"""Cameras and streams: opened, watched, and opened again for as long as it takes."""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time

from edgeseg.errors import SourceError
from edgeseg.frame import Frame, State
from edgeseg.io.base import LOG
from edgeseg.io.freshness import DRAIN_S, Freshness
from edgeseg.io.newest import NewestWins
from edgeseg.io.options import SourceOptions
from edgeseg.io.stream import Grab, OpenReader, Reader, StreamError

BACKOFF_FIRST_S, BACKOFF_MOST_S = 0.25, 8.0
CHEAP_MOST_S = 0.5
"""Longest pause while an attempt costs nobody anything: a refused connection, a camera of this machine."""
SLOW_RETRY_S = 30.0
"""Pause after a refusal: some cameras lock an account after a few."""
JITTER = 0.2

_GRACE_S = 1.0
_LINGER_S = 1.0


class LiveSource(NewestWins):
    """A camera or network stream that survives its faults. See ``docs/concepts/reliability.md``.

    One thread reads. Another watches it: it notices silence, gives up a reader that hangs (however its time-outs
    are meant to work), and opens the stream again after a pause that doubles, with jitter.

    Args:
        name: for messages, without a password.
        open_reader: opens the stream; called again after every loss.
        options: time-outs, the greatest age, and how long a stream that is not there is waited for.
    """

    def __init__(self, name: str, open_reader: OpenReader, options: SourceOptions) -> None:
        super().__init__(name, options.max_age_s)
        self._open_reader, self._options = open_reader, options
        self._freshness = Freshness(options.max_age_s)
        self._was_live = False
        self._fresh_at = self._begun_at = time.monotonic()
        self._session: _Session | None = None
        self.on_state(self._log)
        self._supervisor = threading.Thread(target=self._supervise, daemon=True, name=f"edgeseg {name}")
        self._supervisor.start()

    def wait_until_live(self) -> None:
        """Wait for the first frame, for as long as the first attempt takes.

        Raises:
            SourceError: there is none.
        """
        with self._changed:
            while self._state is State.CONNECTING and not self._is_over:
                self._changed.wait()
            self._raise_error()

    @property
    def _patience_s(self) -> float:
        return self._freshness.patience_s

    def _log(self, old: State, new: State, reason: str) -> None:
        broken = (State.RECONNECTING, State.FAILED)
        level = logging.WARNING if old in broken or new in broken else logging.INFO
        LOG.log(level, "%s: %s%s", self.name, new.value, f" ({reason})" if reason else "")

    # --- the watching thread ---------------------------------------------------------------------------------------

    def _supervise(self) -> None:
        pause_s = BACKOFF_FIRST_S
        try:
            while not self._is_over:
                loss = self._watch_one_session()
                if self._is_over:
                    return
                if self._state is State.LIVE or self._state is State.STALLED:
                    pause_s = BACKOFF_FIRST_S
                wait_s = self._note_loss(loss, pause_s)
                pause_s = min(2 * pause_s, CHEAP_MOST_S if loss.cheap else BACKOFF_MOST_S)
                with self._changed:
                    self._changed.wait_for(lambda: self._is_over, wait_s)
        except BaseException as error:  # raised again where frames are asked for
            self._finish(State.FAILED, str(error), error)

    def _note_loss(self, loss: StreamError, pause_s: float) -> float:
        """Enter the state that a loss leads to; the seconds until the next attempt."""
        pause_s = SLOW_RETRY_S if loss.permanent else pause_s
        if not self._was_live and (loss.permanent or time.monotonic() - self._begun_at >= self._options.wait_s):
            error = SourceError(f"{self.name} cannot be opened: {loss.reason}", loss.mend)
            self._finish(State.FAILED, loss.reason, error)
            return 0.0
        with self._changed:
            if loss.permanent:
                self._enter(State.FAILED, loss.reason)
            else:
                self._enter(State.RECONNECTING if self._was_live else State.CONNECTING, loss.reason)
        return pause_s * random.uniform(1 - JITTER, 1 + JITTER)

    def _watch_one_session(self) -> StreamError:
        session = self._session = _Session(self)
        with self._changed:
            while not self._is_over:
                if session.error is not None:
                    raise session.error
                if session.loss is not None:
                    return session.loss
                now = time.monotonic()
                if now >= session.deadline:
                    session.is_given_up = True
                    return StreamError("the reader hangs" if session.is_open else "it does not open in time")
                silent_s, wake = now - self._fresh_at, session.deadline
                if self._state is State.LIVE:
                    if silent_s >= self._freshness.patience_s:
                        self._enter(State.STALLED, f"no new frame for {silent_s:.2f} s")
                    else:
                        wake = min(wake, self._fresh_at + self._freshness.patience_s)
                elif session.is_open:
                    if silent_s >= DRAIN_S + self._silence_s:
                        session.is_given_up = True
                        return StreamError("only old or damaged frames arrive")
                    wake = min(wake, self._fresh_at + DRAIN_S + self._silence_s)
                self._changed.wait(max(0.0, wake - now))
        session.is_given_up = True
        return StreamError("closed")

    # --- called by the reading thread ------------------------------------------------------------------------------

    def _opened(self, session: _Session, reader: Reader) -> None:
        with self._changed:
            if session.is_given_up:
                return
            now = time.monotonic()
            session.is_open, session.deadline, self._fresh_at = True, now + self._silence_s, now
            self._freshness.opened(now, shares_clock=reader.shares_clock)
            self.rate_hz = reader.rate_hz
            self.counts.reconnects += self._was_live

    @property
    def _silence_s(self) -> float:
        """After so long without a sign of life a reader hangs: most give up by themselves after two time-outs."""
        return 2 * self._options.read_timeout_s + _GRACE_S

    def _arrived(self, session: _Session, reader: Reader, grab: Grab) -> None:
        now = time.monotonic()
        with self._changed:
            if session.is_given_up:
                return
            session.deadline = now + self._silence_s
            age_s = self._freshness.age_on_arrival_s(now, grab.pts_s)
        image = None if age_s is None or grab.corrupt else reader.retrieve()
        with self._changed:
            if session.is_given_up:
                return
            counts, counted = self.counts, self._is_asked_for
            index = counts.captured
            counts.captured += counted
            if age_s is None:
                counts.stale += counted
                return
            if image is None:
                counts.corrupt += counted
                return
            self._fresh_at, self._was_live = now, True
            self._enter(State.LIVE)
            took_ms = 1000 * (time.monotonic() - now)
            self._publish(Frame(image, index, now - age_s, grab.pts_s, capture_ms=took_ms))

    def close(self) -> None:
        """Let go of the camera. A reader that hangs in a driver keeps its device until the process ends."""
        self._abandon()
        self._supervisor.join(_LINGER_S)
        if self._session is not None:
            self._session.join(_LINGER_S)
        super().close()


class _Session:
    """One opening of a stream, read on a thread of its own until it is lost or given up."""

    def __init__(self, source: LiveSource) -> None:
        self._source = source
        self.loss: StreamError | None = None
        self.error: BaseException | None = None
        self.is_open = self.is_given_up = False
        self.deadline = time.monotonic() + 2 * source._options.open_timeout_s + _GRACE_S
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        source = self._source
        loss: StreamError | None = None
        error: BaseException | None = None
        try:
            reader = source._open_reader()
            with contextlib.closing(reader):
                source._opened(self, reader)
                while not self.is_given_up:
                    source._arrived(self, reader, reader.grab())
        except StreamError as lost:
            loss = lost
        except BaseException as defect:  # raised again where frames are asked for
            error = defect
        with source._changed:
            self.loss, self.error = loss, error
            source._changed.notify_all()

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)
