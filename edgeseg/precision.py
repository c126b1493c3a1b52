"""In which precision a model's graph computes: found in the graph itself, whatever its card claims.

Counted are multiply-accumulates (MACs) of convolutions and matrix products; all else is a small part of the work.
Such a layer computes in

- INT8 where both operands come from a DequantizeLinear (an engine runs the pair as one integer kernel), or are
  8-bit integers themselves;
- FP16 or FP32, and so on, as its operands are: weights stored as float16 and cast to float32 compute in FP32.

What an engine makes of the graph on a given machine is its own decision.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Optional, TypeVar, Union

from edgeseg.onnx_reader import Constant, Graph, Node, TensorInfo, dtype_name

_T = TypeVar("_T")
_Shape = tuple[int, ...]
_Rule = Callable[[Node, "_Tracer"], Optional[Union[_Shape, "list[_Shape]"]]]

_BITS = {"int4": 4, "int8": 8, "fp8": 8, "fp16": 16, "bf16": 16, "fp32": 32, "fp64": 64}
_PRECISIONS = {
    "uint4": "int4", "int4": "int4", "uint8": "int8", "int8": "int8", "float8e4m3fn": "fp8", "float8e5m2": "fp8",
    "float16": "fp16", "bfloat16": "bf16", "float32": "fp32", "float64": "fp64",
}  # fmt: skip

# Position of the second operand, which holds the weights of a convolution.
_SECOND_OPERAND = {
    "Conv": 1, "FusedConv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "ConvInteger": 1, "MatMulInteger": 1,
    "QLinearConv": 3, "QLinearMatMul": 3,
}  # fmt: skip
_KEEP_VALUES = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


@dataclass(frozen=True)
class Layer:
    """A convolution or matrix product.

    Attributes:
        name: of the node, or of its output where it has none.
        op: its operator.
        precision: what it computes in: "int8", "fp16", "bf16", "fp32", or "unknown".
        macs: multiply-accumulates for one image; None where the file leaves a shape open.
    """

    name: str
    op: str
    precision: str
    macs: int | None


@dataclass(frozen=True)
class Precision:
    """The layers that do a model's work, in the order of the graph."""

    layers: tuple[Layer, ...]

    @property
    def macs(self) -> dict[str, int]:
        """MACs for one image by precision, most first; layers of unknown shape are left out."""
        counted: Counter[str] = Counter()
        for layer in self.layers:
            counted[layer.precision] += layer.macs or 0
        return {precision: macs for precision, macs in counted.most_common() if macs}

    @property
    def uncounted(self) -> tuple[Layer, ...]:
        """Layers whose shapes the file leaves open."""
        return tuple(layer for layer in self.layers if layer.macs is None)

    @property
    def lowest(self) -> str | None:
        """The precision of the fewest bits in the graph, or None without layers of known precision."""
        return min(
            (layer.precision for layer in self.layers if layer.precision in _BITS),
            key=lambda name: _BITS[name],
            default=None,
        )

    @property
    def left_higher(self) -> tuple[Layer, ...]:
        """Layers in a higher precision than the lowest."""
        least = _BITS.get(self.lowest or "", 0)
        return tuple(layer for layer in self.layers if _BITS.get(layer.precision, 0) > least)


def precision_of(graph: Graph, input_shape: Sequence[int] | None = None) -> Precision:
    """The precision of every layer of a graph.

    Args:
        graph: see ``edgeseg.onnx_reader.read_graph``.
        input_shape: of the only input, where the graph leaves an axis open. An open first axis counts as 1.
    """
    tracer = _Tracer(graph, input_shape)
    layers = []
    for node in graph.nodes:
        _tried(tracer.step, node)
        if _kind(node) in _SECOND_OPERAND:
            name = node.name or next(iter(node.outputs), "")
            precision = _tried(tracer.precision, node) or "unknown"
            layers.append(Layer(name, node.op, precision, _tried(tracer.macs, node)))
    return Precision(tuple(layers))


def precision_by_node(graph: Graph) -> dict[str, str]:
    """What every named node of a graph gives out: "fp16", "fp32" and so on, or "unknown", as for class ids."""
    tracer = _Tracer(graph, None)
    found = {}
    for node in graph.nodes:
        _tried(tracer.step, node)
        if node.name and node.outputs:
            found[node.name] = _PRECISIONS.get(tracer.dtypes.get(node.outputs[0], ""), "unknown")
    return found


def _tried(fact: Callable[[Node], _T], node: Node) -> _T | None:
    """A fact about a node, or None where it has not the inputs and attributes that the ONNX standard asks for."""
    try:
        return fact(node)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return None


