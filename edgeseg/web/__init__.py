"""The web page of a run: live pictures, figures, and what monitoring asks for."""

from edgeseg.web.sink import WebSink

__all__ = ["WebSink"]
