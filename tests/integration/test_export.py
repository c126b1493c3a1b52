from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from edgeseg import load
from edgeseg.cli import main
from edgeseg.errors import ModelError, UsageError
from edgeseg.io.street import Street
from edgeseg.onnx_reader import card_from_onnx, read_onnx
from edgeseg.segmenter import Segmenter

torch = pytest.importorskip("torch", reason="needs the extra 'export'")
onnx = pytest.importorskip("onnx", reason="needs the extra 'export'")
pytest.importorskip("onnxruntime", reason="needs the extra 'export'")

from edgeseg_export import parity, to_onnx  # noqa: E402
from edgeseg_train import checkpoint as checkpoints  # noqa: E402
from edgeseg_train.backend import TorchBackend, card_from_checkpoint  # noqa: E402

ENGINES = parity.installed_cpu_engines()

ALLOWED = {
    "logits": {
        "Cast", "Transpose", "Conv", "Relu", "Add", "AveragePool", "GlobalAveragePool", "Resize", "Concat",
        "BatchNormalization",
    },
}  # fmt: skip
ALLOWED["mask"] = ALLOWED["logits"] | {"ArgMax"}


def export(checkpoint_path, out, *options: str) -> int:
    return main(["export", "--checkpoint", str(checkpoint_path), "--out", str(out), *options])


def graph(checkpoint_path, head="logits", imgsz=None, opset=17):
    checkpoint = checkpoints.load(checkpoint_path)
    card = card_from_checkpoint(checkpoint, imgsz=imgsz, head=head)
    return to_onnx.graph_from_network(checkpoints.network_from_checkpoint(checkpoint), card, opset=opset)


def torch_segmenter(checkpoint_path, head, imgsz=None) -> Segmenter:
    checkpoint = checkpoints.load(checkpoint_path)
    card = card_from_checkpoint(checkpoint, imgsz=imgsz, head=head)
    return Segmenter(TorchBackend(checkpoints.network_from_checkpoint(checkpoint), card, device="cpu"), card)


@pytest.fixture(scope="module", params=["logits", "mask"])
def exported(request, checkpoint_path, tmp_path_factory):
    """Head and path of a file exported at another size than that of training."""
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    assert export(checkpoint_path, path, "--head", request.param, "--imgsz", "72", "120") == 0
    return request.param, path


@pytest.mark.parametrize("engine", ENGINES)
def test_exported_file_gives_the_classes_of_its_checkpoint(exported, checkpoint_path, engine):
    head, path = exported
    street = Street(size_hw=(90, 160), seed=5)
    with load(path, engine) as segmenter, torch_segmenter(checkpoint_path, head, (72, 120)) as reference:
        for index in (0, 40):
            frame, _ = street.render(index)
            assert np.mean(segmenter(frame).mask == reference(frame).mask) > 0.999


def test_file_says_what_it_takes_and_gives(exported):
    head, path = exported
    info = read_onnx(path)
    assert [(t.name, t.dtype, t.shape) for t in info.inputs] == [("image", "uint8", (1, 72, 120, 3))]
    wanted = ("logits", "float32", (1, 4, 9, 15)) if head == "logits" else ("mask", "uint8", (1, 72, 120))
    assert [(t.name, t.dtype, t.shape) for t in info.outputs] == [wanted]
    assert info.opset == 17
    assert info.producer.startswith("edgeseg")
    assert not info.external_data
    assert set(info.metadata) == {"edgeseg"}


def test_card_in_the_file(exported):
    head, path = exported
    card = card_from_onnx(path)
    assert card.classes == ("road", "sky", "car", "person")
    assert card.palette[1] == (1, 50, 199)
    assert (card.name, card.head, card.precision, card.input_size_hw) == ("ddrnet-c16", head, "fp32", (72, 120))
    assert (card.input_dtype, card.input_layout, card.color_order) == ("uint8", "nhwc", "bgr")
    assert card.mean == (0.406, 0.456, 0.485)
    assert card.metrics == {}  # measured at another size
    assert card.provenance["weights_stored"] == "fp32"
    assert card.provenance["opset"] == 17
    assert "/" not in card.to_json()


@pytest.mark.parametrize("opset", [17, 18, 19, 20])
def test_graph_holds_only_what_engines_run_well(checkpoint_path, opset):
    for head, allowed in ALLOWED.items():
        model = graph(checkpoint_path, head, opset=opset)
        assert {node.op_type for node in model.graph.node} <= allowed
        assert {o.domain: o.version for o in model.opset_import} == {"": opset}
        assert not any(node.doc_string for node in model.graph.node)