class _Tracer:
    """Shape, dtype and origin of every tensor, node after node. Unknown ones are None or absent."""

    def __init__(self, graph: Graph, input_shape: Sequence[int] | None) -> None:
        self.constants = dict(graph.constants)
        self.shapes: dict[str, _Shape | None] = {name: c.shape for name, c in graph.constants.items()}
        self.dtypes: dict[str, str] = {name: c.dtype for name, c in graph.constants.items()}
        self._producers: dict[str, Node] = {}
        made = {name for node in graph.nodes for name in node.outputs}
        for name, tensor in graph.tensors.items():
            if name not in graph.constants:
                self.shapes[name] = _closed(tensor, None if name in made else input_shape)
                self.dtypes[name] = tensor.dtype

    def step(self, node: Node) -> None:
        """Follow one node."""
        for name in node.outputs:
            self._producers[name] = node
            self.dtypes[name] = self._dtype(node)
        rule = _RULES.get(_kind(node))
        shapes = rule(node, self) if rule else None
        for index, name in enumerate(node.outputs):
            shape = shapes[index] if isinstance(shapes, list) else shapes
            if shape is not None:
                self.shapes[name] = shape
        value = node.attributes.get("value")
        if node.op == "Constant" and isinstance(value, Constant):
            self.constants[node.outputs[0]] = value

    def shape(self, node: Node, index: int = 0) -> _Shape | None:
        """Shape of an input of a node."""
        return self.shapes.get(node.inputs[index]) if index < len(node.inputs) else None

    def whole_numbers(self, node: Node, index: int, attribute: str) -> tuple[int, ...] | None:
        """What a node is told by a constant input, or in older operator sets by an attribute."""
        if attribute in node.attributes:
            return tuple(node.attributes[attribute])
        constant = self.constants.get(node.inputs[index]) if index < len(node.inputs) else None
        return None if constant is None or constant.values is None else tuple(map(int, constant.values))

    def macs(self, node: Node) -> int | None:
        """Multiply-accumulates of a layer, for one image."""
        kind = _kind(node)
        first, second = self.shape(node), self.shape(node, _SECOND_OPERAND[kind])
        out = self.shapes.get(node.outputs[0])
        if first is None or second is None or out is None:
            return None
        if kind == "ConvTranspose":
            return math.prod(first) * math.prod(second[1:])
        if "Conv" in kind:
            return math.prod(out) * math.prod(second[1:])
        return math.prod(out) * first[-2 if node.attributes.get("transA") else -1]

    def precision(self, node: Node) -> str:
        """What a layer computes in."""
        kind = _kind(node)
        operands = [node.inputs[0], node.inputs[_SECOND_OPERAND[kind]]]
        quantized = {self._quantized_dtype(name) for name in operands}
        if len(quantized) == 1 or quantized == {"int8", "uint8"}:
            dtype = next(iter(quantized)) or self.dtypes.get(operands[0], "")
        else:
            dtype = self.dtypes.get(operands[0], "")
        return _PRECISIONS.get(dtype, "unknown")

    def _quantized_dtype(self, name: str) -> str | None:
        """Dtype of the numbers that a tensor was dequantized from, or None."""
        node = self._producers.get(name)
        while node is not None and _kind(node) in _KEEP_VALUES:
            node = self._producers.get(node.inputs[0])
        if node is None or _kind(node) != "DequantizeLinear":
            return None
        return self.dtypes.get(node.inputs[0])

    def _dtype(self, node: Node) -> str:
        kind = _kind(node)
        of = [self.dtypes.get(name, "undefined") for name in node.inputs]
        if kind == "Cast":
            return dtype_name(node.attributes["to"])
        if kind == "Constant":
            value = node.attributes.get("value")
            return value.dtype if isinstance(value, Constant) else "undefined"
        if kind in ("ArgMax", "ArgMin", "Shape"):
            return "int64"
        # The zero point's dtype is that of the result; without one it is uint8.
        if kind == "QuantizeLinear":
            return of[2] if len(of) > 2 else "uint8"
        # The scale's, and the second choice's.
        if kind in ("DequantizeLinear", "Where"):
            return of[1]
        return of[0] if of else "undefined"


def _kind(node: Node) -> str:
    """The operator without its domain: ONNX Runtime has extended twins of standard ones."""
    return node.op.rpartition("::")[2]


