"""The whole build: an ONNX file to an engine with its record, checked and written at once or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from edgeseg.card import ModelCard
from edgeseg.doctor import installed_version
from edgeseg.errors import SinkError
from edgeseg.files import check_writable, replacing, sha256_of
from edgeseg.onnx_reader import card_of, read_graph, read_onnx
from edgeseg.precision import Precision, precision_of
from edgeseg.trt.builder import Typing, build_plan, refuse_cpu_graph, typing_for
from edgeseg.trt.inspector import check_honoured, engine_information, precision_found
from edgeseg.trt.library import EngineWarning, load_tensorrt, log_of, require_driver
from edgeseg.trt.options import BuildOptions, check_profile
from edgeseg.trt.plan import Platform, Sidecar, platform_of, sidecar_path, write_sidecar
from edgeseg.trt.progress import Progress


def build_engine(
    onnx: Path,
    engine: Path,
    options: BuildOptions,
    *,
    timing_cache: Path | None = None,
    progress: Progress | None = None,
    echo: Callable[[str], object] | None = None,
) -> Sidecar:
    """Build an engine for this machine and write it with its record. Takes seconds to many minutes.

    Args:
        onnx: the model; its graph says what computes in which precision.
        engine: file to write; its record goes beside it.
        options: see ``BuildOptions``.
        timing_cache: file of measured kernels, read and brought up to date; None takes the user's own for this
            device and TensorRT.
        progress: see ``edgeseg.trt.progress.Progress``.
        echo: called with every line that TensorRT says, from any thread.

    Raises:
        ModelError: the model cannot be read, is an INT8 model for CPUs, or holds what TensorRT does not take.
        UsageError: an option does not fit the model or this TensorRT.
        BackendError: no driver or no TensorRT, the build fails, or the engine does not compute as the graph says.
        SinkError: a file cannot be written.
    """
    for path in (engine, sidecar_path(engine), *([timing_cache] if timing_cache else [])):
        check_writable(path)
    info = read_onnx(onnx)
    check_profile(options, info)
    graph = read_graph(onnx)
    refuse_cpu_graph(graph, onnx)
    asked = precision_of(graph, options.profile[1] if options.profile else None)
    trt = load_tensorrt()
    log_of(trt).echo = echo
    here = platform_of(trt, require_driver())
    typing = typing_for(trt, graph, asked)
    cache = timing_cache or default_timing_cache(here)
    plan, timings = build_plan(trt, onnx, typing, options, timing_cache=_read_cache(cache), progress=progress)
    sidecar = _described(trt, plan, onnx, card_of(info), here, asked, typing, options)
    with replacing(engine) as unfinished:
        unfinished.write_bytes(plan)
        write_sidecar(engine, sidecar)
    _keep_cache(cache, timings)
    return sidecar


def default_timing_cache(platform: Platform) -> Path:
    """The user's own timing cache for a device and TensorRT: what was measured on one says nothing about another."""
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    names = (platform.tensorrt, platform.gpu, platform.compute_capability)
    return Path(folder) / "edgeseg" / f"{re.sub('[^A-Za-z0-9.]+', '-', '-'.join(names))}.timing"


def _described(
    trt: ModuleType,
    plan: bytes,
    onnx: Path,
    card: ModelCard | None,
    here: Platform,
    asked: Precision,
    typing: Typing,
    options: BuildOptions,
) -> Sidecar:
    """The record of a plan, once its precision is what the graph asks for."""
    found = precision_found(engine_information(trt, plan), asked, may_be_half=typing.may_be_half)
    check_honoured(found, asked)
    return Sidecar(
        card=card,
        onnx=onnx.name,
        onnx_sha256=sha256_of(onnx),
        plan_sha256=hashlib.sha256(plan).hexdigest(),
        platform=here,
        options=options,
        typing="strong" if typing.strong else ", ".join(typing.flags) or "none",
        precision={
            "asked": {"macs": asked.macs},
            "found": {"layers": found.layers, "macs": found.macs},
            "differing": [layer.name for layer in found.differing],
        },
        edgeseg=installed_version("edgeseg"),
    )


def _read_cache(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _keep_cache(path: Path, timings: bytes) -> None:
    """Write the timing cache. An engine is not lost because its measurements are."""
    try:
        with replacing(path) as unfinished:
            unfinished.write_bytes(timings)
    except SinkError as error:
        warnings.warn(f"The timing cache is not kept: {error}", EngineWarning, stacklevel=3)
