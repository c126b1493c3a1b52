"""What must hold for the way of a frame through a GPU, whichever it is: the fake of these tests, or a real one.

The network is left out: ``Given`` puts what it would give where it would put it. So a GPU without TensorRT will do.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeseg.card import ModelCard
from edgeseg.decode import classmap_from_logits, classmap_resized
from edgeseg.preprocess import Preprocessor
from edgeseg.tensors import TensorSpec, network_input_shape
from edgeseg.trt.device import Device
from edgeseg.trt.frame import GpuFrameSegmenter

MIXED = "cells of several classes"
"""Kinds of logits; see ``logits_like``."""
BLOCKS, LEVEL, NEAR, HUGE, TINY, ONE = (
    "blocks of one class", "level classes", "classes a rounding apart", "huge values", "tiny values", "one class",
)  # fmt: skip

DECODED = [
    # classes, samples, frame, dtype, kind
    (19, (16, 32), (128, 256), "float32", MIXED),
    (19, (16, 32), (128, 256), "float16", MIXED),
    (11, (45, 60), (360, 480), "float32", BLOCKS),
    (11, (12, 15), (97, 131), "float16", BLOCKS),
    (2, (9, 7), (61, 50), "float32", MIXED),
    (3, (8, 8), (8, 8), "float32", MIXED),
    (5, (8, 8), (16, 16), "float32", LEVEL),
    (5, (8, 8), (33, 31), "float16", LEVEL),
    (7, (12, 12), (96, 90), "float32", NEAR),
    (4, (40, 30), (17, 9), "float32", MIXED),
    (4, (40, 30), (17, 90), "float16", BLOCKS),
    (7, (6, 5), (1, 1), "float32", MIXED),
    (7, (1, 1), (5, 6), "float32", MIXED),
    (255, (4, 5), (32, 40), "float32", MIXED),
    (6, (6, 6), (48, 48), "float32", HUGE),
    (6, (6, 6), (48, 48), "float32", TINY),
    (1, (4, 4), (20, 20), "float32", ONE),
]

RESIZED = [(dtype, (8, 12), size) for dtype in ("uint8", "int32", "int64") for size in ((32, 48), (37, 29), (3, 5))]

PREPARED = [
    # dtype, layout, colour order, network, frame
    ("uint8", "nhwc", "bgr", (32, 48), (72, 128)),
    ("uint8", "nhwc", "bgr", (32, 48), (32, 48)),
    ("uint8", "nhwc", "bgr", (32, 48), (64, 96)),
    ("uint8", "nhwc", "bgr", (32, 48), (17, 11)),
    ("uint8", "nhwc", "bgr", (32, 48), (1, 1)),
    ("uint8", "nhwc", "bgr", (32, 48), (720, 1280)),
    ("uint8", "nhwc", "bgr", (100, 140), (33, 47)),
    ("uint8", "nhwc", "bgr", (40, 60), (1, 200)),
    ("uint8", "nhwc", "bgr", (40, 60), (200, 1)),
    ("uint8", "nhwc", "rgb", (31, 33), (55, 70)),
    ("uint8", "nchw", "rgb", (31, 33), (55, 70)),
    ("float32", "nchw", "rgb", (32, 48), (60, 81)),
    ("float32", "nchw", "bgr", (32, 48), (32, 48)),
    ("float32", "nhwc", "rgb", (24, 40), (90, 41)),
    ("float16", "nchw", "rgb", (24, 40), (90, 41)),
    ("float16", "nhwc", "bgr", (24, 40), (23, 39)),
]


def logits_like(kind: str, classes: int, samples_hw: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Logits [C, h, w] in double precision."""
    noise = rng.normal(size=(classes, *samples_hw))
    if kind == BLOCKS:
        ids = rng.integers(0, classes, [-(-n // 4) for n in samples_hw]).repeat(4, 0).repeat(4, 1)
        return noise + 6 * (ids[: samples_hw[0], : samples_hw[1]] == np.arange(classes)[:, None, None])
    if kind == LEVEL:
        return rng.integers(0, 3, (classes, *samples_hw)).astype(np.float64)
    if kind == NEAR:
        return 10_000 + rng.integers(0, 4, (classes, *samples_hw)) * 2.0**-10
    if kind == HUGE:
        return rng.uniform(-3.4e38, 3.4e38, noise.shape)
    return noise * 1e-30 if kind == TINY else noise


class Given:
    """Stands where the network does: its output is what it was given."""

    def __init__(self, device: Device, card: ModelCard, output: np.ndarray) -> None:
        self.inputs = (TensorSpec("image", np.dtype(card.input_dtype), network_input_shape(card)),)
        self.outputs = (TensorSpec("out", output.dtype, output.shape),)
        nbytes = int(np.prod(self.inputs[0].shape)) * self.inputs[0].dtype.itemsize
        self.memory = {"image": device.memory(nbytes, "input"), "out": device.memory(output.nbytes, "output")}
        self.capturable = True
        self._device, self._staging = device, device.staging(output.nbytes, "output")
        self.give(output)

    def give(self, output: np.ndarray) -> None:
        """From the next run on."""
        self._staging.array[...] = np.ascontiguousarray(output).reshape(-1).view(np.uint8)

    def enqueue(self) -> None:
        """As ``Network.enqueue``."""
        self._device.upload(self.memory["out"], self._staging.array)

    def taken(self) -> np.ndarray:
        """What the network found in its input."""
        array = np.empty(self.inputs[0].shape, self.inputs[0].dtype)
        with self._device.current():
            self._device.download(array, self.memory["image"])
            self._device.synchronize()
        return array


def on_gpu(device: Device, card: ModelCard, output: np.ndarray) -> tuple[GpuFrameSegmenter, Given]:
    """A frame segmenter around a given output [1, ...]."""
    with device.current():
        given = Given(device, card, output)
        return GpuFrameSegmenter(device, given, card, "out"), given  # type: ignore[arg-type]


def card_for(classes: int, **facts: Any) -> ModelCard:
    """A card with that many classes."""
    names = tuple(f"c{i}" for i in range(classes))
    return ModelCard(classes=names, **{"input_size_hw": (32, 48), **facts})


def picture(size_hw: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Noise, so that every byte counts."""
    return rng.integers(0, 256, (*size_hw, 3), np.uint8)


def check_decoded(device: Device, case: tuple[Any, ...]) -> None:
    """Every class map is that of the CPU: step by step, while captured, and from the graph."""
    classes, samples_hw, size_hw, dtype, kind = case
    rng = np.random.default_rng(len(DECODED) + classes)
    frame = picture(size_hw, rng)
    segment, given = on_gpu(device, card_for(classes), np.zeros((1, classes, *samples_hw), dtype))
    for _ in range(3):
        logits = logits_like(kind, classes, samples_hw, rng).astype(dtype)
        given.give(logits)
        mask, valid, timing = segment(frame)
        assert valid
        assert mask.dtype == np.uint8
        assert set(timing) == {"h2d", "compute", "d2h", "end_to_end"}
        np.testing.assert_array_equal(mask, classmap_from_logits(logits, size_hw)[0])
    wrong = [np.nan, np.inf, -np.inf]
    for value in wrong:
        logits[rng.integers(classes), rng.integers(samples_hw[0]), rng.integers(samples_hw[1])] = value
        given.give(logits)
        mask, valid, _ = segment(frame)
        assert not valid
        assert (mask == 255).all()
        logits = logits_like(kind, classes, samples_hw, rng).astype(dtype)
    given.give(logits)
    mask, valid, _ = segment(frame)
    assert valid
    np.testing.assert_array_equal(mask, classmap_from_logits(logits, size_hw)[0])


def resized(image_hwc: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """OpenCV's INTER_LINEAR for bytes, as its C++ has it; its kernels for ARM round otherwise."""

    def positions(samples: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        at = ((np.arange(size) + 0.5) * (1 / (size / samples)) - 0.5).astype(np.float32)
        low = np.floor(at).astype(np.int32)
        return low, at - low.astype(np.float32)

    def shares(weight: np.ndarray) -> list[np.ndarray]:
        return [np.rint(share * np.float32(2048)).astype(np.int32) for share in (1 - weight, weight)]

    height, width = image_hwc.shape[:2]
    rows, down = positions(height, size_hw[0])
    columns, across = positions(width, size_hw[1])
    across[(columns < 0) | (columns >= width - 1)] = 0
    image = image_hwc.astype(np.int32)
    left, right = (image[:, np.clip(columns + i, 0, width - 1)] for i in (0, 1))
    near, far = (share[None, :, None] for share in shares(across))
    mixed = (left * near + right * far) >> 4
    above, below = (mixed[np.clip(rows + i, 0, height - 1)] for i in (0, 1))
    near, far = (share[:, None, None] for share in shares(down))
    return ((((near * above) >> 16) + ((far * below) >> 16) + 2) >> 2).astype(np.uint8)


def check_prepared(device: Device, case: tuple[Any, ...]) -> None:
    """The network's input is that of a CPU with OpenCV's plain resizing, byte for byte."""
    dtype, layout, order, network_hw, size_hw = case
    card = card_for(
        2, input_size_hw=network_hw, input_dtype=dtype, input_layout=layout, color_order=order,
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
    )  # fmt: skip
    rng = np.random.default_rng(1)
    segment, given = on_gpu(device, card, np.zeros((1, 2, 4, 6), np.float32))
    preprocess = Preprocessor(card)
    for _ in range(3):
        frame = picture(size_hw, rng)
        segment(frame)
        np.testing.assert_array_equal(given.taken(), preprocess(resized(frame, network_hw)))


def check_resized(device: Device, case: tuple[Any, ...]) -> None:
    """Class maps out of a graph are repeated as on the CPU."""
    dtype, samples_hw, size_hw = case
    rng = np.random.default_rng(2)
    ids = rng.integers(0, 7, (1, *samples_hw)).astype(dtype)
    segment, _ = on_gpu(device, card_for(7, head="mask"), ids)
    for _ in range(3):
        mask, valid, _ = segment(picture(size_hw, rng))
        assert valid
        np.testing.assert_array_equal(mask, classmap_resized(ids[0], size_hw))


def check_margin(device: Device, dtype: str) -> None:
    """Within one level of the definition, computed in double precision."""
    rng = np.random.default_rng(3)
    classes, samples_hw, size_hw = 5, (9, 12), (71, 50)
    logits = (logits_like(MIXED, classes, samples_hw, rng) * 3).astype(dtype)
    segment, given = on_gpu(device, card_for(classes), logits[None])
    for _ in range(3):
        segment(picture(size_hw, rng))
    rows, columns = (positions(n, size) for n, size in zip(samples_hw, size_hw))
    full = np.einsum("yi,cij,xj->cyx", rows, logits.astype(np.float64), columns)
    second, first = np.sort(full, axis=0)[-2:]
    expected = 255 * np.tanh((first - second) / 2)
    margin = segment.margin()
    assert margin.dtype == np.uint8
    assert np.abs(margin - expected).max() < 1
    logits[0, 0, 0] = np.nan
    given.give(logits)
    assert not segment(picture(size_hw, rng))[1]
    assert not segment.margin().any()


def positions(samples: int, size: int) -> np.ndarray:
    """Bilinear weights, half-pixel centres, edge clamp: float64 [size, samples]."""
    at = np.clip((np.arange(size) + 0.5) * samples / size - 0.5, 0, samples - 1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(samples)))