def _closed(tensor: TensorInfo, given: Sequence[int] | None) -> _Shape | None:
    """The shape with its open axes filled in, or None where one stays open."""
    if not tensor.rank_known:
        return None
    axes = [axis if isinstance(axis, int) else None for axis in tensor.shape]
    if given is not None and len(given) == len(axes):
        axes = [own if own is not None else other for own, other in zip(axes, given)]
    if axes and axes[0] is None:
        axes[0] = 1
    known = tuple(axis for axis in axes if axis is not None)
    return known if len(known) == len(axes) else None


# --- shapes, by operator ------------------------------------------------------------------------------------


def _same(node: Node, tracer: _Tracer) -> _Shape | None:
    return tracer.shape(node)


def _broadcast(node: Node, tracer: _Tracer) -> _Shape | None:
    shapes = [tracer.shapes.get(name) for name in node.inputs]
    known = [shape for shape in shapes if shape is not None]
    if not known or len(known) < len(shapes):
        return None
    rank = max(map(len, known))
    aligned = [(1,) * (rank - len(shape)) + shape for shape in known]
    return tuple(max(sizes) if 0 not in sizes else 0 for sizes in zip(*aligned))


def _convolved(node: Node, tracer: _Tracer) -> _Shape | None:
    x, weight = tracer.shape(node), tracer.shape(node, _SECOND_OPERAND[_kind(node)])
    if x is None or weight is None:
        return None
    return (x[0], weight[0], *_slid(node, x[2:], weight[2:]))


def _pooled(node: Node, tracer: _Tracer) -> list[_Shape] | None:
    x = tracer.shape(node)
    return None if x is None else [(*x[:2], *_slid(node, x[2:], node.attributes["kernel_shape"]))] * 2


