"""`edgeseg export --precision fp16|int8`: measured, repaired, refused; the model it starts from is never touched."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from edgeseg import processor
from edgeseg.cli import main
from edgeseg.dataset import DataSet
from edgeseg.evaluate import evaluate
from edgeseg.files import sha256_of
from edgeseg.onnx_reader import card_from_onnx, read_onnx
from edgeseg.segmenter import load

pytest.importorskip("torch", reason="needs the extra 'export'")
onnx = pytest.importorskip("onnx", reason="needs the extra 'export'")
pytest.importorskip("onnxruntime", reason="needs the extra 'export'")

from edgeseg_export import gate, parity  # noqa: E402

ENGINES = parity.installed_cpu_engines()
WIDE = 500.0
"""Spread beside which eight bits cannot hold the colours."""


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch):
    """Times are not what these tests look at."""
    monkeypatch.setattr(gate, "RUNS", 1)


@pytest.fixture
def export(tiny_dataset, tmp_path):
    """``export(source, *flags) -> exit code``: the model to ``tmp_path / "out" / "model.onnx"``, with the data set."""

    def run(source, *flags, data=tiny_dataset, out=tmp_path / "out" / "model.onnx"):
        flag = "--onnx" if source.suffix == ".onnx" else "--checkpoint"
        more = ["--data", str(data)] if data else []
        return main(["export", flag, str(source), "--out", str(out), *more, *flags])

    return run


def names_in(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize(("target", "opset"), [("cpu", 17), ("tensorrt", 17), ("tensorrt", 19)])
def test_int8_that_keeps_its_accuracy_is_written_with_its_figures(
    save_colour_model, export, tiny_dataset, tmp_path, capsys, target, opset
):
    source, out = save_colour_model(tmp_path / "fp32.onnx"), tmp_path / "out" / "model.onnx"
    before = sha256_of(source)
    report = tmp_path / "figures.json"
    assert export(source, "--precision", "int8", "--target", target, "--opset", str(opset), "--json", str(report)) == 0
    assert sha256_of(source) == before
    assert names_in(out.parent) == ["model.golden.zip", "model.onnx", "model.report.html"]
    assert main(["verify", str(out)]) == 0
    info = read_onnx(out)
    assert info.has_qdq
    assert info.opset == opset
    # TensorRT 10 and 11 take every layer's precision from the graph: half is what is not in 8 bits.
    assert ("float16" in info.weight_dtypes) == (opset == 19)
    card, original = card_from_onnx(out), card_from_onnx(source)
    assert card.precision == "int8"
    data = DataSet.from_yaml(tiny_dataset)
    engine = card.metrics["val"]["backend"]
    with load(out, engine) as segmenter, load(source, engine) as reference:
        images = [data.read(sample) for sample in data.samples("val")]
        scores = evaluate(segmenter, images, data.ignore_id)
        same = np.mean([segmenter(image).mask == reference(image).mask for image, _ in images])
    assert card.metrics["val"]["miou"] == pytest.approx(scores.miou)
    assert card.metrics["val"]["iou"] == pytest.approx(scores.iou)
    assert card.metrics["val"]["agreement"] == pytest.approx(same)
    assert card.metrics["val"]["images"] == 4
    # What was measured on the original is not said of the new file, and not lost.
    assert set(card.metrics) == {"val"}
    assert card.provenance["fp32_metrics"]["test"] == {"miou": 0.5}
    assert card.provenance["fp32_metrics"]["val"]["miou"] > 0.8
    assert card.provenance["epoch"] == 3
    assert card.provenance["onnx_sha256"] == before
    assert card.dataset == original.dataset
    calibration = card.provenance["calibration"]
    assert (calibration["split"], calibration["images"], calibration["seed"]) == ("train", 8, 0)
    assert calibration["method"] == "minmax"
    assert len(calibration["sha256"]) == 64
    facts = json.loads(report.read_text())
    assert facts["accepted"]
    assert facts["trail"] == []
    assert set(facts["engines"]) == set(ENGINES if target == "cpu" else ["onnxruntime"])
    printed = capsys.readouterr().out
    assert "same pixels" in printed
    assert ("latency, ms" in printed) == (target == "cpu")
    assert ("TensorRT runs it can only be measured" in printed) == (target == "tensorrt")


def test_repair_finds_the_layer_that_eight_bits_break(save_colour_model, export, tmp_path, capsys):
    source, out = save_colour_model(tmp_path / "fp32.onnx", WIDE), tmp_path / "out" / "model.onnx"
    report = tmp_path / "figures.json"
    assert export(source, "--precision", "int8", "--json", str(report)) == 0
    facts = json.loads(report.read_text())
    assert facts["accepted"]
    assert facts["trail"][0]["drop"] > 0.3
    assert "head" in facts["kept"]
    card = card_from_onnx(out)
    reasons = card.provenance["kept"]
    assert {name for name, reason in reasons.items() if "by repair" in reason} == set(facts["kept"])
    assert set(reasons) - set(facts["kept"]) <= {"stem"}
    assert card.metrics["val"]["miou_drop"] <= 0.005
    assert read_onnx(out).has_qdq
    made_by = {output: node for node in onnx.load(out).graph.node for output in node.output}
    head = next(node for node in made_by.values() if "logits" in node.output)
    assert made_by[head.input[0]].op_type != "DequantizeLinear"
    assert "step  ranges" in capsys.readouterr().out


def test_what_repair_cannot_save_is_refused_and_says_what_was_tried(save_colour_model, export, tmp_path, capsys):
    source, out = save_colour_model(tmp_path / "fp32.onnx", WIDE), tmp_path / "out" / "model.onnx"
    out.parent.mkdir()
    out.write_bytes(b"the model of yesterday")
    before = sha256_of(source)
    assert export(source, "--precision", "int8", "--repair-steps", "0") == 3
    assert out.read_bytes() == b"the model of yesterday"
    assert sha256_of(source) == before
    assert names_in(out.parent) == ["model.onnx", "model.report.html"]
    assert "refused" in (out.parent / "model.report.html").read_text()
    error = capsys.readouterr().err
    assert error.startswith("error: int8 loses ")
    assert error.count("\n") == 1
    assert "at most 0.5" in error
    assert str(source) in error


def test_a_higher_limit_accepts_the_same_model(save_colour_model, export, tmp_path):
    source = save_colour_model(tmp_path / "fp32.onnx", WIDE)
    assert export(source, "--precision", "int8", "--repair-steps", "0", "--max-miou-drop", "100") == 0


def test_refused_checkpoint_leaves_its_fp32_model(checkpoint_path, labelled_data, tmp_path, capsys, monkeypatch):
    # Random weights lose a random little: the limit alone decides.
    monkeypatch.setattr(gate.EngineResult, "drop", lambda self, precision: 0.02)
    out = tmp_path / "model.onnx"
    flags = ["--checkpoint", str(checkpoint_path), "--out", str(out), "--data", str(labelled_data)]
    flags += ["--calib-split", "val", "--precision", "int8", "--repair-steps", "0"]
    assert main(["export", *flags]) == 3
    assert names_in(tmp_path) == ["model.fp32.onnx", "model.report.html"]
    assert card_from_onnx(tmp_path / "model.fp32.onnx").precision == "fp32"
    printed = capsys.readouterr()
    assert f"The fp32 model is {tmp_path / 'model.fp32.onnx'}" in printed.err
    assert "measured on the split that is scored" in printed.out


def test_fp16_keeps_its_accuracy_and_halves_the_file(save_colour_model, export, tmp_path):
    source, out = save_colour_model(tmp_path / "fp32.onnx"), tmp_path / "out" / "model.onnx"
    assert export(source, "--precision", "fp16") == 0
    card = card_from_onnx(out)
    assert card.precision == "fp16"
    assert abs(card.metrics["val"]["miou_drop"]) < 0.005
    assert read_onnx(out).weight_dtypes["float16"] > read_onnx(out).weight_dtypes.get("float32", 0)


def test_fp16_without_data_is_compared_on_the_street_and_says_so(save_colour_model, export, tmp_path, capsys):
    source, out = save_colour_model(tmp_path / "fp32.onnx"), tmp_path / "out" / "model.onnx"
    assert export(source, "--precision", "fp16", data=None) == 0
    printed = capsys.readouterr().out
    assert "The accuracy was not measured" in printed
    assert [line.split()[0] for line in printed.splitlines()[1 : 1 + len(ENGINES)]] == list(ENGINES)
    assert card_from_onnx(out).metrics == {}
    assert names_in(out.parent) == ["model.golden.zip", "model.onnx"]


def test_fp16_that_changes_classes_is_refused(save_colour_model, export, tmp_path, capsys):
    source = save_colour_model(tmp_path / "fp32.onnx")
    assert export(source, "--precision", "fp16", "--tolerance", "0", data=None) == 1
    error = capsys.readouterr().err
    assert "agrees with the fp32 model on 99." in error
    assert error.count("\n") == 1
    assert names_in(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "is fp32 already"),
        (("--precision", "int4"), "int4"),
        (("--precision", "int8", "--weights", "fp16"), "--weights"),
        (("--precision", "int8", "--head", "mask"), "--head"),
        (("--precision", "fp16", "--opset", "18"), "--opset"),
        (("--precision", "int8", "--imgsz", "64", "64"), "--imgsz"),
        (("--precision", "int8", "--calib-split", "trian"), "did you mean 'train'"),
        (("--precision", "int8", "--eval-split", "vla"), "did you mean 'val'"),
        (("--precision", "int8", "--calib-images", "0"), "--calib-images"),
        (("--precision", "int8", "--max-miou-drop", "-1"), "--max-miou-drop"),
        (("--precision", "int8", "--repair-steps", "-1"), "--repair-steps"),
        (("--precision", "int8", "--target", "npu"), "npu"),
        (("--precision", "fp16", "--weight-bits", "7"), "--weight-bits 7 is for int8"),
        (("--precision", "int8", "--json", "source.onnx/figures.json"), "source.onnx is a file"),
        (("--precision", "int8", "--out", "source.onnx"), "would replace the model"),
        (("--precision", "int8", "--checkpoint", "best.pt"), "not allowed with"),
    ],
)
def test_bad_options_are_refused_in_one_line_and_nothing_is_written(
    save_colour_model, export, tmp_path, monkeypatch, capsys, flags, message
):
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    source = save_colour_model(folder / "source.onnx")
    before = sha256_of(source)
    assert export(source, *flags, out="out.onnx") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert "Mend: " in error
    assert names_in(folder) == ["source.onnx"]
    assert sha256_of(source) == before


def without_data(source, tmp_path, tiny_dataset):
    return source, None


def of_other_classes(source, tmp_path, tiny_dataset):
    tiny_dataset.write_text(tiny_dataset.read_text().replace("red", "pink"))
    return source, tiny_dataset


def with_a_missing_image(source, tmp_path, tiny_dataset):
    broken = tiny_dataset.parent / "train" / "images" / "3.png"
    broken.write_bytes(broken.read_bytes()[:100])
    return source, tiny_dataset


def with_an_empty_split(source, tmp_path, tiny_dataset):
    for path in (tiny_dataset.parent / "train" / "images").iterdir():
        path.unlink()
    return source, tiny_dataset


def already_int8(source, tmp_path, tiny_dataset):
    model = onnx.load(source)
    card = card_from_onnx(source).replace(precision="int8")
    onnx.helper.set_model_props(model, {"edgeseg": card.to_json()})
    onnx.save(model, source)
    return source, tiny_dataset


def without_a_card(source, tmp_path, tiny_dataset):
    model = onnx.load(source)
    del model.metadata_props[:]
    onnx.save(model, source)
    return source, tiny_dataset


def with_external_data(source, tmp_path, tiny_dataset):
    onnx.save(onnx.load(source), source, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return source, tiny_dataset


def cut_off(source, tmp_path, tiny_dataset):
    source.write_bytes(source.read_bytes()[:200])
    return source, tiny_dataset


def no_model(source, tmp_path, tiny_dataset):
    source.write_bytes(b"not a model")
    return source, tiny_dataset


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (without_data, "give --data"),
        (of_other_classes, "Class 0 is 'pink'"),
        (with_a_missing_image, "3.png is not an image"),
        (with_an_empty_split, "is empty"),
        (already_int8, "is int8 already"),
        (without_a_card, "no model card"),
        (with_external_data, "weights in other files"),
        (cut_off, "fp32.onnx"),
        (no_model, "fp32.onnx"),
    ],
)
def test_bad_input_is_refused_in_one_line_and_nothing_is_written(
    save_colour_model, export, tiny_dataset, tmp_path, capsys, prepare, message
):
    source, data = prepare(save_colour_model(tmp_path / "fp32.onnx"), tmp_path, tiny_dataset)
    before = sha256_of(source)
    assert export(source, "--precision", "int8", data=data) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert "Mend: " in error
    assert names_in(tmp_path / "out") == []
    assert sha256_of(source) == before


def test_weights_of_7_bits_are_written_and_told(save_colour_model, export, tmp_path):
    source, out = save_colour_model(tmp_path / "fp32.onnx"), tmp_path / "out" / "model.onnx"
    assert export(source, "--precision", "int8", "--weight-bits", "7", "--max-miou-drop", "50") == 0
    assert card_from_onnx(out).provenance["weight_bits"] == 7
    codes = [
        np.abs(onnx.numpy_helper.to_array(tensor).astype(int)).max()
        for tensor in onnx.load(out).graph.initializer
        if tensor.name.endswith("_weight_quantized")
    ]
    assert max(codes) == 63


def test_a_processor_whose_sums_overflow_is_refused_before_any_work(
    save_colour_model, export, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(processor, "sums_overflow", lambda: True)
    source = save_colour_model(tmp_path / "fp32.onnx")
    assert export(source, "--precision", "int8") == 2
    assert "--weight-bits 7" in capsys.readouterr().err
    assert names_in(tmp_path / "out") == []
    assert export(source, "--precision", "int8", "--weight-bits", "7", "--max-miou-drop", "50") == 0


def test_a_file_beyond_2_gb_is_refused_without_reading_it(save_colour_model, export, tmp_path, capsys):
    source = save_colour_model(tmp_path / "fp32.onnx")
    # One more field behind the model, a doc_string of 2 GiB, that takes no room on the disk.
    with source.open("ab") as file:
        file.write(b"\x32\x80\x80\x80\x80\x08")
    os.truncate(source, source.stat().st_size + 2**31)
    assert export(source, "--precision", "int8") == 2
    assert "has 2.1 GB, ONNX files end at 2 GB. Mend: " in capsys.readouterr().err
    assert names_in(tmp_path / "out") == []


def test_the_name_of_a_bundled_model_is_a_source(tmp_path):
    out = tmp_path / "half.onnx"
    assert main(["export", "--onnx", "ddrnet-c16-camvid", "--precision", "fp16", "--out", str(out)]) == 0
    assert card_from_onnx(out).precision == "fp16"


def test_a_misspelt_bundled_name_is_told_the_nearest(tmp_path, capsys):
    assert (
        main(["export", "--onnx", "ddrnet-c16-camvit", "--precision", "fp16", "--out", str(tmp_path / "a.onnx")]) == 2
    )
    assert "did you mean 'ddrnet-c16-camvid'?" in capsys.readouterr().err


def test_report_options_need_a_conversion(checkpoint_path, tmp_path, capsys):
    flags = ["--checkpoint", str(checkpoint_path), "--out", str(tmp_path / "model.onnx"), "--json", "figures.json"]
    assert main(["export", *flags]) == 2
    assert "--json reports on a conversion" in capsys.readouterr().err


def test_older_name_of_the_split_is_kept(save_colour_model, export, tmp_path):
    source = save_colour_model(tmp_path / "fp32.onnx")
    assert export(source, "--precision", "fp16", "--split", "train") == 0
    assert card_from_onnx(tmp_path / "out" / "model.onnx").metrics["train"]["images"] == 8
