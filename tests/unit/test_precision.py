"""The precision found in a graph: against shapes of the onnx package, and on graphs made for each question."""

from __future__ import annotations

import numpy as np
import pytest

from edgeseg import bundled
from edgeseg.cli import main
from edgeseg.onnx_reader import read_graph
from edgeseg.precision import precision_of

onnx = pytest.importorskip("onnx")
helper, numpy_helper = onnx.helper, onnx.numpy_helper
FLOAT, FLOAT16, UINT8, INT8 = (getattr(onnx.TensorProto, name) for name in ("FLOAT", "FLOAT16", "UINT8", "INT8"))
PAIR_MACS = 4 * 6 * 8 * 3 * 9
"""Multiply-accumulates of ``conv``: 8 x 3 x 3 x 3 weights on 4 x 6 positions."""


def save(path, nodes, constants, *, shape=(1, 3, 4, 6), dtype=FLOAT, opset=17, card=None):
    """A graph from ``x`` to ``y`` whose inner shapes are not written down."""
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", opset)])
    if card is not None:
        helper.set_model_props(model, {"edgeseg": card.to_json()})
    path.write_bytes(model.SerializeToString())
    return path


def weight(dtype="float32", out=8, channels=3):
    return np.zeros((out, channels, 3, 3), dtype)


def conv(inputs, output, name="conv", **attributes):
    return helper.make_node("Conv", inputs, [output], name, pads=[1, 1, 1, 1], **attributes)


def quantized(name, zero="zero"):
    """The nodes that take ``name`` to 8 bits and back."""
    return [
        helper.make_node("QuantizeLinear", [name, "scale", zero], [f"{name}_q"]),
        helper.make_node("DequantizeLinear", [f"{name}_q", "scale", zero], [f"{name}_dq"]),
    ]


QUANTIZATION = {"scale": np.float32(0.1), "zero": np.uint8(128), "zero8": np.int8(0)}


def only_layer(path, **arguments):
    (layer,) = precision_of(read_graph(path), **arguments).layers
    return layer


def test_a_float_convolution(tmp_path):
    layer = only_layer(save(tmp_path / "m.onnx", [conv(["x", "w"], "y")], {"w": weight()}))
    assert (layer.name, layer.op, layer.precision, layer.macs) == ("conv", "Conv", "fp32", PAIR_MACS)


@pytest.mark.parametrize(
    ("weights", "nodes"),
    [
        # As ONNX Runtime writes them: activations uint8, weights stored as int8.
        (weight("int8"), [helper.make_node("DequantizeLinear", ["w", "scale", "zero8"], ["w_dq"])]),
        # As TensorRT takes them: float weights with both nodes.
        (weight(), quantized("w", "zero8")),
    ],
)
def test_both_operands_dequantized_is_int8(tmp_path, weights, nodes):
    path = save(
        tmp_path / "m.onnx", [*quantized("x"), *nodes, conv(["x_dq", "w_dq"], "y")], {"w": weights, **QUANTIZATION}
    )
    assert only_layer(path).precision == "int8"


def test_one_operand_dequantized_computes_in_float(tmp_path):
    nodes = [helper.make_node("DequantizeLinear", ["w", "scale", "zero8"], ["w_dq"]), conv(["x", "w_dq"], "y")]
    assert only_layer(save(tmp_path / "a.onnx", nodes, {"w": weight("int8"), **QUANTIZATION})).precision == "fp32"
    nodes = [*quantized("x"), conv(["x_dq", "w"], "y")]
    assert only_layer(save(tmp_path / "b.onnx", nodes, {"w": weight(), **QUANTIZATION})).precision == "fp32"


def test_what_only_moves_values_keeps_them_quantized(tmp_path):
    nodes = [
        *quantized("x"),
        helper.make_node("Transpose", ["x_dq"], ["t"], perm=[0, 3, 1, 2]),
        *quantized("w", "zero8"),
        conv(["t", "w_dq"], "y"),
    ]
    path = save(tmp_path / "m.onnx", nodes, {"w": weight(), **QUANTIZATION}, shape=(1, 4, 6, 3))
    assert (only_layer(path).precision, only_layer(path).macs) == ("int8", PAIR_MACS)
    nodes.insert(3, helper.make_node("Relu", ["t"], ["r"]))
    nodes[-1].input[0] = "r"
    path = save(tmp_path / "m.onnx", nodes, {"w": weight(), **QUANTIZATION}, shape=(1, 4, 6, 3))
    assert only_layer(path).precision == "fp32"


