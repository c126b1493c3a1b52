"""The one seam to inference engines: a small protocol, and a table of who implements it.

An engine is chosen by file suffix and by what is installed, or passed as an object
(``Segmenter(backend=mine)``). Nothing is imported before it is chosen.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgeseg.card import ModelCard
from edgeseg.errors import BackendError, UsageError, nearest
from edgeseg.processor import check_int8
from edgeseg.tensors import TensorSpec


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

ON_GPU = ("onnxruntime-cuda", "onnxruntime-tensorrt")


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
        extra = "gpu" if name in ON_GPU else "cpu"
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
