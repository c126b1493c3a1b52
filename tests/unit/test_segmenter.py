from __future__ import annotations

import gc
import time

import numpy as np
import pytest

import edgeseg
from edgeseg import bundled
from edgeseg.backends.fake import FakeBackend
from edgeseg.card import ModelCard
from edgeseg.errors import BackendError, MissingDependencyError, ModelError, UsageError
from edgeseg.foreign import ModelFacts
from edgeseg.frame import Frame, State
from edgeseg.io.sources import FrameList
from edgeseg.segmenter import Segmenter, load
from edgeseg.tensors import TensorSpec

RNG = np.random.default_rng(0)


class Fixed:
    """A backend that gives one array, in one buffer that it reuses, as engines do."""

    name, device, version = "fixed", "none", "1"

    def __init__(self, card: ModelCard, *outputs: np.ndarray, names: tuple[str, ...] = ("out",)) -> None:
        self.inputs = (TensorSpec("image", np.dtype(card.input_dtype), (1, *card.input_size_hw, 3)),)
        self.outputs = tuple(TensorSpec(n, outputs[0].dtype, outputs[0].shape) for n in names)
        self.queue = list(outputs)
        self.buffer = outputs[0].copy()
        self.closed = 0

    def infer(self, feed):
        if len(self.queue) > 1:
            self.buffer[...] = self.queue.pop(0)
        else:
            self.buffer[...] = self.queue[0]
        return {spec.name: self.buffer for spec in self.outputs}

    def close(self):
        self.closed += 1


def image(value: int | None = None, size_hw: tuple[int, int] = (32, 48)) -> np.ndarray:
    return RNG.integers(0, 256, (*size_hw, 3), np.uint8) if value is None else np.full((*size_hw, 3), value, np.uint8)


# --- results ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size_hw", [(32, 48), (720, 1280), (33, 47), (1, 1), (3, 4097), (4097, 3)])
def test_the_mask_has_the_size_of_the_frame(card: ModelCard, size_hw) -> None:
    result = Segmenter(FakeBackend(card), card)(image(200, size_hw))
    assert (result.mask.shape, result.mask.dtype, result.valid) == (size_hw, np.uint8, True)
    assert set(result.mask.flat) == {2}, "200 of 255 lies in the last of three bands"
    assert result.overlay().shape == (*size_hw, 3)
    assert tuple(result.color()[0, 0]) == card.palette[2][::-1]


def test_what_a_result_says(card: ModelCard) -> None:
    frame = Frame(image(), 7, time.monotonic() - 0.5, name="x.png", capture_ms=3.0)
    result = Segmenter(FakeBackend(card, latency_s=0.01), card)(frame)
    assert result.frame is frame
    assert (result.frame_index, result.captured_at, result.state) == (7, frame.captured_at, State.LIVE)
    assert (result.classes, result.palette) == (card.classes, card.palette)
    assert result.age_ms >= 500
    assert set(result.timing) == {"capture", "preprocess", "infer", "decode", "end_to_end"}
    assert result.timing["capture"] == 3.0
    assert result.timing["infer"] >= 10
    parts = sum(result.timing[stage] for stage in ("preprocess", "infer", "decode"))
    assert result.timing["end_to_end"] == pytest.approx(parts)


def test_a_picture_without_a_frame_has_no_capture_time(card: ModelCard) -> None:
    result = Segmenter(FakeBackend(card), card)(image())
    assert "capture" not in result.timing
    assert result.frame_index == 0


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_make_an_invalid_result(card: ModelCard, wrong: float) -> None:
    logits = np.zeros((1, 3, 4, 6), np.float32)
    logits[0, 1, 2, 3] = wrong
    segmenter = Segmenter(FakeBackend(card, logits_nchw=logits), card)
    result = segmenter(image(size_hw=(50, 70)))
    assert result.valid is False
    assert result.mask.shape == (50, 70)
    assert set(result.mask.flat) == {255}
    logits[...] = 0
    assert segmenter(image()).valid is True