def test_every_resize_has_constant_sizes_that_all_engines_read_alike(checkpoint_path):
    model = graph(checkpoint_path, "mask", (65, 97))
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    resizes = [node for node in model.graph.node if node.op_type == "Resize"]
    assert len(resizes) == 8
    for node in resizes:
        assert list(node.input[1:3]) == ["", ""]
        assert weights[node.input[3]].dtype == np.int64
        assert {a.name: a.s for a in node.attribute} == {
            "mode": b"linear",
            "coordinate_transformation_mode": b"half_pixel",
        }
    assert list(weights[resizes[-1].input[3]]) == [1, 4, 65, 97]


def test_bytes_become_floats_before_they_change_places(checkpoint_path):
    # TensorRT transposes no uint8.
    assert [node.op_type for node in graph(checkpoint_path).graph.node[:2]] == ["Cast", "Transpose"]


def test_no_batch_normalisation_is_left_behind_a_convolution(checkpoint_path):
    model = graph(checkpoint_path)
    made_by = {node.output[0]: node.op_type for node in model.graph.node}
    before = [made_by[node.input[0]] for node in model.graph.node if node.op_type == "BatchNormalization"]
    assert len(before) == 12
    assert "Conv" not in before


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("imgsz", [(64, 64), (65, 127), (96, 128)])
def test_logits_are_those_of_torch_at_any_size(checkpoint_path, tmp_path, engine, imgsz):
    # At 64x64 the pyramid's maps are all 1x1; at 65x127 no size divides by the stride.
    path = tmp_path / "model.onnx"
    to_onnx.write_model(graph(checkpoint_path, imgsz=imgsz), path)
    frame = np.random.default_rng(1).integers(0, 256, (*imgsz, 3), np.uint8)
    with load(path, engine) as segmenter, torch_segmenter(checkpoint_path, "logits", imgsz) as reference:
        result = parity.compare(reference, {engine: segmenter}, [frame])[0]
        scale = np.abs(reference.backend.infer({"image": frame[None]})["logits"]).max()
    assert result.max_difference <= 1e-4 * scale
    assert result.agreement > 0.999


def test_same_checkpoint_gives_the_same_bytes_and_no_noise(checkpoint_path, tmp_path):
    paths = [tmp_path / f"{i}.onnx" for i in range(2)]
    assert export(checkpoint_path, paths[0]) == 0
    code = "import sys; from edgeseg.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "export", "--checkpoint", str(checkpoint_path), "--out", str(paths[1])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 2 + len(ENGINES)
    assert len({path.read_bytes() for path in paths}) == 1


def test_half_stored_weights_halve_the_file_and_stay_fp32_in_the_graph(checkpoint_path, tmp_path):
    full, half = tmp_path / "full.onnx", tmp_path / "half.onnx"
    # Random weights leave more pixels on the edge between two classes than trained ones.
    assert export(checkpoint_path, half, "--weights", "fp16", "--tolerance", "0.02") == 0
    to_onnx.write_model(graph(checkpoint_path), full)
    assert half.stat().st_size < 0.53 * full.stat().st_size
    info, card = read_onnx(half), card_from_onnx(half)
    assert info.parameters == read_onnx(full).parameters
    assert info.weight_dtypes["float16"] > 0.95 * info.parameters
    assert card.precision == "fp32"
    assert card.provenance["weights_stored"] == "fp16"
    assert info.outputs[0].dtype == "float32"


def test_weights_beyond_half_precision_stay_whole(checkpoint_path):
    model = graph(checkpoint_path)
    large = max(model.graph.initializer, key=lambda tensor: np.prod(tensor.dims))
    values = onnx.numpy_helper.to_array(large).copy()
    values.flat[0] = 1e5
    large.CopyFrom(onnx.numpy_helper.from_array(values, large.name))
    half = {t.name: t.data_type for t in to_onnx.with_half_weights(model).graph.initializer}
    assert half[large.name] == onnx.TensorProto.FLOAT
    assert list(half.values()).count(onnx.TensorProto.FLOAT16) > 40


def test_scores_are_measured_and_stored_with_data(checkpoint_path, labelled_data, tmp_path, capsys):
    path = tmp_path / "model.onnx"
    assert export(checkpoint_path, path, "--data", str(labelled_data)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-2 - len(ENGINES) : -1]] == ["torch", *ENGINES]
    card = card_from_onnx(path)
    metrics = card.metrics["val"]
    assert metrics["images"] == 6
    assert metrics["backend"] == ENGINES[0]
    assert 0 < metrics["miou"] < metrics["pixel_accuracy"] < 1


def corrupting(write):
    """A writer that mixes up the channels of the largest kernel before it writes."""

    def write_corrupted(model, path):
        broken = onnx.ModelProto()
        broken.CopyFrom(model)
        kernel = max(broken.graph.initializer, key=lambda tensor: np.prod(tensor.dims))
        values = onnx.numpy_helper.to_array(kernel)
        kernel.CopyFrom(onnx.numpy_helper.from_array(np.roll(values, 1, 0), kernel.name))
        write(broken, path)

    return write_corrupted


