"""The ranges of activations on real images: what 8-bit codes are made from. Four methods, one measurement."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from edgeseg.errors import ModelError, UsageError, nearest
from edgeseg_export.calibration import CalibrationSet

METHODS = ("minmax", "entropy", "percentile", "mse")

PERCENTILE = 99.99
"""Share of an activation's values, in per cent, that "percentile" keeps inside the range."""

_BINS = 2048
_SHRINKS = np.linspace(1.0, 0.1, 91)
_UNSIGNED_STEPS, _SYMMETRIC_STEPS = 255, 127


@dataclass(frozen=True)
class Ranges:
    """The range of every activation, by tensor name, as one method found it. Plain numbers: fit for JSON.

    Attributes:
        method: one of ``METHODS``.
        images: number of images it was measured on.
        unsigned: lowest and highest value for an asymmetric 8-bit code (target "cpu"); 0 lies between.
        symmetric: largest magnitude for a symmetric 8-bit code (target "tensorrt").
    """

    method: str
    images: int
    unsigned: Mapping[str, tuple[float, float]]
    symmetric: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain dicts, tuples and numbers."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Ranges:
        """The reverse of ``to_dict``, also after a trip through JSON."""
        unsigned = {name: (float(low), float(high)) for name, (low, high) in values["unsigned"].items()}
        return cls(values["method"], values["images"], unsigned, dict(values["symmetric"]))


