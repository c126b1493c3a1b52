"""Sources of frames and sinks for results."""

from edgeseg.io.options import SourceOptions
from edgeseg.io.sources import Source, open_source

__all__ = ["Source", "SourceOptions", "open_source"]