def test_casts_decide_between_fp16_and_fp32(tmp_path):
    stored_half = [helper.make_node("Cast", ["w"], ["w32"], to=FLOAT), conv(["x", "w32"], "y")]
    assert only_layer(save(tmp_path / "a.onnx", stored_half, {"w": weight("float16")})).precision == "fp32"
    computed_half = [
        helper.make_node("Cast", ["x"], ["x16"], to=FLOAT16),
        conv(["x16", "w"], "y16"),
        helper.make_node("Cast", ["y16"], ["y"], to=FLOAT),
    ]
    assert only_layer(save(tmp_path / "b.onnx", computed_half, {"w": weight("float16")})).precision == "fp16"


def test_layers_above_the_lowest_precision_are_named(tmp_path):
    nodes = [
        *quantized("x"), *quantized("w", "zero8"), conv(["x_dq", "w_dq"], "a", "first"),
        helper.make_node("Cast", ["a"], ["a16"], to=FLOAT16), conv(["a16", "w16"], "b", "second"),
        helper.make_node("Cast", ["b"], ["c"], to=FLOAT), conv(["c", "w8"], "y", "third", group=8),
    ]  # fmt: skip
    constants = {
        "w": weight(), "w16": weight("float16", channels=8), "w8": weight(channels=1), **QUANTIZATION,
    }  # fmt: skip
    found = precision_of(read_graph(save(tmp_path / "m.onnx", nodes, constants)))
    assert found.macs == {"fp16": 4 * 6 * 8 * 8 * 9, "int8": PAIR_MACS, "fp32": 4 * 6 * 8 * 9}
    assert found.lowest == "int8"
    assert [layer.name for layer in found.left_higher] == ["second", "third"]


def test_open_shapes_are_filled_in_or_said_to_be_open(tmp_path):
    path = save(tmp_path / "m.onnx", [conv(["x", "w"], "y")], {"w": weight()}, shape=("N", 3, None, "w"))
    assert only_layer(path).macs is None
    assert precision_of(read_graph(path)).uncounted[0].name == "conv"
    assert precision_of(read_graph(path)).macs == {}
    assert only_layer(path, input_shape=(1, 3, 4, 6)).macs == PAIR_MACS
    batch = save(tmp_path / "m.onnx", [conv(["x", "w"], "y")], {"w": weight()}, shape=("N", 3, 4, 6))
    assert only_layer(batch).macs == PAIR_MACS


def test_an_operator_whose_shape_is_unknown_leaves_the_rest_open(tmp_path):
    nodes = [helper.make_node("Mystery", ["x"], ["z"], domain="test"), conv(["z", "w"], "y")]
    path = save(tmp_path / "m.onnx", nodes, {"w": weight()})
    assert only_layer(path).macs is None


def test_nodes_that_break_the_standard_are_unknown(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x"], ["a"], "without a weight"),
        helper.make_node("Transpose", ["x"], ["b"], perm=[9]),
        helper.make_node("Cast", ["b"], ["c"]),
        helper.make_node("MaxPool", ["x"], ["d"]),
        helper.make_node("DequantizeLinear", ["x"], ["e"]),
        conv(["b", "w"], "y", strides=[0, 0]),
    ]
    found = precision_of(read_graph(save(tmp_path / "m.onnx", nodes, {"w": weight()})))
    assert [(layer.precision, layer.macs) for layer in found.layers] == [("unknown", None), ("fp32", None)]


