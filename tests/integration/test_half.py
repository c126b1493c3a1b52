"""FP16 graphs: what computes in which precision, and that the results are those of float32."""

from __future__ import annotations

import numpy as np
import pytest

from edgeseg.dataset import DataSet
from edgeseg.errors import ModelError, UsageError

torch = pytest.importorskip("torch", reason="needs the extra 'export'")
onnx = pytest.importorskip("onnx", reason="needs the extra 'export'")
ort = pytest.importorskip("onnxruntime", reason="needs the extra 'export'")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from edgeseg.backends import installed_backends, open_backend  # noqa: E402
from edgeseg_export import int8, to_onnx  # noqa: E402
from edgeseg_export.calibration import CalibrationSet  # noqa: E402
from edgeseg_export.half import LIMIT, half_from_float  # noqa: E402
from edgeseg_train import checkpoint as checkpoints  # noqa: E402
from edgeseg_train.backend import card_from_checkpoint  # noqa: E402

ENGINES = [name for name in ("openvino", "onnxruntime") if name in installed_backends()]


def card_and_model(checkpoint_path, head, opset=17):
    checkpoint = checkpoints.load(checkpoint_path)
    card = card_from_checkpoint(checkpoint, imgsz=(64, 96), head=head)
    return card, to_onnx.graph_from_network(checkpoints.network_from_checkpoint(checkpoint), card, opset=opset)


@pytest.fixture(scope="module")
def logits_model(checkpoint_path):
    return card_and_model(checkpoint_path, "logits")[1]


def types(model):
    """Element type of every activation, as inference on the whole graph finds it."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    return {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.output)}


def run(model, tensor):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: tensor})[0]


@pytest.mark.parametrize("opset", [17, 20])
@pytest.mark.parametrize("head", ["logits", "mask"])
def test_the_engines_give_what_float32_gives(checkpoint_path, tmp_path, head, opset):
    card, model = card_and_model(checkpoint_path, head, opset)
    before = model.SerializeToString(deterministic=True)
    half = half_from_float(model)
    assert model.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(half, full_check=True)
    assert (half.graph.input, half.graph.output) == (model.graph.input, model.graph.output)
    assert half.metadata_props == model.metadata_props
    assert len(half.SerializeToString()) < 0.55 * len(before)
    tensor = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), np.uint8)
    expected = run(model, tensor)
    path = tmp_path / "half.onnx"
    to_onnx.write_model(half, path)
    for engine in ENGINES:
        backend = open_backend(path, card, engine, threads=1)
        output = backend.infer({"image": tensor})[head]
        if head == "mask":
            assert np.mean(output == expected) > 0.99, engine
        else:
            difference = np.abs(output - expected).max() / np.abs(expected).max()
            # Rounded to 11 bits many times over, but not to 8.
            assert 1e-5 < difference < 0.02, engine
        backend.close()


def test_all_between_input_and_output_is_float16(logits_model):
    found = types(half_from_float(logits_model))
    assert found.pop("logits") == TensorProto.FLOAT
    assert set(found.values()) == {TensorProto.FLOAT16}
    assert not any(tensor.data_type == TensorProto.FLOAT for tensor in half_from_float(logits_model).graph.initializer)


def test_weights_stored_as_float16_are_taken(logits_model):
    tensor = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), np.uint8)
    stored = half_from_float(to_onnx.with_half_weights(logits_model))
    np.testing.assert_array_equal(run(stored, tensor), run(half_from_float(logits_model), tensor))


def test_kept_nodes_compute_in_float32(logits_model):
    kept = ["/network/head/head.5/Conv", "/network/layer1/layer1.0/Add"]
    half = half_from_float(logits_model, keep=kept)
    onnx.checker.check_model(half, full_check=True)
    found = types(half)
    weights = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    for node in half.graph.node:
        if node.name in kept:
            read = {found.get(name, weights.get(name)) for name in node.input}
            assert read == {TensorProto.FLOAT}, node.name
            assert found[node.output[0]] == TensorProto.FLOAT, node.name
    # The last node's logits leave as they are: rounding them to float16 and back would lose what it was kept for.
    assert next(node for node in half.graph.node if "logits" in node.output).op_type == "Conv"


def scaling(first, second, *, opset=17):
    """Two 1x1 convolutions on float [1, 1, 4, 4]: times ``first``, then times ``second``."""
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "a"], ["x"], "up"),
         helper.make_node("Conv", ["x", "b"], ["logits"], "down")],
        "scaling",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 4, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 1, 4, 4])],
        [numpy_helper.from_array(np.full((1, 1, 1, 1), value, np.float32), name)
         for name, value in (("a", first), ("b", second))],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.mark.parametrize("height", [0.5 * LIMIT, 2 * LIMIT, 1e5])
def test_nodes_next_to_large_values_stay_float32(height):
    model, images = scaling(1000.0, 0.001), [np.full((1, 1, 4, 4), height / 1000, np.float32)]
    half = half_from_float(model, images)
    assert types(half)["x"] == (TensorProto.FLOAT if height > LIMIT else TensorProto.FLOAT16)
    np.testing.assert_allclose(run(half, images[0]), run(model, images[0]), rtol=0.01)


def test_nodes_with_large_weights_stay_float32():
    image = np.ones((1, 1, 4, 4), np.float32)
    half = half_from_float(scaling(1e5, 1e-4))
    assert types(half)["x"] == TensorProto.FLOAT
    np.testing.assert_allclose(run(half, image), 10.0, rtol=0.01)


def test_beside_int8_the_scales_become_float16(labelled_data, checkpoint_path):
    card, model = card_and_model(checkpoint_path, "logits", opset=20)
    calibration = CalibrationSet(DataSet.from_yaml(labelled_data).samples("val")[:2], card)
    ranges = int8.collect_ranges(model, calibration)
    small = int8.quantize(model, ranges, target="tensorrt")
    half = half_from_float(small)
    onnx.checker.check_model(half, full_check=True)
    found = types(half)
    dequantized = [node.output[0] for node in half.graph.node if node.op_type == "DequantizeLinear"]
    assert {found[name] for name in dequantized} == {TensorProto.FLOAT16}
    tensor = next(iter(calibration)).copy()
    exact, expected = run(model, tensor), run(small, tensor)
    # No further from float32 than INT8 alone, give or take what rounding decides.
    assert np.abs(run(half, tensor) - exact).mean() < 1.3 * np.abs(expected - exact).mean()
    with pytest.raises(ModelError, match="opset 19 or above"):
        half_from_float(int8.quantize(card_and_model(checkpoint_path, "logits")[1], ranges, target="tensorrt"))


def test_a_graph_in_float16_is_refused(logits_model):
    with pytest.raises(ModelError, match="does not compute in float32"):
        half_from_float(half_from_float(logits_model))


def test_names_of_no_node_are_refused(logits_model):
    with pytest.raises(UsageError, match="no node 'nobody'"):
        half_from_float(logits_model, keep=["nobody"])
