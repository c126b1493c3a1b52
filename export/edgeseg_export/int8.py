"""INT8 by quantise/dequantise pairs (Q/DQ) in the graph, in the two forms that engines run fast.

How to use it::

    activations = measure(model, calibration)                    # runs the images: seconds to minutes
    small = quantize(model, activations.ranges("minmax"), target="cpu")    # a fraction of a second
    other = quantize(model, activations.ranges("mse"), target="cpu", keep=group.nodes)

None of them changes ``model``; all accept weights stored as float16.

The forms differ in where the pairs stand. The CPU engines run a node in 8 bits when pairs stand before and behind
it, with unsigned activations and signed weights. TensorRT wants pairs on the inputs of convolutions alone,
symmetric ones, and on the skip input of a residual addition, which it then fuses into the convolution.

The pairs are placed here and not by ONNX Runtime's quantiser or ModelOpt. The former leaves normalisations that
stand before a convolution in float32, around which both CPU engines convert back and forth; and what it makes of
a Concat ends the whole process in OpenVINO 2026.4. The latter places what is placed here for TensorRT, but for
opset 19 and above only, and with ranges of two methods.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

from edgeseg.errors import ModelError, UsageError, nearest
from edgeseg_export.calibration import CalibrationSet
from edgeseg_export.onnx_graph import (
    Edges,
    attributes,
    check_names,
    drop_unused_weights,
    float_form,
    opset_of,
    replace_nodes,
    with_opset,
)
from edgeseg_export.ranges import METHODS, Activations, Ranges

__all__ = [
    "METHODS", "OPSETS", "TARGETS", "Group", "Ranges", "collect_ranges", "measure", "quantizable_groups", "quantize",
]  # fmt: skip

TARGETS = ("cpu", "tensorrt")

OPSETS = (13, 21)
"""The oldest opset with a scale for each channel of a weight, and the newest that engines were tried with."""

_ACTIVATIONS = frozenset({"Relu", "Clip"})
_FUSION = {"Conv": 0, "BatchNormalization": 1, "Add": 2, "Relu": 3, "Clip": 3}
"""The order in which a kernel applies what is fused into a convolution."""

_CPU_OPERATORS = frozenset({"Add", "Mul", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool"})

_MIN_TENSORRT_CHANNELS = 16
"""TensorRT's INT8 kernels gain nothing on narrower convolutions."""

_MIN_CPU_CHANNELS = 4
"""A narrower convolution normalises pixels: nothing to gain, and the first place to lose accuracy."""

_MIN_SCALE = 2.0**-23
"""Of activations and weights that are always 0; a float16 holds it."""

_BIAS_ROOM = 2.0**30
_DQ_WEIGHTS_OPSET = 19
"""TensorRT 8.x, which reads up to opset 17, wants weights as float32 before a Q/DQ pair; later ones take bytes."""

_Code = tuple[Any, Any]
"""Scale and zero point: numpy scalars, or arrays with one for each channel."""


@dataclass(frozen=True)
class Group:
    """Nodes that engines fuse into one kernel: what repair keeps in higher precision as a whole.

    Attributes:
        name: of its convolution, or of one of its nodes.
        nodes: names of its nodes in the source graph, for ``keep``.
        macs: multiply-accumulates for one image.
    """

    name: str
    nodes: tuple[str, ...]
    macs: int


def measure(model: ModelProto, calibration: CalibrationSet) -> Activations:
    """Run images through a network and note the activations that ``quantize`` may quantise, for any target.

    Args:
        model: a float32 graph; it is not changed.
        calibration: real images.

    Raises:
        ModelError: see ``quantize``; or an activation is NaN or infinite.
        DataError: an image cannot be read.
    """
    plain = float_form(model)
    names = set[str]()
    for target in TARGETS:
        form = _form_for(plain, target)
        edges = Edges(form)
        reads, results = _paired(form, edges, target, _quantizable(form, edges, target))
        names |= results | {tensor for _, tensor in reads}
    return Activations(plain, names, calibration)


