"""Small models and videos that the tests of the runtime share. Nothing here needs torch."""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# What the command line sets for itself; here before any test loads OpenCV, which reads them once.
os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

from edgeseg import cli
from edgeseg.card import ModelCard

CLASSES = ("dark", "bright", "never")
PALETTE = ((10, 20, 30), (200, 100, 50), (0, 0, 255))
STRIDE = 8
HANG_S = 20.0


def save_model(
    path: Path,
    card: ModelCard | None,
    *,
    size_hw: tuple[int | None, int | None] = (32, 48),
    dtype: str = "uint8",
    layout: str = "nhwc",
    head: str = "logits",
    bad_op: bool = False,
    nan: bool = False,
    inputs: int = 1,
    outputs: Sequence[str] = ("logits",),
) -> Path:
    """A graph that tells bright blocks of 8 x 8 pixels from dark ones.

    Its logits are 128 for "dark", the mean of the block for "bright" and -1 for "never".
    """
    onnx = pytest.importorskip("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    kind = {"uint8": onnx.TensorProto.UINT8, "float32": onnx.TensorProto.FLOAT}[dtype]
    shape = [1, *size_hw, 3] if layout == "nhwc" else [1, 3, *size_hw]
    weight = np.zeros((3, 3, STRIDE, STRIDE), np.float32)
    weight[1] = 1 / (3 * STRIDE**2)
    bias = np.array([np.nan if nan else 128, 0, -1], np.float32)
    nodes = [
        *(
            helper.make_node("Cast", [f"image{i or ''}"], [f"float{i}"], to=onnx.TensorProto.FLOAT)
            for i in range(inputs)
        ),
        helper.make_node("Sum", [f"float{i}" for i in range(inputs)], ["float"]),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2] if layout == "nhwc" else [0, 1, 2, 3]),
        helper.make_node("Conv", ["planes", "weight", "bias"], ["scores"], strides=[STRIDE, STRIDE]),
    ]
    if bad_op:
        nodes[-1].output[0] = "unknown"
        nodes.append(helper.make_node("NoSuchOperator", ["unknown"], ["scores"], domain="nowhere"))
    if head == "mask":
        nodes.append(helper.make_node("ArgMax", ["scores"], ["ids"], axis=1, keepdims=0))
        nodes.append(helper.make_node("Cast", ["ids"], [outputs[0]], to=onnx.TensorProto.UINT8))
    else:
        nodes += [helper.make_node("Identity", ["scores"], [name]) for name in outputs]
    low = [None if n is None else n // STRIDE for n in size_hw]
    out_kind, out_shape = (
        (onnx.TensorProto.UINT8, [1, *low]) if head == "mask" else (onnx.TensorProto.FLOAT, [1, 3, *low])
    )
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(f"image{i or ''}", kind, shape) for i in range(inputs)],
        [helper.make_tensor_value_info(name, out_kind, out_shape) for name in outputs],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid("nowhere", 1)] if bad_op else [])]
    model = helper.make_model(graph, producer_name="tests", ir_version=8, opset_imports=opsets)
    if card is not None:
        helper.set_model_props(model, {"edgeseg": card.to_json()})
    path.write_bytes(model.SerializeToString())
    return path


def logits_of(image_hwc: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What that graph gives, computed with numpy."""
    height, width = (n // STRIDE for n in image_hwc.shape[:2])
    blocks = image_hwc[: height * STRIDE, : width * STRIDE].reshape(height, STRIDE, width, STRIDE, 3)
    bright = blocks.astype(np.float64).mean((1, 3, 4))
    return np.stack([np.full_like(bright, 128), bright, np.full_like(bright, -1)])[None]


@pytest.fixture(scope="session")
def card() -> ModelCard:
    """The card of the tiny model: three classes, 32 x 48 pixels."""
    return ModelCard(classes=CLASSES, palette=PALETTE, input_size_hw=(32, 48), name="tiny")


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Path]:
    """``save_model``; skips where the onnx package is missing."""
    return save_model


@pytest.fixture(scope="session")
def tiny_logits() -> Callable[..., Any]:
    """``logits_of``."""
    return logits_of


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, card: ModelCard) -> Path:
    """The tiny model with its card; skips where the onnx package or every engine is missing."""
    if not any(importlib.util.find_spec(name) for name in ("onnxruntime", "openvino")):
        pytest.skip("no inference engine is installed")
    return save_model(tmp_path_factory.mktemp("model") / "tiny.onnx", card)


@pytest.fixture(scope="session")
def tiny_backend() -> str:
    """The engine that starts fastest of those installed."""
    return "onnxruntime" if importlib.util.find_spec("onnxruntime") else "openvino"


def save_video(
    path: Path, frames: int = 12, size_hw: tuple[int, int] = (48, 64), rate_hz: float = 25.0, codec: str | None = None
) -> Path:
    """A video of noise whose brightness rises, so that every frame takes some bytes."""
    import cv2

    codec = codec or ("MJPG" if path.suffix == ".avi" else "mp4v")
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), rate_hz, size_hw[::-1])
    assert writer.isOpened()
    rng = np.random.default_rng(0)
    for i in range(frames):
        writer.write(rng.integers(10 + 3 * i, 60 + 3 * i, (*size_hw, 3)).clip(0, 255).astype(np.uint8))
    writer.release()
    return path


@pytest.fixture(scope="session")
def make_video() -> Callable[..., Path]:
    """``save_video``."""
    return save_video


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes a file system of so many bytes; skips where this process may not mount one."""
    mounted = []

    def make(size_bytes: int) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode != 0:
            pytest.skip("needs the right to mount a small file system")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="session")
def bounded() -> Callable[..., Any]:
    """Calls a function on a thread of its own, and fails instead of hanging."""

    def call(function: Callable[[], Any], timeout_s: float = HANG_S) -> Any:
        outcome: list[Any] = []

        def work() -> None:
            try:
                outcome.append((True, function()))
            except BaseException as error:  # raised again below
                outcome.append((False, error))

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(timeout_s)
        assert outcome, f"still running after {timeout_s} s"
        good, value = outcome[0]
        if not good:
            raise value
        return value

    return call


def long_flags(parser: argparse.ArgumentParser) -> set[str]:
    """The flags of a parser and of its actions, without --help."""
    flags: set[str] = set()
    for action in parser._actions:
        flags |= {option for option in action.option_strings if option.startswith("--")}
        if isinstance(action, argparse._SubParsersAction):
            flags = flags.union(*map(long_flags, action.choices.values()))
    return flags - {"--help"}


@pytest.fixture(scope="session")
def flags_of() -> Callable[[str], set[str]]:
    """The flags of a command."""
    return lambda command: long_flags(cli.parser_of(command))
