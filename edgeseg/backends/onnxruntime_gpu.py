"""ONNX Runtime on an NVIDIA GPU: its own CUDA kernels, or TensorRT inside it.

The second way to a GPU. ``edgeseg.backends.tensorrt`` is the first: it keeps whole frames there, while here
preprocessing and decoding stay on the CPU. This one takes ONNX files as they are, and operators that TensorRT does not
know. Not yet verified on a GPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib
import io
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.backends.onnxruntime import first_line, spec_of
from edgeseg.card import ModelCard
from edgeseg.doctor import Cuda, Host, is_jetson
from edgeseg.errors import BackendError, MissingDependencyError
from edgeseg.files import sha256_of
from edgeseg.tensors import check_feed, check_inputs, network_input_shape
from edgeseg.trt.library import EngineWarning, require_driver

PROVIDERS = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}

_TITLES = {"cuda": "CUDA", "tensorrt": "TensorRT"}


class OnnxRuntimeCudaBackend:
    """A model in ONNX Runtime's CUDA execution provider. See ``edgeseg.backends.Backend``.

    A session that ONNX Runtime quietly moved to the CPU is an error.

    Args:
        path: the ONNX file.
        card: gives the input size where the file leaves it open.
        threads: for what has no kernel on the GPU; None leaves it to the engine.

    Raises:
        MissingDependencyError: ONNX Runtime is not installed.
        BackendError: no driver, a build of ONNX Runtime without GPU support, a library is missing (named), or the
            engine refuses the model.
        ModelError: the model takes another input than the card says.
    """

    name = "onnxruntime-cuda"
    _provider = "cuda"

    def __init__(self, path: Path, card: ModelCard, *, threads: int | None = None) -> None:
        cuda = require_driver("ONNX Runtime on a GPU")
        ort = _import_onnxruntime()
        _check_build(ort, self._provider, cuda)
        _preload_libraries(ort, self._provider)
        self.version = str(ort.__version__)
        self.device = cuda.gpus[0].name
        session = _open_session(ort, path, card, self._provider, cuda, threads)
        self._bound: BoundSession | None = BoundSession(ort, session, card, path, memory="cuda")
        self.inputs, self.outputs = self._bound.inputs, self._bound.outputs

    def infer(self, feed: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Run once; see ``Backend.infer``."""
        if self._bound is None:
            raise BackendError("The ONNX Runtime session is closed", "load the model again")
        return self._bound.infer(feed)

    def close(self) -> None:
        """Free the session and its memory on the GPU."""
        self._bound = None


class OnnxRuntimeTensorRtBackend(OnnxRuntimeCudaBackend):
    """The same in its TensorRT execution provider, and in CUDA what TensorRT does not take.

    The first opening builds engines, which takes minutes; they are kept in a folder beside the model, and later ones
    use them. TensorRT may compute in FP16 and INT8 where the card's precision says so.
    """

    name = "onnxruntime-tensorrt"
    _provider = "tensorrt"


