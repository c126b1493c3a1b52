"""The way of a frame on a real GPU, without TensorRT: driver, NVRTC, kernels, graph. pytest -m gpu."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import frame_checks as checks
import numpy as np
import pytest

from edgeseg.decode import classmap_from_logits
from edgeseg.errors import BackendError
from edgeseg.trt.device import Device
from edgeseg.trt.nvrtc import find_compiler

pytestmark = pytest.mark.gpu


@pytest.fixture
def device() -> Iterator[Device]:
    try:
        opened = Device()
        find_compiler(opened.driver.version()[0])
    except BackendError as error:
        pytest.skip(str(error))
    yield opened
    opened.close()


@pytest.mark.parametrize("case", checks.DECODED, ids=str)
def test_class_maps_are_those_of_the_cpu(device: Device, case: tuple[Any, ...]) -> None:
    checks.check_decoded(device, case)


@pytest.mark.parametrize("case", checks.PREPARED, ids=str)
def test_inputs_are_those_of_the_cpu(device: Device, case: tuple[Any, ...]) -> None:
    checks.check_prepared(device, case)


@pytest.mark.parametrize("case", checks.RESIZED, ids=str)
def test_class_maps_of_a_graph_are_resized_as_on_the_cpu(device: Device, case: tuple[Any, ...]) -> None:
    checks.check_resized(device, case)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_margins(device: Device, dtype: str) -> None:
    checks.check_margin(device, dtype)


def test_full_size(device: Device) -> None:
    rng = np.random.default_rng(0)
    logits = checks.logits_like(checks.BLOCKS, 19, (256, 512), rng).astype(np.float16)
    segment, _ = checks.on_gpu(device, checks.card_for(19, input_size_hw=(1024, 2048)), logits[None])
    expected = classmap_from_logits(logits, (1024, 2048))[0]
    for _ in range(3):
        mask, valid, timing = segment(checks.picture((1024, 2048), rng))
        assert valid
        assert timing["compute"] > 0
        np.testing.assert_array_equal(mask, expected)


def test_frames_of_changing_size_leak_nothing(device: Device) -> None:
    rng = np.random.default_rng(0)
    logits = checks.logits_like(checks.BLOCKS, 5, (16, 24), rng).astype(np.float32)
    segment, _ = checks.on_gpu(device, checks.card_for(5), logits[None])
    sizes = [(720, 1280), (100, 90), (480, 640)]
    for size_hw in sizes * 2:
        segment(checks.picture(size_hw, rng))
    with device.current():
        free = device.driver.free_memory()
    for _ in range(20):
        for size_hw in sizes:
            for _ in range(3):
                mask, _, _ = segment(checks.picture(size_hw, rng))
            np.testing.assert_array_equal(mask, classmap_from_logits(logits, size_hw)[0])
    with device.current():
        assert device.driver.free_memory() >= free - 2**22


def test_several_at_once_on_threads_of_their_own(device: Device) -> None:
    rng = np.random.default_rng(0)
    right = []

    def work(seed: int) -> None:
        own = Device()
        logits = checks.logits_like(checks.BLOCKS, 5, (16, 24), np.random.default_rng(seed)).astype(np.float32)
        segment, _ = checks.on_gpu(own, checks.card_for(5), logits[None])
        expected = classmap_from_logits(logits, (200, 300))[0]
        right.append(all(np.array_equal(segment(frame)[0], expected) for _ in range(50)))
        own.close()

    frame = checks.picture((200, 300), rng)
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert right == [True] * 4


def test_too_large_a_frame_says_how_much_is_free(device: Device) -> None:
    with device.current(), pytest.raises(BackendError, match=r"takes 1000000\.0 MiB, .* has \d+\.\d MiB free"):
        device.memory(10**6 * 2**20, "a test")
