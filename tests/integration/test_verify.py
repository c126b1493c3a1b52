"""`edgeseg info` and `edgeseg verify` on a file that ONNX Runtime's quantizer made."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from edgeseg import cli
from edgeseg.backends import faithful_engines, installed_backends
from edgeseg.card import ModelCard
from edgeseg.golden import golden_of, golden_path
from edgeseg.onnx_reader import read_graph
from edgeseg.precision import precision_of

onnx = pytest.importorskip("onnx", reason="needs the extra 'export'")
pytest.importorskip("onnxruntime", reason="needs the extra 'export'")

SIZE_HW = (32, 48)
MACS = {"first": 16 * 24 * 8 * 3 * 9, "second": 16 * 24 * 8 * 8 * 9, "head": 16 * 24 * 3 * 8}


def float_model(path):
    """Three convolutions from camera bytes to logits of three classes at half the size."""
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    rng = np.random.default_rng(0)
    weights = {"w1": (8, 3, 3, 3), "w2": (8, 8, 3, 3), "w3": (3, 8, 1, 1)}
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["planes", "scale"], ["x"]),
        helper.make_node("Conv", ["x", "w1"], ["a"], "first", strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "w2"], ["c"], "second", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["d"], "relu2"),
        helper.make_node("Conv", ["d", "w3"], ["logits"], "head"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "small",
        [value("image", onnx.TensorProto.UINT8, [1, *SIZE_HW, 3])],
        [value("logits", onnx.TensorProto.FLOAT, [1, 3, 16, 24])],
        [
            numpy_helper.from_array(np.float32(1 / 255), "scale"),
            *(
                numpy_helper.from_array(rng.normal(0, 0.3, shape).astype(np.float32), name)
                for name, shape in weights.items()
            ),
        ],
    )
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]), path)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    """The path of the INT8 model with its card; the convolution "second" is left in float."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    folder = tmp_path_factory.mktemp("quantized")
    float_model(folder / "float.onnx")

    class Noise(CalibrationDataReader):
        def __init__(self):
            rng = np.random.default_rng(1)
            self.images = iter([rng.integers(0, 256, (1, *SIZE_HW, 3), np.uint8) for _ in range(2)])

        def get_next(self):
            image = next(self.images, None)
            return None if image is None else {"image": image}

    path = folder / "int8.onnx"
    quantize_static(
        folder / "float.onnx", path, Noise(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, op_types_to_quantize=["Conv"],
        nodes_to_exclude=["second"],
    )  # fmt: skip
    model = onnx.load(path)
    card = ModelCard(
        classes=("road", "sky", "car"), input_size_hw=SIZE_HW, precision="int8", name="small",
        provenance={"target": "cpu", "kept": {"second": "by repair: it costs 3 points"}},
    )  # fmt: skip
    onnx.helper.set_model_props(model, {"edgeseg": card.to_json()})
    onnx.save(model, path)
    return path


@pytest.fixture
def copied(quantized, tmp_path):
    return shutil.copyfile(quantized, tmp_path / "small.onnx")


def test_the_precision_of_every_layer_is_found(quantized):
    found = precision_of(read_graph(quantized))
    assert {layer.name: (layer.precision, layer.macs) for layer in found.layers} == {
        name: ("fp32" if name == "second" else "int8", macs) for name, macs in MACS.items()
    }


def test_info_names_the_layer_that_was_left_out(quantized, capsys):
    assert cli.main(["info", str(quantized), "--json"]) == 0
    precision = json.loads(capsys.readouterr().out)["precision"]
    assert precision["lowest"] == "int8"
    assert precision["macs"] == {"fp32": MACS["second"], "int8": MACS["first"] + MACS["head"]}
    assert [(layer["name"], layer["reason"]) for layer in precision["left_higher"]] == [
        ("second", "by repair: it costs 3 points")
    ]


def test_what_one_engine_made_passes_in_every_other(copied, capsys):
    assert cli.main(["verify", str(copied), "--make"]) == 0
    assert golden_of(copied).min_agreement <= 0.98
    for name in installed_backends():
        assert cli.main(["verify", str(copied), "--backend", name]) == 0, capsys.readouterr().err


def test_a_model_with_other_weights_fails(copied, tmp_path, capsys):
    cli.main(["verify", str(copied), "--make"])
    model = onnx.load(copied)
    for tensor in model.graph.initializer:
        if tensor.name.startswith("w3") and tensor.data_type == onnx.TensorProto.INT8:
            values = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.roll(values, 1, 0), tensor.name))
    other = tmp_path / "other.onnx"
    onnx.save(model, other)
    shutil.copyfile(golden_path(copied), golden_path(other))
    assert cli.main(["verify", str(other)]) == 2
    assert "is not the file" in capsys.readouterr().err
    assert cli.main(["verify", str(other), "--golden", str(golden_path(copied))]) == 1
    assert "agrees with its golden class map on" in capsys.readouterr().err


def test_int8_for_tensorrt_is_expected_of_onnx_runtime(copied):
    model = onnx.load(copied)
    card = ModelCard.from_json(model.metadata_props[0].value).replace(provenance={"target": "tensorrt"})
    onnx.helper.set_model_props(model, {"edgeseg": card.to_json()})
    onnx.save(model, copied)
    assert faithful_engines(card) == ("onnxruntime",)
    assert cli.main(["verify", str(copied), "--make"]) == 0
    assert golden_of(copied).masks_from.startswith("onnxruntime ")
    assert golden_of(copied).min_agreement == 0.98


def test_export_stores_golden_frames_beside_the_model(checkpoint_path, labelled_data, tmp_path):
    path = tmp_path / "model.onnx"
    export = ["export", "--checkpoint", str(checkpoint_path), "--data", str(labelled_data), "--out", str(path)]
    assert cli.main(export) == 0
    assert golden_of(path).frames_from == f"{labelled_data.parent.name}, val"
    assert {frame.shape for frame in golden_of(path).frames} == {(64, 96, 3)}
    assert cli.main(["verify", str(path), "--backend", "onnxruntime"]) == 0
