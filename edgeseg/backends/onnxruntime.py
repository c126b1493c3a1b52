"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.card import ModelCard
from edgeseg.errors import BackendError, MissingDependencyError
from edgeseg.tensors import TensorSpec, check_feed, check_inputs

_DTYPES = {
    "tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8, "tensor(int8)": np.int8, "tensor(int32)": np.int32,
    "tensor(int64)": np.int64, "tensor(bool)": np.bool_,
}  # fmt: skip


class OnnxRuntimeBackend:
    """A model in ONNX Runtime's CPU execution provider. See ``edgeseg.backends.Backend``."""

    name = "onnxruntime"
    device = "CPU"

    def __init__(self, path: Path, card: ModelCard, *, threads: int | None = None) -> None:
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise MissingDependencyError.for_extra("onnxruntime", "cpu", "This backend") from error
        self.version = str(ort.__version__)
        options = ort.SessionOptions()
        # Fatal only: what fails is raised as well.
        options.log_severity_level = 4
        if threads is not None:
            options.intra_op_num_threads = threads
        # Workers that spin save some time on idle cores, and lose several times that where capture, sinks or other
        # programs want the cores they burn.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # It makes 32-bit codes of biases in the precision of the scales, which in float16 overflow. Others need it.
        disabled = ["WeightBiasQuantization"] if card.provenance.get("target") == "tensorrt" else []
        try:
            # Its fallback would print, and try the same once more.
            self._session: Any = ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled, enable_fallback=0
            )
        except Exception as error:  # onnxruntime raises types of its own that share no base
            raise BackendError(
                f"ONNX Runtime {self.version} refuses {path} ({first_line(error)})",
                "export the model again, or try --backend openvino",
            ) from error
        self.inputs = tuple(spec_of(t) for t in self._session.get_inputs())
        self.outputs = tuple(spec_of(t) for t in self._session.get_outputs())
        check_inputs(self.inputs, card, str(path))
        self._names = [o.name for o in self.outputs]

    def infer(self, feed: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Run once; see ``Backend.infer``."""
        if self._session is None:
            raise BackendError("The ONNX Runtime session is closed", "load the model again")
        check_feed(feed, self.inputs)
        try:
            return dict(zip(self._names, self._session.run(self._names, dict(feed))))
        except Exception as error:
            raise BackendError(
                f"ONNX Runtime failed ({first_line(error)})",
                "check the frame and the model with 'edgeseg info'",
            ) from error

    def close(self) -> None:
        """Free the session."""
        self._session = None


def spec_of(tensor: Any) -> TensorSpec:
    """What ONNX Runtime says about an input or output."""
    shape = tuple(d if isinstance(d, int) else None for d in tensor.shape)
    return TensorSpec(tensor.name, np.dtype(_DTYPES.get(tensor.type, np.float32)), shape)


def first_line(error: Exception) -> str:
    """The beginning of an error's text, which often goes on for a page."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
