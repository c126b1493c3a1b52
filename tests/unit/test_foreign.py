from __future__ import annotations

from pathlib import Path

import pytest

from edgeseg.card import ModelCard
from edgeseg.errors import ModelError, UsageError
from edgeseg.foreign import ModelFacts, card_for_foreign, select_output
from edgeseg.onnx_reader import OnnxInfo, TensorInfo

CLASSES = ("a", "b")
ALL = ModelFacts(classes=CLASSES, color_order="rgb", mean=[0.5], std=[0.25])


def info(image=None, outputs=None, inputs=None) -> OnnxInfo:
    image = image or TensorInfo("image", "float32", (1, 3, 32, 48))
    return OnnxInfo(
        path=Path("net.onnx"), size_bytes=1, ir_version=8, opset=17, domains={"": 17}, producer="pytorch 2",
        inputs=tuple([image] if inputs is None else inputs),
        outputs=tuple(outputs or [TensorInfo("out", "float32", (1, 2, 4, 6))]),
        metadata={}, op_counts={}, parameters=0, weight_dtypes={}, external_data=False, has_qdq=False,
    )  # fmt: skip


def tensor(dtype: str, *shape: int | str | None) -> TensorInfo:
    return TensorInfo("x", dtype, shape)


@pytest.mark.parametrize(
    ("dtype", "shape", "layout", "size_hw"),
    [
        ("float32", (1, 3, 32, 48), "nchw", (32, 48)),
        ("float16", (1, 32, 48, 3), "nhwc", (32, 48)),
        ("float32", ("N", 3, 32, 3), None, None),
        ("float32", ("N", 3, "h", "w"), "nchw", None),
        ("float32", (None, None, None, 3), "nhwc", None),
        ("float32", (1, 3, 3, 48), "nchw", (3, 48)),
    ],
)
def test_layouts(dtype, shape, layout, size_hw) -> None:
    model = info(tensor(dtype, *shape))
    if layout is None:
        with pytest.raises(ModelError, match=r"has the shape .*\[1, 3, H, W\] or \[1, H, W, 3\]"):
            card_for_foreign(model, ALL)
        return
    if size_hw is None:
        with pytest.raises(ModelError, match="--imgsz HEIGHT WIDTH"):
            card_for_foreign(model, ALL)
    card = card_for_foreign(model, ModelFacts(**{**vars(ALL), "imgsz": size_hw or (64, 96)}))
    assert (card.input_layout, card.input_dtype) == (layout, dtype)
    assert card.input_size_hw == (size_hw or (64, 96))


def test_the_card_of_a_foreign_model() -> None:
    assert card_for_foreign(info(), ModelFacts(CLASSES, [0.1, 0.2, 0.3], [0.4], "rgb")) == ModelCard(
        classes=CLASSES, input_size_hw=(32, 48), color_order="rgb", input_dtype="float32", input_layout="nchw",
        mean=(0.1, 0.2, 0.3), std=(0.4, 0.4, 0.4), head="logits", name="net",
        provenance={"made_by": "pytorch 2", "card": "from flags"},
    )  # fmt: skip


@pytest.mark.parametrize("absent", ["classes", "color_order", "mean", "std"])
def test_each_missing_fact_is_asked_for_by_its_flag(absent: str) -> None:
    with pytest.raises(ModelError) as caught:
        card_for_foreign(info(), ModelFacts(**{**vars(ALL), absent: None}))
    flags = {"classes": "--classes", "color_order": "--color-order", "mean": "--mean", "std": "--std"}
    asked = str(caught.value).partition(" Mend:")[0]
    assert {flag for flag in flags.values() if flag in asked} == {flags[absent]}


def test_all_missing_facts_are_asked_for_at_once() -> None:
    with pytest.raises(ModelError) as caught:
        card_for_foreign(info(tensor("float32", 1, 3, None, None)), ModelFacts())
    for flag in ("--classes", "--color-order", "--mean", "--std", "--imgsz", "--card"):
        assert flag in str(caught.value)
    assert not ModelFacts().given
    assert ALL.given


