"""INT8 graphs: what stands in them, and that engines compute with them what the float32 graph computes."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from edgeseg.card import ModelCard
from edgeseg.dataset import DataSet
from edgeseg.errors import ModelError, UsageError

torch = pytest.importorskip("torch", reason="needs the extra 'export'")
onnx = pytest.importorskip("onnx", reason="needs the extra 'export'")
ort = pytest.importorskip("onnxruntime", reason="needs the extra 'export'")

from onnx import helper, numpy_helper  # noqa: E402

from edgeseg.backends import installed_backends, open_backend  # noqa: E402
from edgeseg_export import int8, to_onnx  # noqa: E402
from edgeseg_export.calibration import CalibrationSet  # noqa: E402
from edgeseg_export.ranges import Activations, Ranges  # noqa: E402
from edgeseg_train import checkpoint as checkpoints  # noqa: E402
from edgeseg_train.backend import card_from_checkpoint  # noqa: E402

ENGINES = [name for name in ("openvino", "onnxruntime") if name in installed_backends()]
FORMS = [("cpu", 17), ("cpu", 20), ("tensorrt", 17), ("tensorrt", 20)]


@pytest.fixture(scope="module")
def card(checkpoint_path):
    return card_from_checkpoint(checkpoints.load(checkpoint_path), imgsz=(64, 96), head="logits")


@pytest.fixture(scope="module")
def model(checkpoint_path, card):
    """A ddrnet-c16 for 64x96: residuals, normalisation before convolutions, padded averages, resizes, a concat."""
    network = checkpoints.network_from_checkpoint(checkpoints.load(checkpoint_path))
    return to_onnx.graph_from_network(network, card)


@pytest.fixture(scope="module")
def calibration(labelled_data, card):
    return CalibrationSet(DataSet.from_yaml(labelled_data).samples("val"), card)


@pytest.fixture(scope="module")
def ranges(model, calibration):
    return int8.collect_ranges(model, calibration)


def run(model, tensor, *, as_written=False):
    """The first output in ONNX Runtime, where asked without any of its rewriting of the graph."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if as_written:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: tensor})[0]


def distance(values, expected):
    return float(np.abs(values - expected).mean() / np.abs(expected).mean())


def operators(model):
    return [node.op_type for node in model.graph.node]