def collect_ranges(model: ModelProto, calibration: CalibrationSet, method: str = "minmax") -> Ranges:
    """Measure the ranges of one of ``METHODS``. For several, ``measure`` once; errors as there and in ``ranges``."""
    if method not in METHODS:
        raise UsageError(f"There is no calibration method '{method}'", nearest(method, METHODS))
    return measure(model, calibration).ranges(method)


def quantize(
    model: ModelProto,
    ranges: Ranges,
    *,
    target: str,
    keep: Collection[str] = (),
    opset: int | None = None,
    weight_bits: int = 8,
) -> ModelProto:
    """A copy with Q/DQ pairs around what the target runs in 8 bits.

    Args:
        model: a float32 graph with fixed shapes; it is not changed.
        ranges: of the same model.
        target: "cpu": U8S8, fused by ONNX Runtime and OpenVINO. "tensorrt": symmetric S8 on the inputs and the
            weights of convolutions, and on the skip input of residual additions.
        keep: names of nodes that stay float32, usually of whole ``Group``s.
        opset: of the result; None keeps the model's. TensorRT 8.x reads up to 17.
        weight_bits: 7 or 8. With 7 no sum overflows on an x86 processor without VNNI: two products of a byte and a
            code up to 63 fit 16 bits.

    Raises:
        UsageError: another target, an opset outside ``OPSETS``, ``keep`` names a node that is not there, or the
            ranges are of another model.
        ModelError: the graph is quantised already, holds an operator that cannot be handled (named with its
            node), keeps data outside the file, has no convolution, or cannot be brought to the opset.
    """
    if target not in TARGETS:
        raise UsageError(f"There is no target '{target}'", nearest(target, TARGETS))
    plain = float_form(model)
    check_names(plain, keep)
    opset = opset_of(plain) if opset is None else opset
    if not OPSETS[0] <= opset <= OPSETS[1]:
        raise UsageError(f"INT8 is not written in opset {opset}", f"give --opset from {OPSETS[0]} to {OPSETS[1]}")
    small = _form_for(with_opset(plain, opset), target)
    edges = Edges(small)
    possible = _quantizable(small, edges, target)
    if not possible:
        raise ModelError("The graph has no convolution that INT8 could make faster", "export it as fp16")
    quantized = possible.difference(keep)
    reads, results = _paired(small, edges, target, quantized)
    codes = {name: _activation_code(name, ranges, target) for name in sorted(results | {name for _, name in reads})}
    for node in small.graph.node:
        if node.op_type == "MaxPool" and node.name in quantized and node.output[0] in codes:
            # It only picks values: with the code of its input it stays exact, and engines pick among bytes.
            codes[node.output[0]] = codes[node.input[0]]
    graph, nodes = small.graph, list[NodeProto]()
    for name in (value.name for value in graph.input if value.name in codes):
        nodes += _pair(graph, name, name, codes[name])
    for node in graph.node:
        scale = codes[node.input[0]][0] if node.name in quantized and node.op_type == "Conv" else None
        for index, name in enumerate(node.input):
            if name in results or (node.name, name) in reads:
                node.input[index] = f"{name}_dequantized"
        if scale is not None:
            nodes += _quantize_weights(graph, node, edges.weights, scale, target, opset, 2 ** (weight_bits - 1) - 1)
        nodes.append(node)
        for name in (output for output in node.output if output in codes):
            nodes += _pair(graph, name, name, codes[name])
    replace_nodes(small, nodes)
    drop_unused_weights(small)
    return small


