"""The NVIDIA driver's CUDA interface: the calls that running a network takes, through ctypes.

Not through cuda-python, whose every release is bound to one major version of CUDA and to the newest Pythons: the
driver's own interface has been the same from CUDA 11.4 (JetPack 5) to 13, its library comes with the driver, and
nothing has to be installed to load it.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_size_t, c_uint, c_uint64, c_void_p
from functools import cache
from typing import Any

from edgeseg.errors import BackendError

OUT_OF_MEMORY = 2
_FLOOR = "CUDA 11.4"

# Values fixed by the interface (cuda.h).
_STREAM_NON_BLOCKING = 1
_HOST_DEVICE_MAP = 2
_CAPTURE_THREAD_LOCAL = 1
_EVENT_RECORD_EXTERNAL = 1
INTEGRATED, CAN_MAP_HOST_MEMORY, CAPABILITY_MAJOR, CAPABILITY_MINOR = 18, 19, 75, 76
"""Attribute numbers of ``Driver.attribute``."""

_OUT_ADDRESS, _OUT_HANDLE = POINTER(c_uint64), POINTER(c_void_p)
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDriverGetVersion": (POINTER(c_int),),
    "cuGetErrorName": (c_int, POINTER(c_char_p)),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetName": (c_char_p, c_int, c_int),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cuDevicePrimaryCtxRetain": (_OUT_HANDLE, c_int),
    "cuDevicePrimaryCtxRelease_v2": (c_int,),
    "cuCtxPushCurrent_v2": (c_void_p,),
    "cuCtxPopCurrent_v2": (_OUT_HANDLE,),
    "cuMemGetInfo_v2": (POINTER(c_size_t), POINTER(c_size_t)),
    "cuMemAlloc_v2": (_OUT_ADDRESS, c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemHostAlloc": (_OUT_HANDLE, c_size_t, c_uint),
    "cuMemFreeHost": (c_void_p,),
    "cuMemHostGetDevicePointer_v2": (_OUT_ADDRESS, c_void_p, c_uint),
    "cuMemcpyHtoDAsync_v2": (c_uint64, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_uint64, c_size_t, c_void_p),
    "cuMemsetD8Async": (c_uint64, ctypes.c_ubyte, c_size_t, c_void_p),
    "cuStreamCreate": (_OUT_HANDLE, c_uint),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamEndCapture": (c_void_p, _OUT_HANDLE),
    "cuGraphInstantiateWithFlags": (_OUT_HANDLE, c_void_p, c_uint64),
    "cuGraphDestroy": (c_void_p,),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuGraphExecDestroy": (c_void_p,),
    "cuEventCreate": (_OUT_HANDLE, c_uint),
    "cuEventDestroy_v2": (c_void_p,),
    "cuEventRecordWithFlags": (c_void_p, c_void_p, c_uint),
    "cuEventElapsedTime": (POINTER(c_float), c_void_p, c_void_p),
    "cuModuleLoadData": (_OUT_HANDLE, c_char_p),
    "cuModuleUnload": (c_void_p,),
    "cuModuleGetFunction": (_OUT_HANDLE, c_void_p, c_char_p),
    "cuLaunchKernel": (c_void_p, *(c_uint,) * 7, c_void_p, POINTER(c_void_p), POINTER(c_void_p)),
}  # fmt: skip


class CudaError(BackendError):
    """A call of the CUDA driver failed.

    Attributes:
        code: the driver's error number.
    """

    code = 0


class Driver:
    """The calls, with errors raised. Handles and addresses are plain integers; a stream is always named.

    Every call but the first few acts on the calling thread's current context.

    Args:
        library: libcuda, with the signatures set.

    Raises:
        CudaError: by every method, when the driver says no.
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        self._call("cuInit", 0)

    def _call(self, name: str, *args: Any) -> None:
        code = getattr(self._library, name)(*args)
        if code:
            raise self._error(name, code)

    def _error(self, name: str, code: int) -> CudaError:
        word, text = c_char_p(), c_char_p()
        self._library.cuGetErrorName(code, byref(word))
        self._library.cuGetErrorString(code, byref(text))
        said = ", ".join((part.value or b"unknown").decode(errors="replace") for part in (word, text))
        error = CudaError(
            f"The NVIDIA driver failed in {name} (error {code}, {said})",
            "start the program again; if it fails again, see what the GPU says in 'dmesg' and 'edgeseg doctor'",
        )
        error.code = code
        return error

    def _integer(self, name: str, *args: Any) -> int:
        number = c_int()
        self._call(name, byref(number), *args)
        return number.value

    def _handle(self, name: str, *args: Any) -> int:
        handle = c_void_p()
        self._call(name, byref(handle), *args)
        return handle.value or 0

    def _address(self, name: str, *args: Any) -> int:
        address = c_uint64()
        self._call(name, byref(address), *args)
        return address.value

    # devices and contexts

    def version(self) -> tuple[int, int]:
        """The newest CUDA the driver runs, such as (12, 6)."""
        number = self._integer("cuDriverGetVersion")
        return number // 1000, number % 1000 // 10

    def device(self, index: int) -> int:
        """The device with that number, counted as CUDA_VISIBLE_DEVICES leaves them."""
        return self._integer("cuDeviceGet", index)

    def device_name(self, device: int) -> str:
        """Name of a device, such as "NVIDIA GeForce RTX 3060"."""
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", name, len(name), device)
        return name.value.decode(errors="replace")

    def attribute(self, device: int, which: int) -> int:
        """One of the numbers listed above."""
        return self._integer("cuDeviceGetAttribute", which, device)

    def retain_context(self, device: int) -> int:
        """The context that everything in the process shares, TensorRT included."""
        return self._handle("cuDevicePrimaryCtxRetain", device)

    def release_context(self, device: int) -> None:
        """Undo one ``retain_context``."""
        self._call("cuDevicePrimaryCtxRelease_v2", device)

    def push_context(self, context: int) -> None:
        """Make a context the calling thread's current one."""
        self._call("cuCtxPushCurrent_v2", context)

    def pop_context(self) -> None:
        """Undo one ``push_context``."""
        self._handle("cuCtxPopCurrent_v2")

    # memory

    def free_memory(self) -> int:
        """Bytes of device memory that nobody uses."""
        free, total = c_size_t(), c_size_t()
        self._call("cuMemGetInfo_v2", byref(free), byref(total))
        return free.value

    def allocate(self, nbytes: int) -> int:
        """Address of new device memory."""
        return self._address("cuMemAlloc_v2", nbytes)

    def free(self, address: int) -> None:
        """Give device memory back."""
        self._call("cuMemFree_v2", address)

    def allocate_host(self, nbytes: int, *, mapped: bool) -> int:
        """Address of new page-locked host memory, ``mapped`` into the device's addresses or not."""
        return self._handle("cuMemHostAlloc", nbytes, _HOST_DEVICE_MAP if mapped else 0)

    def free_host(self, address: int) -> None:
        """Give page-locked memory back."""
        self._call("cuMemFreeHost", address)

    def mapped_address(self, host_address: int) -> int:
        """Where the device sees mapped host memory."""
        return self._address("cuMemHostGetDevicePointer_v2", host_address, 0)

    def upload(self, device_address: int, host_address: int, nbytes: int, stream: int) -> None:
        """Queue a copy from host to device."""
        self._call("cuMemcpyHtoDAsync_v2", device_address, host_address, nbytes, stream)

    def download(self, host_address: int, device_address: int, nbytes: int, stream: int) -> None:
        """Queue a copy from device to host."""
        self._call("cuMemcpyDtoHAsync_v2", host_address, device_address, nbytes, stream)

    def clear(self, device_address: int, nbytes: int, stream: int) -> None:
        """Queue filling device memory with zeros."""
        self._call("cuMemsetD8Async", device_address, 0, nbytes, stream)

    # streams, graphs and events

    def create_stream(self) -> int:
        """A stream that does not wait for the default one."""
        return self._handle("cuStreamCreate", _STREAM_NON_BLOCKING)

    def destroy_stream(self, stream: int) -> None:
        """End a stream."""
        self._call("cuStreamDestroy_v2", stream)

    def synchronize(self, stream: int) -> None:
        """Wait until everything queued is done. What failed on the device shows here."""
        self._call("cuStreamSynchronize", stream)

    def begin_capture(self, stream: int) -> None:
        """From here on calls of this thread on the stream are noted, not run."""
        self._call("cuStreamBeginCapture_v2", stream, _CAPTURE_THREAD_LOCAL)

    def end_capture(self, stream: int) -> int:
        """The graph of what was noted."""
        graph = c_void_p()
        self._call("cuStreamEndCapture", stream, byref(graph))
        return graph.value or 0

    def instantiate(self, graph: int) -> int:
        """A graph made ready to launch."""
        return self._handle("cuGraphInstantiateWithFlags", graph, 0)

    def destroy_graph(self, graph: int) -> None:
        """Free what ``end_capture`` gave."""
        self._call("cuGraphDestroy", graph)

    def launch_graph(self, executable: int, stream: int) -> None:
        """Queue what ``instantiate`` gave."""
        self._call("cuGraphLaunch", executable, stream)

    def destroy_executable(self, executable: int) -> None:
        """Free what ``instantiate`` gave."""
        self._call("cuGraphExecDestroy", executable)

    def create_event(self) -> int:
        """An event that takes the time."""
        return self._handle("cuEventCreate", 0)

    def destroy_event(self, event: int) -> None:
        """End an event."""
        self._call("cuEventDestroy_v2", event)

    def record(self, event: int, stream: int, *, capturing: bool) -> None:
        """Queue taking the time.

        Args:
            event: what ``create_event`` gave.
            stream: what to queue it on.
            capturing: the stream is being captured: the graph shall take the time whenever it runs.
        """
        self._call("cuEventRecordWithFlags", event, stream, _EVENT_RECORD_EXTERNAL if capturing else 0)

    def elapsed_ms(self, start: int, end: int) -> float:
        """Milliseconds between two events that have happened."""
        elapsed = c_float()
        self._call("cuEventElapsedTime", byref(elapsed), start, end)
        return elapsed.value

    # kernels

    def load_module(self, image: bytes) -> int:
        """A compiled program on the device."""
        return self._handle("cuModuleLoadData", image)

    def unload_module(self, module: int) -> None:
        """Undo ``load_module``."""
        self._call("cuModuleUnload", module)

    def function(self, module: int, name: str) -> int:
        """A kernel of a program."""
        return self._handle("cuModuleGetFunction", module, name.encode())

    def launch(
        self, function: int, grid_xy: tuple[int, int], block_xy: tuple[int, int], parameters: Any, stream: int
    ) -> None:
        """Queue a kernel.

        Args:
            function: what ``function`` gave.
            grid_xy: number of blocks.
            block_xy: threads of a block.
            parameters: a ctypes array with the address of each argument.
            stream: what to queue it on.
        """
        self._call("cuLaunchKernel", function, *grid_xy, 1, *block_xy, 1, 0, stream, parameters, None)


@cache
def driver() -> Driver:
    """The driver of this machine.

    Raises:
        BackendError: there is none, it is too old, or it does not start.
    """
    try:
        library = ctypes.CDLL("libcuda.so.1")
        for name, types in _SIGNATURES.items():
            getattr(library, name).argtypes = types
    except OSError as error:
        raise BackendError("There is no NVIDIA driver (libcuda.so.1)", "see 'edgeseg doctor'") from error
    except AttributeError as error:
        raise BackendError(
            f"The NVIDIA driver is older than {_FLOOR} ({error})", f"update it to one for {_FLOOR} or newer"
        ) from error
    return Driver(library)