def float32_model(nodes, weights, input_shape, output_shape, opset=17):
    graph = helper.make_graph(
        nodes, "made by hand",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, input_shape)],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, output_shape)],
        [numpy_helper.from_array(np.asarray(values, np.float32), name) for name, values in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def float32_card(shape):
    return ModelCard(("a", "b"), tuple(shape[2:]), input_dtype="float32", input_layout="nchw")


@pytest.mark.parametrize(("target", "opset"), FORMS)
def test_the_engines_compute_what_the_float32_graph_does(model, ranges, calibration, card, tmp_path, target, opset):
    before = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
    small = int8.quantize(model, ranges, target=target, opset=opset)
    assert hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest() == before
    onnx.checker.check_model(small, full_check=True)
    assert {entry.domain: entry.version for entry in small.opset_import} == {"": opset}
    assert small.metadata_props == model.metadata_props
    assert (small.graph.input, small.graph.output) == (model.graph.input, model.graph.output)

    tensor = next(iter(calibration)).copy()
    expected, written = run(model, tensor), run(small, tensor, as_written=True)
    assert 0.001 < distance(written, expected) < 0.1
    path = tmp_path / "small.onnx"
    to_onnx.write_model(small, path)
    for engine in ENGINES:
        backend = open_backend(path, card, engine, threads=1)
        logits = backend.infer({"image": tensor})["logits"]
        # An engine rounds elsewhere, which costs as much as rounding does; what it misreads costs far more.
        assert distance(logits, expected) < 1.5 * distance(written, expected), engine
        backend.close()


def test_onnx_runtime_fuses_all_of_the_cpu_graph(model, ranges, tmp_path):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    small = int8.quantize(model, ranges, target="cpu")
    ort.InferenceSession(small.SerializeToString(), options, providers=["CPUExecutionProvider"])
    fused = operators(onnx.load(tmp_path / "optimised.onnx"))
    # In float32 remain the normalisation of pixels and the last convolution, whose logits nothing rounds.
    assert fused.count("BatchNormalization") == 1
    assert fused.count("Conv") + fused.count("FusedConv") == 1
    assert fused.count("QLinearConv") == operators(small).count("Conv") - 1
    assert fused.count("QLinearAdd") == operators(model).count("Add")
    assert not {"Add", "Relu", "AveragePool", "GlobalAveragePool", "Concat"} & set(fused)


def test_with_weights_of_7_bits_no_pair_of_products_leaves_16_bits(model, ranges):
    for bits, largest in ((8, 127), (7, 63)):
        small = int8.quantize(model, ranges, target="cpu", weight_bits=bits)
        codes = [numpy_helper.to_array(t) for t in small.graph.initializer if t.name.endswith("_weight_quantized")]
        assert len(codes) > 5
        assert {int(np.abs(values.astype(int)).max()) for values in codes} == {largest}
    assert 2 * 255 * 63 < 2**15


def test_logits_leave_the_graph_unrounded(model, ranges):
    for target in int8.TARGETS:
        small = int8.quantize(model, ranges, target=target)
        last = next(node for node in small.graph.node if "logits" in node.output)
        assert last.op_type == "Conv"


@pytest.mark.parametrize("opset", [17, 20])
def test_tensorrt_form_is_symmetric_on_inputs_and_on_the_skip_of_residuals(model, ranges, opset):
    small = int8.quantize(model, ranges, target="tensorrt", opset=opset)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in small.graph.initializer}
    made_by = {output: node for node in small.graph.node for output in node.output}
    pairs = [node for node in small.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    for node in pairs:
        assert weights[node.input[2]].dtype == np.int8
        assert not weights[node.input[2]].any()
    for node in small.graph.node:
        makers = [made_by[name].op_type if name in made_by else "" for name in node.input if name]
        if node.op_type == "Conv" and weights_of(node, made_by, weights).shape[:2] >= (16, 16):
            assert makers[:2] == ["DequantizeLinear"] * 2, node.name
            assert len(makers) == 2 or makers[2] == "", node.name
        if node.op_type == "Add" and "body" in node.name:
            assert sorted(makers) == ["Conv", "DequantizeLinear"], node.name
    residuals = [node for node in small.graph.node if node.op_type == "Add" and "layer" in node.name]
    assert len(residuals) == 4
    for node in residuals:
        assert sorted(made_by[name].op_type for name in node.input) == ["Conv", "DequantizeLinear"]
    # TensorRT 8.x wants float32 weights before the pair, later ones take the bytes.
    stored_as_bytes = [name for name, values in weights.items() if values.dtype == np.int8 and values.ndim == 4]
    assert bool(stored_as_bytes) == (opset == 20)
    stem = next(node for node in small.graph.node if node.name == "/network/stem/stem.0/Conv")
    assert not {made_by[name].op_type for name in stem.input if name in made_by} & {"DequantizeLinear"}


def weights_of(conv, made_by, weights):
    name = conv.input[1]
    while name not in weights:
        name = made_by[name].input[0]
    return weights[name]


@pytest.mark.parametrize("target", int8.TARGETS)
def test_kept_groups_read_their_own_weights(model, ranges, target):
    groups = {group.name: group for group in int8.quantizable_groups(model)}
    kept = groups["/network/layer2/layer2.0/body/body.3/Conv"]
    whole = int8.quantize(model, ranges, target=target)
    small = int8.quantize(model, ranges, target=target, keep=kept.nodes)
    by_name = {node.name: node for node in small.graph.node}
    original = {node.name: node for node in model.graph.node}
    for name in kept.nodes:
        if by_name[name].op_type == "Conv":
            assert by_name[name].input[1:] == original[name].input[1:]
    assert operators(small).count("DequantizeLinear") < operators(whole).count("DequantizeLinear")
    nodes = [name for group in groups.values() for name in group.nodes]
    nothing = int8.quantize(model, ranges, target=target, keep=nodes)
    assert "QuantizeLinear" not in operators(nothing)


def test_keeping_all_gives_the_logits_of_float32(model, ranges, calibration):
    keep = [name for group in int8.quantizable_groups(model) for name in group.nodes]
    tensor = next(iter(calibration)).copy()
    small = int8.quantize(model, ranges, target="cpu", keep=keep)
    np.testing.assert_allclose(run(small, tensor), run(model, tensor), rtol=1e-3, atol=1e-3)


def test_groups_are_what_engines_fuse(model):
    groups = {group.name: group for group in int8.quantizable_groups(model)}
    nodes = [name for group in groups.values() for name in group.nodes]
    assert len(nodes) == len(set(nodes))
    kinds = {node.name: node.op_type for node in model.graph.node}
    convolutions = {name for name, kind in kinds.items() if kind == "Conv"} - {"/normalize/Conv"}
    assert convolutions <= set(nodes)
    residual = groups["/network/layer1/layer1.0/body/body.3/Conv"]
    assert [kinds[name] for name in residual.nodes] == ["Conv", "Add", "Relu"]
    head = groups["/network/head/head.2/Conv"]
    assert [kinds[name] for name in head.nodes][-4:] == ["BatchNormalization", "Relu", "Conv", "Relu"]
    # 3x3 from 3 to 16 channels with stride 2 on 64x96.
    assert groups["/network/stem/stem.0/Conv"].macs == 32 * 48 * 16 * 3 * 9


def test_weights_stored_as_float16_are_taken(model, ranges):
    small = int8.quantize(to_onnx.with_half_weights(model), ranges, target="cpu")
    assert operators(small) == operators(int8.quantize(model, ranges, target="cpu"))
    assert int8.quantizable_groups(to_onnx.with_half_weights(model)) == int8.quantizable_groups(model)


def test_ranges_survive_json_and_one_measurement_serves_all_methods(model, calibration, ranges):
    activations = int8.measure(model, calibration)
    assert activations.ranges("minmax") == ranges
    for method in int8.METHODS[1:]:
        found = Ranges.from_dict(activations.ranges(method).to_dict())
        small = int8.quantize(model, found, target="cpu")
        tensor = next(iter(calibration)).copy()
        assert distance(run(small, tensor), run(model, tensor)) < 0.2, method


def averaged(tensor):
    """A convolution, whose values are negative as well, and an average over zero padding, read by another one."""
    rng = np.random.default_rng(3)
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["x"], "first", pads=[1] * 4),
        helper.make_node("AveragePool", ["x"], ["y"], "pool", kernel_shape=[5, 5], strides=[2, 2], pads=[2] * 4,
                         count_include_pad=1),
        helper.make_node("Conv", ["y", "v"], ["z"], "second"),
        helper.make_node("Relu", ["z"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "u"], ["logits"], "last"),
    ]  # fmt: skip
    weights = {
        "w": rng.normal(-0.5, 1, (16, 4, 3, 3)), "v": rng.normal(0, 1, (16, 16, 1, 1)),
        "u": rng.normal(0, 1, (2, 16, 1, 1)),
    }  # fmt: skip
    height, width = (side // 2 for side in tensor.shape[2:])
    return float32_model(nodes, weights, tensor.shape, [1, 2, height, width])


@pytest.mark.parametrize("engine", ENGINES)
def test_averages_over_padding_keep_their_zeros(engine, tmp_path):
    tensor = np.random.default_rng(0).uniform(0.2, 1, (1, 4, 12, 16)).astype(np.float32)
    model = averaged(tensor)
    activations = Activations(model, ["image", "x", "y", "r"], [tensor])
    small = int8.quantize(model, activations.ranges("minmax"), target="cpu")
    path = tmp_path / "small.onnx"
    to_onnx.write_model(small, path)
    # A card has three channels, this graph four: opened without one.
    if engine == "onnxruntime":
        logits = run(small, tensor)
    else:
        openvino = pytest.importorskip("openvino")
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(str(path)), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        logits = compiled([tensor])[compiled.outputs[0]]
    assert distance(logits, run(model, tensor)) < 0.03


def test_maxima_keep_the_code_of_what_they_are_taken_from():
    tensor = np.random.default_rng(0).uniform(-1, 1, (1, 4, 8, 8)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["x"], "first"),
        helper.make_node("MaxPool", ["x"], ["y"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["y", "v"], ["logits"], "last"),
    ]
    rng = np.random.default_rng(3)
    weights = {"w": rng.normal(0, 1, (8, 4, 1, 1)), "v": rng.normal(0, 1, (2, 8, 1, 1))}
    model = float32_model(nodes, weights, [1, 4, 8, 8], [1, 2, 4, 4])
    ranges = Activations(model, ["image", "x", "y"], [tensor]).ranges("minmax")
    assert ranges.unsigned["x"][0] < ranges.unsigned["y"][0]
    small = int8.quantize(model, ranges, target="cpu")
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in small.graph.initializer}
    assert stored["x_scale"] == stored["y_scale"]
    assert stored["x_zero_point"] == stored["y_zero_point"]
    assert distance(run(small, tensor), run(model, tensor)) < 0.03


