"""Who may see the page: requests for a name of this machine, with the token where one is asked for."""

from __future__ import annotations

import hmac

from starlette.datastructures import URL
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from edgeseg.web.address import is_own_name

LOCKED_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>edgeseg: locked</title>
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<h1>This page needs its token</h1><p>Open the address that edgeseg printed when it started, or enter the token:</p>
<form><input name="token" type="password" aria-label="Token" autofocus required> <button>Open</button></form>"""


class Guard:
    """Refuses requests that name another host, and those without the token.

    The token comes as ``?token=`` once, which a cookie then replaces, or in an ``Authorization: Bearer`` header.

    Args:
        app: what is guarded.
        names: host names of this machine.
        token: None asks for none.
        cookie: name of the cookie. Ports share cookies, so it should hold the port.
    """

    def __init__(self, app: ASGIApp, *, names: frozenset[str], token: str | None, cookie: str) -> None:
        self._app, self._names, self._token, self._cookie = app, names, token, cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it."""
        answer = self._refusal(Request(scope)) or self._app
        await answer(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        if not is_own_name(request.headers.get("host", ""), self._names):
            return PlainTextResponse("This is another machine: ask for its address, or name it with --serve\n", 421)
        if self._token is None or self._is_token(request.cookies.get(self._cookie)):
            return None
        kind, _, credentials = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._is_token(credentials.strip()):
            return None
        if self._is_token(request.query_params.get("token")):
            return self._with_cookie(request.url)
        return HTMLResponse(LOCKED_PAGE, 401, {"WWW-Authenticate": "Bearer"})

    def _is_token(self, offered: str | None) -> bool:
        assert self._token is not None
        return offered is not None and hmac.compare_digest(offered.encode(), self._token.encode())

    def _with_cookie(self, url: URL) -> Response:
        assert self._token is not None
        # Away from the address bar, the history and screenshots.
        response = RedirectResponse(url.path, 303)
        response.set_cookie(self._cookie, self._token, httponly=True, samesite="strict")
        return response
