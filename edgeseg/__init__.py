"""edgeseg: semantic segmentation from a data set to a robot. This package is the runtime.

    segmenter = edgeseg.load("model.onnx")
    result = segmenter(frame_bgr)          # result.mask: uint8 [H, W], at the frame's own size

Importing it loads numpy and nothing heavier.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeseg.card import ModelCard
from edgeseg.errors import EdgesegError
from edgeseg.frame import Frame, State
from edgeseg.segmentation import Segmentation
from edgeseg.segmenter import Segmenter, load

if TYPE_CHECKING:
    from edgeseg.io import open_source

__all__ = [
    "EdgesegError",
    "Frame",
    "ModelCard",
    "Segmentation",
    "Segmenter",
    "State",
    "load",
    "open_source",
]


def __getattr__(name: str) -> Any:
    # All kinds of sources take as long to import as the rest, and a robot's own loop needs none.
    if name == "open_source":
        from edgeseg.io import open_source

        return open_source
    # importlib.metadata takes longer to import than everything else here together.
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("edgeseg")
        except PackageNotFoundError:  # run from a checkout that is only on the path
            return "not installed"
    raise AttributeError(f"module 'edgeseg' has no attribute '{name}'")