def test_results_do_not_share_memory_with_the_engine_or_each_other(card: ModelCard) -> None:
    first, second = np.zeros((1, 3, 32, 48), np.float32), np.zeros((1, 3, 32, 48), np.float32)
    first[0, 1], second[0, 2] = 1, 1
    for size_hw in ((32, 48), (64, 96), (5, 5)):  # 32 x 48 needs no upsampling
        backend = Fixed(card, first, second)
        segmenter = Segmenter(backend, card)
        one = segmenter(image(size_hw=size_hw))
        kept = one.mask.copy()
        two = segmenter(image(size_hw=size_hw))
        assert np.array_equal(one.mask, kept)
        assert set(two.mask.flat) == {2}
        assert not np.shares_memory(one.mask, two.mask)
        assert not np.shares_memory(two.mask, backend.buffer)
        two.mask[...] = 9  # the caller's own
        assert set(segmenter(image(size_hw=size_hw)).mask.flat) == {2}


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.bool_])
@pytest.mark.parametrize("shape", [(1, 32, 48), (1, 1, 32, 48), (32, 48)])
def test_class_maps(card: ModelCard, dtype, shape) -> None:
    mask_card = card.replace(head="mask")
    ids = RNG.integers(0, 2, shape).astype(dtype)
    backend = Fixed(mask_card, ids, np.zeros_like(ids))
    segmenter = Segmenter(backend, mask_card)
    result = segmenter(image())
    assert result.mask.dtype == np.uint8
    assert np.array_equal(result.mask, ids.reshape(32, 48))
    kept = result.mask.copy()
    segmenter(image())
    assert np.array_equal(result.mask, kept)
    assert not np.shares_memory(result.mask, backend.buffer)


def test_class_maps_are_repeated_to_the_frame(card: ModelCard) -> None:
    mask_card = card.replace(head="mask")
    ids = RNG.integers(0, 3, (1, 32, 48)).astype(np.uint8)
    result = Segmenter(Fixed(mask_card, ids), mask_card)(image(size_hw=(64, 144)))
    assert np.array_equal(result.mask, ids[0].repeat(2, 0).repeat(3, 1))


@pytest.mark.parametrize(
    ("head", "output", "said"),
    [
        ("logits", np.zeros((1, 4, 4, 6), np.float32), r"gave \[1, 4, 4, 6\], logits for 3 classes"),
        ("logits", np.zeros((1, 2, 4, 6), np.float32), "logits for 3 classes"),
        ("logits", np.zeros((2, 3, 4, 6), np.float32), "logits for 3 classes"),
        ("logits", np.zeros((1, 32, 48), np.float32), "logits for 3 classes"),
        ("logits", np.zeros((1, 3, 4, 6), np.int64), "float"),
        ("mask", np.full((1, 4, 6), 3), "gave class 3, its card names 3"),
        ("mask", np.full((1, 4, 6), 255, np.uint8), "gave class 255"),
        ("mask", np.full((1, 4, 6), -1), "gave class -1"),
        ("mask", np.zeros((2, 4, 6), np.uint8), r"gave uint8 \[2, 4, 6\]"),
        ("mask", np.zeros((1, 3, 4, 6), np.uint8), "class map is integers"),
        ("mask", np.zeros((1, 4, 6), np.float32), "gave float32"),
        ("mask", np.zeros(4, np.uint8), "class map is integers"),
    ],
)
def test_outputs_that_are_not_what_the_card_says(card: ModelCard, head: str, output: np.ndarray, said: str) -> None:
    other = card.replace(head=head)
    with pytest.raises(ModelError, match=said):
        Segmenter(Fixed(other, output), other)(image())


@pytest.mark.parametrize(
    "wrong", [None, np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)]
)
def test_what_is_no_frame(card: ModelCard, wrong) -> None:
    with pytest.raises(UsageError, match="A frame is"):
        Segmenter(FakeBackend(card), card)(wrong)


