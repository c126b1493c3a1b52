"""From one thread to the next: a short queue that never grows."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class HandOver(Generic[T]):
    """A queue between two threads.

    Args:
        depth: items that may wait.
        newest_wins: a full queue drops its oldest item (counted in ``dropped``) instead of letting ``put`` wait.
    """

    def __init__(self, depth: int = 1, *, newest_wins: bool = False) -> None:
        self._depth, self._newest_wins = depth, newest_wins
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self.dropped = 0

    def put(self, item: T) -> bool:
        """Add an item, waiting for room; False once the queue has ended, and the item is lost."""
        with self._changed:
            if self._newest_wins and len(self._items) >= self._depth:
                self._items.popleft()
                self.dropped += 1
            self._changed.wait_for(lambda: self._ended or len(self._items) < self._depth)
            if self._ended:
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def get(self, timeout_s: float | None = None) -> T | None:
        """The oldest item; None when none came in ``timeout_s`` seconds, or the queue ended and is empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or bool(self._items), timeout_s)
            if not self._items:
                return None
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def end(self) -> None:
        """Take no more items, and wake who waits. Those inside can still be taken."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def clear(self) -> None:
        """Take out what waits, uncounted."""
        with self._changed:
            self._items.clear()
            self._changed.notify_all()

    @property
    def finished(self) -> bool:
        """True once it has ended and is empty."""
        with self._changed:
            return self._ended and not self._items


def join(threads: list[threading.Thread], timeout_s: float) -> list[threading.Thread]:
    """Wait for threads together; those that still run after ``timeout_s`` seconds."""
    end = time.monotonic() + timeout_s
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return [thread for thread in threads if thread.is_alive()]
