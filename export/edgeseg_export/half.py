"""FP16 by casts in the graph: the same input and output, half the bytes, half precision between them."""

from __future__ import annotations

from collections.abc import Collection

from onnx import ModelProto

from edgeseg_export.calibration import CalibrationSet


def half_from_float(
    model: ModelProto, calibration: CalibrationSet | None = None, keep: Collection[str] = ()
) -> ModelProto:
    """A copy that computes in float16.

    Args:
        model: as ``to_onnx`` exports it, or a foreign float32 graph; it is not changed.
        calibration: images to find the nodes whose values float16 cannot hold; they stay float32. None: only
            weights are looked at.
        keep: names of nodes that stay float32.

    Raises:
        ModelError: the graph is not float32, is quantised, or has external data.
        UsageError: ``keep`` names a node that is not there.
        DataError: a calibration image cannot be read.
    """
    raise NotImplementedError
