"""Options of the web page."""

from __future__ import annotations

import argparse
import os
import re
import sys
from typing import TYPE_CHECKING

from edgeseg.cli._options import filled
from edgeseg.errors import UsageError

if TYPE_CHECKING:
    from edgeseg.web import WebSink

TOKEN_VARIABLE = "EDGESEG_SERVE_TOKEN"


def add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    """``--serve`` and the token that guards it."""
    parser.add_argument(
        "--serve",
        type=filled,
        nargs="?",
        const="127.0.0.1:8080",
        metavar="HOST:PORT",
        help="show the run on a web page (127.0.0.1:8080), with /healthz and /metrics",
    )
    parser.add_argument(
        "--serve-token",
        type=filled,
        metavar="TOKEN",
        help=f"what viewers must present (default: ${TOKEN_VARIABLE}, or made up unless only this machine is served)",
    )


def web_sink_from_args(args: argparse.Namespace) -> WebSink | None:
    """The server that ``--serve`` asks for, already answering, its address printed; None without the flag.

    Raises:
        UsageError: the address cannot be served at, or the token is weak.
        MissingDependencyError: the extra ``serve`` is not installed.
    """
    if args.serve is None:
        if args.serve_token is not None:
            raise UsageError("--serve-token is given without --serve", "add --serve")
        return None
    from edgeseg.web import WebSink
    from edgeseg.web.address import address_from_text

    token = args.serve_token or os.environ.get(TOKEN_VARIABLE) or None
    if token is not None and not re.fullmatch(r"[A-Za-z0-9_.~-]{8,}", token):
        raise UsageError("The token is weak", "use 8 or more letters, digits, and - _ . ~")
    sink = WebSink(address_from_text(args.serve), token)
    print(f"the web page is at {sink.url}", file=sys.stderr, flush=True)
    return sink
