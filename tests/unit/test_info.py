"""``edgeseg info`` on models with and without a card, on engines, and on what it cannot read."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import pytest

from edgeseg import bundled
from edgeseg.card import ModelCard
from edgeseg.cli import info
from edgeseg.errors import ModelError

CARD = ModelCard(
    name="ddrnet-c32",
    classes=("road", "sky\x1b[2J"),
    palette=((128, 64, 128), (70, 130, 180)),
    input_size_hw=(360, 480),
    mean=(0.5, 0.25, 0.125),
    precision="int8",
    dataset={"name": "camvid", "splits": {"train": 367}, "licence": "research only"},
    metrics={"val": {"miou": 0.612345, "backend": "onnxruntime"}, "test": {"miou": math.nan}},
    provenance={"edgeseg": "0.1.0", "tags": ["a", 1, None]},
)


def save_onnx(path: Path, card: str | None = None, ops: int = 1) -> Path:
    onnx = pytest.importorskip("onnx")
    numpy = pytest.importorskip("numpy")
    helper = onnx.helper
    image = helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["N", 360, 480, 3])
    logits = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", 2, None, 60])
    loose = helper.make_tensor_value_info("loose", onnx.TensorProto.FLOAT, None)
    weights = [
        onnx.numpy_helper.from_array(numpy.zeros((30, 100), "int8"), "w"),
        onnx.numpy_helper.from_array(numpy.zeros(1000, "float32"), "b"),
    ]
    nodes = [helper.make_node(f"Op{i}", [], [], domain="test") for i in range(ops)]
    nodes += [helper.make_node("DequantizeLinear", ["w", "b"], ["logits"])] * 2
    graph = helper.make_graph(nodes, "g", [image], [logits, loose], weights)
    model = helper.make_model(graph, producer_name="maker", producer_version="2", ir_version=8)
    helper.set_model_props(model, {"names": "x" * 200} | ({} if card is None else {"edgeseg": card}))
    onnx.save(model, path)
    return path


def run(*words: object) -> int:
    parser = argparse.ArgumentParser()
    info.add_arguments(parser)
    return info.main(parser.parse_args([str(word) for word in words]))


def parse_strictly(text: str) -> dict[str, object]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_text_with_a_card(tmp_path, capsys):
    assert run(save_onnx(tmp_path / "m.onnx", CARD.to_json(), ops=9)) == 0
    text = capsys.readouterr().out
    for line in (
        "  name        ddrnet-c32",
        "  input       360 x 480 (height x width), uint8 nhwc",
        "  colours     bgr, mean 0.5 0.25 0.125, std 1 1 1 (already in the graph)",
        "  classes     2, ignore id 255",
        "                0  #804080  road",
        "                1  #4682b4  sky?[2J",
        "  dataset     name: camvid",
        "              licence: research only",
        "  metrics     val: miou 0.6123, backend onnxruntime",
        "              test: miou -",
        "              tags: a, 1, -",
        "  inputs      image: uint8 [N, 360, 480, 3]",
        "  outputs     logits: float32 [N, 2, ?, 60]",
        "              loose: float32 of unknown shape",
        "  weights     4.0 k parameters: int8 75.0 %, float32 25.0 %",
        "  Q/DQ nodes  yes",
        "  producer    maker 2",
    ):
        assert line in text.splitlines()
    assert "DequantizeLinear 2, test::Op0 1," in text
    assert "2 others" in text
    assert "\x1b" not in text


def test_text_without_a_card_names_the_flags(tmp_path, capsys):
    assert run(save_onnx(tmp_path / "m.onnx")) == 0
    text = capsys.readouterr().out
    assert "No model card" in text
    for flag in ("--classes", "--mean", "--std", "--color-order", "--imgsz", "--card"):
        assert flag in text


def test_json(tmp_path, capsys):
    path = save_onnx(tmp_path / "m.onnx", CARD.to_json())
    assert run(path, "--json") == 0
    report = parse_strictly(capsys.readouterr().out)
    assert report["file"] == str(path)
    assert report["size_bytes"] == path.stat().st_size
    assert len(report["sha256"]) == 64
    assert report["card"]["classes"] == ["road", "sky\x1b[2J"]
    assert report["card"]["metrics"]["test"] == {"miou": None}
    image = {"name": "image", "dtype": "uint8", "shape": ["N", 360, 480, 3], "rank_known": True}
    assert report["inputs"] == [image]
    assert report["outputs"][0]["shape"] == ["N", 2, None, 60]
    assert report["precision"] == {
        "parameters": 4000,
        "weights": {"int8": 3000, "float32": 1000},
        "qdq": True,
        "external_data": False,
        "macs": {},
        "uncounted_layers": [],
        "lowest": None,
        "left_higher": [],
    }
    assert report["op_counts"] == {"DequantizeLinear": 2, "test::Op0": 1}
    assert report["producer"] == "maker 2"
    assert set(report["metadata"]) == {"names"}


def test_json_without_a_card_has_null(tmp_path, capsys):
    run(save_onnx(tmp_path / "m.onnx"), "--json")
    assert parse_strictly(capsys.readouterr().out)["card"] is None


def test_a_bundled_name_is_resolved(tmp_path, capsys, monkeypatch):
    path = save_onnx(tmp_path / "m.onnx", CARD.to_json())
    monkeypatch.setattr(bundled, "resolve", {"ddrnet": path}.__getitem__)
    assert run("ddrnet") == 0
    assert str(path) in capsys.readouterr().out


def test_a_card_of_odd_but_legal_values_is_shown(tmp_path, capsys):
    card = json.loads(CARD.to_json()) | {
        "dataset": {"notes": "camvid"}, "metrics": {}, "provenance": {"a": {"b": {"c": 1}}},
    }  # fmt: skip
    assert run(save_onnx(tmp_path / "m.onnx", json.dumps(card))) == 0
    text = capsys.readouterr().out
    assert "  dataset     notes: camvid" in text
    assert "  metrics     -" in text
    assert 'a: b {"c": 1}' in text


@pytest.mark.parametrize(("key", "value"), [("dataset", "camvid"), ("metrics", None), ("provenance", [1])])
def test_a_card_with_something_else_than_a_mapping_is_refused(tmp_path, key, value):
    card = json.loads(CARD.to_json()) | {key: value}
    with pytest.raises(ModelError, match=f"no mapping in {key}"):
        run(save_onnx(tmp_path / "m.onnx", json.dumps(card)))


def test_a_record_nested_too_deeply(tmp_path):
    card = CARD.to_json().replace('"tags": [', '"tags": [' + "[" * 700 + "]" * 700 + ", ")
    with pytest.raises(ModelError, match=r"nested too deeply|holds what no card can"):
        run(save_onnx(tmp_path / "m.onnx", card))


@pytest.mark.parametrize("name", ["best.pt", "runs/last.PTH"])
def test_a_checkpoint_is_refused_with_the_command_that_exports_it(name):
    with pytest.raises(ModelError, match=f"checkpoint.*Mend: .*edgeseg export --checkpoint {name}"):
        run(name)


def test_an_unknown_file_is_refused(tmp_path):
    with pytest.raises(ModelError, match="Mend"):
        run(tmp_path / "no.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(ModelError, match="is not an ONNX file"):
        run(tmp_path / "text.onnx")


@pytest.fixture
def engine(tmp_path):
    path = tmp_path / "m.engine"
    path.write_bytes(b"plan")
    return path


def record_of(engine: Path) -> Path:
    return engine.with_name("m.engine.json")


def test_engine_with_its_record(engine, capsys):
    record = {"card": json.loads(CARD.to_json()), "tensorrt": "10.3", "latency_ms": {"p50": 1.5}}
    record_of(engine).write_text(json.dumps(record))
    assert run(engine) == 0
    text = capsys.readouterr().out
    assert "  name        ddrnet-c32" in text
    assert '  "tensorrt": "10.3",' in text
    assert run(engine, "--json") == 0
    report = parse_strictly(capsys.readouterr().out)
    assert report["size_bytes"] == 4
    assert report["card"]["name"] == "ddrnet-c32"
    assert report["engine"] == {"tensorrt": "10.3", "latency_ms": {"p50": 1.5}}


def test_engine_without_a_card_in_its_record(engine, capsys):
    record_of(engine).write_text('{"tensorrt": "10.3"}')
    assert run(engine) == 0
    assert '"tensorrt"' in capsys.readouterr().out


@pytest.mark.parametrize("record", ["", "[1]", "{", '{"card": {}}', '{"card": 3}', '{"a":' * 100_000])
def test_engine_with_a_broken_record(engine, record):
    record_of(engine).write_text(record)
    with pytest.raises(ModelError, match="Mend"):
        run(engine)


def test_engine_without_a_record_or_missing(engine):
    with pytest.raises(ModelError, match=r"no record m\.engine\.json.*edgeseg build"):
        run(engine)
    engine.unlink()
    with pytest.raises(ModelError, match="No such file"):
        run(engine)
