"""Sources of frames and sinks for results."""

from edgeseg.io.sources import Source, open_source

__all__ = ["Source", "open_source"]
