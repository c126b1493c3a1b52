"""Finding out why a stream did not open: OpenCV says no more than that."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import socket
import ssl
from urllib.parse import SplitResult, unquote, urlsplit

from edgeseg.io.stream import StreamError
from edgeseg.io.uri import Address

_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443, "rtmp": 1935}


def refused(status: int) -> StreamError:
    """The loss that a status of HTTP or RTSP stands for."""
    if status in (401, 403):
        return StreamError(
            f"the server refuses the credentials ({status})",
            "check user and password: rtsp://USER:PASSWORD@HOST/PATH, with % codes for special letters",
            permanent=True,
        )
    if status == 404:
        return StreamError("the server knows no such path (404)", "check the path after the host", permanent=True)
    return StreamError(f"the server answers with an error ({status})", "look into the server's log")


def why_not(address: Address, timeout_s: float) -> StreamError:
    """Why an address did not open, from one more attempt to talk to it.

    Args:
        address: of the network.
        timeout_s: how long the attempt may take.
    """
    try:
        parts = urlsplit(address.target)
        port = parts.port or _PORTS.get(address.kind)
    except ValueError:
        return StreamError("its address is misspelt", permanent=True)
    if address.kind in ("udp", "srt"):
        return StreamError("nothing arrives", "check that the sender runs and the port is right", cheap=True)
    if not parts.hostname or port is None:
        return StreamError("its address names no host and port", permanent=True)
    speaks = address.is_rtsp or address.kind in ("http", "https")
    try:
        with _connected(parts, port, timeout_s) as connection:
            status, challenge = _ask(connection, parts, "") if speaks else (None, "")
        if status == 401 and parts.username is not None:
            with _connected(parts, port, timeout_s) as connection:
                status, _ = _ask(connection, parts, f"Authorization: {_authorization(parts, challenge)}\r\n")
    except socket.gaierror:
        return StreamError(f"there is no host {parts.hostname}", "check the name of the host", cheap=True)
    except OSError as error:
        reason = "nothing answers" if error.strerror is None else error.strerror.lower()
        return StreamError(f"{reason} at {parts.hostname}:{port}", "check that the server runs", cheap=True)
    if status is None:
        return StreamError(
            f"{parts.hostname}:{port} accepts a connection and sends nothing", "check that the server works"
        )
    return refused(status) if status >= 400 else StreamError("it gives no video that can be decoded")


def _connected(parts: SplitResult, port: int, timeout_s: float) -> socket.socket:
    connection = socket.create_connection((parts.hostname, port), timeout=timeout_s)
    if parts.scheme.lower() not in ("rtsps", "https"):
        return connection
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # FFmpeg does not check them either
    return context.wrap_socket(connection, server_hostname=parts.hostname)


def _method_and_target(parts: SplitResult) -> tuple[str, str]:
    host = parts.netloc.rpartition("@")[2]
    if parts.scheme.lower().startswith("rtsp"):
        return "DESCRIBE", parts._replace(netloc=host).geturl()
    return "GET", (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _ask(connection: socket.socket, parts: SplitResult, extra: str) -> tuple[int | None, str]:
    """Status and challenge of one request; None where the answer is of another kind or does not come."""
    method, target = _method_and_target(parts)
    version = "RTSP/1.0\r\nCSeq: 1" if method == "DESCRIBE" else "HTTP/1.1"
    host = parts.netloc.rpartition("@")[2]
    connection.sendall(f"{method} {target} {version}\r\nHost: {host}\r\n{extra}\r\n".encode())
    head = b""
    with contextlib.suppress(socket.timeout):
        while b"\r\n\r\n" not in head and len(head) < 65536:
            more = connection.recv(4096)
            if not more:
                break
            head += more
    text = head.decode("latin-1")
    status = re.match(r"(?:RTSP|HTTP)/\d\.\d (\d{3})", text)
    challenges = re.findall(r"^WWW-Authenticate: *(.*?)\r?$", text, re.MULTILINE | re.IGNORECASE)
    digests = [challenge for challenge in challenges if challenge.lower().startswith("digest")]
    return (int(status.group(1)) if status else None), (digests + challenges + [""])[0]


def _authorization(parts: SplitResult, challenge: str) -> str:
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if not challenge.lower().startswith("digest"):
        return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    fields = dict(re.findall(r'(\w+)="?([^",]*)"?', challenge))
    realm, nonce = fields.get("realm", ""), fields.get("nonce", "")
    method, target = _method_and_target(parts)
    middle, extra = nonce, ""
    if "auth" in fields.get("qop", ""):
        middle, extra = f"{nonce}:00000001:edgeseg:auth", ', qop=auth, nc=00000001, cnonce="edgeseg"'
    answer = _md5(f"{_md5(f'{user}:{realm}:{password}')}:{middle}:{_md5(f'{method}:{target}')}")
    return f'Digest username="{user}", realm="{realm}", nonce="{nonce}", uri="{target}", response="{answer}"{extra}'


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
