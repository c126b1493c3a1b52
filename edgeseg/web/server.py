"""The HTTP server, set up for one page in somebody else's process."""

from __future__ import annotations

import socket

import uvicorn
from starlette.types import ASGIApp

MAX_CONNECTIONS = 64
"""Beyond these a request is answered with 503: each may hold a picture in memory."""

STOP_S = 1
"""How long the end waits for answers that are still on their way."""

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)

HEADERS = [
    # Nothing from elsewhere, and nothing of ours elsewhere.
    ("content-security-policy", CONTENT_SECURITY_POLICY),
    ("cross-origin-resource-policy", "same-origin"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-store"),
]


class Server(uvicorn.Server):
    """Serves an application until ``should_exit``; leaves logging and signals to the program around it."""

    def __init__(self, app: ASGIApp) -> None:
        config = uvicorn.Config(
            app,
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            headers=HEADERS,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=STOP_S,
        )
        super().__init__(config)

    def serve_on(self, listener: socket.socket) -> None:
        """Answer until ``should_exit``, then free the port, also when that was set before the start."""
        with listener:
            self.run([listener])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End, without waiting for viewers that do not read."""
        for connection in list(self.server_state.connections):
            if connection.transport.get_write_buffer_size():
                connection.transport.abort()
        await super().shutdown(sockets)
