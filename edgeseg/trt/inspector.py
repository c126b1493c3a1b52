"""In which precision an engine really computes, as TensorRT's own inspector tells it.

The inspector's JSON has three forms. Up to TensorRT 10 a tensor has one text, ``Format/Datatype``: a sentence such as
"Thirty-two wide channel vectorized row major Int8 format" in 8.x, often the type alone in 10. From 11 on there is a
``Datatype`` beside the ``Format``. From 8.6 on ``Metadata`` names the ONNX nodes that a layer was made from; before,
only the layer's own name does. So types are looked for as words, wherever they stand.
"""

from __future__ import annotations

import json
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from edgeseg.errors import BackendError
from edgeseg.onnx_reader import TensorInfo
from edgeseg.precision import Layer, Precision
from edgeseg.trt.library import EngineWarning, load_tensorrt, log_of

TOLERATED_SHARE = 0.1
"""Share of the MACs that may run in another precision than the graph states: TensorRT has no INT8 kernel for some
depthwise and very narrow convolutions."""

# In this order: "BFloat16" and "UInt8" hold the words of others.
_TYPE_WORDS = (
    ("bf16", r"bf16|bfloat16"), ("fp8", r"fp8"), ("other", r"u?int(?:32|64)|uint8|bool"), ("int8", r"int8"),
    ("int4", r"int4"), ("fp16", r"half|fp16|float16"), ("fp32", r"float|fp32"),
)  # fmt: skip
_DTYPES = {"float": "float32", "half": "float16", "bf16": "bfloat16"}
"""Types of tensors whose names are not numpy's."""

_MOVERS = ("Constant", "Identity", "NoOp", "Reformat", "Shuffle", "signal", "wait")
_COMPUTING = re.compile(r"conv|correlation|gemm|fprop|matmul|matrixmultiply|matrix_multiply", re.IGNORECASE)
_ONNX_LAYER = re.compile(r"\[ONNX Layer: (.*?)(?: \| .*?)?\]")


@dataclass(frozen=True)
class Found:
    """What an engine computes in.

    Attributes:
        layers: layers of the engine by precision, without those that only move data.
        macs: multiply-accumulates of the graph's layers by the precision they run in: "int8", "fp16", "bf16", "tf32",
            "fp32"; "unknown" for those that the inspector does not tell of.
        differing: layers of the graph that run in another precision than the graph states.
    """

    layers: dict[str, int]
    macs: dict[str, int]
    differing: tuple[Layer, ...]


def engine_information(trt: ModuleType, plan: bytes) -> str:
    """The inspector's JSON about every layer of a plan. Needs a GPU.

    Raises:
        BackendError: TensorRT does not open the plan.
    """
    inspector = _opened(trt, plan, "the engine it has built").create_engine_inspector()
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def tensors_of_plan(plan: bytes, path: Path) -> tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]:
    """Inputs and outputs of a plan, in its order. Needs a GPU.

    Raises:
        BackendError: there is no TensorRT, or it does not open the plan.
    """
    trt = load_tensorrt()
    engine = _opened(trt, plan, str(path))
    found: tuple[list[TensorInfo], list[TensorInfo]] = ([], [])
    for name in map(engine.get_tensor_name, range(engine.num_io_tensors)):
        kind = str(engine.get_tensor_dtype(name)).rpartition(".")[2].lower()
        shape = tuple(None if axis < 0 else axis for axis in engine.get_tensor_shape(name))
        is_output = engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT
        found[is_output].append(TensorInfo(name, _DTYPES.get(kind, kind), shape))
    return tuple(found[0]), tuple(found[1])


def _opened(trt: ModuleType, plan: bytes, name: str) -> Any:
    log = log_of(trt)
    # The engine keeps its runtime alive.
    engine = trt.Runtime(log).deserialize_cuda_engine(plan)
    if engine is None:
        reason = "; ".join(log.take_errors()) or "it does not say why"
        raise BackendError(f"TensorRT {trt.__version__} refuses {name} ({reason})", "build it here: edgeseg build")
    return engine


def precision_found(information: str, asked: Precision, *, may_be_half: bool = False) -> Found:
    """What the layers of a graph run in.

    Args:
        information: the inspector's JSON, of an engine built with detailed profiling verbosity.
        asked: what the graph states.
        may_be_half: the builder was free to run in FP16 what the graph states as FP32.

    Raises:
        BackendError: the JSON holds no details.
    """
    layers = _layers(information)
    by_node: dict[str, list[Mapping[str, Any]]] = {}
    for layer in layers:
        for name in _onnx_names(layer):
            by_node.setdefault(name, []).append(layer)
    macs: Counter[str] = Counter()
    differing = []
    for wanted in asked.layers:
        runs_in = _precision_of_node(by_node.get(wanted.name, ()))
        macs[runs_in] += wanted.macs or 0
        if runs_in != "unknown" and not _honours(runs_in, wanted.precision, may_be_half):
            differing.append(wanted)
    counted = Counter(_precision(layer) for layer in layers if layer.get("LayerType") not in _MOVERS)
    return Found(dict(counted.most_common()), {name: n for name, n in macs.most_common() if n}, tuple(differing))