class Activations:
    """Activations of a network on real images, held as lowest and highest value and, once needed, as histograms.

    The images run through ONNX Runtime one at a time: once for the extremes, and once more when a method that
    needs histograms is first asked for. Memory does not grow with their number.

    Args:
        model: a float32 graph with one input.
        names: of the activations to measure.
        calibration: real images.

    Raises:
        ModelError: an activation is NaN or infinite; names it.
        DataError: an image cannot be read.
    """

    def __init__(self, model: ModelProto, names: Collection[str], calibration: CalibrationSet) -> None:
        self._calibration = calibration
        self._names = sorted(names)
        self._session = _session(model, self._names)
        self._limits: dict[str, tuple[float, float]] = {}
        for name, values in self._values():
            low, high = float(values.min()), float(values.max())
            if not (np.isfinite(low) and np.isfinite(high)):
                raise ModelError(f"The activation '{name}' is NaN or infinite", "train again with a lower --lr")
            lowest, highest = self._limits.get(name, (0.0, 0.0))
            self._limits[name] = (min(lowest, low), max(highest, high))

    def ranges(self, method: str) -> Ranges:
        """The ranges that a method chooses.

        "minmax" keeps every value; "percentile" cuts off the outermost 0.01 %; "mse" takes the range with the
        smallest mean squared error; "entropy" that with the smallest Kullback-Leibler divergence between the
        distributions before and after (Migacz, 8-bit Inference with TensorRT, GTC 2017).

        Raises:
            UsageError: another method.
            DataError: an image cannot be read.
        """
        if method not in METHODS:
            raise UsageError(f"There is no calibration method '{method}'", nearest(method, METHODS))
        unsigned, symmetric = {}, {}
        for name, (low, high) in self._limits.items():
            unsigned[name], symmetric[name] = (low, high), max(-low, high)
            if method != "minmax" and high > low:
                values, counts = _centres(low, high), self._histograms[name]
                unsigned[name] = _narrowed(values, counts, (low, high), _UNSIGNED_STEPS, method)
                magnitudes = (0.0, max(-low, high))
                symmetric[name] = _narrowed(np.abs(values), counts, magnitudes, _SYMMETRIC_STEPS, method)[1]
        return Ranges(method, len(self._calibration), unsigned, symmetric)

    @cached_property
    def _histograms(self) -> dict[str, NDArray[np.int64]]:
        counts = {name: np.zeros(_BINS, np.int64) for name in self._names}
        for name, values in self._values():
            low, high = self._limits[name]
            if high > low:
                # np.histogram takes several times as long to find the same bins.
                index = ((values.reshape(-1) - low) * (_BINS / (high - low))).astype(np.int32)
                counts[name] += np.bincount(np.minimum(index, _BINS - 1), minlength=_BINS)
        return counts

    def _values(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        input_name = self._session.get_inputs()[0].name
        computed = [name for name in self._names if name != input_name]
        for tensor in self._calibration:
            values = {input_name: tensor}
            if computed:
                values |= zip(computed, self._session.run(computed, {input_name: tensor}), strict=True)
            yield from ((name, values[name]) for name in self._names)


def _session(model: ModelProto, names: Collection[str]) -> Any:
    """An ONNX Runtime session of a copy whose outputs are the named tensors as well."""
    open_model = ModelProto()
    open_model.CopyFrom(model)
    given = {value.name for value in (*model.graph.output, *model.graph.input)}
    open_model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name not in given
    )
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(open_model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _centres(low: float, high: float) -> NDArray[Any]:
    """The value that each bin stands for: its centre, and 0 for the one that holds 0, which most values are."""
    width = (high - low) / _BINS
    values = low + width * (np.arange(_BINS) + 0.5)
    values[min(int(-low / width), _BINS - 1)] = 0.0
    return values


def _narrowed(
    values: NDArray[Any], counts: NDArray[np.int64], limits: tuple[float, float], steps: int, method: str
) -> tuple[float, float]:
    """The part of ``limits`` that a method keeps, for codes with that many steps."""
    if method == "percentile":
        return _percentile(values, counts, limits)
    cost = _squared_error if method == "mse" else _divergence
    low, high = limits
    # One end after the other, as the far value is often on one side; the full range wins a tie.
    high = min(high * _SHRINKS, key=lambda end: cost(values, counts, low, end, steps))
    low = min(low * _SHRINKS, key=lambda end: cost(values, counts, end, high, steps)) if low < 0 else low
    return float(low), float(high)


def _percentile(values: NDArray[Any], counts: NDArray[np.int64], limits: tuple[float, float]) -> tuple[float, float]:
    order = np.argsort(values)
    share = np.cumsum(counts[order]) / counts.sum()
    outside = (1 - PERCENTILE / 100) / (2 if limits[0] < 0 else 1)
    low = values[order][np.searchsorted(share, outside)]
    high = values[order][np.searchsorted(share, 1 - outside)]
    return min(0.0, max(float(low), limits[0])), max(0.0, min(float(high), limits[1]))


def _squared_error(values: NDArray[Any], counts: NDArray[np.int64], low: float, high: float, steps: int) -> float:
    scale = (high - low) / steps
    # Zero has a code of its own.
    coded = np.clip(np.rint(values / scale), np.rint(low / scale), np.rint(high / scale)) * scale
    return float(counts @ (values - coded) ** 2)


def _divergence(values: NDArray[Any], counts: NDArray[np.int64], low: float, high: float, steps: int) -> float:
    # What lies outside is added to the outermost bin in P and missing in Q: the price of cutting it off. Exact
    # zeros are left out, as they have a code of their own and would hide everything else.
    inside = (values >= low) & (values <= high) & (values != 0)
    kept = counts * inside
    if not kept.any():
        return np.inf
    code = np.rint((values - low) * (steps / (high - low))).astype(np.int64)[inside]
    total = np.bincount(code, kept[inside])
    filled = np.bincount(code, kept[inside] > 0)
    q = np.where(kept[inside] > 0, (total / np.maximum(filled, 1))[code], 0.0)
    p = kept[inside].astype(np.float64)
    order = np.argsort(values[inside])
    p[order[0]] += counts[values < low].sum()
    p[order[-1]] += counts[values > high].sum()
    p, q = p / p.sum(), q / q.sum()
    used = p > 0
    return float(np.sum(p[used] * np.log(p[used] / np.maximum(q[used], 1e-12))))