class BoundSession:
    """A session whose input and outputs keep their places: one copy to the device and one back, and none besides.

    Args:
        ort: the package ``onnxruntime``.
        session: with one input.
        card: gives the input size where the model leaves it open.
        path: of the model, for messages.
        memory: where the input is kept, "cuda" or "cpu".
    """

    def __init__(self, ort: ModuleType, session: Any, card: ModelCard, path: Path, *, memory: str) -> None:
        self._session = session
        self.inputs = tuple(spec_of(tensor) for tensor in session.get_inputs())
        self.outputs = tuple(spec_of(tensor) for tensor in session.get_outputs())
        check_inputs(self.inputs, card, str(path))
        name, dtype, shape = self.inputs[0].name, self.inputs[0].dtype, network_input_shape(card)
        names = [spec.name for spec in self.outputs]
        try:
            # Tells the outputs' shapes where the file does not; and whatever is chosen or built at first, is now.
            results = session.run(names, {name: np.zeros(shape, dtype)})
            self._results = {name: np.empty_like(result) for name, result in zip(names, results)}
            self._input = ort.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype, memory, 0)
            self._binding = session.io_binding()
            self._binding.bind_ortvalue_input(name, self._input)
            for output, result in self._results.items():
                # On the host it is a view of the array, not a copy.
                self._binding.bind_ortvalue_output(output, ort.OrtValue.ortvalue_from_numpy(result))
        except Exception as error:  # onnxruntime raises types of its own that share no base
            raise _failed(error) from error

    def infer(self, feed: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Run once; see ``Backend.infer``."""
        check_feed(feed, self.inputs)
        try:
            self._input.update_inplace(np.ascontiguousarray(feed[self.inputs[0].name]))
            self._session.run_with_iobinding(self._binding)
        except Exception as error:
            raise _failed(error) from error
        return self._results


def _failed(error: Exception) -> BackendError:
    mend = "close other programs that use the GPU, or try --backend onnxruntime"
    if "no kernel image" in str(error):
        mend = "this ONNX Runtime has no code for this GPU: build a TensorRT engine with 'edgeseg build'"
    return BackendError(f"ONNX Runtime failed on the GPU ({first_line(error)})", mend)


def _import_onnxruntime() -> ModuleType:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise MissingDependencyError.for_extra("onnxruntime-gpu", "gpu", "This backend") from error


def _check_build(ort: ModuleType, provider: str, cuda: Cuda) -> None:
    """Refuse a package that was built without the provider, or for a newer CUDA than the driver runs."""
    built_in = ort.get_available_providers()
    if PROVIDERS["cuda"] not in built_in:
        raise BackendError(f"The installed ONNX Runtime {ort.__version__} is the one for CPUs", _install_mend())
    if PROVIDERS[provider] not in built_in:
        raise BackendError(
            f"The installed ONNX Runtime {ort.__version__} was built without {_TITLES[provider]}",
            "give --backend onnxruntime-cuda, or build a TensorRT engine with 'edgeseg build'",
        )
    built_for = str(getattr(ort, "cuda_version", "") or "0")
    if int(built_for.split(".")[0]) > cuda.version[0]:
        raise BackendError(
            f"The installed ONNX Runtime {ort.__version__} is for CUDA {built_for}, "
            f"the driver runs CUDA {cuda.version[0]}.{cuda.version[1]}",
            "update NVIDIA's driver, or install an older onnxruntime-gpu",
        )


def _preload_libraries(ort: ModuleType, provider: str) -> None:
    """Load what pip installed where the dynamic loader does not look."""
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            ort.preload_dlls()
    if provider == "tensorrt":
        with contextlib.suppress(Exception):  # half installed, or another version: the session will tell
            importlib.import_module("tensorrt")


def _open_session(ort: ModuleType, path: Path, card: ModelCard, provider: str, cuda: Cuda, threads: int | None) -> Any:
    options = ort.SessionOptions()
    # Fatal only: what fails is raised as well. Providers are loaded under the log of the whole process.
    options.log_severity_level = 4
    ort.set_default_logger_severity(4)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    # The file says the precision: without this float32 would be computed in TensorFloat-32.
    providers: list[tuple[str, dict[str, str]]] = [(PROVIDERS["cuda"], {"use_tf32": "0"})]
    with contextlib.ExitStack() as stack:
        if provider == "tensorrt":
            flags = _precision_flags(card)
            folder = stack.enter_context(_engine_folder(ort, path, cuda, flags))
            providers.insert(0, (PROVIDERS["tensorrt"], {**flags, **_caches(folder)}))
        try:
            # Its fallback would print, and run on the CPU.
            session = ort.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
        except Exception as error:
            fault = _fault_of(ort, provider)
            if fault is not None:
                raise _missing_library(ort, provider, fault) from error
            raise BackendError(
                f"ONNX Runtime {ort.__version__} refuses {path} on {_TITLES[provider]} ({first_line(error)})",
                "try --backend onnxruntime, or export the model again",
            ) from error
        if PROVIDERS[provider] not in session.get_providers():
            raise _missing_library(ort, provider, _fault_of(ort, provider) or "it says no reason")
    _warn_of_cpu_layers(session, path)
    return session


def _precision_flags(card: ModelCard) -> dict[str, str]:
    return {
        "trt_fp16_enable": str(int(card.precision in ("fp16", "int8"))),
        "trt_int8_enable": str(int(card.precision == "int8")),
    }


def _caches(folder: Path) -> dict[str, str]:
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
    }


@contextlib.contextmanager
def _engine_folder(ort: ModuleType, path: Path, cuda: Cuda, flags: Mapping[str, str]) -> Iterator[Path]:
    """A folder beside the model, of its own for everything that makes an engine unusable when it changes."""
    gpu = cuda.gpus[0]
    key = [ort.__version__, str(_tensorrt_version()), gpu.name, gpu.capability, sha256_of(path), *flags.values()]
    place = path.parent
    if not os.access(place, os.W_OK):  # a bundled model that an administrator installed
        place = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "edgeseg"
    folder = place / f"{path.name}.tensorrt" / hashlib.sha256("\n".join(key).encode()).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BackendError(f"Cannot keep engines in {folder} ({error.strerror})", "check its permissions") from error
    try:
        yield folder
    except BackendError:
        with contextlib.suppress(OSError):  # engines of an earlier time stay
            folder.rmdir()
            folder.parent.rmdir()
        raise


def _tensorrt_version() -> int:
    """Of the library that ONNX Runtime will find, such as 101300; 0 where there is none."""
    for name in ("libnvinfer.so.10", "libnvinfer.so.8"):
        with contextlib.suppress(OSError):
            return int(ctypes.CDLL(name).getInferLibVersion())
    return 0


def _fault_of(ort: ModuleType, provider: str) -> str | None:
    """What the dynamic loader misses when it loads a provider; None where it finds everything.

    ONNX Runtime itself says it only in its log.
    """
    folder = Path(str(ort.__file__)).parent / "capi"
    try:
        ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(folder / f"libonnxruntime_providers_{provider}.so"))
    except OSError as error:
        return str(error)
    return None


def _install_mend() -> str:
    if is_jetson(Host()):
        return "sudo apt-get install nvidia-jetpack, and install an onnxruntime-gpu that was built for this JetPack"
    return "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install 'onnxruntime-gpu[cuda,cudnn]'"


def _missing_library(ort: ModuleType, provider: str, fault: str) -> BackendError:
    """The error for a provider that ONNX Runtime could not load, by which library that is for want of."""
    mend = _install_mend()
    tensorrt = re.search(r"lib(?:nvinfer\w*|nvonnxparser)\.so\.(\d+)", fault)
    if tensorrt and not is_jetson(Host()):
        mend = f"pip install 'tensorrt=={tensorrt[1]}.*': this ONNX Runtime works with no other"
    return BackendError(
        f"ONNX Runtime {ort.__version__} cannot use {_TITLES[provider]} and would fall back to the CPU ({fault})", mend
    )


def _warn_of_cpu_layers(session: Any, path: Path) -> None:
    """Tell which layers have no kernel on the GPU: each costs a copy to the host and back."""
    if not hasattr(session, "get_provider_graph_assignment_info"):  # before 1.24
        return
    left = sorted(
        {
            node.op_type
            for part in session.get_provider_graph_assignment_info()
            if part.ep_name == "CPUExecutionProvider"
            for node in part.get_nodes()
        }
    )
    if left:
        warnings.warn(f"{path} has layers that run on the CPU: {', '.join(left)}", EngineWarning, stacklevel=5)
