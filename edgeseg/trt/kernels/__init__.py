"""The work around a network on the GPU: a frame to its input, its output to a class map.

The sources are CUDA C++ that includes nothing, compiled where they run. What they compute is defined by
``edgeseg.preprocess`` and ``edgeseg.decode``: the tables they read come from there, and the results are the same bytes.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.card import ModelCard
from edgeseg.preprocess import Preprocessor
from edgeseg.trt.device import Device, Launch, Memory
from edgeseg.trt.nvrtc import find_compiler

SOURCES = ("prepare.cu", "decode.cu")
DECODED = {"logits": ("float32", "float16"), "mask": ("uint8", "int32", "int64")}
"""What the network may put out, by head of its card."""
STATUS = np.dtype([("not_finite", "<i4"), ("huge", "<i4"), ("foreign", "<i4"), ("foreign_id", "<i4")])
"""What ``decode.cu`` notes while it runs; to be cleared before every frame."""

_RESIZE_TAP = np.dtype([("low", "<i4"), ("high", "<i4"), ("low_share", "<i4"), ("high_share", "<i4")])
_PRELUDE = """
__device__ inline float float_from_half(unsigned short bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}
"""


def source_of(name: str) -> str:
    """The text of one of ``SOURCES``."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def program(name: str) -> str:
    """The same with what it needs of the GPU, ready to compile."""
    return _PRELUDE + source_of(name)


@cache
def _image(cuda_major: int, name: str, architecture: int) -> bytes:
    return find_compiler(cuda_major).compile(program(name), name, architecture)


class Kernels:
    """The kernels, loaded on a device whose context is current.

    Raises:
        BackendError: NVRTC is missing or does not fit the GPU, or the driver does not take what it made.
    """

    def __init__(self, device: Device) -> None:
        self._driver = driver = device.driver
        self._modules = {}
        for name in SOURCES:
            module = driver.load_module(_image(driver.version()[0], name, device.architecture))
            device.scope.callback(driver.unload_module, module)
            self._modules[name] = module

    def prepare(self, dtype: np.dtype[Any], size_xy: tuple[int, int], *arguments: Memory | int) -> Launch:
        """The kernel that fills an input of ``dtype``; for the arguments see ``prepare.cu``."""
        return self._launch("prepare.cu", f"prepare_{8 * dtype.itemsize}", size_xy, arguments)

    def decode(self, step: str, dtype: np.dtype[Any], size_xy: tuple[int, int], *arguments: Memory | int) -> Launch:
        """The kernel "winners", "decode", "margin" or "resize" for an output of ``dtype``; see ``decode.cu``."""
        kind = dtype.name if step == "resize" else f"f{8 * dtype.itemsize}"
        return self._launch("decode.cu", f"{step}_{kind}", size_xy, arguments)

    def _launch(self, module: str, name: str, size_xy: tuple[int, int], arguments: tuple[Memory | int, ...]) -> Launch:
        return Launch(self._driver, self._driver.function(self._modules[module], name), size_xy, arguments)


def resize_taps(samples: int, size: int, *, columns: bool) -> NDArray[Any]:
    """Where OpenCV's INTER_LINEAR takes the pixels of one axis from: a structured array [size].

    Positions in double and shares in single precision, rounded to 2048ths, as in OpenCV's resize.cpp; so bytes resized
    by them are OpenCV's own. Beyond the outermost samples it gives a column to one sample alone, and splits a row
    between a sample and itself, which rounds otherwise.
    """
    at = ((np.arange(size) + 0.5) * (1.0 / (size / samples)) - 0.5).astype(np.float32)
    low = np.floor(at)
    share = at - low
    if columns:
        share[(low < 0) | (low >= samples - 1)] = 0
    taps = np.empty(size, _RESIZE_TAP)
    taps["low"], taps["high"] = np.clip(low, 0, samples - 1), np.clip(low + 1, 0, samples - 1)
    taps["low_share"], taps["high_share"] = np.rint((1 - share) * 2048), np.rint(share * 2048)
    return taps


def value_table(card: ModelCard) -> NDArray[Any]:
    """What the preprocessor makes of every byte: [3, 256] in the card's dtype, by channel of the input."""
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    tensor = Preprocessor(card.replace(input_size_hw=(16, 16)))(levels)[0]
    planes = tensor if card.input_layout == "nchw" else tensor.transpose(2, 0, 1)
    return np.ascontiguousarray(planes).reshape(3, 256)