def test_a_uint8_input_needs_no_normalisation_and_refuses_one() -> None:
    model = info(tensor("uint8", 1, 32, 48, 3))
    assert card_for_foreign(model, ModelFacts(CLASSES, color_order="bgr")).input_dtype == "uint8"
    with pytest.raises(UsageError, match="would not be used"):
        card_for_foreign(model, ALL)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"mean": [123, 116, 103]}, "divide by 255"),
        ({"std": [58.0]}, "divide by 255"),
        ({"std": [0.0]}, "made from the flags has a std of 0"),
        ({"mean": [float("nan")]}, "not a number"),
        ({"color_order": "brg"}, "'brg' is unknown"),
        ({"classes": ("a", "a")}, "'a' twice"),
        ({"imgsz": (0, 10)}, "input size"),
    ],
)
def test_facts_that_cannot_be(facts, said) -> None:
    with pytest.raises(UsageError) as caught:
        card_for_foreign(
            info(tensor("float32", 1, 3, None, None)), ModelFacts(**{**vars(ALL), "imgsz": (4, 4), **facts})
        )
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("output", "head"),
    [
        (tensor("float32", 1, 2, 4, 6), "logits"),
        (tensor("float16", "N", 2, None, None), "logits"),
        (tensor("bfloat16", 1, None, 4, 6), "logits"),
        (TensorInfo("x", "float32", (), rank_known=False), "logits"),
        (tensor("int64", 1, 32, 48), "mask"),
        (tensor("uint8", None, 1, 32, 48), "mask"),
        (tensor("int32", 32, 48), "mask"),
        (TensorInfo("x", "int64", (), rank_known=False), "mask"),
        (tensor("float32", 1, 3, 4, 6), "tells 3 classes apart, --classes names 2"),
        (tensor("float32", 1, 32, 48), "has the shape"),
        (tensor("float32", 1, 2), "has the shape"),
        (tensor("int8", 1, 2, 4, 6), "is int8"),
        (tensor("string", 1, 4, 6), "is string"),
        (tensor("sequence"), "is sequence"),
        (tensor("int64", 48), "is int64"),
    ],
)
def test_outputs(output, head) -> None:
    if head in ("logits", "mask"):
        assert card_for_foreign(info(outputs=[output]), ALL).head == head
        return
    with pytest.raises(ModelError) as caught:
        card_for_foreign(info(outputs=[output]), ALL)
    assert head in str(caught.value)


@pytest.mark.parametrize("dtype", ["int64", "float64", "string", "sequence"])
def test_inputs_of_other_kinds_are_refused(dtype) -> None:
    with pytest.raises(ModelError, match=f"is {dtype}"):
        card_for_foreign(info(tensor(dtype, 1, 3, 32, 48)), ALL)


@pytest.mark.parametrize("count", [0, 2])
def test_one_input_is_needed(count) -> None:
    with pytest.raises(ModelError, match=f"has {count} inputs"):
        card_for_foreign(info(inputs=[tensor("float32", 1, 3, 4, 4)] * count), ALL)


def test_several_outputs() -> None:
    two = info(outputs=[TensorInfo("out", "float32", (1, 2, 4, 6)), TensorInfo("aux", "float32", (1, 9, 4, 6))])
    with pytest.raises(ModelError, match=r"outputs out, aux.*--output NAME"):
        card_for_foreign(two, ALL)
    assert card_for_foreign(two, ModelFacts(**{**vars(ALL), "output": "out"})).head == "logits"
    with pytest.raises(ModelError, match="tells 9 classes apart"):
        card_for_foreign(two, ModelFacts(**{**vars(ALL), "output": "aux"}))
    with pytest.raises(ModelError, match=r"no output 'x'.*out, aux"):
        select_output(two, "x")


def test_our_own_output_names_are_preferred() -> None:
    names = [TensorInfo(n, "float32", (1, 2, 4, 6)) for n in ("aux", "logits")]
    assert select_output(info(outputs=names), None).name == "logits"
    assert select_output(info(outputs=[*names, TensorInfo("mask", "uint8", (1, 4, 6))]), None).name == "mask"
