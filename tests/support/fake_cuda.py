"""A CUDA driver made of the host's own memory, for what cannot be tried without a GPU. It verifies nothing on one.

It keeps to the rules that are easy to break: what is queued runs only when its stream is waited for, memory is
overwritten when it is freed, every handle is of one kind and ends once, and calls need a current context. The kernels
it runs are the real ones, compiled for the host.
"""

# ruff: noqa: N802
from __future__ import annotations

import ctypes
import itertools
import threading
from collections.abc import Callable
from typing import Any

from host_kernels import NAMES, host_kernels

from edgeseg.trt import cuda

INTEGRATED, CAN_MAP, MAJOR, MINOR = 18, 19, 75, 76
EXTERNAL = 1
INVALID_VALUE, OUT_OF_MEMORY, INVALID_CONTEXT, INVALID_HANDLE, CONTEXT_IS_DESTROYED = 1, 2, 201, 400, 709
CONTEXT = 77
POISON = 0xAB

# Memory that was freed stays reserved, so that nothing else of the process is where a late access goes.
_GRAVEYARD: list[Any] = []

Step = tuple[str, Callable[[], None]]


class FakeCuda:
    """Takes the place of libcuda.

    Args:
        memory: bytes of the device.
        integrated: device and host share their memory.

    Attributes:
        calls: names of the calls, in order.
        ran: what ran on the device, in order.
        fail: error numbers, by the names of the calls that shall give them.
        lost: every call fails, as after a fault on the device.
    """

    def __init__(self, memory: int = 1 << 30, *, integrated: bool = False) -> None:
        self.calls: list[str] = []
        self.ran: list[str] = []
        self.fail: dict[str, int] = {}
        self.lost = False
        self.memory, self.integrated = memory, integrated
        self.retained = 0
        self._blocks: dict[int, tuple[Any, bool]] = {}
        self._handles: dict[int, tuple[str, Any]] = {}
        self._functions: dict[int, str] = {}
        self._numbers = itertools.count(1000)
        self._thread = threading.local()
        self._queued: list[Step] = []
        self._noted: list[Step] | None = None
        self._clock_ms = 0.0

    def __getattr__(self, name: str) -> Callable[..., int]:
        if not name.startswith("cu"):
            raise AttributeError(name)
        action = getattr(self, f"_{name.partition('_v')[0]}")

        def call(*args: Any) -> int:
            self.calls.append(name)
            signature = cuda._SIGNATURES[name]
            assert len(args) == len(signature)
            for wanted, given in zip(signature, args):
                wanted.from_param(given)
            if name in self.fail:
                if name == "cuStreamEndCapture":
                    self._noted = None
                return self.fail[name]
            if not name.startswith(("cuGetError", "cuInit", "cuDriver", "cuDevice", "cuCtx")):
                if not self.contexts:
                    return INVALID_CONTEXT
                if self.lost:
                    return CONTEXT_IS_DESTROYED
            return action(*args) or 0

        return call

    @property
    def contexts(self) -> list[int]:
        """The calling thread's contexts; the last is current."""
        if not hasattr(self._thread, "contexts"):
            self._thread.contexts = []
        return self._thread.contexts

    @property
    def capturing(self) -> bool:
        """Whether work is noted for a graph, not queued."""
        return self._noted is not None

    def used(self) -> int:
        """Bytes of device memory in use."""
        return sum(ctypes.sizeof(block) for block, is_host in self._blocks.values() if not is_host)

    def left(self) -> list[str]:
        """What has not been given back."""
        kinds = [kind for kind, _ in self._handles.values()]
        return kinds + ["block"] * len(self._blocks) + ["context"] * (self.retained + len(self.contexts))

    def on_device(self, address: int, nbytes: int) -> bytearray:
        """Device memory by its address, for a network to read and write."""
        assert self._is(address, nbytes, host=False), "an address that is not the device's"
        return (ctypes.c_ubyte * nbytes).from_address(address)

    def queue(self, what: str, action: Callable[[], None]) -> None:
        """Put a step of work on the stream, or note it while a graph is captured."""
        (self._queued if self._noted is None else self._noted).append((what, action))

    def _is(self, address: int, nbytes: int, *, host: bool) -> bool:
        return any(
            start <= address and address + nbytes <= start + ctypes.sizeof(block) and is_host == host
            for start, (block, is_host) in self._blocks.items()
        )

    def _new(self, kind: str, value: Any, out: Any) -> None:
        number = next(self._numbers)
        self._handles[number] = (kind, value)
        out._obj.value = number

    def _end(self, kind: str, handle: int) -> int:
        if self._handles.get(handle, ("", None))[0] != kind:
            return INVALID_HANDLE
        del self._handles[handle]
        return 0

    def _value(self, kind: str, handle: int) -> Any:
        known, value = self._handles[handle]
        assert known == kind
        return value

    # the calls

    def _cuInit(self, flags: int) -> None: ...

    def _cuGetErrorName(self, code: int, text: Any) -> None:
        text._obj.value = b"CUDA_ERROR_%d" % code

    def _cuGetErrorString(self, code: int, text: Any) -> None:
        text._obj.value = b"says the fake"

    def _cuDriverGetVersion(self, out: Any) -> None:
        out._obj.value = 12060

    def _cuDeviceGet(self, out: Any, index: int) -> None:
        out._obj.value = index

    def _cuDeviceGetName(self, buffer: Any, size: int, device: int) -> None:
        buffer.value = b"Fake GPU"

    def _cuDeviceGetAttribute(self, out: Any, which: int, device: int) -> None:
        out._obj.value = {INTEGRATED: int(self.integrated), CAN_MAP: 1, MAJOR: 8, MINOR: 7}[which]

    def _cuDevicePrimaryCtxRetain(self, out: Any, device: int) -> None:
        self.retained += 1
        out._obj.value = CONTEXT

    def _cuDevicePrimaryCtxRelease(self, device: int) -> None:
        self.retained -= 1

    def _cuCtxPushCurrent(self, context: int) -> None:
        assert context == CONTEXT
        self.contexts.append(context)

    def _cuCtxPopCurrent(self, out: Any) -> None:
        self.contexts.pop()

    def _cuMemGetInfo(self, free: Any, total: Any) -> None:
        free._obj.value, total._obj.value = self.memory - self.used(), self.memory

    def _take(self, nbytes: int, out: Any, *, host: bool) -> int:
        if nbytes == 0:
            return INVALID_VALUE
        if not host and self.used() + nbytes > self.memory:
            return OUT_OF_MEMORY
        block = (ctypes.c_ubyte * nbytes)()
        ctypes.memset(block, POISON, nbytes)
        self._blocks[ctypes.addressof(block)] = (block, host)
        out._obj.value = ctypes.addressof(block)
        return 0

    def _give(self, address: int, *, host: bool) -> int:
        block, is_host = self._blocks.pop(address, (None, host))
        if block is None or is_host != host:
            return INVALID_VALUE
        ctypes.memset(block, POISON, ctypes.sizeof(block))
        _GRAVEYARD.append(block)
        return 0

    def _cuMemAlloc(self, out: Any, nbytes: int) -> int:
        return self._take(nbytes, out, host=False)

    def _cuMemFree(self, address: int) -> int:
        return self._give(address, host=False)

    def _cuMemHostAlloc(self, out: Any, nbytes: int, flags: int) -> int:
        return self._take(nbytes, out, host=True)

    def _cuMemFreeHost(self, address: int) -> int:
        return self._give(address, host=True)

    def _cuMemHostGetDevicePointer(self, out: Any, address: int, flags: int) -> int:
        if not self.integrated:
            return INVALID_VALUE
        out._obj.value = address
        return 0

    def _cuMemcpyHtoDAsync(self, device: int, host: int, nbytes: int, stream: int) -> int:
        if not self._is(device, nbytes, host=False):
            return INVALID_VALUE
        self.queue("upload", lambda: ctypes.memmove(device, host, nbytes))
        return 0

    def _cuMemcpyDtoHAsync(self, host: int, device: int, nbytes: int, stream: int) -> int:
        if not self._is(device, nbytes, host=False):
            return INVALID_VALUE
        self.queue("download", lambda: ctypes.memmove(host, device, nbytes))
        return 0

    def _cuMemsetD8Async(self, device: int, value: int, nbytes: int, stream: int) -> int:
        if not self._is(device, nbytes, host=False):
            return INVALID_VALUE
        self.queue("clear", lambda: ctypes.memset(device, value, nbytes))
        return 0

    def _cuStreamCreate(self, out: Any, flags: int) -> int:
        if flags != 1:
            return INVALID_VALUE
        self._new("stream", None, out)
        return 0

    def _cuStreamDestroy(self, stream: int) -> int:
        return self._end("stream", stream)

    def _cuStreamSynchronize(self, stream: int) -> int:
        if self._noted is not None:
            return INVALID_VALUE
        steps, self._queued = self._queued, []
        for what, action in steps:
            self._clock_ms += 1.0
            self.ran.append(what)
            action()
        return 0

    def _cuStreamBeginCapture(self, stream: int, mode: int) -> int:
        if mode != 1 or self._noted is not None:
            return INVALID_VALUE
        self._noted = []
        return 0

    def _cuStreamEndCapture(self, stream: int, out: Any) -> int:
        if self._noted is None:
            return INVALID_VALUE
        steps, self._noted = self._noted, None
        self._new("graph", steps, out)
        return 0

    def _cuGraphInstantiateWithFlags(self, out: Any, graph: int, flags: int) -> None:
        self._new("executable", self._value("graph", graph), out)

    def _cuGraphDestroy(self, graph: int) -> int:
        return self._end("graph", graph)

    def _cuGraphLaunch(self, executable: int, stream: int) -> None:
        self.queue("graph", lambda: None)
        for step in self._value("executable", executable):
            self.queue(*step)

    def _cuGraphExecDestroy(self, executable: int) -> int:
        return self._end("executable", executable)

    def _cuEventCreate(self, out: Any, flags: int) -> None:
        self._new("event", [None], out)

    def _cuEventDestroy(self, event: int) -> int:
        return self._end("event", event)

    def _cuEventRecordWithFlags(self, event: int, stream: int, flags: int) -> int:
        if (flags == EXTERNAL) != (self._noted is not None):
            return INVALID_VALUE
        time = self._value("event", event)
        self.queue("event", lambda: time.__setitem__(0, self._clock_ms))
        return 0

    def _cuEventElapsedTime(self, out: Any, start: int, end: int) -> int:
        times = self._value("event", start)[0], self._value("event", end)[0]
        if None in times:
            return INVALID_HANDLE
        out._obj.value = times[1] - times[0]
        return 0

    def _cuModuleLoadData(self, out: Any, image: bytes) -> None:
        self._new("module", image.decode(), out)

    def _cuModuleUnload(self, module: int) -> int:
        return self._end("module", module)

    def _cuModuleGetFunction(self, out: Any, module: int, name: bytes) -> int:
        if name.decode() not in NAMES[self._value("module", module)]:
            return INVALID_HANDLE
        # No handle of its own: a function ends with its module.
        out._obj.value = number = next(self._numbers)
        self._functions[number] = name.decode()
        return 0

    def _cuLaunchKernel(self, function: int, *rest: Any) -> int:
        grid_x, grid_y, grid_z, block_x, block_y, block_z, shared, _stream, parameters, extra = rest
        if block_x * block_y * block_z > 1024 or grid_z != 1 or shared or extra:
            return INVALID_VALUE
        name = self._functions[function]
        self.queue(name, lambda: host_kernels()[name](grid_x, grid_y, block_x, block_y, parameters))
        return 0
