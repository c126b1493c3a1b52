"""The CUDA kernels without a GPU: compiled for every architecture, and their arithmetic run on the host.

What is not shown here is that a GPU runs them: tests/gpu/test_frame_on_gpu.py does that.
"""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from typing import Any

import frame_checks as checks
import numpy as np
import pytest
from fake_cuda import FakeCuda
from host_kernels import NAMES, host_kernels

from edgeseg import bundled
from edgeseg.decode import classmap_from_logits
from edgeseg.errors import BackendError, ModelError
from edgeseg.trt import kernels, nvrtc
from edgeseg.trt.cuda import Driver
from edgeseg.trt.device import Device
from edgeseg.trt.nvrtc import Compiler, find_compiler

ARCHITECTURES = (75, 80, 86, 87, 89, 90, 100, 110, 120)
ANY_CUDA = 99


@pytest.fixture(scope="session")
def compiler() -> Compiler:
    try:
        return find_compiler(ANY_CUDA)
    except BackendError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("source", kernels.SOURCES)
def test_kernels_compile_for_every_gpu(compiler: Compiler, source: str, architecture: int) -> None:
    if architecture not in compiler.architectures():
        pytest.skip(f"NVRTC {compiler.version} does not know sm_{architecture}")
    image = compiler.compile(kernels.program(source), source, architecture)
    assert image.startswith(b"\x7fELF")
    assert all(name.encode() in image for name in NAMES[source])


def test_a_gpu_newer_than_the_compiler_gets_ptx(compiler: Compiler) -> None:
    image = compiler.compile(kernels.program("prepare.cu"), "prepare.cu", 999)
    assert f".target sm_{compiler.architectures()[-1]}".encode() in image


def test_a_gpu_that_the_compiler_no_longer_knows(compiler: Compiler) -> None:
    with pytest.raises(BackendError, match=r"no longer compiles for sm_20.*install the CUDA toolkit"):
        compiler.compile(kernels.program("prepare.cu"), "prepare.cu", 20)


def test_what_the_compiler_refuses_is_told(compiler: Compiler) -> None:
    with pytest.raises(BackendError, match=r"refuses x\.cu for sm_\d+ \(x\.cu\(1\).*nonsense"):
        compiler.compile("nonsense", "x.cu", compiler.architectures()[-1])


def test_sums_and_products_stay_apart(compiler: Compiler) -> None:
    # A contracted product and sum would round once instead of twice, and classes that are level would change places.
    ptx = compiler.compile(kernels.program("decode.cu"), "decode.cu", 999)
    assert b"mul" in ptx
    assert b"fma.rn.f32" not in without_exp(ptx)


def without_exp(ptx: bytes) -> bytes:
    """PTX without the entries of the margins, whose exponential is made of contracted sums."""
    return b"".join(part for part in ptx.split(b".visible .entry ") if not part.startswith(b"margin"))


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc.doctor, "library_files", lambda host, pattern: iter(()))
    with pytest.raises(BackendError, match=r"NVRTC for CUDA 11 is not installed.*pip install 'nvidia-cuda-nvrtc-cu11'"):
        find_compiler(11)
    with pytest.raises(BackendError, match=r"pip install 'nvidia-cuda-nvrtc'"):
        find_compiler(ANY_CUDA)


def test_a_compiler_newer_than_the_driver_is_not_taken(compiler: Compiler) -> None:
    with pytest.raises(BackendError, match="NVRTC for CUDA 1 is not installed"):
        find_compiler(1)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
def test_importing_it_loads_nothing_of_cuda() -> None:
    code = "import edgeseg.backends.tensorrt; print(open('/proc/self/maps').read())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not re.search(r"libnvrtc|libcuda|libnvinfer", done.stdout)


# --- the arithmetic, on the host -----------------------------------------------------------------------------------


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch):
    host_kernels()

    monkeypatch.setattr(kernels, "_image", lambda cuda_major, name, architecture: name.encode())
    fake = FakeCuda()
    opened = Device(Driver(fake))
    yield opened
    opened.close()
    assert fake.left() == []


@pytest.mark.parametrize("case", checks.DECODED, ids=str)
def test_class_maps_are_those_of_the_cpu(device: Device, case: tuple[Any, ...]) -> None:
    checks.check_decoded(device, case)


@pytest.mark.parametrize("case", checks.PREPARED, ids=str)
def test_inputs_are_those_of_the_cpu(device: Device, case: tuple[Any, ...]) -> None:
    checks.check_prepared(device, case)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="OpenCV has other kernels here")
@pytest.mark.parametrize(("network_hw", "size_hw"), sorted({case[3:] for case in checks.PREPARED}), ids=str)
def test_they_are_resized_as_opencv_does(network_hw: tuple[int, int], size_hw: tuple[int, int]) -> None:
    import cv2

    frame = checks.picture(size_hw, np.random.default_rng(0))
    np.testing.assert_array_equal(checks.resized(frame, network_hw), cv2.resize(frame, network_hw[::-1]))


@pytest.mark.parametrize("case", checks.RESIZED, ids=str)
def test_class_maps_of_a_graph_are_resized_as_on_the_cpu(device: Device, case: tuple[Any, ...]) -> None:
    checks.check_resized(device, case)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_margins(device: Device, dtype: str) -> None:
    checks.check_margin(device, dtype)


def test_margins_of_class_ids(device: Device) -> None:
    segment, _ = checks.on_gpu(device, checks.card_for(2, head="mask"), np.zeros((1, 4, 6), np.uint8))
    segment(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ModelError, match="no margins"):
        segment.margin()


@pytest.mark.parametrize("foreign", [-1, 7, 300])
def test_a_class_that_the_card_does_not_name(device: Device, foreign: int) -> None:
    ids = np.full((1, 4, 6), 3, np.int32)
    segment, given = checks.on_gpu(device, checks.card_for(7, head="mask"), ids)
    frame = np.zeros((16, 24, 3), np.uint8)
    assert (segment(frame)[0] == 3).all()
    ids[0, 2, 2] = foreign
    given.give(ids)
    for _ in range(3):
        with pytest.raises(ModelError, match=rf"gave class {foreign}, its card names 7 classes"):
            segment(frame)


def test_golden_frames(device: Device) -> None:
    pytest.importorskip("onnxruntime", reason="the logits are made by ONNX Runtime")
    from edgeseg.golden import golden_of
    from edgeseg.segmenter import load

    model = bundled.resolve("ddrnet-c16-camvid")
    with load(model, "onnxruntime", threads=1) as segmenter:
        golden, card = golden_of(model), segmenter.card
        shape = segmenter.backend.outputs[0].shape
        segment, given = checks.on_gpu(device, card, np.zeros(shape, np.float32))
        for frame in golden.frames:
            tensor = segmenter._preprocess(checks.resized(frame, card.input_size_hw))
            logits = segmenter.backend.infer({"image": tensor})["logits"]
            given.give(logits)
            mask, valid, _ = segment(frame)
            assert valid
            np.testing.assert_array_equal(given.taken(), tensor)
            np.testing.assert_array_equal(mask, classmap_from_logits(logits[0], frame.shape[:2])[0])
