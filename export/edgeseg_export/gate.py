"""Does a converted model keep its accuracy, and is it faster for it? Measured in the engines that run it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.backends import Backend, open_backend
from edgeseg.card import ModelCard
from edgeseg.errors import EdgesegError
from edgeseg.metrics import ConfusionMatrix, Scores
from edgeseg.preprocess import Preprocessor
from edgeseg.segmenter import Segmenter

ROUNDS = 15
"""The models are timed in turns, round by round: a machine that slows down slows all of them."""

RUNS = 5
"""Inferences of a model in one round; its time is their mean."""

WORTH = 1.05
"""A speedup below this is within what a quiet machine's own noise does."""

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]
RoundsMs = dict[str, list[float]]


class GateError(EdgesegError):
    """A converted model loses more accuracy than is allowed."""

    exit_code = 3


@dataclass(frozen=True)
class Ratio:
    """A quotient of times: the median over rounds, with its range."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Accuracy:
    """Scores of one model, and the share of pixels to which it gives float32's class, 0 to 1."""

    scores: Scores
    agreement: float


@dataclass(frozen=True)
class EngineResult:
    """The forms of one network in one engine.

    Attributes:
        engine: its name.
        accuracy: by precision, "fp32" first.
        rounds_ms: by precision, mean milliseconds of one inference for every round; empty where none was timed.
        images: how many were scored.
    """

    engine: str
    accuracy: dict[str, Accuracy]
    rounds_ms: RoundsMs
    images: int

    def drop(self, precision: str) -> float:
        """By how much float32's mIoU is higher, 0 to 1."""
        return self.accuracy["fp32"].scores.miou - self.accuracy[precision].scores.miou

    def latency_ms(self, precision: str) -> float | None:
        """Median over rounds; None where it was not timed."""
        return statistics.median(self.rounds_ms[precision]) if self.rounds_ms else None

    def speedup(self, precision: str, over: str = "fp32") -> Ratio | None:
        """How many times as fast as another precision, round by round; None where it was not timed."""
        if not self.rounds_ms:
            return None
        ratios = [slow / fast for slow, fast in zip(self.rounds_ms[over], self.rounds_ms[precision])]
        return Ratio(statistics.median(ratios), min(ratios), max(ratios))

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain JSON types, by precision."""
        return {precision: self._figures(precision) for precision in self.accuracy}

    def _figures(self, precision: str) -> dict[str, Any]:
        accuracy, ratio = self.accuracy[precision], self.speedup(precision)
        return {
            "miou": accuracy.scores.miou,
            "miou_drop": self.drop(precision),
            "iou": accuracy.scores.iou,
            "pixel_accuracy": accuracy.scores.pixel_accuracy,
            "agreement": accuracy.agreement,
            "latency_ms": self.latency_ms(precision),
            "speedup": None if ratio is None else vars(ratio),
        }


def measure(
    engine: str,
    files: Mapping[str, Path],
    card: ModelCard,
    pairs: Iterable[Pair],
    ignore_id: int | None,
    *,
    rounds: int = ROUNDS,
) -> EngineResult:
    """Score and time the forms of one network in an engine.

    Args:
        engine: its name.
        files: ONNX files by precision, "fp32" first.
        card: of all of them.
        pairs: image (uint8 [H, W, 3], BGR) and true class ids (uint8 [H, W]); at least one, taken one at a time.
        ignore_id: true id to leave out, or None.
        rounds: of timing; 0 times nothing.

    Raises:
        DataError: an image cannot be read, or there is no labelled pixel.
        BackendError, ModelError: see ``Segmenter``.
    """
    with ExitStack() as stack:
        segmenters = {
            precision: stack.enter_context(Segmenter(open_backend(path, card, engine), card))
            for precision, path in files.items()
        }
        accuracy, images, last = _accuracy(segmenters, pairs, ignore_id)
        backends = {precision: segmenter.backend for precision, segmenter in segmenters.items()}
        rounds_ms = timed(backends, Preprocessor(card)(last), rounds) if rounds else {}
    return EngineResult(engine, accuracy, rounds_ms, images)


def _accuracy(
    segmenters: Mapping[str, Segmenter], pairs: Iterable[Pair], ignore_id: int | None
) -> tuple[dict[str, Accuracy], int, NDArray[np.uint8]]:
    """The accuracy by precision, the number of images, and the last of them."""
    classes = next(iter(segmenters.values())).card.classes
    confusions = {precision: ConfusionMatrix(classes, ignore_id) for precision in segmenters}
    agreeing, pixels, images = dict.fromkeys(segmenters, 0), 0, 0
    for image, truth in pairs:
        masks = {precision: segmenter(image).mask for precision, segmenter in segmenters.items()}
        for precision, mask in masks.items():
            confusions[precision].update(truth, mask)
            agreeing[precision] += int(np.count_nonzero(mask == masks["fp32"]))
        pixels += truth.size
        images += 1
    return (
        {precision: Accuracy(confusions[precision].scores(), agreeing[precision] / pixels) for precision in segmenters},
        images,
        image,
    )


def timed(backends: Mapping[str, Backend], tensor: NDArray[Any], rounds: int) -> RoundsMs:
    """Milliseconds of one inference by name and round; the backends take turns, each is warmed up first."""

    def run(backend: Backend) -> float:
        feed = {backend.inputs[0].name: tensor}
        start = time.perf_counter()
        for _ in range(RUNS):
            backend.infer(feed)
        return 1000 * (time.perf_counter() - start) / RUNS

    for backend in backends.values():
        run(backend)
    rounds_ms: RoundsMs = {name: [] for name in backends}
    for _ in range(rounds):
        for name, backend in backends.items():
            rounds_ms[name].append(run(backend))
    return rounds_ms


def worst_drop(results: Sequence[EngineResult], precision: str) -> EngineResult:
    """The engine in which a precision loses most."""
    return max(results, key=lambda result: result.drop(precision))


def table(results: Sequence[EngineResult], sizes: Mapping[str, int]) -> str:
    """Everything measured as aligned text: a block for each engine, a column for each precision."""
    precisions = list(results[0].accuracy)
    names = list(results[0].accuracy["fp32"].scores.iou)
    width = max(len(name) for name in [*names, "times fp32's speed"]) + 2

    def row(label: str, cells: Sequence[str]) -> str:
        return (f"{label:<{width}}" + "".join(f"{cell:>24}" for cell in cells)).rstrip()

    lines = [
        row("", precisions),
        row("file, MB", [f"{sizes[precision] / 1e6:.1f}" for precision in precisions]),
    ]
    for result in results:
        lines.append(f"{result.engine}, {result.images} images")
        accuracies = [result.accuracy[precision] for precision in precisions]
        scores = [accuracy.scores for accuracy in accuracies]
        lines.append(row("  mIoU", _beside([s.miou for s in scores])))
        lines.append(row("  same pixels", [f"{100 * accuracy.agreement:.3f} %" for accuracy in accuracies]))
        if result.rounds_ms:
            lines.append(row("  latency, ms", [f"{result.latency_ms(precision):.2f}" for precision in precisions]))
            lines.append(
                row("  times fp32's speed", [ratio_text(result.speedup(precision)) for precision in precisions])
            )
        lines += [row(f"  {name}", _beside([s.iou[name] for s in scores])) for name in names]
    return "\n".join(lines)


def _beside(values: Sequence[float | None]) -> list[str]:
    """Such as ``61.23`` and ``61.05 (-0.18)``: per cent, and behind all but the first the difference from it."""
    first = values[0]
    cells = []
    for index, value in enumerate(values):
        difference = "" if index == 0 or value is None or first is None else f" ({100 * (value - first):+.2f})"
        cells.append("absent" if value is None else f"{100 * value:.2f}{difference}")
    return cells


def ratio_text(ratio: Ratio | None) -> str:
    """Such as ``3.67x (3.51 to 3.80)``."""
    return "-" if ratio is None else f"{ratio.median:.2f}x ({ratio.low:.2f} to {ratio.high:.2f})"


def worth(results: Sequence[EngineResult], precision: str) -> list[str]:
    """A sentence for each engine that was timed: whether the precision is faster than all the others, by how much."""
    sentences = []
    for result in results:
        others = [other for other in result.accuracy if other != precision]
        ratios = {other: ratio for other in others if (ratio := result.speedup(precision, other)) is not None}
        if not ratios:
            continue
        rival = min(ratios, key=lambda other: ratios[other].median)
        ratio = ratios[rival]
        figures = f"{ratio.median:.2f} times as fast as {rival} ({ratio.low:.2f} to {ratio.high:.2f})"
        sentences.append(
            f"{precision} is {figures} in {result.engine}."
            if ratio.median >= WORTH
            else f"{precision} is not worth it here: in {result.engine} it is {figures}."
        )
    return sentences
