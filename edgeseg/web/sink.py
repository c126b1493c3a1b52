"""The web page as a sink."""

from __future__ import annotations

import secrets
import threading
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from edgeseg.errors import MissingDependencyError
from edgeseg.io.sinks import Sink
from edgeseg.segmentation import Segmentation
from edgeseg.web.address import (
    LOOPBACK,
    Address,
    address_seen_from_outside,
    is_loopback,
    listen,
    names_of_this_machine,
)
from edgeseg.web.feed import Feed
from edgeseg.web.monitor import Monitor

if TYPE_CHECKING:
    from edgeseg.io.base import Source
    from edgeseg.report import Report

CLOSE_S = 2.0
"""How long the end waits for the server; it needs about half a second."""


class WebSink(Sink):
    """Serves a web page with live pictures and figures, ``/healthz`` and ``/metrics``, from a thread of this process.

    The server answers from construction on, so that a taken port is noticed before an engine loads, until ``close``.
    ``write`` takes microseconds: pictures are encoded on the server's thread, only while somebody watches, and once
    for all viewers.

    Args:
        address: where to listen.
        token: what viewers must present. None makes one up, unless only this machine can reach the address: then
            none is needed.

    Raises:
        UsageError: the port is taken, or the address is not this machine's.
        MissingDependencyError: the server's packages are not installed.
    """

    name = "web page"

    def __init__(self, address: Address = LOOPBACK, token: str | None = None) -> None:
        self._monitor, self._feed = Monitor(), Feed()
        listener = listen(address)
        if token is None and not is_loopback(listener.getsockname()[0]):
            token = secrets.token_urlsafe(16)
        self.token = token
        self._address = address_seen_from_outside(listener)
        try:
            from edgeseg.web.app import app_for
            from edgeseg.web.guard import Guard
            from edgeseg.web.server import Server
        except ImportError as error:
            listener.close()
            raise MissingDependencyError.for_extra(error.name or "uvicorn", "serve", "--serve") from error
        app = Guard(
            app_for(self._monitor, self._feed),
            names=names_of_this_machine(address),
            token=token,
            cookie=f"edgeseg-{self._address.port}",
        )
        self._server = Server(app)
        self._thread = threading.Thread(target=self._server.serve_on, args=(listener,), name="edgeseg web", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """What to open in a browser, the token included."""
        query = f"?{urlencode({'token': self.token})}" if self.token else ""
        return f"http://{self._address}/{query}"

    def attach(self, source: Source, report: Report) -> None:
        """Show the state of ``source`` and what ``report`` counts."""
        self._monitor.attach(source, report)
        source.on_state(lambda *_: self._feed.wake())

    def write(self, result: Segmentation) -> None:
        """Take one result; never fails and never waits."""
        self._monitor.add(result)
        self._feed.put(result)

    def close(self) -> None:
        """Stop the server, within ``CLOSE_S`` seconds."""
        self._server.should_exit = True
        self._feed.wake()
        self._thread.join(CLOSE_S)
