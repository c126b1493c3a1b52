"""ONNX Runtime on a GPU, without one: the binding on a real session, the messages on a package that only says things.

The fake stands for what onnxruntime-gpu 1.31 was seen to answer on machines without driver or libraries. That it
computes right on a GPU is for tests/gpu to show.
"""

from __future__ import annotations

import sys
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg import doctor
from edgeseg.backends import onnxruntime_gpu, open_backend
from edgeseg.backends.onnxruntime_gpu import BoundSession, OnnxRuntimeCudaBackend, OnnxRuntimeTensorRtBackend
from edgeseg.card import ModelCard
from edgeseg.doctor import Cuda, Gpu
from edgeseg.errors import BackendError, MissingDependencyError, ModelError

GPU = Gpu("Some card", "8.9", 24 * 2**30, integrated=False)
GPU_PROVIDERS = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
KINDS = {"cuda": OnnxRuntimeCudaBackend, "tensorrt": OnnxRuntimeTensorRtBackend}
PLUGINS = "Please install TensorRT libraries as mentioned in the GPU requirements page\n"


@pytest.fixture
def image() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (1, 32, 48, 3), np.uint8)


@pytest.fixture
def bound(tiny_model: Path, card: ModelCard) -> BoundSession:
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(str(tiny_model), providers=["CPUExecutionProvider"])
    return BoundSession(ort, session, card, tiny_model, memory="cpu")


@pytest.fixture(autouse=True)
def driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "read_cuda", lambda: Cuda((13, 0), (GPU,)))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> types.SimpleNamespace:
    """A package ``onnxruntime`` that opens nothing; ``asked`` is what its session was asked for."""
    ort = types.SimpleNamespace(
        __version__="1.31.1", __file__=str(tmp_path / "__init__.py"), cuda_version="13.0", asked={}, error=None,
        providers=["CPUExecutionProvider"], left=(),
    )  # fmt: skip

    class Options:
        def add_session_config_entry(self, key: str, value: str) -> None: ...

    class Session:
        def __init__(self, path: str, options: Options, providers: list[Any], enable_fallback: int) -> None:
            ort.asked.update(providers)
            if ort.error is not None:
                raise ort.error

        def get_providers(self) -> list[str]:
            return list(ort.providers)

        def get_provider_graph_assignment_info(self) -> list[Any]:
            nodes = [types.SimpleNamespace(op_type=name) for name in ort.left]
            return [types.SimpleNamespace(ep_name="CPUExecutionProvider", get_nodes=lambda: nodes)]

    ort.SessionOptions, ort.InferenceSession = Options, Session
    ort.get_available_providers = lambda: GPU_PROVIDERS
    ort.set_default_logger_severity = lambda level: None
    monkeypatch.setitem(sys.modules, "onnxruntime", ort)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    return ort


def loader_says(monkeypatch: pytest.MonkeyPatch, words: str | None) -> None:
    monkeypatch.setattr(onnxruntime_gpu, "_fault_of", lambda ort, provider: words)


def test_values_are_those_of_an_ordinary_run(bound: BoundSession, image, tiny_logits) -> None:
    np.testing.assert_allclose(bound.infer({"image": image})["logits"], tiny_logits(image[0]), rtol=1e-5, atol=1e-3)
    other = image[:, ::-1]  # not contiguous
    np.testing.assert_allclose(bound.infer({"image": other})["logits"], tiny_logits(other[0]), rtol=1e-5, atol=1e-3)


def test_nothing_is_allocated_for_a_frame(bound: BoundSession, image) -> None:
    first = bound.infer({"image": image})["logits"]
    second = bound.infer({"image": 255 - image})["logits"]
    assert first.ctypes.data == second.ctypes.data


