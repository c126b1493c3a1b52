"""Addresses of sources: what kind each is, and how to show it without its password."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import parse_qsl

from edgeseg.errors import SourceError

NETWORK_SCHEMES = ("rtsp", "rtsps", "http", "https", "udp", "tcp", "srt", "rtmp")
_FILE_SUFFIXES = (".mp4", ".mkv", ".avi", ".mov", ".webm", ".jpg", ".jpeg", ".png")

# Greedy, to the last @: a password may hold @, / and ?.
_USERINFO = re.compile(r"://[^\s\"']+@")
_SECRET = re.compile(r"((?:user|pass|pwd|pw|token|key|secret|auth|sig)[\w-]*\s*=\s*)[^&\s!\"';#]+", re.IGNORECASE)
_SCHEME = re.compile(r"([a-z][a-z0-9+]*)://(.*)", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class Address:
    """An address, taken apart.

    Attributes:
        kind: "camera", "csi", "pipeline", "synthetic", "replay", "path", or the scheme of a network address.
        target: what is opened; of a network address it may hold a password.
        parameters: names and texts of the options in it.
    """

    kind: str
    target: str
    parameters: tuple[tuple[str, str], ...] = ()

    @property
    def is_network(self) -> bool:
        """Whether it names a stream of the network."""
        return self.kind in NETWORK_SCHEMES

    @property
    def is_rtsp(self) -> bool:
        """Whether it names a stream of RTSP."""
        return self.kind in ("rtsp", "rtsps")

    @property
    def shown(self) -> str:
        """The same for people: without passwords."""
        prefix = {"camera": "camera ", "csi": "csi://", "replay": "replay://"}.get(self.kind, "")
        return prefix + redacted(self.target)


def redacted(text: str) -> str:
    """Text with ``***`` in place of the user, the password and the keys of every address in it."""
    return _SECRET.sub(r"\1***", _USERINFO.sub("://***@", text))


def is_camera(text: str) -> bool:
    """True for a camera number or a video device (/dev/videoN, or a link to one)."""
    return (text.isascii() and text.isdigit()) or bool(re.fullmatch(r"/dev/video\d+", os.path.realpath(text)))


def address_from_text(text: str) -> Address:
    """Take an address apart.

    Options stand after ``?`` where the address is this machine's, and after ``#`` where it is one of the network:
    what follows its ``?`` is for the camera.

    Raises:
        SourceError: it is empty, or of a kind that edgeseg does not read.
    """
    if not text.strip():
        raise SourceError("The name of the source is empty", "give a camera number, a file, a folder or a quoted glob")
    if " ! " in text:
        return Address("pipeline", text)
    if is_camera(text):
        return Address("camera", text)
    if text.startswith("synthetic:"):
        return Address("synthetic", text)
    found = _SCHEME.fullmatch(text)
    if found is None:
        return Address("path", text)
    scheme, rest = found.group(1).lower(), found.group(2)
    if scheme in NETWORK_SCHEMES:
        return _network(scheme, text)
    rest, _, query = rest.partition("?")
    parameters = tuple(parse_qsl(query, keep_blank_values=True))
    if scheme == "file":
        return Address("path", rest, parameters)
    if scheme == "replay":
        return Address("replay", rest, parameters)
    if scheme == "csi" and rest.isascii() and rest.isdigit():
        return Address("csi", rest, parameters)
    if scheme == "v4l2" and is_camera(rest):
        return Address("camera", rest, parameters)
    if scheme in ("csi", "v4l2"):
        raise SourceError(f"'{text}' names no camera", "write v4l2:///dev/video0, v4l2://0 or csi://0")
    raise SourceError(
        f"Sources of the kind {scheme}:// cannot be read",
        "use a camera, a file, rtsp://, http://, udp://, tcp://, synthetic://street, or a GStreamer pipeline",
    )


def _network(scheme: str, text: str) -> Address:
    target, _, fragment = text.partition("#")
    path = target.partition("?")[0].lower()
    if scheme in ("http", "https") and path.endswith(_FILE_SUFFIXES):
        raise SourceError(f"{redacted(target)} is a file, not a stream", "download it, then give its path")
    return Address(scheme, target, tuple(parse_qsl(fragment, keep_blank_values=True)))
