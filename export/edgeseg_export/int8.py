"""INT8 by quantise/dequantise pairs (Q/DQ) in the graph, in the two forms that engines run fast.

How to use it::

    ranges = collect_ranges(model, calibration, "minmax")       # once for each method: seconds to minutes
    small = quantize(model, ranges, target="cpu")               # about a second; again after each step of repair
    better = quantize(model, ranges, target="cpu", keep=group.nodes)

None of them changes ``model``. All of them accept weights stored as float16.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from onnx import ModelProto

from edgeseg_export.calibration import CalibrationSet

TARGETS = ("cpu", "tensorrt")
METHODS = ("minmax", "entropy", "percentile", "mse")


@dataclass(frozen=True)
class Ranges:
    """The range of every activation, by tensor name, as one method found it. Plain numbers: fit for JSON.

    Attributes:
        method: one of ``METHODS``.
        images: number of images it was measured on.
        unsigned: lowest and highest value for an asymmetric 8-bit code (target "cpu").
        symmetric: largest magnitude for a symmetric 8-bit code (target "tensorrt").
    """

    method: str
    images: int
    unsigned: Mapping[str, tuple[float, float]]
    symmetric: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain dicts and lists."""
        raise NotImplementedError

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Ranges:
        """The reverse of ``to_dict``."""
        raise NotImplementedError


@dataclass(frozen=True)
class Group:
    """Nodes that engines fuse into one kernel: what repair keeps in higher precision as a whole.

    Attributes:
        name: of its convolution, or of its only node.
        nodes: names of its nodes in the source graph, for ``keep``.
        macs: multiply-accumulates for one image.
    """

    name: str
    nodes: tuple[str, ...]
    macs: int


def collect_ranges(model: ModelProto, calibration: CalibrationSet, method: str = "minmax") -> Ranges:
    """Measure the range of every activation that ``quantize`` may quantise. Memory does not grow with the images.

    Args:
        model: a float32 graph; see ``quantize``.
        calibration: real images.
        method: one of ``METHODS``.

    Raises:
        UsageError: another method.
        ModelError: see ``quantize``; or an activation is NaN or infinite.
        DataError: an image cannot be read.
    """
    raise NotImplementedError


def quantize(
    model: ModelProto, ranges: Ranges, *, target: str, keep: Collection[str] = (), opset: int | None = None
) -> ModelProto:
    """A copy with Q/DQ pairs around what the target runs in 8 bits.

    Args:
        model: a float32 graph with fixed shapes; it is not changed.
        ranges: from ``collect_ranges`` on the same model.
        target: "cpu": U8S8, fused by ONNX Runtime and OpenVINO. "tensorrt": symmetric S8 on inputs and weights.
        keep: names of nodes that stay float32, usually of whole ``Group``s.
        opset: of the result; None keeps the model's.

    Raises:
        UsageError: another target, or ``keep`` names a node that is not there.
        ModelError: the graph is quantised already, holds an operator that cannot be handled (named with its
            node), keeps data outside the file, or has an opset that the target cannot take.
    """
    raise NotImplementedError


def quantizable_groups(model: ModelProto) -> list[Group]:
    """The groups of a graph in its order, each with at least one node that ``quantize`` would quantise.

    Raises:
        ModelError: see ``quantize``.
    """
    raise NotImplementedError
