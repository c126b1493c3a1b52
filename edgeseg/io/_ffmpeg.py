"""What every reader tells FFmpeg about a stream of the network, and what it must not believe."""

from __future__ import annotations

from edgeseg.io.options import SourceOptions
from edgeseg.io.uri import Address


def ffmpeg_options(address: Address, options: SourceOptions) -> dict[str, str]:
    """FFmpeg's options for an address, by name."""
    if not address.is_rtsp:
        return {}
    # Without the second, opening waits for some twenty frames to measure a rate that the stream tells anyway.
    return {"rtsp_transport": options.transport, "fpsprobesize": "0"}


def has_pts(address: Address) -> bool:
    """Whether its presentation times are the stream's: for MJPEG over HTTP FFmpeg makes some up, 25 a second."""
    return address.kind not in ("http", "https")
