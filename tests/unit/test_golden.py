"""Golden frames: made, stored, read and checked, through the functions and through ``edgeseg verify``."""

from __future__ import annotations

import dataclasses
import json
import zipfile

import numpy as np
import pytest

from edgeseg import bundled, cli
from edgeseg.backends.fake import FakeBackend
from edgeseg.dataset import DataSet
from edgeseg.errors import DataError, ModelError
from edgeseg.golden import (
    FRAMES,
    Golden,
    VerifyError,
    frames_for_golden,
    golden_of,
    golden_path,
    make_golden,
    read_golden,
    verify,
    write_golden,
)
from edgeseg.segmenter import Segmenter, load


def picture(bright_columns: int) -> np.ndarray:
    """32 x 48, the first columns white and the rest black."""
    frame = np.zeros((32, 48, 3), np.uint8)
    frame[:, :bright_columns] = 255
    return frame


@pytest.fixture
def open_fake(card):
    """The fake engine, which sorts pixels by brightness into three bands; ``changes`` alter its card."""
    return lambda **changes: Segmenter(FakeBackend(card.replace(**changes)), card.replace(**changes))


@pytest.fixture
def segmenter(open_fake):
    return open_fake()


@pytest.fixture
def golden(segmenter):
    return make_golden(segmenter, [picture(16), picture(32)], "two pictures")


def constant(card, class_id: int) -> Segmenter:
    """An engine that sees one class everywhere."""
    logits = np.zeros((1, 3, 4, 6), np.float32)
    logits[:, class_id] = 1
    return Segmenter(FakeBackend(card, logits_nchw=logits), card)


# --- making and checking --------------------------------------------------------------------------------------


def test_the_same_engine_agrees_with_itself(segmenter, golden):
    found = verify(segmenter, golden)
    assert found.agreement == (1.0, 1.0)
    assert found.worst_class == ("dark", 1.0)
    assert found.passed
    found.check()


def test_agreement_counts_pixels_by_frame_and_classes_over_all(card, golden):
    found = verify(constant(card, 0), golden)
    dark = [float(np.mean(mask == 0)) for mask in golden.masks]
    assert found.agreement == pytest.approx(dark)
    assert dark[0] > dark[1] > 0
    assert found.iou == {"dark": pytest.approx(np.mean(dark)), "bright": None, "never": 0.0}
    assert found.worst_class == ("never", 0.0)
    with pytest.raises(
        VerifyError, match=r"Frame 1 agrees .* on 33\.333 % of pixels, 99\.5 % are asked.*Mend: try another"
    ):
        found.check()


def test_an_invalid_result_agrees_nowhere(card, golden):
    nan = np.full((1, 3, 4, 6), np.nan, np.float32)
    found = verify(Segmenter(FakeBackend(card, logits_nchw=nan), card), golden)
    assert found.agreement == (0.0, 0.0)
    assert not found.passed


def test_the_share_asked_for_follows_precision_and_the_other_engines(card, open_fake, golden):
    frames = golden.frames
    assert golden.min_agreement == 0.995
    assert make_golden(open_fake(precision="int8"), frames, "").min_agreement == 0.98

    class Off:
        """The fake engine that gives one block of 8 x 8 pixels another class."""

        def __init__(self) -> None:
            inner = FakeBackend(card)
            self.name, self.device, self.version = "off", "none", "1"
            self.inputs, self.outputs = inner.inputs, inner.outputs
            self.infer_inner, self.close = inner.infer, inner.close

        def infer(self, feed):
            logits = self.infer_inner(feed)["logits"].copy()
            logits[0, 1, 0, 0] += 9
            return {"logits": logits}

    other = Segmenter(Off(), card)
    loose = make_golden(open_fake(), frames, "", [other])
    agreement = min(verify(other, golden).agreement)
    assert 0.9 < agreement < 0.99
    assert loose.min_agreement == pytest.approx(1 - 2 * (1 - agreement))
    assert verify(other, loose).passed


