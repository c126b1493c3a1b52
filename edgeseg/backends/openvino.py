"""OpenVINO on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.card import ModelCard
from edgeseg.errors import BackendError, EdgesegError, MissingDependencyError
from edgeseg.processor import BFLOAT16, cores, features
from edgeseg.tensors import TensorSpec, check_feed, check_inputs, network_input_shape


class OpenVinoBackend:
    """A model compiled by OpenVINO for the CPU. See ``edgeseg.backends.Backend``."""

    name = "openvino"
    device = "CPU"
    _precision = "f32"

    def __init__(self, path: Path, card: ModelCard, *, threads: int | None = None) -> None:
        try:
            import openvino as ov
        except ImportError as error:
            raise MissingDependencyError.for_extra("openvino", "cpu", "This backend") from error
        self.version = str(ov.__version__).split("-")[0]
        config: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            # OpenVINO would choose bfloat16 by itself where the CPU has it: the file says the precision.
            "INFERENCE_PRECISION_HINT": self._precision,
        }
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = threads
            # Pinned, the threads of several engines in one process would share the first cores and leave the others.
            config["ENABLE_CPU_PINNING"] = threads >= cores()
        try:
            core = ov.Core()
            model = core.read_model(str(path))
            check_inputs([_spec(port) for port in model.inputs], card, str(path))
            if model.inputs[0].partial_shape.is_dynamic:
                model.reshape({model.inputs[0]: list(network_input_shape(card))})
            self._compiled: Any = core.compile_model(model, "CPU", config)
            self._request: Any = self._compiled.create_infer_request()
        except EdgesegError:
            raise
        except Exception as error:  # not only RuntimeError: a name that is not UTF-8 is a UnicodeDecodeError
            raise BackendError(
                f"OpenVINO {self.version} refuses {path} ({_last_line(error)})",
                "export the model again, or try --backend onnxruntime",
            ) from error
        self.inputs = tuple(_spec(t) for t in self._compiled.inputs)
        self.outputs = tuple(_spec(t) for t in self._compiled.outputs)

    def infer(self, feed: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Run once; see ``Backend.infer``."""
        if self._request is None:
            raise BackendError("The OpenVINO model is closed", "load the model again")
        check_feed(feed, self.inputs)
        try:
            # Inputs and outputs are shared, not copied: the feed outlives the call, and the outputs are
            # the caller's until the next one.
            by_number = {i: feed[spec.name] for i, spec in enumerate(self.inputs)}
            self._request.infer(by_number, share_inputs=True, share_outputs=True)
        except Exception as error:
            raise BackendError(
                f"OpenVINO failed ({_last_line(error)})", "check the frame and the model with 'edgeseg info'"
            ) from error
        return {spec.name: self._request.get_output_tensor(i).data for i, spec in enumerate(self.outputs)}

    def close(self) -> None:
        """Free the compiled model."""
        self._request = self._compiled = None


class OpenVinoBfloat16Backend(OpenVinoBackend):
    """The same with float layers computed in bfloat16, whatever the file says; what is INT8 stays so.

    Raises:
        BackendError: the processor has no instructions for bfloat16, so that it would take longer, not less.
    """

    name = "openvino-bf16"
    _precision = "bf16"

    def __init__(self, path: Path, card: ModelCard, *, threads: int | None = None) -> None:
        known = features()
        if known and not known & BFLOAT16:
            raise BackendError("This processor does not compute in bfloat16", "use --backend openvino")
        super().__init__(path, card, threads=threads)


def _spec(port: Any) -> TensorSpec:
    shape = tuple(d.get_length() if d.is_static else None for d in port.partial_shape)
    return TensorSpec(_name(port), np.dtype(port.element_type.to_dtype()), shape)


def _name(port: Any) -> str:
    # A tensor also bears the names it had before nodes that do nothing: any_name is the first by alphabet.
    own = str(port.node.get_friendly_name()).removesuffix("/sink_port_0")
    return own if own in port.get_names() else str(port.any_name)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1][:200]
