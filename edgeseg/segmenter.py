"""The network as a function: a frame in, its class map out."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edgeseg import bundled
from edgeseg.backends import Backend, open_backend
from edgeseg.card import ModelCard
from edgeseg.decode import Decoder, classmap_resized
from edgeseg.draw import color_from_classmap, overlay
from edgeseg.errors import ModelError, UsageError
from edgeseg.foreign import ModelFacts, card_for_foreign, select_output
from edgeseg.frame import Frame, State
from edgeseg.onnx_reader import card_of, read_onnx
from edgeseg.preprocess import Preprocessor

INVALID = 255
"""Class id of pixels without a valid result."""


@dataclass(frozen=True)
class Segmentation:
    """The result for one frame.

    Attributes:
        mask: uint8 [H, W] class ids, at the frame's own size. 255 everywhere where ``valid`` is False.
        classes: class names by id.
        palette: RGB by class id.
        frame: the frame it belongs to.
        timing: milliseconds by stage: "capture" where known, "preprocess", "infer", "decode", "end_to_end".
        valid: False where the network gave NaN or infinity.
        state: of the source when the frame was taken.
        finished_at: ``time.monotonic()`` in seconds when the mask was ready.
    """

    mask: NDArray[np.uint8]
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    frame: Frame
    timing: Mapping[str, float]
    valid: bool = True
    state: State = State.LIVE
    finished_at: float = field(default_factory=time.monotonic)

    @property
    def frame_index(self) -> int:
        """Position of the frame in its source."""
        return self.frame.index

    @property
    def captured_at(self) -> float:
        """``time.monotonic()`` in seconds at which the frame reached this process."""
        return self.frame.captured_at

    @property
    def age_ms(self) -> float:
        """Milliseconds from capture until the mask was ready."""
        return 1000.0 * (self.finished_at - self.frame.captured_at)

    def overlay(self, alpha: float = 0.5) -> NDArray[np.uint8]:
        """The frame blended with the painted mask: uint8 [H, W, 3], BGR. ``alpha`` is the colours' share."""
        return overlay(self.frame.image, self.mask, self.palette, alpha)

    def color(self) -> NDArray[np.uint8]:
        """The mask painted in its palette: uint8 [H, W, 3], BGR."""
        return color_from_classmap(self.mask, self.palette)