def test_a_stream_keeps_the_order_and_reads_one_at_a_time(card: ModelCard) -> None:
    source = FrameList([image(v) for v in (0, 100, 250)])
    stream = Segmenter(FakeBackend(card), card).stream(source)
    assert next(stream).frame_index == 0
    assert source._next == 1
    assert [int(r.mask[0, 0]) for r in stream] == [1, 2]


def test_an_error_of_the_engine_reaches_the_caller(card: ModelCard) -> None:
    with pytest.raises(BackendError, match="gone"):
        Segmenter(FakeBackend(card, error=BackendError("gone", "again")), card)(image())


# --- construction ----------------------------------------------------------------------------------------------


def test_the_output_is_named_where_there_are_several(card: ModelCard) -> None:
    backend = Fixed(card, np.zeros((1, 3, 4, 6), np.float32), names=("a", "b"))
    with pytest.raises(ModelError, match="outputs a, b"):
        Segmenter(backend, card)
    with pytest.raises(ModelError, match="no output 'c'"):
        Segmenter(backend, card, output="c")
    assert Segmenter(backend, card, output="b")(image()).valid


def test_an_engine_that_takes_something_else(card: ModelCard) -> None:
    with pytest.raises(ModelError, match="the card says"):
        Segmenter(FakeBackend(card), card.replace(input_size_hw=(16, 16)))


def test_closing(card: ModelCard) -> None:
    backend = Fixed(card, np.zeros((1, 3, 4, 6), np.float32))
    with Segmenter(backend, card) as segmenter:
        segmenter(image())
        assert backend.closed == 0
    assert backend.closed == 1


# --- load ------------------------------------------------------------------------------------------------------


def test_load_with_an_engine_of_ones_own(card: ModelCard) -> None:
    segmenter = load(backend=FakeBackend(card), card=card)
    assert segmenter(image()).valid
    assert segmenter.path is None
    with pytest.raises(UsageError, match="without a card"):
        load(backend=FakeBackend(card))


def test_load_a_model_with_its_card(tiny_model, tiny_backend, card: ModelCard) -> None:
    with edgeseg.load(tiny_model, tiny_backend) as segmenter:
        assert segmenter.card == card
        assert segmenter.path == tiny_model
        assert set(segmenter(image(255)).mask.flat) == {1}
        assert set(segmenter(image(0, (100, 20))).mask.flat) == {0}


def test_auto_takes_an_engine_that_is_installed(tiny_model) -> None:
    with load(tiny_model) as segmenter:
        assert segmenter.backend.name in ("openvino", "onnxruntime")


def test_half_bright_frames_split_where_the_light_does(tiny_model, tiny_backend) -> None:
    picture = image(0, (32, 48))
    picture[:, 24:] = 255
    with load(tiny_model, tiny_backend, threads=1) as segmenter:
        mask = segmenter(picture).mask
    assert set(mask[:, :20].flat) == {0}
    assert set(mask[:, 28:].flat) == {1}


def test_a_graph_that_ends_in_an_argmax(tmp_path, make_model, tiny_model, tiny_backend, card: ModelCard) -> None:
    path = make_model(tmp_path / "m.onnx", card.replace(head="mask"), head="mask", outputs=("mask",))
    with load(path, tiny_backend) as segmenter:
        assert set(segmenter(image(255, (50, 50))).mask.flat) == {1}


def test_a_graph_that_gives_nan(tmp_path, make_model, tiny_model, tiny_backend, card: ModelCard) -> None:
    with load(make_model(tmp_path / "m.onnx", card, nan=True), tiny_backend) as segmenter:
        result = segmenter(image())
    assert not result.valid
    assert set(result.mask.flat) == {255}