def test_engines_that_disagree_altogether_and_nan_are_refused(card, segmenter):
    with pytest.raises(ModelError, match="fake and fake disagree"):
        make_golden(segmenter, [picture(48)], "", [constant(card, 0)])
    nan = np.full((1, 3, 4, 6), np.nan, np.float32)
    with pytest.raises(ModelError, match="NaN"):
        make_golden(Segmenter(FakeBackend(card, logits_nchw=nan), card), [picture(0)], "")


def test_frames_of_other_classes_are_refused(open_fake, golden):
    with pytest.raises(DataError, match=r"Class 2 is 'never' in The golden frames and 'sky' in the model"):
        verify(open_fake(classes=("dark", "bright", "sky")), golden)


def test_frames_come_from_the_street_or_from_a_split(tiny_dataset):
    street = frames_for_golden((48, 64))
    assert len(street) == FRAMES
    assert {frame.shape for frame in street} == {(48, 64, 3)}
    assert not np.array_equal(street[0], street[1])
    data = DataSet.from_yaml(tiny_dataset)
    stored = frames_for_golden((64, 96), data, "train")
    expected = [data.read(sample)[0] for sample in data.samples("train")[::2]]
    assert [frame.tolist() for frame in stored] == [frame.tolist() for frame in expected]
    assert {frame.shape for frame in frames_for_golden((16, 24), data, "val")} == {(16, 24, 3)}


# --- the file -------------------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"a model")
    return path


def test_written_and_read_again(golden, model):
    path = write_golden(golden, model)
    assert path == golden_path(model) == model.with_name("m.golden.zip")
    again = golden_of(model)
    for name in ("frames", "masks"):
        assert all(np.array_equal(a, b) for a, b in zip(getattr(golden, name), getattr(again, name)))
    assert again.model == "m.onnx"
    assert dataclasses.replace(again, frames=(), masks=(), model="", model_sha256="") == dataclasses.replace(
        golden, frames=(), masks=()
    )
    first = path.read_bytes()
    write_golden(golden, model)
    assert path.read_bytes() == first


def test_an_engine_of_the_same_name_shares_them_and_another_model_does_not(golden, model):
    write_golden(golden, model)
    assert isinstance(golden_of(model.with_suffix(".engine")), Golden)
    model.write_bytes(b"another model")
    with pytest.raises(ModelError, match=r"m\.onnx is not the file that m\.golden\.zip was made with.*Mend: copy both"):
        golden_of(model)


def test_none_beside_the_model(model):
    with pytest.raises(ModelError, match=r"no golden frames m\.golden\.zip beside it.*edgeseg verify .*m\.onnx --make"):
        golden_of(model)


def damaged(files: dict[str, bytes], **changes: object) -> dict[str, bytes]:
    return {**files, "golden.json": json.dumps(json.loads(files["golden.json"]) | changes).encode()}


@pytest.mark.parametrize(
    "damage",
    [
        lambda files: {},
        lambda files: {"golden.json": files["golden.json"]},
        lambda files: {**files, "golden.json": b"{"},
        lambda files: {**files, "golden.json": b"[]"},
        lambda files: {**files, "golden.json": b"\xff"},
        lambda files: {name: data for name, data in files.items() if name != "0.mask.png"},
        lambda files: {**files, "1.png": files["1.png"][:100]},
        lambda files: {**files, "1.png": b""},
        lambda files: {**files, "0.mask.png": files["0.png"]},
        lambda files: damaged(files, schema=2),
        lambda files: damaged(files, min_agreement=2),
        lambda files: damaged(files, min_agreement="all"),
        lambda files: damaged(files, surprise=1),
        lambda files: damaged(files, classes=None),
    ],
)
def test_a_damaged_file_is_one_clear_error(golden, model, damage):
    path = write_golden(golden, model)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in damage(files).items():
            archive.writestr(name, data)
    with pytest.raises((ModelError, DataError), match=r"m\.golden\.zip.*Mend"):
        read_golden(path)


