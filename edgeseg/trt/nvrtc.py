"""Kernels compiled where they run, by NVIDIA's run-time compiler (NVRTC). It needs no GPU and no driver."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_char_p, c_int, c_size_t, c_void_p
from pathlib import Path
from typing import Any

from edgeseg import doctor
from edgeseg.doctor import Host
from edgeseg.errors import BackendError

# Sums and products stay apart and nothing is flushed to zero: results are then those of the CPU, bit by bit.
OPTIONS = ("--fmad=false", "--ftz=false", "--prec-div=true")


class Compiler:
    """NVRTC.

    Args:
        library: libnvrtc.

    Attributes:
        version: such as (12, 6).
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        library.nvrtcGetErrorString.restype = c_char_p
        major, minor = c_int(), c_int()
        self._check(library.nvrtcVersion(byref(major), byref(minor)))
        self.version = (major.value, minor.value)

    def _check(self, code: int) -> None:
        if code:
            text = self._library.nvrtcGetErrorString(code).decode(errors="replace")
            raise BackendError(f"NVRTC failed ({text})", "reinstall the CUDA toolkit, or see 'edgeseg doctor'")

    def architectures(self) -> tuple[int, ...]:
        """What it can compile for, ascending: (75, 80, ...) for sm_75, sm_80, ..."""
        count = c_int()
        self._check(self._library.nvrtcGetNumSupportedArchs(byref(count)))
        numbers = (c_int * count.value)()
        self._check(self._library.nvrtcGetSupportedArchs(numbers))
        return tuple(sorted(numbers))

    def compile(self, source: str, name: str, architecture: int) -> bytes:
        """A program for a GPU: machine code, or PTX for the driver to compile where the GPU is newer than NVRTC.

        Args:
            source: CUDA C++ that includes nothing.
            name: for messages.
            architecture: compute capability times ten, such as 87.

        Raises:
            BackendError: NVRTC is too old for that GPU, or too new, or it refuses the source.
        """
        known = self.architectures()
        older = [number for number in known if number <= architecture]
        if not older:
            raise BackendError(
                f"NVRTC {self.version[0]}.{self.version[1]} no longer compiles for sm_{architecture}",
                "install the CUDA toolkit that came with the GPU's JetPack or driver",
            )
        exact = architecture in known
        target = f"sm_{architecture}" if exact else f"compute_{older[-1]}"
        program = c_void_p()
        self._check(self._library.nvrtcCreateProgram(byref(program), source.encode(), name.encode(), 0, None, None))
        try:
            options = [option.encode() for option in (*OPTIONS, f"--gpu-architecture={target}")]
            code = self._library.nvrtcCompileProgram(program, len(options), (c_char_p * len(options))(*options))
            if code:
                log = self._text(program, "ProgramLog").decode(errors="replace").rstrip("\0")
                raise BackendError(
                    f"NVRTC {self.version[0]}.{self.version[1]} refuses {name} for {target} ({' '.join(log.split())})",
                    "report this: it is a fault of edgeseg",
                )
            return self._text(program, "CUBIN" if exact else "PTX")
        finally:
            self._library.nvrtcDestroyProgram(byref(program))

    def _text(self, program: c_void_p, what: str) -> bytes:
        size = c_size_t()
        self._check(getattr(self._library, f"nvrtcGet{what}Size")(program, byref(size)))
        text = ctypes.create_string_buffer(size.value)
        self._check(getattr(self._library, f"nvrtcGet{what}")(program, text))
        return text.raw


def find_compiler(cuda_major: int) -> Compiler:
    """NVRTC as it is installed on this machine: by the toolkit, a JetPack, or NVIDIA's Python wheels.

    Args:
        cuda_major: of the driver, which cannot run what a newer NVRTC makes.

    Raises:
        BackendError: none is found.
    """
    for candidate in (Path(f"libnvrtc.so.{cuda_major}"), *doctor.library_files(Host(), "libnvrtc.so*")):
        try:
            # NVRTC opens its second half by name alone, which is not found beside it unless it is open already.
            for half in candidate.parent.glob("libnvrtc-builtins.so*") if candidate.is_absolute() else ():
                ctypes.CDLL(str(half))
            compiler = Compiler(ctypes.CDLL(str(candidate)))
        except OSError:
            continue
        if compiler.version[0] <= cuda_major:
            return compiler
    raise BackendError(
        f"NVRTC for CUDA {cuda_major} is not installed, which compiles what prepares and decodes frames on the GPU",
        f"pip install '{doctor.cuda_wheel('nvrtc', cuda_major)}', or install the CUDA toolkit",
    )