class Segmenter:
    """A model in an engine, with its preprocessing and decoding.

    Not re-entrant: one thread at a time.

    Args:
        backend: an opened engine.
        card: what the model's input and output mean.
        output: name of the output to decode; None takes the only one.
        path: the model file, for reports.

    Raises:
        ModelError: the engine has several outputs and none is named.
    """

    def __init__(
        self, backend: Backend, card: ModelCard, *, output: str | None = None, path: Path | None = None
    ) -> None:
        self.backend, self.card, self.path = backend, card, path
        if output is None and len(backend.outputs) > 1:
            raise ModelError("The engine has several outputs", "name the one to decode: output=...")
        self._input = backend.inputs[0].name
        self._output = output or backend.outputs[0].name
        self._preprocess = Preprocessor(card)
        self._decoders: dict[tuple[tuple[int, int], tuple[int, int]], Decoder] = {}

    def __call__(self, frame: Frame | NDArray[np.uint8]) -> Segmentation:
        """Segment a frame, or a uint8 [H, W, 3] image in BGR.

        Raises:
            UsageError: the image has another shape or dtype.
            BackendError: the engine failed.
            ModelError: the output is not what the card says.
        """
        if not isinstance(frame, Frame):
            frame = Frame(frame, 0, time.monotonic())
        start = time.perf_counter()
        tensor = self._preprocess(frame.image)
        prepared = time.perf_counter()
        output = self.backend.infer({self._input: tensor})[self._output]
        inferred = time.perf_counter()
        mask, valid = self._decode(output, frame.size_hw)
        done = time.perf_counter()
        timing = {
            "preprocess": 1000 * (prepared - start),
            "infer": 1000 * (inferred - prepared),
            "decode": 1000 * (done - inferred),
            "end_to_end": 1000 * (done - start),
        }
        if frame.capture_ms is not None:
            timing["capture"] = frame.capture_ms
        return Segmentation(mask, self.card.classes, self.card.palette, frame, timing, valid)

    def _decode(self, output: NDArray[Any], size_hw: tuple[int, int]) -> tuple[NDArray[np.uint8], bool]:
        if self.card.head == "mask":
            ids = output.reshape(output.shape[-2:])
            if int(ids.min()) < 0 or int(ids.max()) >= self.card.num_classes:
                raise ModelError(
                    f"The model gave class {int(ids.max())}, its card names {self.card.num_classes} classes",
                    "correct --classes or the card",
                )
            # A copy: engines reuse their output buffer, results are the caller's to keep.
            return classmap_resized(ids.astype(np.uint8), size_hw), True
        if output.ndim != 4 or output.shape[0] != 1 or output.shape[1] != self.card.num_classes:
            raise ModelError(
                f"The model gave {list(output.shape)}, logits for {self.card.num_classes} classes "
                f"are [1, {self.card.num_classes}, h, w]",
                "correct --classes, --output or the card",
            )
        logits_hw = (int(output.shape[2]), int(output.shape[3]))
        decoder = self._decoders.get((logits_hw, size_hw))
        if decoder is None:
            if len(self._decoders) > 8:
                self._decoders.clear()
            decoder = self._decoders[logits_hw, size_hw] = Decoder(logits_hw, size_hw, self.card.num_classes)
        return decoder(output[0])

    def stream(self, source: Iterable[Frame]) -> Iterator[Segmentation]:
        """Results for every frame of a source, in order."""
        for frame in source:
            yield self(frame)

    def close(self) -> None:
        """Free the engine."""
        self.backend.close()

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def load(
    model: str | os.PathLike[str] | None = None,
    backend: str | Backend = "auto",
    *,
    card: ModelCard | str | os.PathLike[str] | None = None,
    facts: ModelFacts | None = None,
    threads: int | None = None,
) -> Segmenter:
    """Open a model for segmentation.

    Args:
        model: path of a model file or name of a bundled model; None takes the default one.
        backend: "auto", the name of an engine, or an opened one (``card`` is then needed too).
        card: a card, or the path of one, instead of the one in the file.
        facts: what a file without a card does not say; only ``imgsz`` may be given for a checkpoint.
        threads: threads for one inference; None leaves it to the engine.

    Raises:
        ModelError: the file is missing, broken, or lacks facts that running it needs.
        UsageError: an unknown engine.
        BackendError: no engine is installed, or it refuses the model.
    """
    facts = facts or ModelFacts()
    if isinstance(card, (str, os.PathLike)):
        card = ModelCard.from_file(card)
    if not isinstance(backend, str):
        if card is None:
            raise UsageError("An engine was passed without a card", "pass card=ModelCard(...) as well")
        return Segmenter(backend, card, output=facts.output)
    path = bundled.resolve(os.fspath(model) if model is not None else bundled.DEFAULT)
    if path.suffix == ".pt":
        return _load_checkpoint(path, backend, facts, threads)
    if path.suffix == ".engine":
        raise ModelError(f"{path} is a TensorRT engine, which this version cannot run yet", "run its ONNX file")
    info = read_onnx(path)
    output = select_output(info, facts.output).name
    card = card or card_of(info)
    if card is None:
        card = card_for_foreign(info, facts)
    else:
        _refuse_contradiction(card, facts, path)
    return Segmenter(open_backend(path, card, backend, threads=threads), card, output=output, path=path)


def _load_checkpoint(path: Path, backend: str, facts: ModelFacts, threads: int | None) -> Segmenter:
    if backend not in ("auto", "torch"):
        raise UsageError(f"{backend} cannot run the checkpoint {path}", "export it first: edgeseg export")
    # By name, because the runtime must not depend on the training package.
    opener = importlib.import_module("edgeseg_train.backend").open_checkpoint
    opened, card = cast("tuple[Backend, ModelCard]", opener(path, imgsz=facts.imgsz, threads=threads))
    return Segmenter(opened, card, path=path)


def _refuse_contradiction(card: ModelCard, facts: ModelFacts, path: Path) -> None:
    if facts.imgsz is not None and tuple(facts.imgsz) != card.input_size_hw:
        height, width = card.input_size_hw
        raise ModelError(
            f"{path} takes {height}x{width} (height x width), --imgsz asks for {facts.imgsz[0]}x{facts.imgsz[1]}",
            "export the checkpoint at that size: edgeseg export --imgsz HEIGHT WIDTH",
        )
    if facts.classes is not None and tuple(facts.classes) != card.classes:
        raise ModelError(
            f"The card of {path} names other classes than --classes", "leave --classes out, or give --card"
        )
    for name in ("mean", "std", "color_order"):
        if getattr(facts, name) is not None:
            raise ModelError(
                f"The card of {path} already says {name.replace('_', ' ')}",
                f"leave --{name.replace('_', '-')} out, or give --card",
            )
