"""Ending in good order when a signal comes."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

POLL_S = 0.05


@contextlib.contextmanager
def stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """Inside the block SIGINT and SIGTERM set ``stop`` instead of ending the process; a second one ends it.

    Outside the main thread, which alone may handle signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # Not stop.is_set(): a run that has ended by itself sets it too, and then still finishes its files.
    received: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        received.append(number)
        stop.set()
        if len(received) > 1:
            raise KeyboardInterrupt

    previous = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in previous.items():
            # None stands for a handler that was not set from Python.
            signal.signal(number, signal.SIG_DFL if old is None else old)


def result_unless_stopped(work: Callable[[], T], stop: threading.Event) -> T | None:
    """What ``work`` returns, done on another thread; None once ``stop`` is set, and the work is left behind.

    Python hears signals on its main thread only, and not while that is inside a library.

    Raises:
        BaseException: whatever ``work`` raises.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def do() -> None:
        try:
            results.append(work())
        except BaseException as error:  # raised again on the caller's thread
            errors.append(error)

    thread = threading.Thread(target=do, name="edgeseg start", daemon=True)
    thread.start()
    while thread.is_alive() and not stop.is_set():
        thread.join(POLL_S)
    if errors:
        raise errors[0]
    return results[0] if results else None