def test_channels_with_tiny_weights_keep_their_bias():
    tensor = np.random.default_rng(0).uniform(0, 1e-3, (1, 4, 8, 8)).astype(np.float32)
    weight = np.random.default_rng(3).normal(0, 1, (8, 4, 1, 1))
    weight[:4] *= 1e-9
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], ["x"], "first"),
        helper.make_node("Conv", ["x", "v"], ["logits"], "last"),
    ]
    model = float32_model(
        nodes, {"w": weight, "b": np.full(8, 1.5), "v": np.ones((2, 8, 1, 1))}, [1, 4, 8, 8], [1, 2, 8, 8]
    )
    small = int8.quantize(model, Activations(model, ["image", "x"], [tensor]).ranges("minmax"), target="cpu")
    for as_written in (True, False):
        assert distance(run(small, tensor, as_written=as_written), run(model, tensor)) < 0.02


def single_convolution(**changes):
    nodes = [helper.make_node("Conv", ["image", "w"], ["logits"], "only", **changes)]
    return float32_model(nodes, {"w": np.ones((2, 4, 1, 1))}, [1, 4, 8, 8], [1, 2, 8, 8])


NO_RANGES = Ranges("minmax", 1, {"image": (0.0, 1.0)}, {"image": 1.0})


def test_a_graph_that_is_quantised_is_refused(model, ranges, calibration):
    small = int8.quantize(model, ranges, target="cpu")
    for refuse in (
        lambda: int8.quantize(small, ranges, target="cpu"),
        lambda: int8.collect_ranges(small, calibration),
        lambda: int8.quantizable_groups(small),
    ):
        with pytest.raises(ModelError, match="quantised already"):
            refuse()