def quantizable_groups(model: ModelProto) -> list[Group]:
    """The groups of a graph in its order, each with at least one node that ``quantize`` may quantise.

    A convolution takes along the activation, normalisation and residual addition that alone read its output;
    where two convolutions meet in an addition, the later one takes it, as engines do. Nodes without a convolution
    before them, such as a normalisation of the input, go with the node that alone reads them.

    Raises:
        ModelError: see ``quantize``.
    """
    plain = float_form(model)
    edges = Edges(plain)
    first: dict[str, NodeProto] = {}
    for node in plain.graph.node:
        first[node.name] = _fused_into(node, edges, first) or node
    for node in reversed(plain.graph.node):
        reader = edges.only_reader(node.output[0])
        if first[node.name].op_type != "Conv" and reader is not None:
            first[node.name] = first[reader.name]
    members: dict[str, list[NodeProto]] = {}
    for node in plain.graph.node:
        members.setdefault(first[node.name].name, []).append(node)
    possible = set[str]()
    for target in TARGETS:
        form = _form_for(plain, target)
        possible |= _quantizable(form, Edges(form), target)
    return [
        Group(name, tuple(node.name for node in nodes), sum(_macs(node, edges) for node in nodes))
        for name, nodes in members.items()
        if possible.intersection(node.name for node in nodes)
    ]


def _fused_into(node: NodeProto, edges: Edges, first: Mapping[str, NodeProto]) -> NodeProto | None:
    """The convolution whose group a node joins, or None."""
    before = [
        edges.producer[name]
        for name in edges.activations(node)
        if name in edges.producer and edges.only_reader(name) is not None
    ]
    convolutions = [
        first[producer.name]
        for producer in before
        if first[producer.name].op_type == "Conv" and _FUSION.get(producer.op_type, 9) < _FUSION.get(node.op_type, 0)
    ]
    return max(convolutions, key=lambda convolution: edges.position[convolution.name], default=None)


def _macs(node: NodeProto, edges: Edges) -> int:
    if node.op_type != "Conv" or node.input[1] not in edges.weights:
        return 0
    return prod(side or 1 for side in edges.shapes[node.output[0]][1:]) * prod(edges.weights[node.input[1]].shape[1:])


def _quantizable(model: ModelProto, edges: Edges, target: str) -> set[str]:
    """Names of the nodes that a target can run in 8 bits."""
    return {node.name for node in model.graph.node if _is_quantizable(node, edges, target)}


def _is_quantizable(node: NodeProto, edges: Edges, target: str) -> bool:
    if not edges.floats.issuperset(edges.activations(node)):
        return False
    if node.op_type == "Conv":
        return node.input[1] in edges.weights and _is_wide(edges.weights[node.input[1]].shape, target)
    if target == "tensorrt":
        return _skip_input(node, edges) is not None
    return node.op_type in _CPU_OPERATORS and len(edges.activations(node)) == len(node.input)


def _is_wide(weight: tuple[int, ...], target: str) -> bool:
    outputs, inputs_per_group = weight[:2]
    if target == "cpu":
        return max(outputs, inputs_per_group) >= _MIN_CPU_CHANNELS
    # Depthwise: as many inputs as outputs, whatever the weight's second axis says.
    inputs = inputs_per_group if inputs_per_group > 1 else outputs
    return min(outputs, inputs) >= _MIN_TENSORRT_CHANNELS


def _skip_input(node: NodeProto, edges: Edges) -> str | None:
    """The input of a residual addition that is not the convolution TensorRT fuses it into; None if there is none."""
    if node.op_type != "Add":
        return None
    inputs = edges.activations(node)
    convolutions = [
        name
        for name in inputs
        if name in edges.producer
        and edges.producer[name].op_type in ("Conv", "BatchNormalization")
        and edges.only_reader(name) is not None
    ]
    if len(inputs) != 2 or not convolutions:
        return None
    inputs.remove(max(convolutions, key=lambda name: edges.position[edges.producer[name].name]))
    return inputs[0]


def _paired(
    model: ModelProto, edges: Edges, target: str, quantized: Collection[str]
) -> tuple[set[tuple[str, str]], set[str]]:
    """Where pairs stand: node and tensor where it alone reads through one, and tensors that all read through one."""
    reads, results = set[tuple[str, str]](), set[str]()
    needed = set[str]()
    for node in reversed(model.graph.node):
        if node.name in quantized:
            inputs = edges.activations(node)
            if target == "tensorrt" and node.op_type == "Add":
                inputs = [name for name in inputs if name == _skip_input(node, edges)]
            reads |= {(node.name, name) for name in inputs}
            # What no 8-bit node reads any more, the logits above all, stays as it comes.
            if target == "cpu" and node.output[0] in needed:
                results.add(_behind_activation(node.output[0], edges))
        if node.name in quantized or needed.intersection(node.output):
            needed.update(edges.activations(node))
    return reads, results