def test_a_cut_file_and_a_missing_one(golden, model):
    path = write_golden(golden, model)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ModelError, match="cannot be read"):
        read_golden(path)
    with pytest.raises(ModelError, match="There are no golden frames"):
        read_golden(model.with_name("no.zip"))
    with pytest.raises(ModelError, match="cannot be read"):
        read_golden(model.parent)


# --- the command ----------------------------------------------------------------------------------------------


@pytest.fixture
def copied(tiny_model, tmp_path):
    path = tmp_path / "tiny.onnx"
    path.write_bytes(tiny_model.read_bytes())
    return path


@pytest.fixture
def with_golden(copied, tiny_backend):
    with load(copied, tiny_backend) as segmenter:
        write_golden(make_golden(segmenter, [picture(16), picture(32)], "two pictures"), copied)
    return copied


def test_make_then_verify(copied, tiny_backend, tmp_path, capsys):
    assert cli.main(["verify", str(copied), "--make", "--backend", tiny_backend]) == 0
    assert "4 frames of synthetic://street" in capsys.readouterr().out
    report = tmp_path / "report.json"
    assert cli.main(["verify", str(copied), "--backend", tiny_backend, "--json", str(report)]) == 0
    text = capsys.readouterr().out
    assert "100.0000 %" in text
    assert "passed: 99.5 % are asked for" in text
    figures = json.loads(report.read_text(encoding="utf-8"))
    assert figures["passed"] is True
    assert figures["agreement"] == [1.0] * FRAMES
    assert figures["backend"] == tiny_backend
    assert figures["golden"]["frames_from"] == "synthetic://street"


def test_frames_of_a_data_set(copied, tiny_dataset, tiny_backend, capsys):
    make = ["verify", str(copied), "--make", "--backend", tiny_backend, "--data", str(tiny_dataset)]
    assert cli.main(make) == 0
    assert "frames of tiny, val" in capsys.readouterr().out
    assert cli.main([*make, "--split", "none"]) == 2


def test_failing_is_exit_code_1_with_the_report_written(with_golden, tiny_backend, tmp_path, capsys):
    golden = golden_of(with_golden)
    turned = tuple(np.where(mask == 0, 1, 0).astype(np.uint8) for mask in golden.masks)
    write_golden(dataclasses.replace(golden, masks=turned), with_golden)
    report = tmp_path / "report.json"
    verify_it = ["verify", str(with_golden), "--backend", tiny_backend]
    assert cli.main([*verify_it, "--json", str(report)]) == 1
    printed = capsys.readouterr()
    assert "error: Frame 0 agrees" in printed.err
    assert "passed" not in printed.out
    assert json.loads(report.read_text(encoding="utf-8"))["passed"] is False
    assert cli.main([*verify_it, "--min-agreement", "0"]) == 0


def test_golden_frames_given_by_name_serve_another_file(with_golden, tiny_backend, tmp_path, capsys):
    twin = tmp_path / "twin.onnx"
    twin.write_bytes(with_golden.read_bytes())
    assert cli.main(["verify", str(twin), "--backend", tiny_backend]) == 2
    assert "no golden frames" in capsys.readouterr().err
    assert cli.main(["verify", str(twin), "--backend", tiny_backend, "--golden", str(golden_path(with_golden))]) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "x.yaml"], "--data means nothing without --make"),
        (["--make", "--json", "x"], "--json means nothing with --make"),
        (["--make", "--min-agreement", "0"], "--min-agreement means nothing with --make"),
        (["--backend", "none"], "There is no backend 'none'"),
        (["--golden", "none.zip"], "There are no golden frames none.zip"),
        (["--min-agreement", "2"], "not in 0..1"),
    ],
)
def test_bad_input_is_exit_code_2(flags, message, capsys):
    assert cli.main(["verify", *flags]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", bundled.names())
def test_every_bundled_model_passes_here(name, tiny_backend, capsys):
    code = cli.main(["verify", name, "--backend", tiny_backend])
    assert code == 0, f"{capsys.readouterr().err}; after a new export: edgeseg verify {name} --make"
