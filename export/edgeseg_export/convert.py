"""A float32 model in FP16 or INT8: converted, measured beside the original, repaired if need be, or refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto
from tqdm import tqdm

from edgeseg.backends import open_backend
from edgeseg.card import ModelCard
from edgeseg.dataset import DataSet, Sample
from edgeseg_export import gate, int8, to_onnx
from edgeseg_export.calibration import CalibrationSet
from edgeseg_export.gate import EngineResult, Pair
from edgeseg_export.half import half_from_float
from edgeseg_export.int8 import METHODS, Group, Ranges
from edgeseg_export.onnx_graph import opset_of
from edgeseg_export.ranges import Activations
from edgeseg_export.repair import Candidate, Measured, Repair, repair

DISTANCE_IMAGES = 4
SUBSET_IMAGES = 100
"""Labelled images on which repair measures its candidates; the one it chooses is measured on all."""

STRONGLY_TYPED_OPSET = 19
"""TensorRT 10 and 11 read it, and take every layer's precision from the graph; 8.x ends at 17."""

STEP_ROUNDS = 5
"""Rounds of timing at each step of repair."""


@dataclass(frozen=True)
class Float32:
    """The model that is converted: its graph, its card, and a file of it."""

    model: ModelProto
    card: ModelCard
    path: Path