def test_operators_that_cannot_be_handled_are_named_with_their_node():
    foreign = single_convolution()
    foreign.graph.node[0].domain = "com.acme"
    foreign.opset_import.append(helper.make_opsetid("com.acme", 1))
    with pytest.raises(ModelError, match="operator Conv of node 'only'"):
        int8.quantize(foreign, NO_RANGES, target="cpu")
    branching = single_convolution()
    branch = helper.make_graph([], "branch", [], [])
    branching.graph.node.append(helper.make_node("If", ["c"], ["d"], "fork", then_branch=branch, else_branch=branch))
    with pytest.raises(ModelError, match="operator If of node 'fork'"):
        int8.quantize(branching, NO_RANGES, target="cpu")


def test_weights_in_other_files_are_refused():
    outside = single_convolution()
    outside.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    with pytest.raises(ModelError, match="weights in other files"):
        int8.quantize(outside, NO_RANGES, target="cpu")


def test_a_graph_without_a_convolution_is_refused():
    plain = float32_model([helper.make_node("Relu", ["image"], ["logits"], "r")], {}, [1, 2, 4, 4], [1, 2, 4, 4])
    with pytest.raises(ModelError, match="no convolution"):
        int8.quantize(plain, NO_RANGES, target="tensorrt")


def test_a_graph_in_float16_is_refused():
    halved = single_convolution()
    halved.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((2, 4, 1, 1), np.float16), "w"))
    with pytest.raises(ModelError, match="does not compute in float32"):
        int8.quantize(halved, NO_RANGES, target="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "gpu"}, "no target 'gpu'"),
        ({"target": "cpu", "opset": 12}, "not written in opset 12.*13 to 21"),
        ({"target": "cpu", "opset": 99}, "not written in opset 99"),
        ({"target": "cpu", "keep": ["nobody"]}, "no node 'nobody'"),
    ],
)
def test_options_that_cannot_be_taken_are_refused(model, ranges, options, message):
    with pytest.raises(UsageError, match=message):
        int8.quantize(model, ranges, **options)


def test_an_opset_that_onnx_cannot_convert_to_is_refused(model, ranges):
    with pytest.raises(ModelError, match=r"from opset 17 to 13 \(No Adapter.*--opset 13"):
        int8.quantize(model, ranges, target="cpu", opset=13)


def test_ranges_of_another_model_and_unknown_methods_are_refused(model, calibration):
    with pytest.raises(UsageError, match="ranges do not hold"):
        int8.quantize(model, NO_RANGES, target="cpu")
    with pytest.raises(UsageError, match="no calibration method 'max'"):
        int8.collect_ranges(model, calibration, "max")


@pytest.mark.parametrize("kept", [False, True])
def test_channels_are_swapped_in_the_weights_and_not_in_the_pixels(model, ranges, calibration, kept):
    stem = "/network/stem/stem.0/Conv"
    small = int8.quantize(model, ranges, target="cpu", keep=[stem] if kept else [])
    by_name = {node.name: node for node in small.graph.node}
    assert by_name["/normalize/Conv"].op_type == "BatchNormalization"
    everything = [name for group in int8.quantizable_groups(model) for name in group.nodes]
    plain = int8.quantize(model, ranges, target="cpu", keep=everything)
    tensor = next(iter(calibration)).copy()
    np.testing.assert_allclose(run(plain, tensor), run(model, tensor), rtol=1e-3, atol=1e-3)
    assert distance(run(small, tensor), run(model, tensor)) < 0.1
    # Blue and red are not the same: with the weights left as they were, the results would be others.
    assert distance(run(plain, tensor[..., ::-1].copy()), run(model, tensor)) > 0.01