def many_operators():
    """Nodes with most of the shape rules, each result used by the next where it fits."""
    node = helper.make_node
    return [
        node("Conv", ["x", "w"], ["c1"], strides=[2, 2], pads=[1, 0, 1, 2], dilations=[2, 2]),
        node("Conv", ["x", "w"], ["c2"], strides=[2, 3], auto_pad="SAME_UPPER"),
        node("Conv", ["x", "w"], ["c3"], auto_pad="VALID"),
        node("ConvTranspose", ["c2", "wt"], ["t1"], strides=[2, 2], pads=[1, 1, 0, 1], output_padding=[1, 0], group=2),
        node("MaxPool", ["x"], ["m1"], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
        node("AveragePool", ["x"], ["m2"], kernel_shape=[2, 3], strides=[2, 1], pads=[0, 1, 0, 1]),
        node("GlobalAveragePool", ["x"], ["g"]),
        node("Resize", ["x", "", "", "sizes"], ["r1"]),
        node("Resize", ["x", "", "scales"], ["r2"]),
        node("Concat", ["x", "x"], ["cat"], axis=-3),
        node("Split", ["cat"], ["s1", "s2"], axis=1),
        node("Split", ["cat", "parts"], ["s3", "s4"], axis=1),
        node("Add", ["x", "row"], ["a"]),
        node("ReduceMean", ["x"], ["mean"], axes=[2, -1]),
        node("ReduceSum", ["x", "axis"], ["sum"], keepdims=0),
        node("Transpose", ["x"], ["turned"]),
        node("Reshape", ["x", "wanted"], ["shaped"]),
        node("Flatten", ["x"], ["flat"]),
        node("Gemm", ["flat", "wg"], ["gemm"], transB=1),
        node("MatMul", ["x", "wm"], ["mat"]),
        node("Pad", ["x", "pads"], ["padded"]),
        node("Softmax", ["x"], ["y"]),
        node("Constant", [], ["k"], value=numpy_helper.from_array(np.ones((2, 3), np.float32))),
    ]


def test_shapes_are_those_of_the_onnx_package(tmp_path):
    constants = {
        "w": weight(), "wt": np.zeros((8, 5, 3, 3), "float32"), "sizes": np.int64([1, 3, 9, 7]),
        "scales": np.float32([1, 1, 2, 1.5]), "parts": np.int64([2, 4]), "row": np.zeros((2, 1, 1, 13), "float32"),
        "axis": np.int64([1]), "wanted": np.int64([0, -1, 13]), "wg": np.zeros((5, 3 * 11 * 13), "float32"),
        "wm": np.zeros((13, 4), "float32"), "pads": np.int64([0, 0, 1, 2, 0, 0, 3, 4]),
    }  # fmt: skip
    path = save(tmp_path / "m.onnx", many_operators(), constants, shape=(1, 3, 11, 13))
    assert_shapes_agree_with_onnx(path)


def assert_shapes_agree_with_onnx(path):
    from edgeseg.precision import _Tracer

    graph = read_graph(path)
    tracer = _Tracer(graph, None)
    for node in graph.nodes:
        tracer.step(node)
    inferred = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True, data_prop=True).graph.value_info
    assert len(inferred) > 5
    for value in inferred:
        kind = value.type.tensor_type
        assert tracer.shapes.get(value.name) == tuple(dim.dim_value for dim in kind.shape.dim), value.name
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type).name
        assert tracer.dtypes[value.name] == dtype, value.name


def test_matrix_products_and_transposed_convolutions_are_counted(tmp_path):
    path = save(
        tmp_path / "m.onnx",
        many_operators(),
        {"w": weight(), "wt": np.zeros((8, 5, 3, 3), "float32"), "wg": np.zeros((5, 429), "float32"),
         "wm": np.zeros((13, 4), "float32")},
        shape=(1, 3, 11, 13),
    )  # fmt: skip
    macs = {layer.op: layer.macs for layer in precision_of(read_graph(path)).layers}
    assert macs["Gemm"] == 5 * 429
    assert macs["MatMul"] == 3 * 11 * 4 * 13
    # 8 channels of 6 x 5 positions, each spread over 5 channels of 3 x 3.
    assert macs["ConvTranspose"] == 8 * 6 * 5 * 5 * 9


@pytest.mark.parametrize("name", bundled.names())
def test_bundled_models_are_counted_whole(name):
    path = bundled.resolve(name)
    assert_shapes_agree_with_onnx(path)
    assert not precision_of(read_graph(path)).uncounted


def test_info_names_the_layers_left_higher_with_their_reason(tmp_path, capsys, card):
    nodes = [
        *quantized("x"), *quantized("w", "zero8"), conv(["x_dq", "w_dq"], "a", "first"),
        conv(["a", "w8"], "b", "kept"), conv(["b", "w8"], "y", "forgotten"),
    ]  # fmt: skip
    constants = {"w": weight(), "w8": weight(channels=8), **QUANTIZATION}
    card = card.replace(precision="int8", provenance={"kept": {"kept": "it costs 3 points"}})
    path = save(tmp_path / "m.onnx", nodes, constants, card=card)
    assert main(["info", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  compute     32.8 k multiply-adds: fp32 84.2 %, int8 15.8 %" in lines
    assert "  not int8    kept (fp32, 42.1 %): it costs 3 points" in lines
    assert "  not int8    forgotten (fp32, 42.1 %): the card gives no reason" in lines
    open_shape = save(tmp_path / "o.onnx", nodes, constants, shape=(1, 3, None, 6))
    assert main(["info", str(open_shape)]) == 0
    assert "without 3 layers, whose shapes the file leaves open" in capsys.readouterr().out
