"""A network as one self-contained ONNX graph: camera bytes in, logits or a class map out.

torch's TorchScript exporter traces it (the newer one writes no opset 17, needs one more package, and records
source paths of the machine in the file). All shapes are fixed, so what it leaves behind to compute shapes at
run time is replaced by constants. The same network gives the same bytes.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference
from torch import nn

import edgeseg
from edgeseg.card import METADATA_KEY, ModelCard
from edgeseg.errors import ModelError, UsageError
from edgeseg_train.deploy import DeployModel

OPSETS = (17, 18, 19, 20)
WEIGHTS = ("fp32", "fp16")

_MIN_HALF_ELEMENTS = 1024
"""Smaller tensors (biases, normalisation) stay float32: they weigh nothing and half precision costs most there."""

_RESIZE_ATTRIBUTES = frozenset({"mode", "coordinate_transformation_mode"})
_MEND = "report it with the network's name; --opset 17 is the best tested"


def graph_from_network(network: nn.Module, card: ModelCard, *, opset: int = 17) -> ModelProto:
    """Trace a network with its preprocessing and head.

    Input ``image``, uint8 [1, H, W, 3] in BGR. Output as ``card.head``: ``logits``, float32 [1, C, h, w] at the
    network's own stride, or ``mask``, uint8 [1, H, W].

    Args:
        network: maps normalised RGB images [1, 3, H, W] to logits; put into evaluation mode.
        card: input size, mean, std and head; goes into the file as well.
        opset: 17 to 20.

    Raises:
        UsageError: another opset.
        ModelError: the network cannot be traced, or its graph keeps a shape open.
    """
    if opset not in OPSETS:
        raise UsageError(f"There is no export to opset {opset}", f"give --opset from {OPSETS[0]} to {OPSETS[-1]}")
    deployed = DeployModel(network.cpu(), card.mean[::-1], card.std[::-1], card.head)
    height, width = card.input_size_hw
    model = onnx.load_from_string(_traced(deployed, (height, width), card.head, opset))
    try:
        model = shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except shape_inference.InferenceError as error:
        raise ModelError(f"The traced graph is inconsistent ({_first_line(error)})", _MEND) from error
    _fix_resize_sizes(model)
    _inline_constants(model)
    _bypass_identities(model)
    _drop_unused(model)
    # Shapes between the nodes follow from the input; stating them would only make the file larger.
    del model.graph.value_info[:]
    model.graph.name = card.name
    model.producer_name, model.producer_version = "edgeseg", edgeseg.__version__
    set_card(model, card)
    return model


def with_half_weights(model: ModelProto) -> ModelProto:
    """A copy whose large weights are stored as float16, each cast to float32 where the graph reads it.

    The file halves; the computation stays float32, because engines fold the casts when they load the file.
    Weights that float16 cannot hold (beyond 65504) stay float32.
    """
    half = ModelProto()
    half.CopyFrom(model)
    casts = []
    for tensor in half.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < _MIN_HALF_ELEMENTS:
            continue
        values = numpy_helper.to_array(tensor)
        if not np.all(np.abs(values) <= np.finfo(np.float16).max):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_fp16"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], f"{name}_cast", to=TensorProto.FLOAT))
    nodes = list(half.graph.node)
    del half.graph.node[:]
    half.graph.node.extend([*casts, *nodes])
    return half


def set_card(model: ModelProto, card: ModelCard) -> None:
    """Write a card into a model's metadata, in place of the one that is there, and a sentence for its reader."""
    height, width = card.input_size_hw
    output = "logits at the network's own stride" if card.head == "logits" else "uint8 class ids"
    model.doc_string = (
        f"{card.name}: semantic segmentation into {card.num_classes} classes. In: uint8 frames "
        f"[1, {height}, {width}, 3] in BGR order. Out: {output}. The metadata entry '{METADATA_KEY}' says more."
    )
    helper.set_model_props(model, {METADATA_KEY: card.to_json()})


def write_model(model: ModelProto, path: str | os.PathLike[str]) -> None:
    """Check a model against the ONNX standard and write it.

    Raises:
        ModelError: it breaks the standard.
        OSError: the file cannot be written.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, shape_inference.InferenceError) as error:
        raise ModelError(f"The exported graph breaks the ONNX standard ({_first_line(error)})", _MEND) from error
    data = model.SerializeToString(deterministic=True)
    with open(path, "wb") as file:
        file.write(data)


def _traced(model: nn.Module, size_hw: tuple[int, int], head: str, opset: int) -> bytes:
    image = torch.zeros(1, *size_hw, 3, dtype=torch.uint8)
    try:
        with warnings.catch_warnings(), torch.inference_mode(), TemporaryDirectory() as folder:
            # It announces its own end, and that sizes become constants, which is what is wanted.
            warnings.simplefilter("ignore")
            path = Path(folder) / "traced.onnx"
            torch.onnx.export(
                model,
                (image,),
                str(path),
                input_names=["image"],
                output_names=[head],
                opset_version=opset,
                dynamo=False,
            )
            return path.read_bytes()
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        raise ModelError(f"torch cannot trace the network ({_first_line(error)})", _MEND) from error


def _fix_resize_sizes(model: ModelProto) -> None:
    """Give every Resize its output's size as a constant instead of one computed from other tensors' shapes."""
    graph = model.graph
    shapes = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.value_info, *graph.output)
    }
    for node in graph.node:
        if node.op_type != "Resize":
            continue
        shape = shapes.get(node.output[0], ())
        if len(shape) != 4 or min(shape) < 1:
            raise ModelError(f"The size of '{node.output[0]}' in the traced graph is open", _MEND)
        sizes = f"{node.output[0]}_sizes"
        graph.initializer.append(numpy_helper.from_array(np.asarray(shape, np.int64), sizes))
        node.input[:] = [node.input[0], "", "", sizes]
        kept = [a for a in node.attribute if a.name in _RESIZE_ATTRIBUTES]
        del node.attribute[:]
        node.attribute.extend(kept)


def _inline_constants(model: ModelProto) -> None:
    """Make Constant nodes initializers: some engines fold only those."""
    graph = model.graph
    for node in [n for n in graph.node if n.op_type == "Constant" and n.attribute[0].name == "value"]:
        tensor = TensorProto()
        tensor.CopyFrom(node.attribute[0].t)
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
        graph.node.remove(node)


def _bypass_identities(model: ModelProto) -> None:
    """Read the original wherever an Identity's copy is read; torch stores equal weights once that way."""
    original: dict[str, str] = {}
    for node in model.graph.node:
        node.input[:] = [original.get(name, name) for name in node.input]
        if node.op_type == "Identity":
            original[node.output[0]] = node.input[0]


def _drop_unused(model: ModelProto) -> None:
    """Remove the nodes and initializers that no output depends on."""
    graph = model.graph
    needed = {output.name for output in graph.output}
    kept: list[NodeProto] = []
    for node in reversed(graph.node):
        if needed.isdisjoint(node.output):
            continue
        kept.append(node)
        needed.update(name for name in node.input if name)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(weights)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