@pytest.mark.parametrize("older", [None, b"the model of yesterday"])
def test_file_that_differs_from_its_checkpoint_is_not_written(checkpoint_path, tmp_path, monkeypatch, capsys, older):
    path = tmp_path / "model.onnx"
    if older is not None:
        path.write_bytes(older)
    monkeypatch.setattr(to_onnx, "write_model", corrupting(to_onnx.write_model))
    assert export(checkpoint_path, path) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: In ")
    assert error.count("\n") == 1
    assert "agrees with the checkpoint" in error
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([] if older is None else [older])


def test_scores_that_differ_are_refused(checkpoint_path, labelled_data, tmp_path, monkeypatch):
    from edgeseg_export import cli

    def scored(segmenter, pairs, ignore_id):
        scores = evaluate(segmenter, pairs, ignore_id)
        worse = 0.001 if segmenter.backend.name == ENGINES[-1] else 0.0
        return type(scores)(**{**vars(scores), "miou": scores.miou - worse})

    evaluate = cli.evaluate
    monkeypatch.setattr(cli, "evaluate", scored)
    assert export(checkpoint_path, tmp_path / "model.onnx", "--data", str(labelled_data)) == 1
    assert list(tmp_path.iterdir()) == []


def test_checkpoint_that_gives_nan_is_not_exported(checkpoint_path, tmp_path, capsys):
    checkpoint = checkpoints.load(checkpoint_path)
    checkpoint["weights"]["head.5.bias"][0] = float("nan")
    checkpoints.save(checkpoint, tmp_path / "best.pt")
    assert export(tmp_path / "best.pt", tmp_path / "model.onnx") == 2
    assert "NaN" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["best.pt"]


@pytest.mark.parametrize(
    ("options", "out", "message"),
    [
        ((), "model.pb", "does not end in .onnx"),
        ((), "folder.onnx", "is a folder"),
        ((), "file/model.onnx", "Cannot write"),
        (("--head", "boxes"), "model.onnx", "boxes"),
        (("--opset", "16"), "model.onnx", "16"),
        (("--opset", "21"), "model.onnx", "21"),
        (("--weights", "int4"), "model.onnx", "int4"),
        (("--imgsz", "32", "96"), "model.onnx", "--imgsz HEIGHT WIDTH"),
        (("--tolerance", "2"), "model.onnx", "tolerance"),
        (("--data", "missing.yaml"), "model.onnx", "missing.yaml"),
        (("--checkpoint", "missing.pt"), "model.onnx", "missing.pt"),
        (("--checkpoint", "file"), "model.onnx", "not a checkpoint"),
    ],
)
def test_bad_input_is_refused_in_one_line_and_nothing_is_written(
    checkpoint_path, tmp_path, monkeypatch, capsys, options, out, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(b"not a model")
    (tmp_path / "folder.onnx").mkdir()
    assert export(checkpoint_path, out, *options) in (1, 2)
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert "Mend: " in error
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder.onnx"]


def test_data_set_of_other_classes_is_refused(checkpoint_path, labelled_data, tmp_path, capsys):
    other = tmp_path / "data.yaml"
    other.write_text(labelled_data.read_text().replace("road", "river").replace("val: val", "val: ."))
    assert export(checkpoint_path, tmp_path / "model.onnx", "--data", str(other)) == 2
    assert "Class 0 is 'river'" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["data.yaml"]


def test_opset_is_checked_for_callers_too(checkpoint_path):
    with pytest.raises(UsageError, match="opset 16"):
        graph(checkpoint_path, opset=16)


def test_network_that_cannot_be_traced_is_named_so(checkpoint_path):
    class Broken(torch.nn.Module):
        def forward(self, x):
            raise RuntimeError("shapes cannot be multiplied\nand more")

    card = card_from_checkpoint(checkpoints.load(checkpoint_path), imgsz=None, head="logits")
    with pytest.raises(ModelError, match="shapes cannot be multiplied") as caught:
        to_onnx.graph_from_network(Broken(), card)
    assert "\n" not in str(caught.value)


def test_without_onnx_the_extra_is_named(checkpoint_path, tmp_path, monkeypatch, capsys):
    for name in [n for n in sys.modules if n.partition(".")[0] == "edgeseg_export"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert export(checkpoint_path, tmp_path / "model.onnx") == 2
    assert "pip install 'edgeseg[export]'" in capsys.readouterr().err


def test_help_needs_neither_torch_nor_onnx():
    code = (
        "import sys; from edgeseg.cli import parser_of; text = parser_of('export').format_help();"
        "assert '--tolerance' in text; assert not {'torch', 'onnx', 'edgeseg_export'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
