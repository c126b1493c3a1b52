"""One contract for every engine. Those that are not installed skip."""

from __future__ import annotations

import gc
import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg import backends, processor
from edgeseg.backends import Backend, choose_backend, open_backend
from edgeseg.backends.fake import FakeBackend
from edgeseg.backends.tensorrt import TensorRtBackend
from edgeseg.card import ModelCard
from edgeseg.errors import BackendError, ModelError, UsageError
from edgeseg.tensors import TensorSpec, check_input, check_inputs
from edgeseg.trt.engine import build_engine
from edgeseg.trt.library import load_tensorrt
from edgeseg.trt.options import BuildOptions
from edgeseg.trt.plan import open_plan

RNG = np.random.default_rng(0)
REAL = ("onnxruntime", "openvino")
ON_GPU = ("tensorrt", "onnxruntime-cuda", "onnxruntime-tensorrt")


def needs(name: str) -> None:
    if name in REAL and importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")


@pytest.fixture(scope="session")
def tiny_engine(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model built by TensorRT; skips where there is none or no GPU."""
    try:
        load_tensorrt()
    except BackendError as error:
        pytest.skip(str(error))
    path = tmp_path_factory.mktemp("engine") / "tiny.engine"
    build_engine(tiny_model, path, BuildOptions(), timing_cache=path.with_suffix(".timing"))
    return path


@pytest.fixture(scope="session")
def open_tiny(request: pytest.FixtureRequest, card: ModelCard) -> Callable[[str], Backend]:
    def open_engine(name: str) -> Backend:
        if name == "fake":
            return FakeBackend(card)
        if name == "tensorrt":
            path = request.getfixturevalue("tiny_engine")
            return TensorRtBackend(open_plan(path)[0], card, path)
        try:
            return open_backend(request.getfixturevalue("tiny_model"), card, name, threads=1)
        except BackendError as error:
            if name not in ON_GPU:
                raise
            pytest.skip(str(error))

    return open_engine


@pytest.fixture(params=("fake", *REAL, *(pytest.param(name, marks=pytest.mark.gpu) for name in ON_GPU)))
def backend(request: pytest.FixtureRequest, open_tiny: Callable[[str], Backend]):
    needs(request.param)
    opened = open_tiny(request.param)
    yield opened
    opened.close()


@pytest.fixture
def expected(backend: Backend, tiny_logits) -> Callable[[np.ndarray], np.ndarray]:
    """What the backend should give for a uint8 image [32, 48, 3], computed in numpy alone."""
    if backend.name != "fake":
        return tiny_logits

    def bands(image: np.ndarray) -> np.ndarray:
        band = np.minimum(image[::8, ::8].astype(float).mean(-1) * 3 // 256, 2)
        return (band[None] == np.arange(3)[:, None, None])[None].astype(float)

    return bands


@pytest.fixture
def agree(backend: Backend) -> Callable[[np.ndarray, np.ndarray], None]:
    """Fails unless an output is what it should be; TensorRT multiplies in TF32, with 10 bits of mantissa."""
    tolerance = 0.3 if "tensorrt" in backend.name else 1e-3
    return partial(np.testing.assert_allclose, rtol=1e-5, atol=tolerance)


def picture() -> np.ndarray:
    return RNG.integers(0, 256, (32, 48, 3), np.uint8)


# --- the contract ----------------------------------------------------------------------------------------------


def test_it_says_what_it_is(backend: Backend) -> None:
    assert backend.name in ("fake", *REAL, *ON_GPU)
    assert backend.device
    assert backend.version[0].isdigit()
    assert "\n" not in backend.version


def test_specs(backend: Backend) -> None:
    assert backend.inputs == (TensorSpec("image", np.dtype(np.uint8), (1, 32, 48, 3)),)
    assert backend.outputs == (TensorSpec("logits", np.dtype(np.float32), (1, 3, 4, 6)),)
    for spec in (*backend.inputs, *backend.outputs):
        assert all(type(axis) is int for axis in spec.shape)


def test_values_agree_with_numpy(backend: Backend, expected, agree) -> None:
    for image in (picture(), np.zeros((32, 48, 3), np.uint8), np.full((32, 48, 3), 255, np.uint8)):
        outputs = backend.infer({"image": image[None]})
        assert set(outputs) == {"logits"}
        assert outputs["logits"].dtype == np.float32
        assert outputs["logits"].shape == (1, 3, 4, 6)
        agree(outputs["logits"], expected(image))


def test_outputs_hold_until_the_next_call(backend: Backend, expected, agree) -> None:
    image = picture()
    feed = image[None].copy()
    output = backend.infer({"image": feed})["logits"]
    feed[...] = 0
    del feed
    gc.collect()
    _ = [np.ones(1 << 16) for _ in range(20)]
    agree(output, expected(image))
    other = picture()
    agree(backend.infer({"image": other[None]})["logits"], expected(other))


def test_the_feed_is_only_read(backend: Backend, expected, agree) -> None:
    image = picture()
    frozen = image[None].copy()
    frozen.flags.writeable = False
    agree(backend.infer({"image": frozen})["logits"], expected(image))
    assert np.array_equal(frozen[0], image)


def test_views_are_welcome(backend: Backend, expected, agree) -> None:
    wide = RNG.integers(0, 256, (1, 64, 96, 3), np.uint8)
    for view in (wide[:, ::2, ::2], wide[:, :32, :48], wide[:, :32, :48, ::-1], wide[:, 31::-1, 47::-1]):
        output = backend.infer({"image": view})["logits"]
        agree(output, expected(view[0]))


@pytest.mark.parametrize(
    "feed",
    [
        {},
        {"img": np.zeros((1, 32, 48, 3), np.uint8)},
        {"image": np.zeros((1, 32, 48, 3), np.uint8), "more": np.zeros(1, np.uint8)},
        {"image": np.zeros((1, 32, 48, 3), np.float32)},
        {"image": np.zeros((1, 32, 48, 3), np.int8)},
        {"image": np.zeros((1, 48, 32, 3), np.uint8)},
        {"image": np.zeros((2, 32, 48, 3), np.uint8)},
        {"image": np.zeros((32, 48, 3), np.uint8)},
        {"image": None},
        {"image": "text"},
        {"image": [[1, 2], [3]]},
    ],
    ids=["nothing", "name", "more", "float", "int8", "shape", "batch", "axes", "none", "text", "ragged"],
)
def test_a_wrong_feed_is_an_error_of_ours_that_names_what_is_wanted(backend: Backend, feed: dict[str, Any]) -> None:
    with pytest.raises(BackendError, match=r"feed image: uint8 \[1, 32, 48, 3\]"):
        backend.infer(feed)
    assert backend.infer({"image": picture()[None]})["logits"].shape == (1, 3, 4, 6)


def test_closing_twice_and_inferring_afterwards(backend: Backend, expected) -> None:
    image = picture()
    output = backend.infer({"image": image[None]})["logits"]
    backend.close()
    backend.close()
    for _ in range(2):
        with pytest.raises(BackendError, match="closed"):
            backend.infer({"image": image[None]})
    assert output.shape == (1, 3, 4, 6)


def test_two_of_one_kind_do_not_disturb_each_other(backend: Backend, expected, agree, open_tiny) -> None:
    other = open_tiny(backend.name)
    first, second = picture(), picture()
    one = backend.infer({"image": first[None]})["logits"]
    two = other.infer({"image": second[None]})["logits"]
    agree(one, expected(first))
    agree(two, expected(second))
    other.close()
    assert backend.infer({"image": first[None]})["logits"].shape == (1, 3, 4, 6)


# --- models that an engine refuses -----------------------------------------------------------------------------


@pytest.fixture(params=REAL)
def engine(request: pytest.FixtureRequest, tiny_model: Path) -> str:
    needs(request.param)
    return str(request.param)


def test_files_that_are_no_model(tmp_path: Path, engine: str, tiny_model: Path, card: ModelCard, capfd) -> None:
    whole = tiny_model.read_bytes()
    # Text is left out: OpenVINO takes it for TensorFlow's and logs that; edgeseg.load refuses it before.
    for content in (b"", whole[: len(whole) // 2], whole[:-1]):
        (tmp_path / "x.onnx").write_bytes(content)
        with pytest.raises((BackendError, ModelError)) as caught:
            open_backend(tmp_path / "x.onnx", card, engine)
        assert "x.onnx" in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises((BackendError, ModelError)):
        open_backend(tmp_path / "none.onnx", card, engine)
    assert capfd.readouterr().err == ""


def test_damaged_models(tmp_path: Path, engine: str, tiny_model: Path, card: ModelCard, capfd) -> None:
    whole = tiny_model.read_bytes()
    name = whole.index(b"scores")  # a text that is not UTF-8
    (tmp_path / "x.onnx").write_bytes(whole[:name] + b"\xba" + whole[name + 1 :])
    with pytest.raises(BackendError, match=r"refuses .*x\.onnx"):
        open_backend(tmp_path / "x.onnx", card, engine)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_an_operator_nobody_knows(tmp_path: Path, make_model, engine: str, card: ModelCard, capfd) -> None:
    path = make_model(tmp_path / "x.onnx", card, bad_op=True)
    with pytest.raises(BackendError, match=r"refuses .*x\.onnx .*Mend: "):
        open_backend(path, card, engine)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("graph", "facts", "said"),
    [
        ({"size_hw": (64, 48)}, {}, r"is uint8 \[1, 64, 48, 3\], the card says uint8 \[1, 32, 48, 3\]"),
        ({"dtype": "float32"}, {}, "is float32 .* the card says uint8"),
        ({}, {"input_dtype": "float32"}, "is uint8 .* the card says float32"),
        ({}, {"input_layout": "nchw"}, "the card says"),
        ({"inputs": 2}, {}, "has 2 inputs"),
    ],
)
def test_another_input_than_the_cards(tmp_path: Path, make_model, engine, card: ModelCard, graph, facts, said) -> None:
    path = make_model(tmp_path / "x.onnx", card, **graph)
    with pytest.raises(ModelError, match=said):
        open_backend(path, card.replace(**facts), engine)


@pytest.mark.parametrize("size_hw", [(32, 48), (64, 40)])
def test_an_open_size_is_taken_from_the_card(tmp_path, make_model, engine, card, size_hw, tiny_logits) -> None:
    path = make_model(tmp_path / "x.onnx", None, size_hw=(None, None))
    backend = open_backend(path, card.replace(input_size_hw=size_hw), engine)
    image = RNG.integers(0, 256, (*size_hw, 3), np.uint8)
    output = backend.infer({"image": image[None]})["logits"]
    np.testing.assert_allclose(output, tiny_logits(image), rtol=1e-5, atol=1e-3)
    backend.close()


def test_a_failure_while_running_is_an_error_of_ours(tmp_path, make_model, engine, card: ModelCard, capfd) -> None:
    small = card.replace(input_size_hw=(2, 2))  # smaller than the kernel
    path = make_model(tmp_path / "x.onnx", None, size_hw=(None, None))
    with pytest.raises(BackendError):
        open_backend(path, small, engine).infer({"image": np.zeros((1, 2, 2, 3), np.uint8)})
    assert capfd.readouterr().err == ""


def test_several_outputs(tmp_path: Path, make_model, engine: str, card: ModelCard) -> None:
    backend = open_backend(make_model(tmp_path / "x.onnx", card, outputs=("logits", "again")), card, engine)
    assert [spec.name for spec in backend.outputs] == ["logits", "again"]
    outputs = backend.infer({"image": picture()[None]})
    assert np.array_equal(outputs["logits"], outputs["again"])
    backend.close()


def test_an_output_keeps_its_own_name(tmp_path: Path, make_model, engine: str, card: ModelCard) -> None:
    # Inside, the tensor is called "scores", which comes first by alphabet.
    path = make_model(tmp_path / "x.onnx", card, outputs=("zone",))
    backend = open_backend(path, card, engine)
    assert [spec.name for spec in backend.outputs] == ["zone"]
    assert set(backend.infer({"image": picture()[None]})) == {"zone"}
    backend.close()


# --- choosing one ----------------------------------------------------------------------------------------------


def test_choice(monkeypatch) -> None:
    monkeypatch.setattr(backends, "installed_backends", lambda: ("openvino", "onnxruntime"))
    assert choose_backend("auto") == "openvino"
    assert choose_backend("onnxruntime") == "onnxruntime"
    assert choose_backend("openvino-bf16") == "openvino-bf16"
    with pytest.raises(UsageError, match=r"no backend 'openvno'.*did you mean 'openvino'"):
        choose_backend("openvno")
    monkeypatch.setattr(backends, "installed_backends", lambda: ())
    for name, said in (("auto", "No inference engine is installed"), ("openvino", "'openvino' is not installed")):
        with pytest.raises(BackendError, match=rf"{said}.*pip install 'edgeseg\[cpu\]'"):
            choose_backend(name)


def test_installed_engines_are_looked_up_without_importing_them() -> None:
    found = backends.installed_backends()
    assert set(found) == {name for name in REAL if importlib.util.find_spec(name)}


def test_bfloat16_is_only_computed_on_request(open_tiny, monkeypatch) -> None:
    needs("openvino")
    if not processor.features() & processor.BFLOAT16:
        pytest.skip("this processor does not compute in bfloat16")
    monkeypatch.setattr(backends, "installed_backends", lambda: ("openvino",))
    assert choose_backend("auto") == "openvino"
    narrow, wide = open_tiny("openvino-bf16"), open_tiny("openvino")
    assert narrow.name == "openvino-bf16"
    feed = {"image": picture()[None]}
    found, exact = narrow.infer(feed)["logits"], wide.infer(feed)["logits"]
    assert not np.array_equal(found, exact)
    np.testing.assert_allclose(found, exact, rtol=0, atol=0.02 * np.abs(exact).max())
    narrow.close()
    wide.close()


def test_bfloat16_is_refused_where_the_processor_lacks_it(open_tiny, monkeypatch) -> None:
    needs("openvino")
    monkeypatch.setattr("edgeseg.backends.openvino.features", lambda: frozenset({"avx2"}))
    with pytest.raises(BackendError, match=r"does not compute in bfloat16.*--backend openvino"):
        open_tiny("openvino-bf16")


# --- the fake --------------------------------------------------------------------------------------------------


def test_the_fake_gives_what_it_was_told_to(card: ModelCard) -> None:
    logits = RNG.normal(size=(1, 3, 2, 2)).astype(np.float32)
    fake = FakeBackend(card, logits_nchw=logits)
    assert fake.outputs[0].shape == (1, 3, 2, 2)
    assert np.array_equal(fake.infer({"image": picture()[None]})["logits"], logits)
    with pytest.raises(RuntimeError, match="boom"):
        FakeBackend(card, error=RuntimeError("boom")).infer({"image": picture()[None]})


def test_the_fake_takes_every_layout(card: ModelCard) -> None:
    other = card.replace(input_layout="nchw", input_dtype="float32")
    fake = FakeBackend(other)
    assert fake.inputs[0].shape == (1, 3, 32, 48)
    output = fake.infer({"image": np.full((1, 3, 32, 48), 250, np.float32)})["logits"]
    assert set(output.argmax(1).flat) == {2}


def test_check_input_takes_open_axes(card: ModelCard) -> None:
    check_input(TensorSpec("x", np.dtype(np.uint8), (None, None, None, 3)), card, "m")
    for shape in ((1, 32, 48), (1, 3, 32, 48), (), (1, 32, 48, 4)):
        with pytest.raises(ModelError):
            check_input(TensorSpec("x", np.dtype(np.uint8), shape), card, "m")
    with pytest.raises(ModelError, match="has 0 inputs"):
        check_inputs([], card, "m")
