"""What the server answers."""

from __future__ import annotations

import json
import struct
import time
from functools import partial
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edgeseg.frame import State
from edgeseg.web.feed import Feed, Picture
from edgeseg.web.metrics import CONTENT_TYPE, metrics_text
from edgeseg.web.monitor import Monitor

ANSWER_S = 0.5
"""A viewer hears the state after so long at the latest, also when there is no new picture."""

ASSETS = {
    "/": ("index.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/charts.js": ("charts.js", "text/javascript"),
    "/palette.js": ("palette.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


def app_for(monitor: Monitor, feed: Feed) -> Starlette:
    """The page, its live data, ``/healthz`` and ``/metrics``."""
    answers = _Answers(monitor, feed)
    routes = [Route("/live", answers.live), Route("/healthz", answers.healthz), Route("/metrics", answers.metrics)]
    for path, (name, media_type) in ASSETS.items():
        content = files("edgeseg.web").joinpath("assets", name).read_bytes()
        routes.append(Route(path, partial(_asset, content, media_type)))
    return Starlette(routes=routes)


async def _asset(content: bytes, media_type: str, request: Request) -> Response:
    return Response(content, media_type=media_type)


class _Answers:
    def __init__(self, monitor: Monitor, feed: Feed) -> None:
        self._monitor, self._feed = monitor, feed

    async def live(self, request: Request) -> Response:
        """Status as JSON, then a new picture if there is one: 4 bytes big-endian length, JSON, JPEG, PNG."""
        seen = request.query_params.get("after", "")
        picture = await self._feed.newer(seen, ANSWER_S)
        status = self._status()
        if picture is not None:
            status["picture"] = _described(picture, with_classes=not self._feed.is_of_this_run(seen))
        text = json.dumps(status).encode()
        parts = [struct.pack(">I", len(text)), text]
        if picture is not None:
            parts += [picture.jpeg, picture.png]
        return Response(b"".join(parts), media_type="application/octet-stream")

    def _status(self) -> dict[str, Any]:
        state, reason = self._monitor.state, self._monitor.reason
        return {"state": state.value, "reason": reason, "figures": self._monitor.figures()}

    async def healthz(self, request: Request) -> Response:
        """200 while the source is live, else 503."""
        state = self._monitor.state
        body = {"state": state.value, "reason": self._monitor.reason, "frames": self._monitor.report.frames}
        return JSONResponse(body, 200 if state is State.LIVE else 503)

    async def metrics(self, request: Request) -> Response:
        """Figures for Prometheus."""
        return Response(metrics_text(self._monitor, self._feed.encoded), media_type=CONTENT_TYPE)


def _described(picture: Picture, *, with_classes: bool) -> dict[str, Any]:
    result = picture.result
    described: dict[str, Any] = {
        "key": picture.key,
        "jpeg_bytes": len(picture.jpeg),
        "index": result.frame_index,
        "valid": result.valid,
        "age_ms": round(1000 * (time.monotonic() - result.captured_at), 1),
    }
    if with_classes:
        described["classes"] = [{"name": n, "rgb": c} for n, c in zip(result.classes, result.palette)]
    return described
