"""What engines are said to compute in. The JSON follows the forms that NVIDIA documents for 8.6 and 10, and what the
builder of 11.4 logs about its layers; reading it from an engine takes a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from edgeseg.errors import BackendError
from edgeseg.onnx_reader import TensorInfo
from edgeseg.precision import Layer, Precision
from edgeseg.trt import inspector
from edgeseg.trt.inspector import check_honoured, precision_found, shares_text
from edgeseg.trt.library import EngineWarning

INT8_8 = "Thirty-two wide channel vectorized row major Int8 format"
HALF_8 = "Channel major FP16 format where channel % 8 == 0"
TF32_KERNEL = "sm80_xmma_fprop_implicit_gemm_f32f32_tf32f32_f32_nhwckrsc_nchw_tilesize128x128x16_stage4"


def engine(*layers: Any, **more: Any) -> str:
    # TensorRT writes the character that joins nodes as it is.
    return json.dumps({"Layers": layers, **more}).replace("\\u001f", "\x1f")


def v8(name: str, given: str, kind: str = "CaskConvolution", tactic: str = "", metadata: str | None = None) -> Any:
    """A layer as TensorRT 8.6 tells of it; 8.5 has no metadata."""
    tensor = {"Name": "t", "Location": "Device", "Dimensions": [1, 64, 56, 56], "Format/Datatype": given}
    layer = {"Name": name, "LayerType": kind, "Inputs": [tensor], "Outputs": [tensor], "TacticName": tactic}
    return layer if metadata is None else {**layer, "StreamId": 0, "Metadata": metadata}


def v10(names: list[str], given: str, kind: str = "CaskConvolution", tactic: str = "") -> Any:
    """A layer as TensorRT 10 tells of it: the nodes are joined by a control character."""
    tensor = {"Name": "t", "Dimensions": [1, 64, 56, 56], "Format/Datatype": given}
    metadata = "\x1f".join(f"[ONNX Layer: {name}]" for name in names)
    return {"Name": "__myl_x", "LayerType": kind, "Inputs": [tensor], "Outputs": [tensor], "TacticName": tactic,
            "StreamId": 0, "Metadata": metadata}  # fmt: skip


def v11(names: list[str], given: str, text: str, kind: str = "CaskConvolution", tactic: str = "") -> Any:
    """A layer as TensorRT 11 tells of it: the type has a field of its own."""
    layer = v10(names, given, kind, tactic)
    tensor = {"Name": "t", "Dimensions": [1, 64, 56, 56], "Datatype": given, "Format": text}
    return {**layer, "Inputs": [tensor], "Constants": [tensor], "Outputs": [tensor]}


def asked(**layers: str) -> Precision:
    return Precision(tuple(Layer(f"/{name}/Conv", "Conv", precision, 100) for name, precision in layers.items()))


MIXED = asked(a="int8", b="fp16", c="fp32", d="fp32")

ENGINES = {
    "8.5": engine(
        v8("a.weight + QuantizeLinear_7 + /a/Conv + /a/Relu", INT8_8),
        v8("Reformatting CopyNode for Input Tensor 0 to /b/Conv", INT8_8, "Reformat"),
        v8("/b/Conv", HALF_8),
        v8("/c/Conv || /d/Conv", "Row major linear FP32", tactic=TF32_KERNEL),
        Bindings=["image", "logits"],
    ),
    "8.6": engine(
        v8("x", INT8_8, metadata="[ONNX Layer: a.weight][ONNX Layer: /a/Conv][ONNX Layer: /a/Relu]"),
        v8("QuantizeLinear_3", "Row major linear FP32", "Reformat", metadata="[ONNX Layer: /a/Conv]"),
        v8("y", HALF_8, metadata="[ONNX Layer: /b/Conv]"),
        v8("z", "Row major linear FP32", tactic=TF32_KERNEL, metadata="[ONNX Layer: /c/Conv] [ONNX Layer: /d/Conv]"),
    ),
    "10": engine(
        # A kernel that quantises the weights is named after the convolution too.
        v10(["/a/Conv", "/a/weight_quantizer"], "Float", "kgen", "__myl_Quan_0x1"),
        v10(["/a/Conv", "/a/Relu"], "Int8", tactic="sm80_xmma_fprop_implicit_gemm_i8i8_i8i32_f32"),
        v10(["/b/Conv | Local Function: f"], "Half", "gemm"),
        v10(["/c/Conv", "/d/Conv"], "Float", "fusion", TF32_KERNEL),
        Bindings=["image", "logits"],
    ),
    "11": engine(
        # Kernels before and after a convolution, which dequantise for it, are named after it too.
        v11(["/a/Conv", "/a/input_quantized"], "Float", "(NHWC) Channel major format", "kgen", "__myl_MulRounCast_0x1"),
        v11(["/a/Conv"], "Int8", "(NHWC) Channel major format", "correlation", "__myelin_CASK"),
        v11(
            ["/b/Transpose]\x1f[ONNX Layer: /b/Conv]__gemm_from_conv1x1"],
            "Half",
            "(Linear) Row major linear format",
            "kgen",
        ),
        v11(["/c/Conv", "/d/Conv"], "Float", "(NHWC) Channel major format", tactic=TF32_KERNEL),
        {"Name": "__mye1", "LayerType": "signal", "Inputs": [], "Outputs": [], "TacticName": "", "Metadata": ""},
        **{"I/O Tensors": [{"Name": "image", "IOMode": "Input", "DataType": "UInt8"}]},
    ),
}


@pytest.mark.parametrize("version", ENGINES)
def test_shares_of_an_engine(version):
    found = precision_found(ENGINES[version], MIXED)
    assert found.macs == {"tf32": 200, "int8": 100, "fp16": 100}
    assert found.differing == ()
    kgen = {"fp32": 1} if version in ("10", "11") else {}
    assert found.layers == {"int8": 1, "fp16": 1, "tf32": 1, **kgen}
    check_honoured(found, MIXED)


@pytest.mark.parametrize(
    ("text", "precision"),
    [
        ("BFloat16", "bf16"), ("Row major linear BF16 format", "bf16"), ("FP8", "fp8"), ("UInt8", "other"),
        ("Int32", "other"), ("Bool", "other"), ("N/A due to dynamic shapes", "unknown"), ("", "unknown"),
        ("Row major Int8 format", "int8"), ("Int4", "int4"), ("Float", "fp32"), ("Half", "fp16"),
    ],
)  # fmt: skip
def test_types_as_words(text, precision):
    found = precision_found(engine(v10(["/a/Conv"], text)), asked(a="fp32"))
    assert found.macs == {precision: 100}


def test_fp32_without_tf32():
    found = precision_found(
        engine(v8("/a/Conv", "Row major linear FP32", tactic="ampere_scudnn_128x64")), asked(a="fp32")
    )
    assert found.macs == {"fp32": 100}


def test_nodes_without_a_name():
    graph = Precision((Layer("scores", "Conv", "fp16", 5),))
    assert precision_found(engine(v8("node_of_scores", HALF_8)), graph).macs == {"fp16": 5}


def test_a_request_that_was_not_honoured_is_an_error():
    graph = asked(a="int8", b="int8", c="int8")
    floats = engine(v10(["/a/Conv"], "Int8"), v10(["/b/Conv"], "Float"), v10(["/c/Conv"], "Float"))
    found = precision_found(floats, graph)
    assert [layer.name for layer in found.differing] == ["/b/Conv", "/c/Conv"]
    with pytest.raises(
        BackendError, match=r"INT8 100\.0 %: the engine runs FP32 66\.7 %, INT8 33\.3 % .*/b/Conv, /c/Conv"
    ):
        check_honoured(found, graph)


def test_fp32_that_became_fp16_is_one_too_unless_it_was_allowed():
    half = engine(v8("/a/Conv", HALF_8))
    with pytest.raises(BackendError, match="did not honour"):
        check_honoured(precision_found(half, asked(a="fp32")), asked(a="fp32"))
    check_honoured(precision_found(half, asked(a="fp32"), may_be_half=True), asked(a="fp32"))


def test_a_small_share_may_differ():
    layers = [Layer(f"/{i}/Conv", "Conv", "int8", 100) for i in range(10)]
    graph = Precision(tuple(layers))
    types = ["Half"] + ["Int8"] * 9
    found = precision_found(engine(*(v10([layer.name], kind) for layer, kind in zip(layers, types))), graph)
    assert found.differing == (layers[0],)
    check_honoured(found, graph)


def test_what_the_inspector_does_not_tell_is_said():
    graph = asked(a="int8", b="int8")
    found = precision_found(engine(v10(["/a/Conv"], "Int8"), v10(["{ForeignNode[/b...]}"], "Int8")), graph)
    assert found.macs == {"int8": 100, "unknown": 100}
    with pytest.warns(EngineWarning, match="50 % of the multiply-adds"):
        check_honoured(found, graph)


@pytest.mark.parametrize("information", ["", "{}", "[]", '{"Layers": []}', '{"Layers": ["conv1"]}'])
def test_an_inspector_without_details(information):
    with pytest.raises(BackendError, match=r"gave no layers|no details"):
        precision_found(information, MIXED)


def engine_of(tensors):
    """An opened engine, as every TensorRT from 8.5 on tells of its tensors: type, shape and mode by name."""
    return SimpleNamespace(
        num_io_tensors=len(tensors),
        get_tensor_name=lambda index: list(tensors)[index],
        get_tensor_dtype=lambda name: tensors[name][0],
        get_tensor_shape=lambda name: tensors[name][1],
        get_tensor_mode=lambda name: tensors[name][2],
    )


def tensorrt(opened):
    """A stand-in for the module, whose runtime gives ``opened`` for every plan."""
    module: Any = ModuleType("tensorrt")
    module.__version__, module.ILogger = "10.3.0", object
    module.TensorIOMode = SimpleNamespace(OUTPUT="out")
    module.Runtime = lambda log: SimpleNamespace(deserialize_cuda_engine=lambda plan: opened)
    return module


def test_inputs_and_outputs_of_a_plan(monkeypatch):
    tensors = {"image": ("DataType.UINT8", (1, -1, -1, 3), "in"), "logits": ("DataType.HALF", (1, 4, 8, 12), "out")}
    monkeypatch.setattr(inspector, "load_tensorrt", lambda: tensorrt(engine_of(tensors)))
    inputs, outputs = inspector.tensors_of_plan(b"plan", Path("a.engine"))
    assert inputs == (TensorInfo("image", "uint8", (1, None, None, 3)),)
    assert outputs == (TensorInfo("logits", "float16", (1, 4, 8, 12)),)


def test_a_plan_that_tensorrt_refuses(monkeypatch):
    monkeypatch.setattr(inspector, "load_tensorrt", lambda: tensorrt(None))
    with pytest.raises(BackendError, match=r"TensorRT 10\.3\.0 refuses a\.engine \(it does not say why\)"):
        inspector.tensors_of_plan(b"plan", Path("a.engine"))


def test_shares_as_text():
    assert shares_text({"int8": 3, "fp16": 1}) == "INT8 75.0 %, FP16 25.0 %"
    assert shares_text({}) == "nothing"