def _behind_activation(tensor: str, edges: Edges) -> str:
    reader = edges.only_reader(tensor)
    return reader.output[0] if reader is not None and reader.op_type in _ACTIVATIONS else tensor


def _activation_code(name: str, ranges: Ranges, target: str) -> _Code:
    try:
        if target == "tensorrt":
            return np.float32(max(ranges.symmetric[name] / 127, _MIN_SCALE)), np.int8(0)
        low, high = ranges.unsigned[name]
    except KeyError as error:
        raise UsageError(f"The ranges do not hold '{name}'", "measure them on the same model") from error
    scale = np.float32(max((high - low) / 255, _MIN_SCALE))
    return scale, np.uint8(np.clip(np.rint(-low / scale), 0, 255))


def _pair(graph: GraphProto, source: str, name: str, code: _Code) -> list[NodeProto]:
    """A pair behind ``source``, from which ``{name}_dequantized`` comes; stores its scale and zero point."""
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(values), f"{name}_{what}")
        for values, what in zip(code, ("scale", "zero_point"), strict=True)
    )
    per_channel = {"axis": 0} if code[0].ndim else {}
    steps = (("QuantizeLinear", source, "quantized"), ("DequantizeLinear", f"{name}_quantized", "dequantized"))
    return [
        helper.make_node(
            operator, [tensor, f"{name}_scale", f"{name}_zero_point"], [f"{name}_{result}"], f"{name}_{result}",
            **per_channel,
        )
        for operator, tensor, result in steps
    ]  # fmt: skip


def _quantize_weights(
    graph: GraphProto,
    conv: NodeProto,
    weights: Mapping[str, NDArray[Any]],
    input_scale: Any,
    target: str,
    opset: int,
    largest_code: int,
) -> list[NodeProto]:
    """Let a convolution read its weight, and on the CPU its bias, through DQ; the nodes that this takes."""
    weight = weights[conv.input[1]]
    bias = weights.get(conv.input[2]) if len(conv.input) > 2 else None
    scale = np.abs(weight).reshape(len(weight), -1).max(1) / largest_code
    if bias is not None:
        # In a channel with tiny weights the bias would need more than 32 bits.
        scale = np.maximum(scale, np.abs(bias) / (input_scale * _BIAS_ROOM))
    scale = np.maximum(scale, _MIN_SCALE).astype(np.float32)
    name = f"{conv.name}_weight"
    nodes = _pair(graph, conv.input[1], name, (scale, np.zeros(len(scale), np.int8)))
    conv.input[1] = f"{name}_dequantized"
    if target == "cpu" or opset >= _DQ_WEIGHTS_OPSET:
        codes = np.rint(weight / scale.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.int8)
        graph.initializer.append(numpy_helper.from_array(codes, f"{name}_quantized"))
        nodes = nodes[1:]
    if target == "cpu" and bias is not None:
        name, bias_scale = f"{conv.name}_bias", (scale * input_scale).astype(np.float32)
        nodes += _pair(graph, "", name, (bias_scale, np.zeros(len(scale), np.int32)))[1:]
        codes = np.rint(bias / bias_scale.astype(np.float64)).astype(np.int32)
        graph.initializer.append(numpy_helper.from_array(codes, f"{name}_quantized"))
        conv.input[2] = f"{name}_dequantized"
    return nodes


