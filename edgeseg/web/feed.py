"""The newest picture, encoded once for any number of viewers, and not at all while nobody watches."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeseg.segmentation import Segmentation

RATE_HZ = 20.0
"""Pictures a second at most: more than an eye needs to follow a scene."""

SLOWEST_HZ = 2.0
"""Pictures a second that are made in any case, while someone watches."""

BUDGET = 0.02
"""Share of the processors' time that the server may use: on a slow machine, or with many viewers, there are fewer
pictures, not a slower loop."""

MAX_SIDE = 960
"""Longer pictures are shrunk to this many pixels before they are encoded."""

JPEG_QUALITY = 80


@dataclass(frozen=True)
class Picture:
    """One encoded result.

    Attributes:
        key: different for every picture, also after a restart.
        jpeg: the frame.
        png: its class map, one channel, pixel = class id.
        result: what it was made from.
    """

    key: str
    jpeg: bytes
    png: bytes
    result: Segmentation


def picture_from_result(result: Segmentation, key: str) -> Picture:
    """Frame and class map as files that browsers read, at most ``MAX_SIDE`` pixels long.

    The class map is not painted: the browser does that, with the colours and opacity its user chose.
    """
    import cv2

    frame, mask = result.frame.image, result.mask
    scale = MAX_SIDE / max(mask.shape)
    if scale < 1:
        size_wh = (max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale)))
        frame = np.asarray(cv2.resize(frame, size_wh, interpolation=cv2.INTER_AREA), np.uint8)
        mask = np.asarray(cv2.resize(mask, size_wh, interpolation=cv2.INTER_NEAREST), np.uint8)
    jpeg = _encoded(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return Picture(key, jpeg, _encoded(".png", mask, []), result)


def _encoded(suffix: str, image: NDArray[np.uint8], parameters: list[int]) -> bytes:
    import cv2

    return bytes(cv2.imencode(suffix, image, parameters)[1])


class Feed:
    """Hands the newest picture to whoever asks for one.

    ``put`` costs the loop an assignment. Everything else happens on the server's thread, when a viewer asks. A viewer
    asks for its next picture once it has the last: a slow one gets fewer pictures, not older ones, and one that never
    reads holds a single picture in memory.

    Attributes:
        encoded: pictures encoded so far.
    """

    def __init__(self) -> None:
        self.encoded = 0
        self._run = secrets.token_hex(4)
        self._newest: tuple[str, Segmentation] | None = None
        self._number = 0
        self._picture: Picture | None = None
        self._due = float("-inf")
        self._cpu_s = 0.0
        self._waiting: set[asyncio.Event] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def put(self, result: Segmentation) -> None:
        """Offer the newest result; on the thread that makes them."""
        self._number += 1
        self._newest = (f"{self._run}-{self._number}", result)
        self.wake()

    def wake(self) -> None:
        """Let everyone who waits for a picture look again; from any thread."""
        # Nobody is missed: whoever waits looks for a newer result after entering _waiting.
        if self._waiting and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the server has just ended
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        for event in self._waiting:
            event.set()

    def is_of_this_run(self, key: str) -> bool:
        """Whether a viewer that names this picture has met this run before."""
        return key.startswith(self._run)

    async def newer(self, seen: str, timeout_s: float) -> Picture | None:
        """The newest picture as soon as its key is not ``seen``; None after ``timeout_s`` seconds, or ``wake``."""
        event = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._waiting.add(event)
        try:
            if not self._has_newer(seen):
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(event.wait(), timeout_s)
        finally:
            self._waiting.discard(event)
        if not self._has_newer(seen):
            return None
        if self._shared(seen) is None:
            await asyncio.sleep(self._rest_s())
        # Meanwhile another viewer's request may have had it encoded.
        return self._shared(seen) or self._encode()

    def _has_newer(self, seen: str) -> bool:
        return self._newest is not None and self._newest[0] != seen

    def _shared(self, seen: str) -> Picture | None:
        """The last encoded picture, if it is new to this viewer, and the newest or there is to be no newer one yet."""
        picture = self._picture
        if picture is None or picture.key == seen:
            return None
        return picture if self._rest_s() > 0 or not self._has_newer(picture.key) else None

    def _rest_s(self) -> float:
        return max(0.0, self._due - time.monotonic())

    def _encode(self) -> Picture:
        assert self._newest is not None
        key, result = self._newest
        # One picture may come early, else a camera of just this rate would be late by ever more.
        self._due = max(self._due, time.monotonic() - 1 / RATE_HZ) + self._interval_s()
        self._picture = picture_from_result(result, key)
        self.encoded += 1
        return self._picture

    def _interval_s(self) -> float:
        """What keeps the server within its budget, by what this thread has used since the last picture."""
        before_s, self._cpu_s = self._cpu_s, time.thread_time()
        affordable_s = (self._cpu_s - before_s) / (BUDGET * (os.cpu_count() or 1))
        return min(max(1 / RATE_HZ, affordable_s), 1 / SLOWEST_HZ)
