"""A plan in TensorRT, with device memory for what goes in and out. One code path for TensorRT 8.5 to 11."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg.card import ModelCard
from edgeseg.errors import BackendError, ModelError
from edgeseg.tensors import TensorSpec, check_inputs, network_input_shape
from edgeseg.trt.device import Device, Memory
from edgeseg.trt.library import load_tensorrt, log_of
from edgeseg.trt.plan import read_sidecar, rebuild_mend

_DTYPES = {
    "FLOAT": np.float32, "HALF": np.float16, "UINT8": np.uint8, "INT8": np.int8, "INT32": np.int32,
    "INT64": np.int64, "BOOL": np.bool_,
}  # fmt: skip
_MEND = "start the program again; if it fails again, build the engine again: edgeseg build"


class Network:
    """An engine with its one execution context.

    Made, used and closed while the device's context is current; everything is given back with ``device.scope``.

    Args:
        device: where it runs.
        plan: what ``open_plan`` gave.
        card: its input size is set where the plan leaves it open.
        path: of the plan, for messages.

    Attributes:
        version: of TensorRT.
        inputs, outputs: in the plan's order.
        shapes: by name of input and output.
        memory: by name of input and output.
        capturable: as far as is known, it can be part of a CUDA graph.

    Raises:
        BackendError: TensorRT refuses the plan, or there is too little memory.
        ModelError: the plan takes another input than the card says.
    """

    def __init__(self, device: Device, plan: bytes, card: ModelCard, path: Path) -> None:
        trt = load_tensorrt()
        self._trt: Any = trt
        self._device = device
        self._log = log_of(trt)
        self.version = str(trt.__version__)
        self.capturable = True
        self._runtime: Any = trt.Runtime(self._log)
        self._engine: Any = None
        self._context: Any = None
        # From here on the order in which they go is settled: context, engine, runtime.
        device.scope.callback(self._close)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise BackendError(
                f"TensorRT {self.version} refuses {path} ({self._said()})", rebuild_mend(path, read_sidecar(path))
            )
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise device.out_of_memory(self._workspace_bytes(), f"running {path.name}")
        self._set_input_shapes(card, path)
        self.shapes = {name: tuple(int(n) for n in self._context.get_tensor_shape(name)) for name in self._names()}
        specs = {name: TensorSpec(name, self._dtype(name), shape) for name, shape in self.shapes.items()}
        self.inputs = tuple(spec for name, spec in specs.items() if self._is_input(name))
        self.outputs = tuple(spec for name, spec in specs.items() if not self._is_input(name))
        check_inputs(self.inputs, card, str(path))
        self.memory: dict[str, Memory] = {}
        for name, shape in self.shapes.items():
            nbytes = math.prod(shape) * specs[name].dtype.itemsize
            self.memory[name] = device.memory(nbytes, f"'{name}' of {path.name}")
            if not self._context.set_tensor_address(name, self.memory[name].address):
                raise BackendError(f"TensorRT takes no memory for '{name}' ({self._said()})", _MEND)

    def _names(self) -> list[str]:
        return [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]

    def _set_input_shapes(self, card: ModelCard, path: Path) -> None:
        for name in self._names():
            if not self._is_input(name) or -1 not in tuple(self._engine.get_tensor_shape(name)):
                continue
            shape = network_input_shape(card)
            if not self._context.set_input_shape(name, shape):
                raise ModelError(
                    f"{path} was not built for an input '{name}' of {list(shape)}",
                    "build it with a --profile that holds that size, or give another --imgsz",
                )
        unknown = self._context.infer_shapes()
        if unknown:
            raise ModelError(f"{path} needs the values of {', '.join(unknown)}", "use a model with one image input")

    def _is_input(self, name: str) -> bool:
        return bool(self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT)

    def _dtype(self, name: str) -> np.dtype[Any]:
        # Not trt.nptype: that of TensorRT 8 needs names that numpy has dropped.
        kind = self._engine.get_tensor_dtype(name).name
        if kind not in _DTYPES:
            raise ModelError(
                f"'{name}' of the engine holds {kind}, which numpy has not",
                "export the model with float32 or float16 inputs and outputs",
            )
        return np.dtype(_DTYPES[kind])

    def _workspace_bytes(self) -> int:
        # Until 10.0 there is only the one, from 11 on only the other.
        both = (getattr(self._engine, name, None) for name in ("device_memory_size_v2", "device_memory_size"))
        return int(next(size for size in both if size is not None))

    def _said(self) -> str:
        errors = self._log.take_errors()
        memory = [self._device.free_memory_text()] if any("memory" in line.lower() for line in errors) else []
        return "; ".join([" ".join(line.split()) for line in errors] + memory) or "it does not say why"

    def enqueue(self) -> None:
        """Queue one run on the device's stream.

        Raises:
            BackendError: TensorRT refuses.
        """
        if not self._context.execute_async_v3(self._device.stream):
            raise BackendError(f"TensorRT {self.version} failed ({self._said()})", _MEND)

    def _close(self) -> None:
        self._context = None
        self._engine = None
        self._runtime = None
