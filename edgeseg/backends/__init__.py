"""The one seam to inference engines: a small protocol, and a table of who implements it.

An engine is chosen by file suffix and by what is installed, or passed as an object
(``Segmenter(backend=mine)``). Nothing is imported before it is chosen.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgeseg.card import ModelCard
from edgeseg.errors import BackendError, ModelError, UsageError, nearest
from edgeseg.processor import check_int8


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype and shape of an input or output; None stands for an axis of any length."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]


class Backend(Protocol):
    """An opened model in some engine.

    Attributes:
        name: of the engine, as ``--backend`` takes it.
        device: what it runs on, such as "CPU".
        version: of the engine.
        inputs, outputs: in the model's order.
    """

    name: str
    device: str
    version: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def infer(self, feed: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Run once. Arrays by input name in, arrays by output name out.

        The outputs are valid until the next call. Not re-entrant: one thread at a time.

        Raises:
            BackendError: the engine failed.
        """
        ...

    def close(self) -> None:
        """Free the engine. Closing twice is allowed; inferring afterwards is a BackendError."""
        ...


FrameSegmenter = Callable[[NDArray[np.uint8]], tuple[NDArray[np.uint8], bool, dict[str, float]]]
"""Takes a uint8 [H, W, 3] image in BGR of any size, another than the last one too. Gives the mask, uint8 [H, W], a new
array; whether it is valid; milliseconds by stage, "end_to_end" among them."""


@runtime_checkable
class FrameBackend(Backend, Protocol):
    """A backend that also does what comes before and after the network, where the network runs."""

    def frame_segmenter(self, card: ModelCard, output: str) -> FrameSegmenter:
        """What gives the class map of a frame, the same as by ``Preprocessor``, ``infer`` and ``edgeseg.decode``.

        Args:
            card: what the model's input and output mean.
            output: name of the output to decode.

        Raises:
            ModelError: the output is not what the card says.
            BackendError: the device cannot do it.
        """
        ...


BACKENDS: Mapping[str, str] = {
    "openvino": "edgeseg.backends.openvino:OpenVinoBackend",
    "onnxruntime": "edgeseg.backends.onnxruntime:OnnxRuntimeBackend",
}
"""Engines for ONNX files by the name of their package, in the order in which ``auto`` prefers them."""

ON_REQUEST: Mapping[str, str] = {
    "openvino-bf16": "edgeseg.backends.openvino:OpenVinoBfloat16Backend",
    "onnxruntime-cuda": "edgeseg.backends.onnxruntime_gpu:OnnxRuntimeCudaBackend",
    "onnxruntime-tensorrt": "edgeseg.backends.onnxruntime_gpu:OnnxRuntimeTensorRtBackend",
}
"""Engines that compute in another precision than the file says, or take minutes and a GPU to open, and are therefore
never chosen but by name. Before the dash stands the package."""


def installed_backends() -> tuple[str, ...]:
    """Names of the engines whose package is installed, the preferred one first."""
    return tuple(n for n in BACKENDS if importlib.util.find_spec(n) is not None)


def faithful_engines(card: ModelCard) -> tuple[str, ...]:
    """Names of the installed engines that compute a model's graph as it is written, the preferred one first.

    OpenVINO does not count for INT8 graphs made for TensorRT: it rounds them in other places.
    """
    engines = installed_backends()
    if card.precision == "int8" and card.provenance.get("target") == "tensorrt":
        return tuple(name for name in engines if name != "openvino")
    return engines


def choose_backend(name: str) -> str:
    """The engine that ``name`` ("auto", or one of ``BACKENDS`` or ``ON_REQUEST``) means on this machine.

    Raises:
        UsageError: no such engine; suggests the nearest.
        BackendError: it, or for "auto" every one, is not installed.
    """
    known = ["auto", *BACKENDS, *ON_REQUEST]
    if name not in known:
        raise UsageError(f"There is no backend '{name}'", nearest(name, known))
    installed = installed_backends()
    wanted = installed[:1] if name == "auto" else [name] if name.partition("-")[0] in installed else []
    if not wanted:
        what = "No inference engine is" if name == "auto" else f"The backend '{name}' is not"
        extra = "gpu" if name in ("onnxruntime-cuda", "onnxruntime-tensorrt") else "cpu"
        raise BackendError(f"{what} installed", f"pip install 'edgeseg[{extra}]'")
    return wanted[0]


