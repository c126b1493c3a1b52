"""TensorRT's Python package: found, imported and asked only where that is safe.

Without a usable driver, TensorRT's objects end the process instead of raising. So the driver is always asked first.
"""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

from edgeseg import doctor
from edgeseg.doctor import DRIVER_MEND, Cuda, Finding, Host
from edgeseg.errors import BackendError

_LOG_LINES = 20


class EngineWarning(UserWarning):
    """An engine is made or can be run, but is perhaps not what one takes it for."""


def require_driver(program: str = "TensorRT") -> Cuda:
    """What the NVIDIA driver says, asked without TensorRT.

    Args:
        program: that needs it, for the message.

    Raises:
        BackendError: there is no driver, or it shows no device.
    """
    cuda = doctor.read_cuda()
    if cuda is None or not cuda.gpus:
        problem = cuda.problem if cuda else "no libcuda.so.1"
        raise BackendError(f"{program} needs an NVIDIA GPU with its driver, here is none ({problem})", DRIVER_MEND)
    return cuda


def load_tensorrt() -> ModuleType:
    """TensorRT's Python package, on a machine whose driver can run it.

    Raises:
        BackendError: there is no driver or it is too old, TensorRT is missing, half installed or older than 8.5.
    """
    cuda = require_driver()
    module = import_tensorrt()
    unfit = doctor.tensorrt_unfit(str(module.__version__), cuda)
    if unfit is not None:
        raise _error(unfit)
    return module


def import_tensorrt() -> ModuleType:
    """TensorRT's Python package. Making objects of it without a driver can end the process.

    Raises:
        BackendError: it is missing or half installed.
    """
    host = Host()
    try:
        module = importlib.import_module("tensorrt")
    except Exception as error:  # a missing library comes as ImportError, OSError or FileNotFoundError
        if isinstance(error, ModuleNotFoundError) and error.name == "tensorrt":
            raise _error(doctor.tensorrt_missing(host, has_gpu=True)) from error
        raise _error(doctor.tensorrt_broken(host, doctor.one_line(error))) from error
    if not hasattr(module, "Runtime"):
        # What uninstalling leaves: a folder of that name without its contents.
        raise _error(doctor.tensorrt_broken(host, "its package is empty"))
    return module


def _error(finding: Finding) -> BackendError:
    return BackendError(f"TensorRT: {finding.detail}", finding.mend or DRIVER_MEND)


@cache
def log_of(trt: ModuleType) -> Any:
    """The one logger of this process, a ``tensorrt.ILogger``: TensorRT takes only the first it is given.

    What TensorRT says goes to its ``echo``, if one is set. ``take_errors`` gives the errors since it was last called.
    """

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.echo: Callable[[str], object] | None = None
            self._errors: deque[str] = deque(maxlen=_LOG_LINES)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self._errors.append(message)
            if self.echo is not None:
                self.echo(f"[{severity.name}] {message}")

        def take_errors(self) -> list[str]:
            errors = list(self._errors)
            self._errors.clear()
            return errors

    return Log()
