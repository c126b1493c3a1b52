"""FP16 by casts in the graph: the same input and output, half precision and half the bytes between them.

The casts are written here: ONNX Runtime's converter leaves nodes in an order that the ONNX standard forbids, and
rounds the logits even where the last node is to stay float32; ModelOpt's needs packages that exclude newer ones.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgeseg.errors import ModelError
from edgeseg_export.calibration import CalibrationSet
from edgeseg_export.onnx_graph import Edges, check_names, drop_unused_weights, float_form, opset_of, replace_nodes
from edgeseg_export.ranges import Activations

LIMIT = float(np.finfo(np.float16).max) / 4
"""Largest magnitude on calibration images that is still given to float16: other images may go beyond."""

_QDQ_OPSET = 19
_FLOAT32_INPUTS = {"Resize": (1, 2)}
"""Inputs that the standard wants in float32 whatever the others are: regions and scales."""


def half_from_float(
    model: ModelProto, calibration: CalibrationSet | None = None, keep: Collection[str] = ()
) -> ModelProto:
    """A copy that computes in float16. Inputs and outputs keep their types.

    A node stays float32, between casts, where ``keep`` names it, where a weight is beyond float16, or where a value
    it reads or makes is beyond ``LIMIT`` on a calibration image.

    Args:
        model: as ``to_onnx`` exports it, a foreign float32 graph, or one of ``int8.quantize`` for TensorRT from
            opset 19 on, whose scales become float16 as well. It is not changed.
        calibration: images to look for large values; None: only weights are looked at.
        keep: names of nodes that stay float32.

    Raises:
        ModelError: the graph is in half precision already, keeps data outside the file, holds an operator that is
            not of the ONNX standard, or is quantised below opset 19.
        UsageError: ``keep`` names a node that is not there.
        DataError: a calibration image cannot be read.
    """
    half = float_form(model, allow_pairs=True)
    check_names(half, keep)
    edges = Edges(half)
    if opset_of(half) < _QDQ_OPSET and any(node.op_type == "QuantizeLinear" for node in half.graph.node):
        raise ModelError(
            f"Beside INT8, float16 needs opset {_QDQ_OPSET} or above, the graph has {opset_of(half)}",
            "quantise with --opset 20; TensorRT 8.x takes the float32 one and a builder flag",
        )
    wide = {*keep, *_overflowing(half, edges, calibration)}
    writer = _CastWriter(half, edges)
    for node in list(half.graph.node):
        writer.add(node, TensorProto.FLOAT if node.name in wide else TensorProto.FLOAT16)
    replace_nodes(half, writer.nodes)
    drop_unused_weights(half)
    return half


def _overflowing(model: ModelProto, edges: Edges, calibration: CalibrationSet | None) -> set[str]:
    """Names of the nodes with a weight beyond float16, or next to an activation beyond ``LIMIT``."""
    large = {
        name
        for name, values in edges.weights.items()
        if values.dtype == np.float32 and np.any(np.isfinite(values) & (np.abs(values) > np.finfo(np.float16).max))
    }
    if calibration is not None:
        names = edges.floats.intersection(edges.producer)
        magnitudes = Activations(model, names, calibration).ranges("minmax").symmetric
        large |= {name for name, magnitude in magnitudes.items() if magnitude > LIMIT}
    return {node.name for node in model.graph.node if large.intersection((*node.input, *node.output))}


class _CastWriter:
    """Takes the nodes of a graph in their order and gives each its inputs in the precision it computes in."""

    def __init__(self, model: ModelProto, edges: Edges) -> None:
        self.nodes: list[NodeProto] = []
        self._graph, self._edges = model.graph, edges
        self._type = {value.name: TensorProto.FLOAT for value in model.graph.input}
        self._made = set[str]()

    def add(self, node: NodeProto, precision: int) -> None:
        """Add a node that computes in ``precision``, and the casts it needs."""
        floats = self._edges.floats
        for index, name in enumerate(node.input):
            if name in floats:
                node.input[index] = self._cast(name, precision)
            elif precision == TensorProto.FLOAT16 and index not in _FLOAT32_INPUTS.get(node.op_type, ()):
                node.input[index] = self._half_weight(name)
        if node.op_type == "Cast" and node.output[0] in floats:
            next(a for a in node.attribute if a.name == "to").i = precision
        self.nodes.append(node)
        for index, name in enumerate(node.output):
            self._type[name] = precision
            if name in floats & self._edges.outputs and precision == TensorProto.FLOAT16:
                node.output[index] = f"{name}_fp16"
                self._made.add(f"{name}_fp16")
                self._type[f"{name}_fp16"], self._type[name] = precision, TensorProto.FLOAT
                self.nodes.append(_cast_node(f"{name}_fp16", name, TensorProto.FLOAT))

    def _cast(self, name: str, precision: int) -> str:
        if self._type[name] == precision:
            return name
        result = f"{name}_{'fp16' if precision == TensorProto.FLOAT16 else 'fp32'}"
        if result not in self._made:
            self._made.add(result)
            self.nodes.append(_cast_node(name, result, precision))
        return result

    def _half_weight(self, name: str) -> str:
        values = self._edges.weights.get(name)
        if values is None or values.dtype != np.float32:
            return name
        result = f"{name}_fp16"
        if result not in self._made:
            self._made.add(result)
            self._graph.initializer.append(numpy_helper.from_array(values.astype(np.float16), result))
        return result


def _cast_node(source: str, result: str, precision: int) -> NodeProto:
    return helper.make_node("Cast", [source], [result], f"{result}_cast", to=precision)
