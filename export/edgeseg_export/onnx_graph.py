"""What conversions to FP16 and INT8 share: the float32 form of a graph that they start from, and its edges."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference
from onnx.external_data_helper import uses_external_data

from edgeseg.errors import ModelError, UsageError

_STANDARD_DOMAINS = ("", "ai.onnx")
_PAIRS = frozenset({"QuantizeLinear", "DequantizeLinear"})
_QUANTIZED = _PAIRS | frozenset({
    "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "QLinearConv",
    "QLinearMatMul",
})  # fmt: skip
_SUBGRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)
_FLOATS = (TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)


class Edges:
    """Who makes and who reads each tensor of a graph.

    Attributes:
        weights: initializers as arrays, by name.
        producer: node by the tensor it makes.
        readers: nodes by the tensor they read; a node that reads it twice stands there twice.
        outputs: names of the graph's outputs.
        position: index of each node, by its name.
        floats: names of the activations in float32, where inference finds them.
        shapes: by tensor name, where inference finds them; None for an open axis.
    """

    def __init__(self, model: ModelProto) -> None:
        graph = model.graph
        self.weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self.producer = {output: node for node in graph.node for output in node.output}
        self.readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self.readers[name].append(node)
        self.outputs = {output.name for output in graph.output}
        self.position = {node.name: index for index, node in enumerate(graph.node)}
        inferred = shape_inference.infer_shapes(model, data_prop=True).graph
        values = (*inferred.value_info, *inferred.input, *inferred.output)
        self.floats = {v.name for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT}
        self.shapes = {v.name: tuple(d.dim_value or None for d in v.type.tensor_type.shape.dim) for v in values}

    def activations(self, node: NodeProto) -> list[str]:
        """The inputs of a node that other nodes, or the caller, compute."""
        return [name for name in node.input if name and name not in self.weights]

    def only_reader(self, tensor: str) -> NodeProto | None:
        """The node that alone reads a tensor; None where several do, or the caller does as well."""
        readers = self.readers[tensor]
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None


def float_form(model: ModelProto, *, allow_pairs: bool = False) -> ModelProto:
    """A copy with every weight a float32 initializer and a name for every node.

    Weights that ``to_onnx.with_half_weights`` stored as float16 come back as float32; names stay.

    Args:
        model: is not changed.
        allow_pairs: take a graph with Q/DQ pairs as well.

    Raises:
        ModelError: the graph is quantised or in half precision, keeps weights in other files, holds an operator
            that is not of the ONNX standard or contains graphs (named with its node).
    """
    plain = ModelProto()
    plain.CopyFrom(model)
    graph = plain.graph
    if any(uses_external_data(tensor) for tensor in graph.initializer):
        raise ModelError("The graph keeps its weights in other files", "save it as one file, below 2 GB")
    # Types that are stated between the nodes would contradict those that conversion gives them.
    del graph.value_info[:]
    _restore_weights(plain)
    names = {node.name for node in graph.node}
    for index, node in enumerate(graph.node):
        if not node.name:
            node.name = f"{node.op_type}_{index}"
            while node.name in names:
                node.name += "_"
            names.add(node.name)
        _check_operator(node, _PAIRS if allow_pairs else frozenset())
    if any(tensor.data_type in _FLOATS for tensor in graph.initializer):
        raise ModelError("The graph does not compute in float32", "start from the float32 model")
    return plain


def check_names(model: ModelProto, keep: Iterable[str]) -> None:
    """Refuse names that are of no node.

    Raises:
        UsageError: names the first.
    """
    names = {node.name for node in model.graph.node}
    unknown = [name for name in keep if name not in names]
    if unknown:
        raise UsageError(f"The graph has no node '{unknown[0]}'", "take the names from the same model")


def drop_unused_weights(model: ModelProto) -> None:
    """Remove the initializers that nothing reads, in place."""
    graph = model.graph
    read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def replace_nodes(model: ModelProto, nodes: Collection[NodeProto]) -> None:
    """Put other nodes in the place of a graph's, in place; they stand in an order in which they can run."""
    # A copy first: the new list usually holds nodes of the old one, which deleting would empty.
    copies = []
    for node in nodes:
        copy = NodeProto()
        copy.CopyFrom(node)
        copies.append(copy)
    del model.graph.node[:]
    model.graph.node.extend(copies)


def attributes(node: NodeProto) -> dict[str, Any]:
    """The attributes of a node by name."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _restore_weights(model: ModelProto) -> None:
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    kept = []
    for node in graph.node:
        source = stored.get(node.input[0]) if node.op_type == "Cast" else None
        if source is not None and attributes(node)["to"] == TensorProto.FLOAT:
            values = numpy_helper.to_array(source).astype(np.float32)
            graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
        elif node.op_type == "Constant" and node.attribute[0].name == "value":
            constant = TensorProto()
            constant.CopyFrom(node.attribute[0].t)
            constant.name = node.output[0]
            graph.initializer.append(constant)
        else:
            kept.append(node)
    replace_nodes(model, kept)
    drop_unused_weights(model)


def _check_operator(node: NodeProto, allowed: Collection[str]) -> None:
    if node.op_type in _QUANTIZED.difference(allowed) or node.op_type.startswith("QLinear"):
        raise ModelError(
            f"The graph is quantised already ({node.op_type} '{node.name}')", "start from the float32 model"
        )
    if node.domain not in _STANDARD_DOMAINS or any(a.type in _SUBGRAPHS for a in node.attribute):
        raise ModelError(
            f"The operator {node.op_type} of node '{node.name}' cannot be converted",
            "export the network without it; only operators of the ONNX standard without graphs inside can be",
        )


def with_opset(model: ModelProto, opset: int) -> ModelProto:
    """A copy in another version of ONNX's operators; the metadata stays.

    Raises:
        ModelError: onnx cannot convert it.
    """
    if opset_of(model) == opset:
        return model
    try:
        converted = onnx.version_converter.convert_version(model, opset)
    except Exception as error:  # its C++ raises RuntimeError and types of its own
        reason = str(error).rpartition("failed: ")[2].strip()
        raise ModelError(
            f"The graph cannot be brought from opset {opset_of(model)} to {opset} ({reason})",
            f"export the network again with --opset {opset}",
        ) from error
    del converted.graph.value_info[:]
    del converted.metadata_props[:]
    converted.metadata_props.extend(model.metadata_props)
    converted.doc_string, converted.graph.name = model.doc_string, model.graph.name
    converted.producer_name, converted.producer_version = model.producer_name, model.producer_version
    return converted


def opset_of(model: ModelProto) -> int:
    """The version of the standard's operators."""
    return int(next(entry.version for entry in model.opset_import if entry.domain in _STANDARD_DOMAINS))