def check_honoured(found: Found, asked: Precision) -> None:
    """Refuse an engine that does not compute as the graph says.

    Raises:
        BackendError: more than ``TOLERATED_SHARE`` of the MACs run in another precision; says what runs in which.

    Warns:
        EngineWarning: of more than that share, the inspector does not tell what they run in.
    """
    total = sum(asked.macs.values())
    if found.macs.get("unknown", 0) > TOLERATED_SHARE * total:
        warnings.warn(
            f"TensorRT's inspector does not tell in which precision {100 * found.macs['unknown'] / total:.0f} % of the "
            "multiply-adds run; compare the engine's speed with that of another precision",
            EngineWarning,
            stacklevel=2,
        )
    differing = sum(layer.macs or 0 for layer in found.differing)
    if total and differing > TOLERATED_SHARE * total:
        names = ", ".join(layer.name for layer in found.differing[:3])
        more = f" and {len(found.differing) - 3} more" if len(found.differing) > 3 else ""
        raise BackendError(
            f"TensorRT did not honour the graph, whose multiply-adds are {shares_text(asked.macs)}: the engine runs "
            f"{shares_text(found.macs)} (another precision in {names}{more})",
            "build with --verbose to see its reasons; use a newer TensorRT, or a model exported in FP16 or FP32",
        )


def shares_text(counts: Mapping[str, int]) -> str:
    """Such as "INT8 93.1 %, FP16 6.9 %"."""
    total = sum(counts.values())
    return ", ".join(f"{name.upper()} {100 * count / total:.1f} %" for name, count in counts.items()) or "nothing"


def _layers(information: str) -> list[Mapping[str, Any]]:
    try:
        # Node names are joined by a control character, which strict JSON forbids.
        layers = json.loads(information, strict=False)["Layers"]
    except (ValueError, LookupError, TypeError) as error:
        raise BackendError(
            f"TensorRT's engine inspector gave no layers ({error})", "report this with --verbose"
        ) from error
    detailed: list[Mapping[str, Any]] = [layer for layer in layers if isinstance(layer, dict)]
    if len(detailed) < len(layers) or not layers:
        raise BackendError("The engine holds no details about its layers", "build it with `edgeseg build`")
    return detailed


def _onnx_names(layer: Mapping[str, Any]) -> Iterable[str]:
    """Names of the ONNX nodes that a layer was made from."""
    named = _ONNX_LAYER.findall(str(layer.get("Metadata", "")))
    parts = named or re.split(r" \+ | \|\| ", str(layer.get("Name", "")))
    # The parser's name for a node without one is made of its output.
    return [part[len("node_of_") :] if part.startswith("node_of_") else part for part in parts]


def _precision_of_node(layers: Iterable[Mapping[str, Any]]) -> str:
    """What a convolution or matrix product runs in. Layers that only prepare its operands are named after it too."""
    candidates = [layer for layer in layers if layer.get("LayerType") not in _MOVERS]
    computing = [
        layer
        for layer in candidates
        if _COMPUTING.search(" ".join(str(layer.get(key, "")) for key in ("LayerType", "TacticName", "ParameterType")))
    ]
    best = (computing or candidates)[:1]
    return _precision(best[0]) if best else "unknown"


def _precision(layer: Mapping[str, Any]) -> str:
    """What a layer computes in: the type of its first input, and for FP32 the kernel's name."""
    inputs = layer.get("Inputs") or layer.get("Outputs") or [{}]
    precision = _type_of(inputs[0])
    if precision == "fp32" and "tf32" in str(layer.get("TacticName", "")).lower():
        return "tf32"
    return precision


def _type_of(tensor: Mapping[str, Any]) -> str:
    for key in ("DataType", "Datatype", "Format/Datatype", "Format"):
        text = str(tensor.get(key, "")).lower()
        for name, words in _TYPE_WORDS:
            if re.search(words, text):
                return name
    return "unknown"


def _honours(runs_in: str, asked: str, may_be_half: bool) -> bool:
    if asked == "fp32":
        return runs_in in ("fp32", "tf32") or (may_be_half and runs_in == "fp16")
    return runs_in == asked or asked == "unknown"
