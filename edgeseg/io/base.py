"""What every source of frames promises."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from edgeseg.errors import SourceError
from edgeseg.frame import Frame, State

LOG = logging.getLogger("edgeseg.io")

StateCallback = Callable[[State, State, str], None]
"""Called with the old state, the new one, and the reason in words, on the thread that noticed."""


@dataclass
class Counts:
    """What became of the frames of a source: ``captured = delivered + dropped + stale + corrupt``, and one that waits.

    Attributes:
        captured: frames that reached this process since the first was asked for.
        dropped: good ones that a newer one replaced before anybody took them.
        stale: ones passed over because they were old on arrival, or grew old waiting.
        corrupt: ones the decoder called damaged.
        reconnects: times a stream that was lost could be opened again.
    """

    captured: int = 0
    dropped: int = 0
    stale: int = 0
    corrupt: int = 0
    reconnects: int = 0


class Observer(Protocol):
    """Is told what a source does, such as a recorder. Nothing here may wait."""

    def frame(self, frame: Frame, counts: Counts) -> None:
        """A frame was handed out."""

    def state(self, old: State, new: State, reason: str) -> None:
        """The state has changed."""

    def close(self) -> None:
        """The source was closed."""


class Source(ABC):
    """A sequence of frames. Iterate over it, or call ``read``, ``next`` or ``latest``.

    Attributes:
        name: what it was opened with, without passwords, for messages.
        live: frames arrive at their own pace and old ones are worthless; files wait to be read.
        frame_count: how many frames there will be, where that is known.
        rate_hz: frames a second, where that is known.
        counts: what became of its frames.
        flip: how pictures are mirrored before they are handed out; see ``SourceOptions``.
        paths: the files it reads.
    """

    live = False
    paths: Sequence[Path] = ()

    def __init__(self, name: str, frame_count: int | None = None, rate_hz: float | None = None) -> None:
        self.name, self.frame_count, self.rate_hz = name, frame_count, rate_hz
        self.counts = Counts()
        self._state, self._reason = State.LIVE, ""
        self.flip = "none"
        self._callbacks: list[StateCallback] = []
        self._observers: list[Observer] = []

    @property
    def state(self) -> State:
        """How the source is doing."""
        return self._state

    @property
    def reason(self) -> str:
        """Why it is in this state, in words; empty where there is nothing to say."""
        return self._reason

    @property
    def dropped(self) -> int:
        """Frames passed over because nobody took them in time."""
        return self.counts.dropped + self.counts.stale

    def on_state(self, callback: StateCallback) -> None:
        """Have ``callback(old, new, reason)`` called on every change of state. It must return quickly."""
        self._callbacks.append(callback)

    def attach(self, observer: Observer) -> None:
        """Have an observer told of every frame that is handed out and of every state; it is closed with the source."""
        self._observers.append(observer)
        self.on_state(observer.state)

    def read(self) -> Frame | None:
        """The next frame of a file, the newest of a live source, waiting for it; None once the source has ended.

        Raises:
            SourceError: it cannot be read any further; what came before was good.
        """
        start = time.perf_counter()
        try:
            frame = self._read()
        except SourceError as error:
            self._enter(State.FAILED, error.problem)
            raise
        if frame is None:
            self._enter(State.ENDED)
            return None
        self.counts.captured += 1
        return self._hand_out(replace(frame, capture_ms=1000 * (time.perf_counter() - start)))

    def next(self, timeout_s: float) -> Frame | None:
        """``read``, but None also when no frame came within ``timeout_s`` seconds: ``state`` tells which.

        A file takes the time that its decoder takes.
        """
        return self.read()

    def latest(self, max_age_s: float) -> Frame | None:
        """The newest frame at once, seen before or not; None when it is older than ``max_age_s`` seconds.

        The next frame of a file is always its newest.
        """
        return self.read()

    @abstractmethod
    def _read(self) -> Frame | None: ...

    def _enter(self, state: State, reason: str = "") -> None:
        old, self._state, self._reason = self._state, state, reason
        if old is not state:
            for callback in self._callbacks:
                callback(old, state, reason)

    def _hand_out(self, frame: Frame, *, is_new: bool = True) -> Frame:
        if self.flip != "none":
            frame = flipped(frame, self.flip)
        if is_new:
            for observer in self._observers:
                observer.frame(frame, self.counts)
        return frame

    def close(self) -> None:
        """Free the device or file. Closing twice is allowed."""
        while self._observers:
            self._observers.pop().close()

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self.read()) is not None:
            yield frame

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def flipped(frame: Frame, flip: str) -> Frame:
    """A frame with its picture, and its truth if it has one, mirrored: "h", "v" or "both"."""
    axes = {"h": (1,), "v": (0,), "both": (0, 1)}[flip]
    image = np.ascontiguousarray(np.flip(frame.image, axes))
    truth = None if frame.truth is None else np.ascontiguousarray(np.flip(frame.truth, axes))
    return replace(frame, image=image, truth=truth)
