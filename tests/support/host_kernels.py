"""The CUDA kernels as functions of the host; see ``host_kernels.h``."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from edgeseg.trt import kernels

NAMES = {
    "prepare.cu": ("prepare_8", "prepare_16", "prepare_32"),
    "decode.cu": (
        *(f"{step}_{kind}" for step in ("winners", "decode", "margin") for kind in ("f16", "f32")),
        *(f"resize_{kind}" for kind in ("uint8", "int32", "int64")),
    ),
}
SHIM = Path(__file__).with_name("host_kernels.h")
OPTIONS = ("-std=c++17", "-O2", "-ffp-contract=off", "-shared", "-fPIC", "-Wall", "-Werror")


@lru_cache(maxsize=1)
def host_kernels() -> dict[str, Any]:
    """The kernels by name; each takes the grid, the block and what cuLaunchKernel takes as parameters."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    functions = {}
    for source, names in NAMES.items():
        with tempfile.TemporaryDirectory() as folder:
            path, library = Path(folder) / "kernels.cpp", Path(folder) / "kernels.so"
            exports = "\n".join(f"ON_HOST({name})" for name in names)
            text = (SHIM.read_text(encoding="utf-8"), kernels.source_of(source), exports)
            path.write_text("\n".join(text) + "\n", encoding="utf-8")
            subprocess.run([compiler, *OPTIONS, str(path), "-o", str(library)], check=True, timeout=120)
            loaded = ctypes.CDLL(str(library))
        functions.update({name: getattr(loaded, f"host_{name}") for name in names})
    return functions
