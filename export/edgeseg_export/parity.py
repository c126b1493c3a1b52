"""Does an exported file do what its checkpoint does? Answered through the runtime, on every CPU engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.backends import Backend, installed_backends
from edgeseg.dataset import DataSet
from edgeseg.errors import BackendError, EdgesegError, ModelError
from edgeseg.io.street import Street
from edgeseg.metrics import Scores
from edgeseg.segmenter import Segmenter

CPU_ENGINES = ("openvino", "onnxruntime")
"""Engines a file must agree on, where they are installed."""

TOLERANCE = 0.001
"""Share of pixels that may get another class than in PyTorch: where two classes are level, rounding decides."""

MIOU_TOLERANCE = 0.0005
"""Largest difference of mIoU, 0 to 1."""

FRAMES = 8
"""Pictures that are compared, beside one of pure noise."""

Image = NDArray[np.uint8]


class ParityError(EdgesegError):
    """An exported file does not do what its checkpoint does."""

    exit_code = 1


@dataclass(frozen=True)
class Parity:
    """How one engine compares with PyTorch, over all frames.

    Attributes:
        engine: its name.
        max_difference: largest absolute difference of a logit; None for a mask head, NaN where one side is.
        agreement: share of pixels with the same class, 0 to 1; pixels without a valid result never agree.
    """

    engine: str
    max_difference: float | None
    agreement: float


def installed_cpu_engines() -> tuple[str, ...]:
    """The engines of ``CPU_ENGINES`` that are installed, the preferred one first.

    Raises:
        BackendError: there is none, so that nothing could be compared.
    """
    installed = installed_backends()
    engines = tuple(name for name in CPU_ENGINES if name in installed)
    if not engines:
        raise BackendError("No engine is installed that could check the exported file", "pip install 'edgeseg[export]'")
    return engines


def parity_frames(size_hw: tuple[int, int], data: DataSet | None, split: str) -> Iterator[Image]:
    """Frames to compare on: evenly spaced ones of a split, or of the synthetic street; and one of pure noise.

    Args:
        size_hw: height and width of the frames that are made up here, in pixels.
        data: the data set, or None for the street.
        split: split of the data set.

    Yields:
        uint8 [H, W, 3], BGR; the data set's at their own size.

    Raises:
        DataError: the split is missing, or an image cannot be read.
    """
    if data is None:
        street = Street(size_hw=size_hw, seed=0)
        yield from (street.render(30 * index)[0] for index in range(FRAMES))
    else:
        samples = data.samples(split)
        yield from (data.read(sample)[0] for sample in samples[:: max(1, len(samples) // FRAMES)][:FRAMES])
    yield np.random.default_rng(0).integers(0, 256, (*size_hw, 3), np.uint8)


def compare(reference: Segmenter, engines: Mapping[str, Segmenter], frames: Iterable[Image]) -> list[Parity]:
    """Run every frame through the reference and each engine.

    Args:
        reference: the checkpoint in PyTorch, with the head of the exported file.
        engines: the exported file by name of the engine it is opened in.
        frames: at least one uint8 [H, W, 3] in BGR.

    Raises:
        ModelError: the checkpoint itself gives NaN or infinity.
        EdgesegError: see ``Segmenter.__call__``.
    """
    taps = {name: _Tap(segmenter.backend) for name, segmenter in engines.items()}
    tapped = {name: Segmenter(taps[name], segmenter.card) for name, segmenter in engines.items()}
    truth_tap = _Tap(reference.backend)
    truth = Segmenter(truth_tap, reference.card)
    agreeing, differences, pixels = dict.fromkeys(engines, 0), dict.fromkeys(engines, 0.0), 0
    for frame in frames:
        expected = truth(frame)
        if not expected.valid:
            raise ModelError("The checkpoint gives NaN or infinite logits", "train again with a lower --lr")
        pixels += expected.mask.size
        for name, segmenter in tapped.items():
            result = segmenter(frame)
            if result.valid:
                agreeing[name] += int(np.count_nonzero(result.mask == expected.mask))
            if reference.card.head == "logits":
                distance = float(np.abs(taps[name].output - truth_tap.output).max())
                differences[name] = float(np.maximum(differences[name], distance))  # keeps a NaN
    return [
        Parity(name, differences[name] if reference.card.head == "logits" else None, agreeing[name] / max(pixels, 1))
        for name in engines
    ]


def check(
    parities: Sequence[Parity],
    tolerance: float = TOLERANCE,
    *,
    original: str = "checkpoint",
    mend: str = "export with --weights fp32 and --opset 17, or allow more with --tolerance SHARE",
) -> None:
    """Refuse an export that gives other classes than its original.

    Args:
        parities: by engine.
        tolerance: share of pixels that may differ, 0 to 1.
        original: what the file was compared with.
        mend: what to do about it.

    Raises:
        ParityError: one of them agrees on too few pixels; names the worst.
    """
    worst = min(parities, key=lambda parity: parity.agreement)
    if not worst.agreement >= 1.0 - tolerance:
        raise ParityError(
            f"In {worst.engine} the exported file agrees with the {original} on {100 * worst.agreement:.3f} % of "
            f"pixels, {100 * (1 - tolerance):g} % are asked for; nothing was written",
            mend,
        )


def check_scores(reference: Scores, engines: Mapping[str, Scores]) -> None:
    """Refuse an export that scores differently from its checkpoint.

    Raises:
        ParityError: an engine's mIoU differs by more than ``MIOU_TOLERANCE``; names it.
    """
    for name, scores in engines.items():
        if not abs(scores.miou - reference.miou) <= MIOU_TOLERANCE:
            raise ParityError(
                f"In {name} the exported file has an mIoU of {100 * scores.miou:.2f}, its checkpoint "
                f"{100 * reference.miou:.2f}; nothing was written",
                "export with --weights fp32 and --opset 17",
            )


def table(parities: Sequence[Parity]) -> str:
    """The comparison as aligned text."""
    lines = [f"{'engine':<12}  max logit difference  same class"]
    for parity in parities:
        difference = "-" if parity.max_difference is None else f"{parity.max_difference:.2e}"
        lines.append(f"{parity.engine:<12}  {difference:>20}  {100 * parity.agreement:8.4f} %")
    return "\n".join(lines)


class _Tap:
    """A backend that lends its last output, so that logits can be compared without a second inference."""

    def __init__(self, backend: Backend) -> None:
        self.name, self.device, self.version = backend.name, backend.device, backend.version
        self.inputs, self.outputs = backend.inputs, backend.outputs
        self._backend = backend
        self.output: NDArray[Any] = np.empty(0)

    def infer(self, feed: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        outputs = self._backend.infer(feed)
        self.output = outputs[self.outputs[0].name]
        return outputs

    def close(self) -> None:
        self._backend.close()
