"""Signs of life: for the run itself, and for systemd."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgeseg.errors import EdgesegError
from edgeseg.report import Report

if TYPE_CHECKING:
    from edgeseg.pipeline import Stream


class HungError(EdgesegError):
    """No result came for longer than the watchdog allows."""

    exit_code = 4


class Watchdog:
    """Ends a run in which nothing comes out any more.

    Args:
        timeout_s: how long no result may come, counted from now on; None never barks.
        report: of the run.
        stream: of the run; knows who is at work.
    """

    def __init__(self, timeout_s: float | None, report: Report, stream: Stream) -> None:
        self._timeout_s, self._report, self._stream = timeout_s, report, stream
        self._frames = report.frames
        self.feed()

    def feed(self) -> None:
        """Count from now on."""
        self._fed_at = time.monotonic()

    def check(self) -> None:
        """Feed it when results came since the last look.

        Raises:
            HungError: none came for too long; names what was at work.
        """
        if self._report.frames != self._frames:
            self._frames = self._report.frames
            self.feed()
        elif self._timeout_s is not None and time.monotonic() - self._fed_at > self._timeout_s:
            state = f", which is {self._report.state.value}" if self._stream.at_work == "the source" else ""
            raise HungError(
                f"No result for {self._timeout_s:g} s: waiting for {self._stream.at_work}{state}",
                "start again; under systemd, Restart=always does",
            )


class SystemdNotifier:
    """Tells systemd that the service is ready, alive and ending, where it asked for that (sd_notify).

    Where ``NOTIFY_SOCKET`` is not set, as outside systemd, every method does nothing.
    See https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
    """

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        # A name that begins with @ lives in Linux's abstract name space, written with a zero byte.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        # Twice as often as systemd looks, as it recommends.
        self._interval_s = int(os.environ.get("WATCHDOG_USEC") or 0) / 2e6
        self._alive_at = 0.0

    def ready(self) -> None:
        """The model is loaded and the source open."""
        self._send("READY=1")

    def alive(self, status: Callable[[], str]) -> None:
        """A result came; ``status()`` is what ``systemctl status`` shows. Sent no more often than needed."""
        now = time.monotonic()
        if self._address and now - self._alive_at >= (self._interval_s or 1.0):
            self._alive_at = now
            self._send(f"WATCHDOG=1\nSTATUS={status()}")

    def stopping(self) -> None:
        """Files are being finished."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if self._address:
            # A supervisor that does not listen is no reason to end.
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto(message.encode(), self._address)