def open_backend(path: Path, card: ModelCard, name: str = "auto", *, threads: int | None = None) -> Backend:
    """Open an ONNX file in an engine.

    Args:
        path: the ONNX file.
        card: gives the input size where the file leaves it open.
        name: as for ``choose_backend``.
        threads: threads for one inference; None leaves it to the engine.

    Raises:
        UsageError, BackendError: see ``choose_backend`` and ``check_int8``; or the engine refuses the model.
    """
    check_int8(card)
    module, _, attribute = {**BACKENDS, **ON_REQUEST}[choose_backend(name)].partition(":")
    backend_type = getattr(importlib.import_module(module), attribute)
    return cast(Backend, backend_type(path, card, threads=threads))


def network_input_shape(card: ModelCard) -> tuple[int, int, int, int]:
    """[1, H, W, 3] or [1, 3, H, W], as the card's layout says."""
    height, width = card.input_size_hw
    return (1, height, width, 3) if card.input_layout == "nhwc" else (1, 3, height, width)


def check_inputs(specs: Sequence[TensorSpec], card: ModelCard, model: str) -> None:
    """Refuse a model that has not one input, or one that is not what the card says.

    Raises:
        ModelError: the number, the dtype or the shape differs.
    """
    if len(specs) != 1:
        raise ModelError(f"{model} has {len(specs)} inputs", "give a model with one image input")
    check_input(specs[0], card, model)


def check_input(spec: TensorSpec, card: ModelCard, model: str) -> None:
    """Refuse a model whose input is not what the card says.

    Raises:
        ModelError: dtype or shape differ.
    """
    wanted = network_input_shape(card)
    fits = len(spec.shape) == 4 and all(a is None or a == b for a, b in zip(spec.shape, wanted))
    if not fits or spec.dtype != np.dtype(card.input_dtype):
        shape = list(spec.shape)
        raise ModelError(
            f"The input '{spec.name}' of {model} is {spec.dtype} {shape}, "
            f"the card says {card.input_dtype} {list(wanted)}",
            "correct --imgsz, --card or the flags, or export the model again at that size",
        )


def check_logits(shape: Sequence[int | None], card: ModelCard) -> None:
    """Refuse an output that is not the logits of one frame for a card's classes.

    Raises:
        ModelError: the shape is not [1, C, h, w].
    """
    if len(shape) != 4 or shape[0] != 1 or shape[1] != card.num_classes:
        raise ModelError(
            f"The model gave {list(shape)}, logits for {card.num_classes} classes are [1, {card.num_classes}, h, w]",
            "correct --classes, --output or the card",
        )


def check_class_map(dtype: np.dtype[Any], shape: Sequence[int | None]) -> None:
    """Refuse an output that is not the class map of one frame.

    Raises:
        ModelError: it is not integers of the shape [h, w], with axes of one before them or not.
    """
    one_map = len(shape) >= 2 and 0 not in shape and all(n == 1 for n in shape[:-2])
    if not one_map or dtype.kind not in "iub":
        raise ModelError(
            f"The model gave {dtype} {list(shape)}, a class map is integers [1, h, w]",
            "correct --output or the card",
        )


def foreign_class(class_id: int, card: ModelCard) -> ModelError:
    """The error for a class map with an id that is none of the card's."""
    return ModelError(
        f"The model gave class {class_id}, its card names {card.num_classes} classes",
        "correct --classes or the card",
    )


def check_feed(feed: Mapping[str, NDArray[Any]], specs: Sequence[TensorSpec]) -> None:
    """Refuse arrays that are not what an engine's inputs are: engines differ in what they convert or overlook.

    Raises:
        BackendError: a name, dtype or shape differs; says what was given.
    """
    if feed.keys() == {spec.name for spec in specs} and all(_fits(feed[spec.name], spec) for spec in specs):
        return
    given = ", ".join(
        f"{name}: {value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else f"{name}: {type(value)}"
        for name, value in feed.items()
    )
    wanted = ", ".join(f"{s.name}: {s.dtype} {['any' if a is None else a for a in s.shape]}" for s in specs)
    raise BackendError(f"The engine was fed {given or 'nothing'}", f"feed {wanted}")


def _fits(array: object, spec: TensorSpec) -> bool:
    return (
        isinstance(array, np.ndarray)
        and array.dtype == spec.dtype
        and array.ndim == len(spec.shape)
        and all(wanted is None or wanted == own for wanted, own in zip(spec.shape, array.shape))
    )