def _form_for(model: ModelProto, target: str) -> ModelProto:
    """A copy that computes the same with operators that a target runs faster; names of nodes stay.

    On the CPU, normalisations and averages over zero padding become depthwise convolutions. The engines have no
    8-bit kernel for the former. OpenVINO moves the zero point of 8-bit codes behind the latter, where the padding
    is no zero any more.
    """
    form = ModelProto()
    form.CopyFrom(model)
    if target != "cpu":
        return form
    edges = Edges(model)
    for node in form.graph.node:
        depthwise = _as_depthwise(node, edges)
        if depthwise is not None:
            weights, settings = depthwise
            names = _store(
                form.graph, {f"{node.name}_kernel": weights[0]} | {f"{node.name}_shift": w for w in weights[1:]}
            )
            settings |= {"group": len(weights[0]), "kernel_shape": weights[0].shape[2:]}
            node.CopyFrom(helper.make_node("Conv", [node.input[0], *names], list(node.output), node.name, **settings))
    _normalize_in_place(form, edges)
    return form


def _store(graph: GraphProto, weights: Mapping[str, NDArray[Any]]) -> list[str]:
    """Add float32 initializers; their names."""
    graph.initializer.extend(numpy_helper.from_array(v.astype(np.float32), name) for name, v in weights.items())
    return list(weights)


def _as_depthwise(node: NodeProto, edges: Edges) -> tuple[list[NDArray[Any]], dict[str, Any]] | None:
    """Weight, bias if any, and attributes of the depthwise convolution that computes what a node does; or None."""
    settings = attributes(node)
    shape = edges.shapes.get(node.input[0], ()) if node.input else ()
    if node.op_type == "BatchNormalization" and len(shape) == 4:
        scale, shift, mean, variance = (edges.weights[name].astype(np.float64) for name in node.input[1:5])
        factor = scale / np.sqrt(variance + settings.get("epsilon", 1e-5))
        return [factor.reshape(-1, 1, 1, 1), shift - mean * factor], {}
    padded = settings.get("count_include_pad") and any(settings.get("pads", ())) and not settings.get("ceil_mode")
    if node.op_type == "AveragePool" and len(shape) == 4 and padded:
        height, width = settings["kernel_shape"]
        weight = np.full((shape[1] or 1, 1, height, width), 1 / (height * width))
        return [weight], {key: settings[key] for key in ("strides", "pads", "dilations") if key in settings}
    return None


def _normalize_in_place(form: ModelProto, edges: Edges) -> None:
    """Let the convolution that scales pixels and swaps their channels only scale them, without a change of layout.

    The next convolution swaps the channels of its weights instead. Both engines save a twentieth of their time.
    """
    for node in form.graph.node:
        stem = edges.only_reader(node.output[0])
        scaled = _scaled_permutation(node, edges)
        if scaled is None or stem is None or stem.op_type != "Conv" or attributes(stem).get("group", 1) != 1:
            continue
        if stem.input[1] not in edges.weights:
            continue
        factors, sources = scaled
        channels = np.argsort(sources)
        shift = edges.weights[node.input[2]][channels]
        normalization = {"factor": factors[channels], "shift": shift, "mean": shift * 0, "variance": shift * 0 + 1}
        names = _store(form.graph, {f"{node.name}_{what}": values for what, values in normalization.items()})
        weight = edges.weights[stem.input[1]][:, channels]
        reader = next(other for other in form.graph.node if other.name == stem.name)
        reader.input[1:2] = _store(form.graph, {f"{stem.name}_swapped": weight})
        node.CopyFrom(
            helper.make_node(
                "BatchNormalization", [node.input[0], *names], list(node.output), node.name, epsilon=0.0
            )
        )  # fmt: skip


def _scaled_permutation(node: NodeProto, edges: Edges) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Factor and source channel of each output, of a 1x1 convolution that only scales and swaps; or None."""
    if node.op_type != "Conv" or len(node.input) != 3 or not edges.weights.keys() >= {*node.input[1:]}:
        return None
    weight = edges.weights[node.input[1]]
    used = weight.reshape(len(weight), -1) != 0
    if weight.shape[2:] != (1, 1) or not len(weight) == weight.shape[1] < _MIN_CPU_CHANNELS:
        return None
    if not (np.all(used.sum(0) == 1) and np.all(used.sum(1) == 1)):
        return None
    return weight.sum((1, 2, 3)), used.argmax(1)