def _slid(node: Node, sizes: _Shape, kernel: _Shape) -> _Shape:
    """Spatial sizes after a window has slid over them."""
    get, rank = node.attributes.get, len(sizes)
    strides, dilations = get("strides", (1,) * rank), get("dilations", (1,) * rank)
    pads, padding = get("pads", (0,) * (2 * rank)), get("auto_pad", "NOTSET")
    if padding.startswith("SAME"):
        return tuple(-(-size // stride) for size, stride in zip(sizes, strides))
    if padding == "VALID":
        pads = (0,) * (2 * rank)
    room = [
        size + pads[i] + pads[i + rank] - dilations[i] * (k - 1) - 1 for i, (size, k) in enumerate(zip(sizes, kernel))
    ]
    if get("ceil_mode"):
        return tuple(-(-free // stride) + 1 for free, stride in zip(room, strides))
    return tuple(free // stride + 1 for free, stride in zip(room, strides))


def _deconvolved(node: Node, tracer: _Tracer) -> _Shape | None:
    x, weight, get = tracer.shape(node), tracer.shape(node, 1), node.attributes.get
    if x is None or weight is None:
        return None
    rank = len(x) - 2
    channels = weight[1] * get("group", 1)
    strides, dilations = get("strides", (1,) * rank), get("dilations", (1,) * rank)
    more, pads = get("output_padding", (0,) * rank), get("pads", (0,) * (2 * rank))
    if "output_shape" in node.attributes:
        return (x[0], channels, *node.attributes["output_shape"][-rank:])
    if get("auto_pad", "NOTSET").startswith("SAME"):
        return (x[0], channels, *(size * stride for size, stride in zip(x[2:], strides)))
    sizes = (
        strides[i] * (x[2 + i] - 1) + more[i] + dilations[i] * (weight[2 + i] - 1) + 1 - pads[i] - pads[i + rank]
        for i in range(rank)
    )
    return (x[0], channels, *sizes)


def _multiplied(node: Node, tracer: _Tracer) -> _Shape | None:
    a, b = tracer.shape(node), tracer.shape(node, _SECOND_OPERAND[_kind(node)])
    if a is None or b is None or min(len(a), len(b)) < 2:
        return None
    batch = a[:-2] if len(a) >= len(b) else b[:-2]
    rows = a[-1] if node.attributes.get("transA") else a[-2]
    return (*batch, rows, b[-2] if node.attributes.get("transB") else b[-1])


def _resized(node: Node, tracer: _Tracer) -> _Shape | None:
    x = tracer.shape(node)
    told = [tracer.constants[name] for name in node.inputs[1:] if name in tracer.constants]
    # Of the region, the factors and the sizes, only one of the latter two has an entry for each axis.
    for constant in told:
        if x is not None and constant.values is not None and len(constant.values) == len(x):
            if constant.dtype == "int64":
                return tuple(map(int, constant.values))
            return tuple(math.floor(size * factor) for size, factor in zip(x, constant.values))
    return None


def _joined(node: Node, tracer: _Tracer) -> _Shape | None:
    shapes = [tracer.shapes.get(name) for name in node.inputs]
    first, axis = shapes[0], node.attributes.get("axis", 1)
    if first is None or any(shape is None for shape in shapes):
        return None
    axis %= len(first)
    return (*first[:axis], sum(shape[axis] for shape in shapes if shape is not None), *first[axis + 1 :])


def _split(node: Node, tracer: _Tracer) -> list[_Shape] | None:
    x, axis = tracer.shape(node), node.attributes.get("axis", 0)
    if x is None:
        return None
    axis %= len(x)
    parts = tracer.whole_numbers(node, 1, "split")
    if parts is None:
        parts = (-(-x[axis] // len(node.outputs)),) * len(node.outputs)
    return [(*x[:axis], part, *x[axis + 1 :]) for part in parts]


def _pooled_globally(node: Node, tracer: _Tracer) -> _Shape | None:
    x = tracer.shape(node)
    return None if x is None else (*x[:2], *(1 for _ in x[2:]))


def _reduced(node: Node, tracer: _Tracer) -> _Shape | None:
    x, axes = tracer.shape(node), tracer.whole_numbers(node, 1, "axes")
    if x is None or (axes is None and len(node.inputs) > 1):
        return None
    gone = {axis % len(x) for axis in (axes if axes is not None else range(len(x)))}
    if node.attributes.get("keepdims", 1):
        return tuple(1 if i in gone else size for i, size in enumerate(x))
    return tuple(size for i, size in enumerate(x) if i not in gone)


def _transposed(node: Node, tracer: _Tracer) -> _Shape | None:
    x = tracer.shape(node)
    return None if x is None else tuple(x[i] for i in node.attributes.get("perm", range(len(x))[::-1]))


def _reshaped(node: Node, tracer: _Tracer) -> _Shape | None:
    x, wanted = tracer.shape(node), tracer.whole_numbers(node, 1, "shape")
    if x is None or wanted is None:
        return None
    sizes = [x[i] if size == 0 else size for i, size in enumerate(wanted)]
    if -1 in sizes:
        sizes[sizes.index(-1)] = math.prod(x) // math.prod(size for size in sizes if size != -1)
    return tuple(sizes)


def _flattened(node: Node, tracer: _Tracer) -> _Shape | None:
    x, axis = tracer.shape(node), node.attributes.get("axis", 1)
    return None if x is None else (math.prod(x[:axis]), math.prod(x[axis:]))


def _padded(node: Node, tracer: _Tracer) -> _Shape | None:
    x, pads = tracer.shape(node), tracer.whole_numbers(node, 1, "pads")
    if x is None or pads is None or len(pads) != 2 * len(x):
        return None
    return tuple(size + pads[i] + pads[i + len(x)] for i, size in enumerate(x))


def _constant(node: Node, tracer: _Tracer) -> _Shape | None:
    value = node.attributes.get("value")
    return value.shape if isinstance(value, Constant) else None


_RULES: dict[str, _Rule] = {
    **dict.fromkeys(
        ("BatchNormalization", "Cast", "Clip", "DequantizeLinear", "Dropout", "Elu", "Erf", "Exp", "Gelu",
         "HardSigmoid", "HardSwish", "Identity", "InstanceNormalization", "LayerNormalization", "LeakyRelu",
         "LogSoftmax", "Neg", "QuantizeLinear", "Relu", "Selu", "Sigmoid", "Softmax", "Softplus", "Sqrt", "Tanh"),
        _same,
    ),
    **dict.fromkeys(
        ("Add", "Div", "Equal", "Greater", "Less", "Max", "Mean", "Min", "Mul", "PRelu", "Pow", "Sub", "Sum", "Where"),
        _broadcast,
    ),
    **dict.fromkeys(("Conv", "ConvInteger", "FusedConv", "QLinearConv"), _convolved),
    **dict.fromkeys(("Gemm", "MatMul", "MatMulInteger", "QLinearMatMul"), _multiplied),
    **dict.fromkeys(("AveragePool", "LpPool", "MaxPool"), _pooled),
    **dict.fromkeys(("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool"), _pooled_globally),
    **dict.fromkeys(("ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"), _reduced),
    **dict.fromkeys(("Resize", "Upsample"), _resized),
    "Concat": _joined,
    "Constant": _constant,
    "ConvTranspose": _deconvolved,
    "Flatten": _flattened,
    "Pad": _padded,
    "Reshape": _reshaped,
    "Split": _split,
    "Transpose": _transposed,
}  # fmt: skip