def test_a_model_without_a_card(tmp_path, make_model, tiny_model, tiny_backend) -> None:
    path = make_model(tmp_path / "m.onnx", None, dtype="float32", layout="nchw", size_hw=(None, None))
    with pytest.raises(ModelError, match="no model card"):
        load(path, tiny_backend)
    facts = ModelFacts(("dark", "bright", "never"), [0.0], [1 / 255], "rgb", (64, 96))
    with load(path, tiny_backend, facts=facts) as segmenter:
        assert segmenter.card.input_size_hw == (64, 96)
        assert set(segmenter(image(255)).mask.flat) == {1}
    own = tmp_path / "card.json"
    own.write_text(segmenter.card.to_json())
    gc.collect()
    with load(path, tiny_backend, card=own) as segmenter:
        assert set(segmenter(image(20)).mask.flat) == {0}


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (ModelFacts(imgsz=(64, 96)), "--imgsz asks for 64x96"),
        (ModelFacts(classes=("a",)), "other classes than --classes"),
        (ModelFacts(mean=[0.5]), "already says mean"),
        (ModelFacts(std=[0.5]), "already says std"),
        (ModelFacts(color_order="rgb"), "leave --color-order out"),
        (ModelFacts(output="x"), "no output 'x'"),
    ],
)
def test_facts_that_contradict_the_card(tiny_model, facts, said) -> None:
    with pytest.raises(ModelError, match=said):
        load(tiny_model, facts=facts)


def test_facts_that_agree_with_the_card(tiny_model, tiny_backend, card: ModelCard) -> None:
    load(tiny_model, tiny_backend, facts=ModelFacts(classes=card.classes, imgsz=(32, 48))).close()


def test_a_card_of_another_size_than_the_graph(tiny_model, tiny_backend, card: ModelCard) -> None:
    with pytest.raises(ModelError, match="the card says"):
        load(tiny_model, tiny_backend, card=card.replace(input_size_hw=(64, 64)))


def test_names_and_paths_that_lead_nowhere(tmp_path) -> None:
    for name, said in (
        (tmp_path / "none.onnx", "no model file"),
        ("none.onnx", "no model file"),
        ("no-such-model", "no bundled model 'no-such-model'"),
        (tmp_path, "is a folder"),
        ("x" * 300, "Cannot read|no bundled model"),
    ):
        with pytest.raises(ModelError, match=said):
            load(name)


def test_a_misspelt_bundled_name_is_put_right(tmp_path, monkeypatch) -> None:
    (tmp_path / "ddrnet-c32-camvid.onnx").touch()
    monkeypatch.setattr(bundled, "_FOLDER", tmp_path)
    assert bundled.resolve("ddrnet-c32-camvid") == tmp_path / "ddrnet-c32-camvid.onnx"
    with pytest.raises(ModelError, match="did you mean 'ddrnet-c32-camvid'"):
        bundled.resolve("ddrnet-c32-camvd")
    with pytest.raises(ModelError, match="or give the bundled 'ddrnet-c32-camvid'"):
        bundled.resolve("ddrnet-c32-camvid.onnx")


def test_files_that_are_no_onnx_model(tmp_path, tiny_model) -> None:
    whole = tiny_model.read_bytes()
    for content, said in ((b"", "is empty"), (b"hello", "not an ONNX file"), (whole[: len(whole) // 2], "truncated")):
        (tmp_path / "x.onnx").write_bytes(content)
        with pytest.raises(ModelError, match=said):
            load(tmp_path / "x.onnx")


def test_an_unknown_engine_suggests_the_nearest(tiny_model) -> None:
    with pytest.raises(UsageError, match="did you mean 'onnxruntime'"):
        load(tiny_model, "onnxrutime")


def test_checkpoints_need_the_training_package(tmp_path, monkeypatch) -> None:
    import sys

    (tmp_path / "best.pt").write_bytes(b"x")
    with pytest.raises(UsageError, match="export it first"):
        load(tmp_path / "best.pt", "onnxruntime")
    monkeypatch.setitem(sys.modules, "edgeseg_train.backend", None)
    with pytest.raises(MissingDependencyError, match=r"edgeseg\[train\]"):
        load(tmp_path / "best.pt")
