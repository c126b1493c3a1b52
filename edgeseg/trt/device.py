"""One GPU as one model uses it: memory, a stream and graphs, all given back in the reverse order."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import BackendError
from edgeseg.trt import cuda
from edgeseg.trt.cuda import CudaError, Driver


@dataclass(frozen=True)
class Memory:
    """Device memory: where the device sees it, and its size."""

    address: int
    nbytes: int


@dataclass(frozen=True)
class Staging:
    """Page-locked host memory, which the GPU copies from and to by itself.

    Attributes:
        array: uint8 [nbytes], the memory.
        mapped: where the device sees it, on a GPU that shares the host's memory; else None.
    """

    array: NDArray[np.uint8]
    mapped: Memory | None


class Launch:
    """A kernel with its grid and arguments, ready to queue as often as needed.

    Args:
        driver: the driver.
        function: handle of the kernel.
        size_xy: how many threads are needed along x and y; the kernel has to ignore those beyond.
        arguments: as the kernel takes them; an int is one of 32 bits.
    """

    def __init__(
        self, driver: Driver, function: int, size_xy: tuple[int, int], arguments: tuple[Memory | int, ...]
    ) -> None:
        self._driver, self._function = driver, function
        self._block = (256, 1) if size_xy[1] == 1 else (32, 8)
        self._grid = (-(-size_xy[0] // self._block[0]), -(-size_xy[1] // self._block[1]))
        self._kept = [ctypes.c_uint64(a.address) if isinstance(a, Memory) else ctypes.c_int(a) for a in arguments]
        self._parameters = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, self._kept))

    def __call__(self, stream: int) -> None:
        """Queue it."""
        self._driver.launch(self._function, self._grid, self._block, self._parameters, stream)


def _mib(nbytes: int) -> str:
    return f"{nbytes / 2**20:.1f} MiB"


class Device:
    """The first GPU that the driver shows, through the context that TensorRT shares.

    What allocates, queues or frees is called within ``with device.current():``, from any thread, one at a time.

    Args:
        driver: the driver; None takes this machine's.

    Attributes:
        name: of the GPU.
        architecture: compute capability times ten, such as 87.
        integrated: host and GPU share one memory, so that copying between them would be for nothing.
        stream: where all work is queued.
        scope: what is given back at the end, the last first.

    Raises:
        BackendError: there is no driver, or it is too old, or the GPU cannot be used.
    """

    def __init__(self, driver: Driver | None = None) -> None:
        self.driver = driver = driver or cuda.driver()
        self._device = device = driver.device(0)
        self.closed = False
        self.name = driver.device_name(device)
        major, minor, shared, maps = (
            driver.attribute(device, which)
            for which in (cuda.CAPABILITY_MAJOR, cuda.CAPABILITY_MINOR, cuda.INTEGRATED, cuda.CAN_MAP_HOST_MEMORY)
        )
        self.architecture = 10 * major + minor
        self.integrated = bool(shared and maps)
        self.scope = ExitStack()
        self._context = driver.retain_context(device)
        with self.current():
            self.stream = driver.create_stream()
            self.scope.callback(driver.destroy_stream, self.stream)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the GPU's context the calling thread's for a while.

        Raises:
            BackendError: the device was closed, or the GPU failed.
        """
        if self.closed:
            raise BackendError("The engine is closed", "load the model again")
        self.driver.push_context(self._context)
        try:
            yield
        finally:
            self.driver.pop_context()

    def memory(self, nbytes: int, purpose: str, scope: ExitStack | None = None) -> Memory:
        """New device memory.

        Args:
            nbytes: how much; at least one byte is taken.
            purpose: for the message, such as "the frame".
            scope: what gives it back; None leaves it to the device's.

        Raises:
            BackendError: there is too little; says how much is free.
        """
        with self._explained(nbytes, purpose):
            address = self.driver.allocate(max(1, nbytes))
        (scope or self.scope).callback(self.driver.free, address)
        return Memory(address, nbytes)

    def staging(self, nbytes: int, purpose: str, scope: ExitStack | None = None, *, mapped: bool = False) -> Staging:
        """New page-locked host memory; arguments as for ``memory``.

        Args:
            nbytes: how much; at least one byte is taken.
            purpose: for the message.
            scope: what gives it back; None leaves it to the device's.
            mapped: let the device see it. The array must not be used once ``scope`` is closed.

        Raises:
            BackendError: there is too little; says how much is free.
        """
        with self._explained(nbytes, purpose):
            address = self.driver.allocate_host(max(1, nbytes), mapped=mapped)
        (scope or self.scope).callback(self.driver.free_host, address)
        array = np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(ctypes.c_uint8)), (nbytes,))
        return Staging(array, Memory(self.driver.mapped_address(address), nbytes) if mapped else None)

    @contextmanager
    def _explained(self, nbytes: int, purpose: str) -> Iterator[None]:
        try:
            yield
        except CudaError as error:
            if error.code == cuda.OUT_OF_MEMORY:
                raise self.out_of_memory(nbytes, purpose) from error
            raise

    def out_of_memory(self, nbytes: int, purpose: str) -> BackendError:
        """The error for memory that ``purpose`` did not get."""
        return BackendError(
            f"There is no GPU memory for {purpose}: it takes {_mib(nbytes)}, {self.free_memory_text()}",
            "close other programs that use the GPU, or use a smaller model, --imgsz or frame",
        )

    def free_memory_text(self) -> str:
        """How much device memory is free, for messages."""
        return f"{self.name} has {_mib(self.driver.free_memory())} free"

    def upload(self, target: Memory, source: NDArray[Any]) -> None:
        """Queue a copy of contiguous host memory, which stays as it is until the stream is synchronised."""
        self.driver.upload(target.address, source.ctypes.data, source.nbytes, self.stream)

    def download(self, target: NDArray[Any], source: Memory) -> None:
        """Queue a copy to contiguous host memory."""
        self.driver.download(target.ctypes.data, source.address, target.nbytes, self.stream)

    def uploaded(self, array: NDArray[Any], purpose: str, scope: ExitStack | None = None) -> Memory:
        """New device memory with the contents of an array; arguments as for ``memory``."""
        contiguous = np.ascontiguousarray(array)
        memory = self.memory(contiguous.nbytes, purpose, scope)
        self.upload(memory, contiguous)
        self.synchronize()
        return memory

    def synchronize(self) -> None:
        """Wait until all that is queued is done."""
        self.driver.synchronize(self.stream)

    def capture(self, enqueue: Callable[[], None], scope: ExitStack) -> int:
        """What ``enqueue`` queues, as one graph to launch; nothing of it is run.

        Args:
            enqueue: queues on ``stream``; has been run before, since TensorRT does some things only the first time.
            scope: what gives the graph back.

        Raises:
            BackendError: something in it cannot be part of a graph. The stream can be used as before.
        """
        driver = self.driver
        driver.begin_capture(self.stream)
        try:
            enqueue()
        except BaseException:
            # The capture has to end in any case; what it then says is what was said before.
            with suppress(CudaError):
                driver.destroy_graph(driver.end_capture(self.stream))
            raise
        graph = driver.end_capture(self.stream)
        try:
            executable = driver.instantiate(graph)
        finally:
            driver.destroy_graph(graph)
        scope.callback(driver.destroy_executable, executable)
        return executable

    def close(self) -> None:
        """Give everything back. A GPU that failed refuses even that: its driver frees what is left with the process."""
        if self.closed:
            return
        with suppress(CudaError), self.current():
            self.scope.close()
        self.closed = True
        with suppress(CudaError):
            self.driver.release_context(self._device)
