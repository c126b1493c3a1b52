"""The TensorRT backend on fakes of TensorRT and of the driver: order of calls, memory, graphs and errors.

The kernels that run here are the real ones, compiled for the host. None of this shows anything about a GPU.
"""

from __future__ import annotations

import gc
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import fake_cuda
import numpy as np
import pytest
from fake_cuda import FakeCuda
from fake_tensorrt import FakeTensorRt, Tensor
from frame_checks import resized
from host_kernels import host_kernels

from edgeseg.backends import Backend, FrameBackend
from edgeseg.backends.tensorrt import TensorRtBackend
from edgeseg.card import ModelCard
from edgeseg.decode import classmap_from_logits
from edgeseg.errors import BackendError, ModelError, UsageError
from edgeseg.segmenter import Segmenter
from edgeseg.tensors import TensorSpec
from edgeseg.trt import cuda, kernels, network
from edgeseg.trt.cuda import CudaError, Driver
from edgeseg.trt.library import EngineWarning

RNG = np.random.default_rng(0)
PATH = Path("model.engine")
FRAME = ("upload", "clear", "prepare_8", "network", "winners_f32", "decode_f32", "download", "download")


def picture(height: int = 32, width: int = 48) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), np.uint8)


class World:
    """A GPU with TensorRT, both faked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tiny_logits: Callable[..., np.ndarray], **gpu: object) -> None:
        host_kernels()
        self.cuda = FakeCuda(**gpu)
        self.trt = FakeTensorRt(
            self.cuda,
            {"image": Tensor("UINT8", (1, 32, 48, 3), is_input=True), "logits": Tensor("FLOAT", (1, 3, 4, 6))},
            lambda feed: {"logits": tiny_logits(feed["image"][0])},
        )

        monkeypatch.setattr(cuda, "driver", lambda: Driver(self.cuda))
        monkeypatch.setattr(network, "load_tensorrt", lambda: self.trt)
        monkeypatch.setattr(network, "log_of", lambda trt: trt)
        monkeypatch.setattr(kernels, "_image", lambda cuda_major, name, architecture: name.encode())

    def ran(self) -> list[str]:
        """What the device did for frames, without events and the tables it was sent before."""
        steps = [step for step in self.cuda.ran if step != "event"]
        return steps[next(i for i, step in enumerate(steps) if step != "upload") - (not self.cuda.integrated) :]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tiny_logits) -> World:
    return World(monkeypatch, tiny_logits)


@pytest.fixture
def backend(world: World, card: ModelCard):
    opened = TensorRtBackend(b"plan", card, PATH)
    yield opened
    opened.close()
    assert world.cuda.left() == []


@pytest.fixture
def segmenter(backend: TensorRtBackend, card: ModelCard) -> Segmenter:
    return Segmenter(backend, card)


@pytest.fixture
def expected(tiny_logits) -> Callable[[np.ndarray], np.ndarray]:
    """The class map of a frame of any size, on the CPU."""

    def mask(image: np.ndarray) -> np.ndarray:
        logits = tiny_logits(resized(image, (32, 48)))[0].astype(np.float32)
        return classmap_from_logits(logits, image.shape[:2])[0]

    return mask


# --- the network alone ---------------------------------------------------------------------------------------------


def test_what_it_says(backend: TensorRtBackend) -> None:
    protocol: Backend = backend
    assert (protocol.name, protocol.device, protocol.version) == ("tensorrt", "Fake GPU", "10.3.0")
    assert backend.inputs == (TensorSpec("image", np.dtype(np.uint8), (1, 32, 48, 3)),)
    assert backend.outputs == (TensorSpec("logits", np.dtype(np.float32), (1, 3, 4, 6)),)
    assert isinstance(backend, FrameBackend)


def test_values_agree_with_numpy(backend: TensorRtBackend, tiny_logits) -> None:
    wide = RNG.integers(0, 256, (1, 64, 96, 3), np.uint8)
    for view in (picture()[None], wide[:, ::2, ::2], wide[:, 31::-1, 47::-1]):
        logits = backend.infer({"image": view})["logits"]
        np.testing.assert_allclose(logits, tiny_logits(view[0]), rtol=1e-6)


def test_a_wrong_feed(backend: TensorRtBackend) -> None:
    with pytest.raises(BackendError, match=r"feed image: uint8 \[1, 32, 48, 3\]"):
        backend.infer({"image": np.zeros((1, 32, 48, 3), np.float32)})


def test_a_size_left_open_is_the_cards(world: World, card: ModelCard) -> None:
    world.trt.tensors = {
        "image": Tensor("UINT8", (1, -1, -1, 3), is_input=True),
        "logits": Tensor("FLOAT", (1, 3, -1, -1)),
    }
    backend = TensorRtBackend(b"plan", card, PATH)
    assert backend.inputs[0].shape == (1, 32, 48, 3)
    assert backend.outputs[0].shape == (1, 3, 8, 8)
    backend.close()
    with pytest.raises(ModelError, match=r"not built for an input 'image' of \[1, 128, 48, 3\].*--profile"):
        TensorRtBackend(b"plan", card.replace(input_size_hw=(128, 48)), PATH)
    assert world.cuda.left() == []


def test_another_input_than_the_cards(world: World, card: ModelCard) -> None:
    with pytest.raises(ModelError, match=r"is uint8 \[1, 32, 48, 3\], the card says uint8 \[1, 64, 48, 3\]"):
        TensorRtBackend(b"plan", card.replace(input_size_hw=(64, 48)), PATH)
    assert world.cuda.left() == []


def test_a_kind_of_number_that_numpy_has_not(world: World, card: ModelCard) -> None:
    world.trt.tensors["logits"].kind = "BF16"
    with pytest.raises(ModelError, match=r"'logits' of the engine holds BF16.*export the model with float32"):
        TensorRtBackend(b"plan", card, PATH)


# --- whole frames --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("integrated", [False, True])
def test_class_maps_are_those_of_the_cpu(monkeypatch, tiny_logits, card, expected, integrated: bool) -> None:
    world = World(monkeypatch, tiny_logits, integrated=integrated)
    with Segmenter(TensorRtBackend(b"plan", card, PATH), card) as segmenter:
        masks = []
        for size_hw in [(72, 128)] * 4 + [(32, 48), (50, 40), (50, 40), (50, 40), (72, 128)]:
            frame = picture(*size_hw)
            # Dark on the left and bright on the right: two classes.
            frame //= 2
            frame[:, size_hw[1] // 2 :] += 128
            result = segmenter(frame)
            masks.append((result.mask, expected(frame)))
            assert result.valid
            assert set(result.timing) == {"h2d", "compute", "d2h", "end_to_end"}
            assert len(np.unique(result.mask)) > 1
        # At the end, because no later frame may write into an earlier mask.
        for mask, wanted in masks:
            np.testing.assert_array_equal(mask, wanted)
    assert world.cuda.left() == []


def test_the_first_frame_is_queued_the_second_captured_and_the_rest_launched(segmenter, world: World) -> None:
    for _ in range(4):
        segmenter(picture())
    events = world.cuda.calls.count("cuEventRecordWithFlags")
    assert events == 8, "four for the first frame, four in the graph"
    assert world.ran() == [*FRAME, *(("graph", *FRAME) * 3)]


def test_nothing_is_allocated_between_frames(segmenter, world: World) -> None:
    for _ in range(2):
        segmenter(picture())
    before, used = len(world.cuda.calls), world.cuda.used()
    for _ in range(5):
        segmenter(picture())
    assert world.cuda.used() == used
    per_frame = ["cuCtxPushCurrent_v2", "cuGraphLaunch", "cuStreamSynchronize", *["cuEventElapsedTime"] * 3,
                 "cuCtxPopCurrent_v2"]  # fmt: skip
    assert world.cuda.calls[before:] == per_frame * 5


def test_stages_are_timed_by_the_gpu(segmenter) -> None:
    for _ in range(3):
        timing = segmenter(picture()).timing
        # One step of the fake takes a millisecond, and so does each event.
        assert {stage: timing[stage] for stage in ("h2d", "compute", "d2h")} == {"h2d": 2, "compute": 6, "d2h": 3}


def test_an_integrated_gpu_gets_the_hosts_memory(monkeypatch, tiny_logits, card) -> None:
    world = World(monkeypatch, tiny_logits, integrated=True)
    with Segmenter(TensorRtBackend(b"plan", card, PATH), card) as segmenter:
        for _ in range(2):
            segmenter(picture())
        # The status alone is copied.
        steps = [step for step in FRAME if step not in ("upload", "download")] + ["download"]
        assert world.ran() == [*steps, "graph", *steps]


def test_another_frame_size_frees_what_the_last_one_took(segmenter, world: World) -> None:
    segmenter(picture(100, 200))
    large = world.cuda.used()
    for _ in range(3):
        segmenter(picture(10, 20))
    small = world.cuda.used()
    assert small < large
    segmenter(picture(100, 200))
    assert world.cuda.used() == large


def test_alternating_sizes_never_capture(segmenter, world: World) -> None:
    for _ in range(3):
        segmenter(picture(10, 20))
        segmenter(picture(20, 10))
    assert "cuStreamBeginCapture_v2" not in world.cuda.calls


def test_a_network_that_cannot_be_captured_runs_without_a_graph(segmenter, world: World, expected) -> None:
    world.trt.refuses.add("capture")
    frame = picture()
    segmenter(frame)
    with pytest.warns(EngineWarning, match="without a CUDA graph.*operation not permitted when stream is capturing"):
        assert np.array_equal(segmenter(frame).mask, expected(frame))
    world.cuda.ran.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for size in ((32, 48), (60, 50), (60, 50), (60, 50)):
            frame = picture(*size)
            assert np.array_equal(segmenter(frame).mask, expected(frame))
    assert "graph" not in world.cuda.ran
    assert world.cuda.calls.count("cuStreamBeginCapture_v2") == 1


@pytest.mark.parametrize("call", ["cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags"])
def test_a_driver_that_cannot_capture(segmenter, world: World, expected, call: str) -> None:
    frame = picture()
    segmenter(frame)
    world.cuda.fail[call] = 900
    with pytest.warns(EngineWarning, match="without a CUDA graph"):
        result = segmenter(frame)
    assert np.array_equal(result.mask, expected(frame))
    assert [kind for kind in world.cuda.left() if kind in ("graph", "executable")] == []


def test_not_finite_logits_make_the_result_invalid(segmenter, world: World, tiny_logits) -> None:
    for spoil in (True, False, True):
        world.trt.compute = lambda feed, spoil=spoil: {
            "logits": tiny_logits(feed["image"][0]) + (np.nan if spoil else 0)
        }
        result = segmenter(picture(50, 60))
        assert result.valid is not spoil
        assert (result.mask == 255).all() == spoil


def test_margin(backend: TensorRtBackend, card: ModelCard) -> None:
    with pytest.raises(UsageError, match="No frame was segmented"):
        backend.margin()
    segmenter = Segmenter(backend, card)
    with pytest.raises(UsageError, match="No frame was segmented"):
        backend.margin()
    frame = np.full((64, 96, 3), 128, np.uint8)  # as bright as "dark" is always
    frame[:, 48:] = 255
    segmenter(frame)
    margin = backend.margin()
    assert margin.shape == (64, 96)
    assert (margin[:, :30] == 0).all()
    assert (margin[:, 66:] == 255).all()


def test_what_is_no_picture(segmenter) -> None:
    with pytest.raises(UsageError, match=r"A frame is float32 \[4, 4, 3\]"):
        segmenter(np.zeros((4, 4, 3), np.float32))


def test_outputs_that_are_not_what_the_card_says(world: World, card: ModelCard) -> None:
    world.trt.tensors["logits"].shape = (1, 4, 4, 6)
    for head, said in (("logits", r"gave \[1, 4, 4, 6\], logits for 3 classes"), ("mask", "a class map is integers")):
        backend = TensorRtBackend(b"plan", card, PATH)
        with pytest.raises(ModelError, match=said):
            Segmenter(backend, card.replace(head=head))
        backend.close()
    assert world.cuda.left() == []


def test_outputs_that_no_kernel_takes(world: World, card: ModelCard) -> None:
    for head, kind, shape in (("logits", "INT32", (1, 3, 4, 6)), ("mask", "INT8", (1, 4, 6))):
        world.trt.tensors["logits"] = Tensor(kind, shape)
        backend = TensorRtBackend(b"plan", card, PATH)
        with pytest.raises(ModelError, match=rf"'logits' of the engine holds {kind.lower()}.*{head} are decoded from"):
            Segmenter(backend, card.replace(head=head))
        backend.close()
    assert world.cuda.left() == []


# --- several, threads, and the end ---------------------------------------------------------------------------------


def test_closing(world: World, card: ModelCard) -> None:
    segmenter = Segmenter(TensorRtBackend(b"plan", card, PATH), card)
    for _ in range(2):
        segmenter(picture())
    for _ in range(2):
        segmenter.close()
        assert world.trt.ended == ["context", "engine", "runtime"]
        assert world.cuda.left() == []
    for use in (lambda: segmenter(picture()), lambda: segmenter.backend.infer({"image": picture()[None]})):
        with pytest.raises(BackendError, match=r"closed.*load the model again"):
            use()
    freed = [name for name in world.cuda.calls if "Destroy" in name or "Release" in name]
    assert freed[-2:] == ["cuStreamDestroy_v2", "cuDevicePrimaryCtxRelease_v2"]


def test_a_backend_that_is_forgotten_frees_its_memory(world: World, card: ModelCard) -> None:
    segmenter = Segmenter(TensorRtBackend(b"plan", card, PATH), card)
    segmenter(picture())
    del segmenter
    gc.collect()
    assert world.cuda.left() == []
    assert world.trt.ended == ["context", "engine", "runtime"]


def test_two_in_one_process(world: World, card: ModelCard, expected) -> None:
    first, second = (Segmenter(TensorRtBackend(b"plan", card, PATH), card) for _ in range(2))
    for _ in range(3):
        frames = picture(40, 50), picture(30, 70)
        for segmenter, frame in zip((first, second), frames):
            assert np.array_equal(segmenter(frame).mask, expected(frame))
    first.close()
    frame = picture()
    assert np.array_equal(second(frame).mask, expected(frame))
    second.close()
    assert world.cuda.left() == []


def test_any_thread_may_use_it(segmenter, expected, world: World) -> None:
    frame, wrong = picture(), []

    def use() -> None:
        if not np.array_equal(segmenter(frame).mask, expected(frame)):
            wrong.append(1)

    for _ in range(3):
        thread = threading.Thread(target=use)
        thread.start()
        thread.join(20)
    assert wrong == []
    segmenter(frame)


# --- what goes wrong -----------------------------------------------------------------------------------------------


def test_a_plan_that_tensorrt_refuses(world: World, card: ModelCard) -> None:
    world.trt.refuses.add("plan")
    with pytest.raises(BackendError, match=r"refuses model\.engine \(.*magicTag mismatch\).*edgeseg build") as caught:
        TensorRtBackend(b"plan", card, PATH)
    assert "\n" not in str(caught.value)
    assert world.cuda.left() == []


def test_no_memory_for_running(world: World, card: ModelCard) -> None:
    world.trt.refuses.add("context")
    with pytest.raises(BackendError, match=r"running model\.engine: it takes 48\.0 MiB, Fake GPU has 1024\.0 MiB free"):
        TensorRtBackend(b"plan", card, PATH)
    assert world.cuda.left() == []


def test_no_memory_for_a_frame(monkeypatch, tiny_logits, card: ModelCard, expected) -> None:
    world = World(monkeypatch, tiny_logits, memory=1 << 20)
    with Segmenter(TensorRtBackend(b"plan", card, PATH), card) as segmenter:
        segmenter(picture())
        used = world.cuda.used()
        for _ in range(2):
            with pytest.raises(
                BackendError, match=r"a frame of 1000 x 500: it takes 1\.4 MiB, Fake GPU has 1\.0 MiB free.*smaller"
            ):
                segmenter(picture(1000, 500))
            assert world.cuda.used() < used
        frame = picture()
        assert np.array_equal(segmenter(frame).mask, expected(frame))
    assert world.cuda.left() == []


def test_no_memory_for_the_network(monkeypatch, tiny_logits, card: ModelCard) -> None:
    world = World(monkeypatch, tiny_logits, memory=4000)
    with pytest.raises(BackendError, match=r"'image' of model\.engine: it takes 0\.0 MiB"):
        TensorRtBackend(b"plan", card, PATH)
    assert world.cuda.left() == []


def test_a_failure_while_running(segmenter, world: World) -> None:
    world.trt.refuses.add("run")
    with pytest.raises(
        BackendError, match=r"TensorRT 10\.3\.0 failed \(out of memory; Fake GPU has \d+\.\d MiB free\)"
    ):
        segmenter(picture())
    world.trt.refuses.clear()
    assert segmenter(picture()).valid


@pytest.mark.parametrize("frames", [0, 1, 3])
def test_a_gpu_that_is_lost(world: World, card: ModelCard, frames: int) -> None:
    segmenter = Segmenter(TensorRtBackend(b"plan", card, PATH), card)
    for _ in range(frames):
        segmenter(picture())
    world.cuda.lost = True
    for _ in range(2):
        with pytest.raises(CudaError, match=r"error 709.*start the program again") as caught:
            segmenter(picture())
        assert caught.value.code == fake_cuda.CONTEXT_IS_DESTROYED
    segmenter.close()
    assert world.trt.ended == ["context", "engine", "runtime"]
    with pytest.raises(BackendError, match="closed"):
        segmenter(picture())


def test_no_driver_and_an_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda.driver.cache_clear()

    def none(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(cuda.ctypes, "CDLL", none)
    with pytest.raises(BackendError, match="no NVIDIA driver"):
        cuda.driver()
    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda name: type("Old", (), {"cuInit": lambda flags: 0})())
    with pytest.raises(BackendError, match=r"older than CUDA 11\.4 .*update it"):
        cuda.driver()
    cuda.driver.cache_clear()
