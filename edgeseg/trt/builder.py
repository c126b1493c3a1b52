"""ONNX to engine with any TensorRT from 8.5 to 11, on the machine that will run it.

From 10 on the network is strongly typed: the graph alone says what computes in which precision. TensorRT 8 has no such
networks. There the builder is allowed what the graph states, and held to it where the graph mixes FP16 and FP32.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from edgeseg.errors import BackendError, ModelError, UsageError
from edgeseg.onnx_reader import Constant, Graph, read_graph
from edgeseg.precision import Precision, precision_by_node
from edgeseg.trt.library import log_of
from edgeseg.trt.options import OPT_LEVEL, BuildOptions
from edgeseg.trt.progress import Progress, new_monitor

_T = TypeVar("_T")

MIB = 2**20
_POLL_S = 0.1
_OUT_OF_MEMORY = re.compile(r"out ?of ?memory|insufficient memory|could not be allocated", re.IGNORECASE)
_REQUEST = re.compile(r"request\D{0,40}(\d+) bytes", re.IGNORECASE)


class StillBuildingError(KeyboardInterrupt):
    """An interrupt that ends the wait, not the build: TensorRT 8 cannot be told, newer ones may take their time.

    The thread of the build goes on. A process that ends in the ordinary way beside it crashes; ``os._exit`` does not.
    """


@dataclass(frozen=True)
class Typing:
    """How the builder is told the precision of the layers.

    Attributes:
        strong: the graph alone decides.
        flags: names of the builder flags that a weakly typed network needs.
        wide: names of layers that a weakly typed network has to leave in FP32.
    """

    strong: bool
    flags: tuple[str, ...] = ()
    wide: frozenset[str] = frozenset()

    @property
    def may_be_half(self) -> bool:
        """Whether the builder may run in FP16 what the graph states as FP32."""
        return "FP16" in self.flags and not self.wide


def typing_for(trt: ModuleType, graph: Graph, precision: Precision) -> Typing:
    """How this TensorRT is told a graph's precision.

    An INT8 graph for TensorRT 8 cannot state FP16 for its other layers (its operator set has no such scales), so
    those may be in FP16.

    Raises:
        BackendError: the graph computes in a type that this TensorRT has no flag for.
    """
    if hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        return Typing(strong=True)
    stated = {layer.precision for layer in precision.layers}
    flags = {"fp16": ["FP16"], "int8": ["INT8", "FP16"], "bf16": ["BF16"], "fp8": ["FP8"]}
    wanted = tuple(dict.fromkeys(flag for name in sorted(stated) for flag in flags.get(name, ())))
    missing = [flag for flag in wanted if not hasattr(trt.BuilderFlag, flag)]
    if missing:
        raise BackendError(
            f"TensorRT {trt.__version__} cannot compute in {missing[0]}, which the graph states",
            "export the model in another precision, or use TensorRT 10 or newer",
        )
    wide = {name for name, given in precision_by_node(graph).items() if given == "fp32"} if "fp16" in stated else ()
    return Typing(False, wanted, frozenset(wide))


def refuse_cpu_graph(graph: Graph, path: Path) -> None:
    """Refuse an INT8 graph of the kind that CPU engines take and TensorRT does not.

    Raises:
        ModelError: it has unsigned codes, or integer biases.
    """
    constants = dict(graph.constants)
    for node in graph.nodes:
        value = node.attributes.get("value")
        if node.op == "Constant" and isinstance(value, Constant):
            constants[node.outputs[0]] = value
    for node in graph.nodes:
        kind = node.op.rpartition("::")[2]
        codes = {constants[name].dtype for name in (*node.inputs[:1], *node.inputs[2:]) if name in constants}
        if kind in ("QuantizeLinear", "DequantizeLinear") and codes & {"uint8", "int32"}:
            found = "an integer bias" if "int32" in codes else "unsigned codes"
        elif kind in ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"):
            found = f"the operator {kind}"
        else:
            continue
        raise ModelError(
            f"{path} is an INT8 model for CPUs, which TensorRT does not take ({found} at '{node.name or node.op}')",
            "export it for TensorRT: edgeseg export --precision int8 --target tensorrt",
        )


def build_plan(
    trt: ModuleType,
    onnx: Path,
    typing: Typing,
    options: BuildOptions,
    *,
    timing_cache: bytes = b"",
    progress: Progress | None = None,
) -> tuple[bytes, bytes]:
    """Build an engine in memory; the plan, and the timing cache with what was measured.

    Raises:
        KeyboardInterrupt: the build was interrupted and has ended; ``StillBuildingError`` where TensorRT cannot end it.
        ModelError: TensorRT does not take the model; names the operator and the node.
        UsageError: an option that this TensorRT does not have.
        BackendError: TensorRT fails; out of memory says how much was asked for and is free.
    """
    monitor = new_monitor(trt) if hasattr(trt, "IProgressMonitor") else None
    return _on_thread(lambda: _built(trt, onnx, typing, options, timing_cache, monitor), monitor, progress)


def _built(
    trt: ModuleType, onnx: Path, typing: Typing, options: BuildOptions, timing_cache: bytes, monitor: Any
) -> tuple[bytes, bytes]:
    log = log_of(trt)
    log.take_errors()
    if not hasattr(trt, "OnnxParser"):
        raise BackendError(
            f"This TensorRT {trt.__version__} runs engines but builds none",
            "install the whole of it: pip install tensorrt",
        )
    builder = _builder(trt)
    network = builder.create_network(_network_flags(trt, typing))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx)):
        raise _refusal(parser, onnx, log.take_errors())
    config = _config(trt, builder, network, typing, options)
    if monitor is not None:
        config.progress_monitor = monitor
    cache = config.create_timing_cache(timing_cache)
    if cache is None or not config.set_timing_cache(cache, False):  # damaged, or made on another device
        config.set_timing_cache(config.create_timing_cache(b""), False)
    log.take_errors()
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _failure(log.take_errors(), options)
    return bytes(plan), bytes(config.get_timing_cache().serialize())


def _on_thread(work: Callable[[], _T], monitor: Any, progress: Progress | None) -> _T:
    """Do the work on another thread, so that this one can tell how far it is and takes an interrupt at once.

    TensorRT swallows what is raised where it calls back, an interrupt too.
    """
    done: list[_T] = []
    failed: list[BaseException] = []
    ended = threading.Event()

    def target() -> None:
        try:
            done.append(work())
        except BaseException as error:  # raised again by the thread that waits
            failed.append(error)
        finally:
            ended.set()

    try:
        threading.Thread(target=target, name="tensorrt-build", daemon=True).start()
        # Not Thread.join: interrupted, it takes the thread for one that has ended (Python 3.11).
        while not ended.wait(_POLL_S):
            if progress is not None:
                progress(*(monitor.done() if monitor else (None, "")))
    except KeyboardInterrupt as interrupt:
        if monitor is not None:
            monitor.stopped = True
            with contextlib.suppress(KeyboardInterrupt):  # a second one does not wait
                ended.wait()
        if not ended.is_set():
            raise StillBuildingError from interrupt
        raise
    if failed:
        raise failed[0]
    return done[0]


def _builder(trt: ModuleType) -> Any:
    log = log_of(trt)
    try:
        return trt.Builder(log)
    except (TypeError, RuntimeError) as error:  # the constructor gave a null pointer
        reason = "; ".join(log.take_errors()) or str(error)
        mend = "update the NVIDIA driver; see 'edgeseg doctor'"
        raise BackendError(f"TensorRT does not start ({reason})", mend) from error


def _network_flags(trt: ModuleType, typing: Typing) -> int:
    flags = trt.NetworkDefinitionCreationFlag
    return 1 << int(flags.STRONGLY_TYPED if typing.strong else flags.EXPLICIT_BATCH)


def _config(trt: ModuleType, builder: Any, network: Any, typing: Typing, options: BuildOptions) -> Any:
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mb * MIB)
    # Without it the inspector has nothing to say about precision.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if hasattr(config, "builder_optimization_level"):
        config.builder_optimization_level = options.opt_level
    elif options.opt_level != OPT_LEVEL:
        raise UsageError(f"TensorRT {trt.__version__} has no optimisation levels", "leave --opt-level out")
    for flag in typing.flags:
        config.set_flag(getattr(trt.BuilderFlag, flag))
    if typing.wide:
        config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
        for layer in map(network.get_layer, range(network.num_layers)):
            if layer.name in typing.wide:
                layer.precision = trt.float32
    if options.profile is not None:
        profile = builder.create_optimization_profile()
        profile.set_shape(network.get_input(0).name, *options.profile)
        config.add_optimization_profile(profile)
    return config


def _refusal(parser: Any, onnx: Path, logged: list[str]) -> ModelError:
    """The error for a model that the parser does not take, from its first complaint."""
    if not parser.num_errors:
        reason = "; ".join(logged) or "no reason given"
        return ModelError(f"TensorRT does not read {onnx} ({reason})", "export the model again")
    error = parser.get_error(0)
    return ModelError(
        f"TensorRT does not take {_place(error, onnx)} of {onnx}: {' '.join(error.desc().split())}",
        "export the model with another --opset or head, use a newer TensorRT, or run it with ONNX Runtime",
    )


def _place(error: Any, onnx: Path) -> str:
    """Operator and name of the node that an error of the parser is about."""
    if hasattr(error, "node_operator") and error.node_operator():
        return f"the operator {error.node_operator()} ('{error.node_name()}')"
    nodes = read_graph(onnx).nodes
    if 0 <= error.node() < len(nodes):
        node = nodes[error.node()]
        return f"the operator {node.op} ('{node.name or node.outputs[0]}')"
    return "the graph"


def _failure(errors: list[str], options: BuildOptions) -> BackendError:
    """The error for a build that gave nothing."""
    text = " ".join(" ".join(errors).split())
    if not _OUT_OF_MEMORY.search(text):
        more_room = (
            f"give --workspace-mb {2 * options.workspace_mb}" if "workspace" in text else "see it with --verbose"
        )
        return BackendError(f"TensorRT could not build the engine ({text or 'no reason given'})", more_room)
    request = _REQUEST.search(text)
    asked = f"{int(request[1]) // MIB} MiB were asked for, " if request else ""
    return BackendError(
        f"The GPU ran out of memory while building: {asked}{_free_mib()} are free, and a layer may take "
        f"{options.workspace_mb} MiB to work in",
        f"close other programs that use the GPU, or give --workspace-mb {max(options.workspace_mb // 2, 64)}",
    )


def _free_mib() -> str:
    from edgeseg.trt.cuda import driver

    cuda = driver()
    device = cuda.device(0)
    cuda.push_context(cuda.retain_context(device))
    try:
        return f"{cuda.free_memory() // MIB} MiB"
    finally:
        cuda.pop_context()
        cuda.release_context(device)