@pytest.mark.parametrize("size_hw", [(32, 48), (64, 40)])
def test_an_open_size_is_taken_from_the_card(tmp_path, make_model, card, size_hw, tiny_logits) -> None:
    ort = pytest.importorskip("onnxruntime")
    path = make_model(tmp_path / "x.onnx", None, size_hw=(None, None))
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    bound = BoundSession(ort, session, card.replace(input_size_hw=size_hw), path, memory="cpu")
    image = np.random.default_rng(0).integers(0, 256, (1, *size_hw, 3), np.uint8)
    np.testing.assert_allclose(bound.infer({"image": image})["logits"], tiny_logits(image[0]), rtol=1e-5, atol=1e-3)


def test_what_does_not_fit_is_refused(bound: BoundSession, tiny_model, card: ModelCard, image) -> None:
    with pytest.raises(BackendError, match=r"feed image: uint8 \[1, 32, 48, 3\]"):
        bound.infer({"image": image.astype(np.float32)})
    with pytest.raises(ModelError, match="the card says float32"):
        BoundSession(
            pytest.importorskip("onnxruntime"), bound._session, card.replace(input_dtype="float32"), tiny_model,
            memory="cpu",
        )  # fmt: skip


def test_without_a_driver_nothing_else_is_tried(monkeypatch, tiny_model, card: ModelCard, fake) -> None:
    monkeypatch.setattr(doctor, "read_cuda", lambda: None)
    with pytest.raises(BackendError, match=r"ONNX Runtime on a GPU needs an NVIDIA GPU .*libcuda.*install NVIDIA"):
        OnnxRuntimeCudaBackend(tiny_model, card)
    assert not fake.asked


def test_without_the_package(monkeypatch, tiny_model, card: ModelCard) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"onnxruntime-gpu.*edgeseg\[gpu\]"):
        OnnxRuntimeCudaBackend(tiny_model, card)


@pytest.mark.parametrize(
    ("provider", "built_in", "said"),
    [
        ("cuda", ["CPUExecutionProvider"], r"is the one for CPUs.*onnxruntime-gpu"),
        ("tensorrt", GPU_PROVIDERS[1:], r"was built without TensorRT.*--backend onnxruntime-cuda"),
    ],
)
def test_a_build_without_the_provider(tiny_model, card: ModelCard, fake, provider, built_in, said) -> None:
    fake.get_available_providers = lambda: built_in
    with pytest.raises(BackendError, match=said):
        KINDS[provider](tiny_model, card)


def test_a_driver_older_than_the_build(monkeypatch, tiny_model, card: ModelCard, fake) -> None:
    monkeypatch.setattr(doctor, "read_cuda", lambda: Cuda((12, 6), (GPU,)))
    with pytest.raises(BackendError, match=r"is for CUDA 13.0, the driver runs CUDA 12.6"):
        OnnxRuntimeCudaBackend(tiny_model, card)


@pytest.mark.parametrize(
    ("provider", "words", "mend"),
    [
        ("cuda", "libcublasLt.so.13: cannot open shared object file", r"onnxruntime-gpu\[cuda,cudnn\]"),
        ("tensorrt", "libnvinfer.so.10: cannot open shared object file", r"pip install 'tensorrt==10\.\*'"),
    ],
)
def test_a_quiet_fall_back_names_the_missing_library(
    monkeypatch, tiny_model, card: ModelCard, fake, provider, words, mend
) -> None:
    loader_says(monkeypatch, words)
    # The CUDA provider falls back without a word; TensorRT's raises a sentence that does not say what is missing.
    fake.error = RuntimeError(PLUGINS) if provider == "tensorrt" else None
    with pytest.raises(BackendError, match=rf"{words.partition(':')[0]}.*{mend}") as caught:
        KINDS[provider](tiny_model, card)
    assert "\n" not in str(caught.value)


def test_tensorrt_that_became_cuda_is_a_fall_back_too(monkeypatch, tiny_model, card: ModelCard, fake) -> None:
    loader_says(monkeypatch, None)
    fake.providers = GPU_PROVIDERS[1:]
    with pytest.raises(BackendError, match="cannot use TensorRT"):
        OnnxRuntimeTensorRtBackend(tiny_model, card)