@dataclass(frozen=True)
class Labelled:
    """A labelled split, read one image at a time."""

    data: DataSet
    split: str
    samples: Sequence[Sample]

    def pairs(self, what: str) -> Iterator[Pair]:
        """Image (uint8 [H, W, 3], BGR) and mask (uint8 [H, W]) of every sample, under a progress bar."""
        for sample in tqdm(self.samples, what, unit="image", leave=False, disable=None):
            yield self.data.read(sample)

    def subset(self, most: int) -> Labelled:
        """At most that many samples, evenly spaced."""
        return Labelled(self.data, self.split, self.samples[:: -(-len(self.samples) // most)])


@dataclass(frozen=True)
class Conversion:
    """What came of it.

    Attributes:
        model: the converted graph, with the card of the original.
        results: by engine, all precisions that were measured; empty without labelled images.
        sizes: bytes of the files by precision.
        candidate: the INT8 form; None for FP16.
        found: the search, where one was needed.
    """

    model: ModelProto
    results: tuple[EngineResult, ...] = ()
    sizes: dict[str, int] = field(default_factory=dict)
    candidate: Candidate | None = None
    found: Repair | None = None


class Workbench:
    """Makes and measures the forms of one model in a folder for temporary files.

    Args:
        source: the model.
        folder: for files; they need not outlive the workbench.
        target: "cpu" or "tensorrt".
        engines: at least one, the preferred one first.
        opset: of the converted graph; None keeps the original's.
        weight_bits: of INT8; see ``int8.quantize``.
        calibration: real images, needed for INT8.
    """

    def __init__(
        self,
        source: Float32,
        folder: Path,
        *,
        target: str,
        engines: Sequence[str],
        opset: int | None = None,
        weight_bits: int = 8,
        calibration: CalibrationSet | None = None,
    ) -> None:
        self.source, self.target, self.engines = source, target, tuple(engines)
        self._folder, self._calibration = folder, calibration
        self._form: dict[str, Any] = {"target": target, "opset": opset, "weight_bits": weight_bits}
        # An engine may have to know for whom a graph was made, to run it as it is written.
        self._card = source.card.replace(provenance={"target": target})
        self._activations: Activations | None = None
        self._ranges: dict[str, Ranges] = {}
        self._groups: dict[str, Group] | None = None
        self._references: list[tuple[NDArray[Any], NDArray[Any]]] = []

    @property
    def groups(self) -> dict[str, Group]:
        """What repair can keep in higher precision, by name."""
        if self._groups is None:
            self._groups = {group.name: group for group in int8.quantizable_groups(self.source.model)}
        return self._groups

    def half(self) -> ModelProto:
        """The FP16 form."""
        return half_from_float(self.source.model, self._calibration)

    def int8(self, candidate: Candidate) -> ModelProto:
        """An INT8 form; the activations are measured once, the ranges once by method.

        For TensorRT from opset 19 on, what is not in INT8 is in FP16: such a TensorRT computes as the graph says. An
        older one chooses by itself.
        """
        model = self.source.model
        if self._activations is None:
            assert self._calibration is not None
            self._activations = int8.measure(model, self._calibration)
        if candidate.method not in self._ranges:
            self._ranges[candidate.method] = self._activations.ranges(candidate.method)
        kept = [node for name in candidate.kept for node in self.groups[name].nodes]
        small = int8.quantize(model, self._ranges[candidate.method], keep=kept, **self._form)
        as_written = self.target == "tensorrt" and opset_of(small) >= STRONGLY_TYPED_OPSET
        return half_from_float(small) if as_written else small

    def write(self, model: ModelProto, precision: str) -> Path:
        """Write a form to the folder, in place of the earlier one of that precision."""
        path = self._folder / f"{precision}.onnx"
        to_onnx.write_model(model, path)
        return path

    def compare(self, files: dict[str, Path], labelled: Labelled, *, rounds: int = gate.ROUNDS) -> list[EngineResult]:
        """Score the forms in every engine beside the original, and time them where the engine is the target."""
        files = {"fp32": self.source.path, **files}
        rounds = rounds if self.target == "cpu" else 0
        return [
            gate.measure(engine, files, self._card, labelled.pairs(engine), labelled.data.ignore_id,
                         rounds=rounds)
            for engine in self.engines
        ]  # fmt: skip

    def measured(self, candidate: Candidate, labelled: Labelled) -> Measured:
        """A candidate for repair: in the engine in which it loses most."""
        files = {"int8": self.write(self.int8(candidate), "candidate")}
        return measured_from_results(self.compare(files, labelled, rounds=STEP_ROUNDS))

    def distance(self, candidate: Candidate) -> float:
        """Mean Kullback-Leibler divergence of a candidate's class probabilities from float32's on a few images.

        For a head that gives a class map: the share of pixels of another class.
        """
        if not self._references:
            assert self._calibration is not None
            tensors = [tensor.copy() for tensor in islice(self._calibration, DISTANCE_IMAGES)]
            self._references = list(zip(tensors, self._outputs(self.source.path, tensors)))
        path = self.write(self.int8(candidate), "candidate")
        outputs = self._outputs(path, [tensor for tensor, _ in self._references])
        pairs = zip((reference for _, reference in self._references), outputs)
        return float(np.mean([_divergence(reference, output) for reference, output in pairs]))

    def _outputs(self, path: Path, tensors: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        backend = open_backend(path, self._card, self.engines[0])
        try:
            name, output = backend.inputs[0].name, backend.outputs[0].name
            # A copy: the next inference may reuse the memory.
            return [backend.infer({name: tensor})[output].copy() for tensor in tensors]
        finally:
            backend.close()


def to_half(bench: Workbench, labelled: Labelled | None) -> Conversion:
    """The FP16 form, measured where there are labelled images."""
    model = bench.half()
    path = bench.write(model, "fp16")
    results = () if labelled is None else tuple(bench.compare({"fp16": path}, labelled))
    return Conversion(model, results, _sizes({"fp32": bench.source.path, "fp16": path}))


def to_int8(bench: Workbench, labelled: Labelled, *, max_drop: float, repair_steps: int) -> Conversion:
    """The INT8 form, repaired where it loses more than ``max_drop``, beside FP16 and the original.

    Args:
        bench: with calibration images.
        labelled: images to measure on.
        max_drop: largest loss of mIoU, 0 to 1, in any engine.
        repair_steps: see ``repair.repair``; 0 repairs nothing.

    Raises:
        EdgesegError: see ``int8.measure``, ``int8.quantize`` and ``gate.measure``.
    """
    files = {"fp16": bench.write(bench.half(), "fp16")}
    candidate, found = Candidate(METHODS[0]), None
    model = bench.int8(candidate)
    files["int8"] = bench.write(model, "int8")
    results = bench.compare(files, labelled)
    if gate.worst_drop(results, "int8").drop("int8") > max_drop and repair_steps > 0:
        found = _repaired(bench, labelled, max_drop, repair_steps)
        candidate = found.best
        model = bench.int8(candidate)
        bench.write(model, "int8")
        results = bench.compare(files, labelled)
    sizes = _sizes({"fp32": bench.source.path, **files})
    return Conversion(model, tuple(results), sizes, candidate, found)


def _repaired(bench: Workbench, labelled: Labelled, max_drop: float, repair_steps: int) -> Repair:
    subset = labelled.subset(SUBSET_IMAGES)
    whole = len(subset.samples) == len(labelled.samples)
    return repair(
        METHODS, list(bench.groups),
        max_drop=max_drop, max_steps=repair_steps,
        distance=bench.distance,
        measure=lambda candidate: bench.measured(candidate, subset),
        confirm=None if whole else lambda candidate: bench.measured(candidate, labelled),
    )  # fmt: skip


def measured_from_results(results: Sequence[EngineResult]) -> Measured:
    """The accuracy of INT8 in the engine in which it loses most, and its time in the preferred one."""
    worst, first = gate.worst_drop(results, "int8"), results[0]
    accuracy, ratio = worst.accuracy["int8"], first.speedup("int8")
    return Measured(
        accuracy.scores.miou, worst.drop("int8"), accuracy.agreement,
        first.latency_ms("int8"), None if ratio is None else ratio.median, worst.images,
    )  # fmt: skip


def _divergence(reference: NDArray[Any], output: NDArray[Any]) -> float:
    if reference.dtype.kind in "iub":
        return float(np.mean(reference != output))
    log_p, log_q = _log_softmax(reference), _log_softmax(output)
    return float((np.exp(log_p) * (log_p - log_q)).sum(1).mean())


def _log_softmax(logits_nchw: NDArray[Any]) -> NDArray[np.float64]:
    shifted = logits_nchw.astype(np.float64) - logits_nchw.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))


def _sizes(files: dict[str, Path]) -> dict[str, int]:
    return {precision: path.stat().st_size for precision, path in files.items()}
