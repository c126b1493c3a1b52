"""Where frames come from: one function for cameras, streams, videos, images, recordings and a synthetic street."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from edgeseg.errors import SourceError, UsageError
from edgeseg.io import _opencv, _pyav
from edgeseg.io.base import Source
from edgeseg.io.files import FrameList, LoopedSource, open_path
from edgeseg.io.live import LiveSource
from edgeseg.io.newest import PacedSource
from edgeseg.io.options import SourceOptions
from edgeseg.io.recording import ReplaySource
from edgeseg.io.stream import OpenReader
from edgeseg.io.street import street_from_uri
from edgeseg.io.synthetic import StreetSource
from edgeseg.io.uri import Address, address_from_text

__all__ = ["FrameList", "Source", "open_source"]

_LIVE = {"flip", "max-age", "wait", "read-timeout"}
_TAKES: Mapping[str, set[str]] = {
    "camera": _LIVE | {"size", "rate", "codec"},
    "csi": _LIVE | {"size", "rate"},
    "pipeline": _LIVE,
    "network": _LIVE | {"open-timeout", "reader", "hwdec"},
    "rtsp": _LIVE | {"open-timeout", "reader", "hwdec", "transport"},
    "path": {"flip", "loop", "realtime", "max-age", "rate", "hwdec"},
    "synthetic": {"flip", "realtime", "max-age"},
    "replay": {"flip"},
}


def open_source(uri: str | int | os.PathLike[str], options: SourceOptions | None = None) -> Source:
    """Open anything that gives frames.

    Args:
        uri: a camera number (0 or "0"), /dev/video0, ``v4l2://0`` or ``csi://0``; a stream (``rtsp://``,
            ``http://`` with MJPEG, ``udp://`` or ``tcp://`` with MPEG-TS); a GStreamer pipeline, which has `` ! ``
            in it; a video or image file, a folder of images, a glob ('images/*.jpg') or a .txt file with one image
            path a line; ``synthetic://street?size=1280x720&rate=30&seed=0&frames=300&live=1``; or
            ``replay://DIR``, a recording.
        options: how to open it. The address may say the same, after ``?`` or, on the network, after ``#``; it wins.

    Returns:
        The source; a live one has its first frame, unless ``options.wait_s`` allows that it comes later.

    Raises:
        SourceError: it does not exist, is empty, refuses, or cannot be decoded.
        UsageError: an option is misspelt or means nothing to this kind of source.
        MissingDependencyError: this machine lacks what would read it.
    """
    address = address_from_text(str(uri) if isinstance(uri, int) else os.fspath(uri))
    options = options or SourceOptions()
    family = "rtsp" if address.is_rtsp else "network" if address.is_network else address.kind
    if address.kind != "synthetic":
        options = options.with_parameters(address.parameters, address.shown)
    for name in sorted(options.changed() - _TAKES[family]):
        raise UsageError(
            f"The option '{name}' means nothing to {address.shown}", f"it takes {', '.join(sorted(_TAKES[family]))}"
        )
    source = _LOCAL.get(address.kind, _open_live)(address, options)
    source.flip = options.flip
    return source


def _open_synthetic(address: Address, options: SourceOptions) -> Source:
    street = street_from_uri(address.target)
    source = StreetSource(address.target, street)
    return PacedSource(source, options.max_age_s) if street.live or options.realtime else source


def _open_file(address: Address, options: SourceOptions) -> Source:
    try:
        open_file = partial(open_path, address.target, options)
        source = LoopedSource(open_file) if options.loop else open_file()
    except OSError as error:
        raise SourceError(
            f"{address.target} cannot be opened ({error.strerror})", "check the path and its permissions"
        ) from error
    return PacedSource(source, options.max_age_s) if options.realtime else source


def _open_replay(address: Address, _: SourceOptions) -> Source:
    return ReplaySource(address.target)


_LOCAL: Mapping[str, Callable[[Address, SourceOptions], Source]] = {
    "path": _open_file,
    "synthetic": _open_synthetic,
    "replay": _open_replay,
}


def _open_live(address: Address, options: SourceOptions) -> Source:
    if address.kind == "camera":
        options = replace(options, read_timeout_s=max(options.read_timeout_s, _opencv.CAMERA_TIMEOUT_S))
    source = LiveSource(address.shown, _reader_of(address, options), options)
    if options.wait_s == 0:
        try:
            source.wait_until_live()
        except BaseException:
            source.close()
            raise
    return source


def _reader_of(address: Address, options: SourceOptions) -> OpenReader:
    if address.kind == "camera":
        return partial(_opencv.open_camera, _opencv.stable_device(address.target), options)
    if address.kind in ("csi", "pipeline"):
        _opencv.require_gstreamer()
        is_csi = address.kind == "csi"
        pipeline = _opencv.csi_pipeline(int(address.target), options) if is_csi else address.target
        return partial(_opencv.open_pipeline, pipeline, options)
    if options.reader == "av":
        _pyav.require(options)
    if options.reader == "av" or (options.reader == "auto" and _pyav.is_installed() and not options.hwdec):
        return partial(_pyav.open_network, address, options)
    return partial(_opencv.open_network, address, options)
