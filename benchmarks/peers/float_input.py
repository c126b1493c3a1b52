"""Write a model of edgeseg as other programs expect one: float32 [1, 3, H, W] in, normalised outside of the graph.

The first layers, which turn bytes into normalised floats, go; weights, Q/DQ pairs and output stay as they are.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper

INPUT = "input"


def write_float_input(source: Path, target: Path) -> dict[str, Any]:
    """Write ``target``, and tell what its input is.

    Returns:
        ``size_hw``, ``order`` of the channels ("rgb" or "bgr"), and their ``mean`` and ``std``, of pixels in 0..1.
    """
    model = onnx.load(source)
    graph = model.graph
    card = json.loads(next(p.value for p in model.metadata_props if p.key == "edgeseg"))
    head = _head(graph)
    swapped = _swaps_channels(graph, head[-1])
    normalised = head[-1].output[0]
    for node in head:
        graph.node.remove(node)
    for node in graph.node:
        node.input[:] = [INPUT if name == normalised else name for name in node.input]
    used = {name for node in graph.node for name in node.input}
    kept = [initializer for initializer in graph.initializer if initializer.name in used]
    del graph.initializer[:], graph.value_info[:], graph.input[:], model.metadata_props[:]
    graph.initializer.extend(kept)
    size_hw = card["input_size_hw"]
    graph.input.append(onnx.helper.make_tensor_value_info(INPUT, onnx.TensorProto.FLOAT, [1, 3, *size_hw]))
    onnx.checker.check_model(model)
    onnx.save(model, target)
    step = -1 if swapped else 1
    return {
        "size_hw": size_hw,
        "order": "rgb" if (card["color_order"] == "bgr") == swapped else "bgr",
        "mean": card["mean"][::step],
        "std": card["std"][::step],
        "palette": card["palette"],
    }


def _head(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes from the input to the one that normalises."""
    head: list[onnx.NodeProto] = []
    tensor = graph.input[0].name
    while not head or head[-1].op_type not in ("Conv", "BatchNormalization"):
        (node,) = (node for node in graph.node if tensor in node.input)
        head.append(node)
        tensor = node.output[0]
    return head


def _swaps_channels(graph: onnx.GraphProto, normalise: onnx.NodeProto) -> bool:
    if normalise.op_type != "Conv":
        return False
    weight = next(numpy_helper.to_array(i) for i in graph.initializer if i.name == normalise.input[1])
    return bool(weight[0, 0] == 0)