def test_a_model_that_is_refused(monkeypatch, tiny_model, card: ModelCard, fake) -> None:
    loader_says(monkeypatch, None)
    fake.error = RuntimeError("no such operator\nand a page more")
    with pytest.raises(BackendError, match=r"refuses .*tiny\.onnx on CUDA \(no such operator\)"):
        OnnxRuntimeCudaBackend(tiny_model, card)


@pytest.mark.parametrize(("precision", "flags"), [("fp32", "00"), ("fp16", "10"), ("int8", "11")])
def test_tensorrt_keeps_its_engines_beside_the_model(
    monkeypatch, tmp_path, tiny_model, card: ModelCard, fake, precision, flags
) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(tiny_model.read_bytes())
    fake.providers = GPU_PROVIDERS
    monkeypatch.setattr(onnxruntime_gpu, "BoundSession", lambda *_, **__: types.SimpleNamespace(inputs=(), outputs=()))
    folders = set()
    for gpu in (GPU, Gpu("Another", "9.0", 1, integrated=False)):
        monkeypatch.setattr(doctor, "read_cuda", lambda gpu=gpu: Cuda((13, 0), (gpu,)))
        OnnxRuntimeTensorRtBackend(model, card.replace(precision=precision))
        asked = fake.asked["TensorrtExecutionProvider"]
        assert asked["trt_fp16_enable"] + asked["trt_int8_enable"] == flags
        folders.add(Path(asked["trt_engine_cache_path"]))
    assert len(folders) == 2
    assert all(folder.parent == tmp_path / "m.onnx.tensorrt" and folder.is_dir() for folder in folders)


def test_a_failure_leaves_no_folder_but_keeps_engines(monkeypatch, tmp_path, tiny_model, card: ModelCard, fake) -> None:
    loader_says(monkeypatch, "libnvinfer.so.10: cannot open shared object file")
    model = tmp_path / "m.onnx"
    model.write_bytes(tiny_model.read_bytes())
    with pytest.raises(BackendError):
        OnnxRuntimeTensorRtBackend(model, card)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    folder = Path(fake.asked["TensorrtExecutionProvider"]["trt_engine_cache_path"])
    folder.mkdir(parents=True)
    (folder / "some.engine").touch()
    with pytest.raises(BackendError):
        OnnxRuntimeTensorRtBackend(model, card)
    assert (folder / "some.engine").exists()


def test_layers_that_stay_on_the_cpu_are_told(monkeypatch, tiny_model, card: ModelCard, fake) -> None:
    fake.providers, fake.left = GPU_PROVIDERS[1:], ("Resize", "NonZero", "Resize")
    monkeypatch.setattr(onnxruntime_gpu, "BoundSession", lambda *_, **__: types.SimpleNamespace(inputs=(), outputs=()))
    with pytest.warns(UserWarning, match=r"run on the CPU: NonZero, Resize"):
        backend = OnnxRuntimeCudaBackend(tiny_model, card)
    assert backend.device == "Some card"
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        backend.infer({})
    fake.left = ()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        OnnxRuntimeCudaBackend(tiny_model, card)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_the_real_package_here(tiny_model: Path, card: ModelCard, provider: str, capfd) -> None:
    ort = pytest.importorskip("onnxruntime")
    if doctor._load_cuda_driver() is not None:
        pytest.skip("this machine has a driver")
    said = "is the one for CPUs"
    if "CUDAExecutionProvider" in ort.get_available_providers():
        said = r"would fall back to the CPU \(lib\w+\.so\.\d+: cannot open"
    with pytest.raises(BackendError, match=said):
        open_backend(tiny_model, card, f"onnxruntime-{provider}")
    assert capfd.readouterr() == ("", "")
