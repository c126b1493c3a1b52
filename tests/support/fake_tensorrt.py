"""A TensorRT of a few lines on ``FakeCuda``, for what cannot be tried without a GPU. It verifies nothing on one."""

from __future__ import annotations

import enum
import math
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from fake_cuda import FakeCuda

KINDS = enum.Enum("DataType", "FLOAT HALF UINT8 INT8 INT32 INT64 BOOL BF16")
DTYPES = {
    "FLOAT": np.float32, "HALF": np.float16, "UINT8": np.uint8, "INT8": np.int8, "INT32": np.int32,
    "INT64": np.int64, "BOOL": np.bool_, "BF16": np.uint16,
}  # fmt: skip


@dataclass
class Tensor:
    """An input or output of the network."""

    kind: str
    shape: tuple[int, ...]
    is_input: bool = False

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Size of one of that shape."""
        return math.prod(shape) * np.dtype(DTYPES[self.kind]).itemsize


@dataclass
class FakeTensorRt:
    """Takes the place of the module ``tensorrt``.

    Attributes:
        cuda: where it queues.
        tensors: by name, in order.
        compute: arrays by name of the inputs to arrays by name of the outputs.
        ended: what was freed, in order.
        refuses: what fails: "plan", "context", "run" or "capture".
    """

    cuda: FakeCuda
    tensors: Mapping[str, Tensor]
    compute: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
    __version__: str = "10.3.0"
    ended: list[str] = field(default_factory=list)
    refuses: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.TensorIOMode = enum.Enum("TensorIOMode", "INPUT OUTPUT")

    def Runtime(self, log: Any) -> Any:  # noqa: N802
        """As TensorRT's."""
        assert self.cuda.contexts, "TensorRT would make a context of its own"
        return _Runtime(self)

    def take_errors(self) -> list[str]:
        """As the logger's."""
        errors, self.errors = self.errors, []
        return errors


class _Ends:
    def __init__(self, trt: FakeTensorRt) -> None:
        self.trt = trt

    def __del__(self) -> None:
        self.trt.ended.append(type(self).__name__.strip("_").lower())


class _Runtime(_Ends):
    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        if "plan" in self.trt.refuses:
            self.trt.errors.append("IRuntime::deserializeCudaEngine: Error Code 1:\n magicTag mismatch")
            return None
        return _Engine(self.trt)


class _Engine(_Ends):
    device_memory_size_v2 = 48 * 2**20

    @property
    def num_io_tensors(self) -> int:
        return len(self.trt.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.trt.tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return self.trt.TensorIOMode["INPUT" if self.trt.tensors[name].is_input else "OUTPUT"]

    def get_tensor_dtype(self, name: str) -> Any:
        return KINDS[self.trt.tensors[name].kind]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.trt.tensors[name].shape

    def create_execution_context(self) -> Any:
        return None if "context" in self.trt.refuses else _Context(self.trt)


class _Context(_Ends):
    def __init__(self, trt: FakeTensorRt) -> None:
        super().__init__(trt)
        self.shapes = {name: tensor.shape for name, tensor in trt.tensors.items()}
        self.addresses: dict[str, int] = {}
        self.warm = False

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        wanted = self.trt.tensors[name].shape
        # As a profile from 16 to 64 pixels would.
        fits = all(n in (-1, m) for n, m in zip(wanted, shape)) and all(m <= 64 for m in shape)
        if fits:
            self.shapes[name] = shape
            self.shapes.update(
                {
                    other: tuple(8 if n == -1 else n for n in tensor.shape)
                    for other, tensor in self.trt.tensors.items()
                    if not tensor.is_input
                }
            )
        return fits

    def infer_shapes(self) -> list[str]:
        return [name for name, shape in self.shapes.items() if -1 in shape]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        trt = self.trt
        capturing = trt.cuda.capturing
        if "run" in trt.refuses or (capturing and "capture" in trt.refuses):
            trt.errors.append("operation not permitted when stream is capturing" if capturing else "out of memory")
            return False
        assert self.warm or not capturing, "TensorRT has to run once before it is captured"
        self.warm = True
        # Work that is queued does not keep a context alive.
        running = weakref.ref(self)
        trt.cuda.queue("network", lambda: running()._run())
        return True

    def _run(self) -> None:
        arrays = {
            name: np.frombuffer(
                self.trt.cuda.on_device(self.addresses[name], tensor.nbytes(self.shapes[name])), DTYPES[tensor.kind]
            ).reshape(self.shapes[name])
            for name, tensor in self.trt.tensors.items()
        }
        results = self.trt.compute({n: a.copy() for n, a in arrays.items() if self.trt.tensors[n].is_input})
        for name, result in results.items():
            arrays[name][...] = result
