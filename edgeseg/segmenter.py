"""The network as a function: a frame in, its class map out."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edgeseg import bundled
from edgeseg.backends import ON_GPU, Backend, FrameBackend, FrameSegmenter, open_backend
from edgeseg.card import ModelCard
from edgeseg.decode import classmap_from_logits, classmap_resized
from edgeseg.errors import MissingDependencyError, ModelError, UsageError, nearest
from edgeseg.foreign import EngineInfo, ModelFacts, card_for_foreign, select_output
from edgeseg.frame import Frame
from edgeseg.onnx_reader import card_of, read_onnx
from edgeseg.preprocess import Preprocessor
from edgeseg.processor import cores
from edgeseg.segmentation import Segmentation
from edgeseg.tensors import check_class_map, check_inputs, check_logits, foreign_class
from edgeseg.turns import Turns


class Segmenter:
    """A model in an engine, with its preprocessing and decoding.

    Threads may share it: they take turns, in the order in which they come.

    Args:
        backend: an opened engine.
        card: what the model's input and output mean.
        output: name of the output to decode; None takes the only one.
        path: the model file, for reports and ``copies``.
        threads: threads that the engine was given, for ``copies``; None leaves it to the engine.

    Raises:
        ModelError: the engine has several outputs and none is named, or takes another input than the card says.
    """

    def __init__(
        self,
        backend: Backend,
        card: ModelCard,
        *,
        output: str | None = None,
        path: Path | None = None,
        threads: int | None = None,
    ) -> None:
        self.backend, self.card, self.path, self._threads = backend, card, path, threads
        self._turns = Turns()
        outputs = [spec.name for spec in backend.outputs]
        if output is None and len(outputs) > 1:
            raise ModelError(f"The engine has the outputs {', '.join(outputs)}", "name the one to decode: output=...")
        if output is not None and output not in outputs:
            raise ModelError(f"The engine has no output '{output}'", nearest(output, outputs))
        check_inputs(backend.inputs, card, "the engine's model")
        self._input = backend.inputs[0].name
        self._output = output or outputs[0]
        self._preprocess = Preprocessor(card)
        self._segment: FrameSegmenter = self._segment_here
        if isinstance(backend, FrameBackend):
            self._segment = backend.frame_segmenter(card, self._output)

    def __call__(self, frame: Frame | NDArray[np.uint8]) -> Segmentation:
        """Segment a frame, or a uint8 [H, W, 3] image in BGR.

        Raises:
            UsageError: the image has another shape or dtype.
            BackendError: the engine failed.
            ModelError: the output is not what the card says.
        """
        if not isinstance(frame, Frame):
            frame = Frame(frame, 0, time.monotonic())
        with self._turns:
            mask, valid, timing = self._segment(frame.image)
        if frame.capture_ms is not None:
            timing["capture"] = frame.capture_ms
        return Segmentation(mask, self.card.classes, self.card.palette, frame, timing, valid)

    def _segment_here(self, image_hwc: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], bool, dict[str, float]]:
        start = time.perf_counter()
        tensor = self._preprocess(image_hwc)
        prepared = time.perf_counter()
        output = self.backend.infer({self._input: tensor})[self._output]
        inferred = time.perf_counter()
        mask, valid = self._decode(output, (image_hwc.shape[0], image_hwc.shape[1]))
        done = time.perf_counter()
        timing = {
            "preprocess": 1000 * (prepared - start),
            "infer": 1000 * (inferred - prepared),
            "decode": 1000 * (done - inferred),
            "end_to_end": 1000 * (done - start),
        }
        return mask, valid, timing

    def _decode(self, output: NDArray[Any], size_hw: tuple[int, int]) -> tuple[NDArray[np.uint8], bool]:
        if self.card.head == "mask":
            return self._decode_ids(output, size_hw), True
        check_logits(output.shape, self.card)
        return classmap_from_logits(output[0], size_hw)

    def _decode_ids(self, output: NDArray[Any], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
        check_class_map(output.dtype, output.shape)
        ids = output.reshape(output.shape[-2:])
        least, most = int(ids.min()), int(ids.max())
        if least < 0 or most >= self.card.num_classes:
            raise foreign_class(least if least < 0 else most, self.card)
        # A copy: engines reuse their output buffer, results are the caller's to keep.
        return classmap_resized(ids.astype(np.uint8), size_hw)

    def stream(self, source: Iterable[Frame]) -> Iterator[Segmentation]:
        """Results for every frame of a source, in order."""
        for frame in source:
            yield self(frame)

    def copies(self, count: int) -> list[Segmenter]:
        """Further segmenters of the same model that share its threads, to compute several frames at once.

        Together they make more frames a second than one that uses all threads for a frame, each frame later.
        Empty where there are too few threads for them, or the engine does not run an ONNX file on the CPU.
        """
        threads = (self._threads or cores()) // count
        if threads == 0 or self.path is None or self.path.suffix != ".onnx" or self.backend.device != "CPU":
            return []
        return [
            Segmenter(
                open_backend(self.path, self.card, self.backend.name, threads=threads),
                self.card,
                output=self._output,
                path=self.path,
            )
            for _ in range(count)
        ]

    def close(self) -> None:
        """Free the engine."""
        self.backend.close()

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(self, *_: object) -> None:
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
        model: path of a model file (``.onnx``, ``.engine`` or ``.pt``) or name of a bundled model; None takes the
            default one. An engine is code: open only what you built, or would run as a program.
        backend: "auto", the name of an engine, or an opened one (``card`` is then needed too).
        card: a card, or the path of one, instead of the one in the file.
        facts: what a file without a card does not say; only ``imgsz`` may be given for a checkpoint.
        threads: threads for one inference; None leaves it to the engine.

    Raises:
        ModelError: the file is missing, broken, or lacks facts that running it needs.
        UsageError: an unknown engine, or one that does not run files of this kind.
        BackendError: no engine is installed, or it refuses the model.
            ``edgeseg.trt.plan.StalePlanError``: a TensorRT engine was built for another machine, or is damaged.
    """
    facts = facts or ModelFacts()
    if isinstance(card, (str, os.PathLike)):
        card = ModelCard.from_file(card)
    if not isinstance(backend, str):
        if card is None:
            raise UsageError("An engine was passed without a card", "pass card=ModelCard(...) as well")
        return Segmenter(backend, card, output=facts.output)
    path = bundled.resolve(os.fspath(model) if model is not None else bundled.default(on_gpu=backend in ON_GPU))
    if path.suffix == ".pt":
        return _load_checkpoint(path, backend, facts, threads)
    if path.suffix == ".engine":
        return _load_engine(path, backend, card, facts)
    if backend == "tensorrt":
        raise UsageError(f"TensorRT runs engines, not {path}", f"build one: edgeseg build {path}")
    info = read_onnx(path)
    output = select_output(info, facts.output).name
    card = card or card_of(info)
    if card is None:
        card = card_for_foreign(info, facts)
    else:
        _refuse_contradiction(card, facts, path)
    opened = open_backend(path, card, backend, threads=threads)
    return Segmenter(opened, card, output=output, path=path, threads=threads)


def _load_checkpoint(path: Path, backend: str, facts: ModelFacts, threads: int | None) -> Segmenter:
    if backend not in ("auto", "torch"):
        raise UsageError(f"{backend} cannot run the checkpoint {path}", "export it first: edgeseg export")
    # By name, because the runtime must not depend on the training package.
    try:
        opener = importlib.import_module("edgeseg_train.backend").open_checkpoint
    except ImportError as error:
        package = (error.name or "torch").partition(".")[0]
        raise MissingDependencyError.for_extra(package, "train", "Running a checkpoint") from error
    opened, card = cast("tuple[Backend, ModelCard]", opener(path, imgsz=facts.imgsz, threads=threads))
    return Segmenter(opened, card, path=path)


def _load_engine(path: Path, backend: str, card: ModelCard | None, facts: ModelFacts) -> Segmenter:
    # Not above: they bring half as much again as everything else that importing edgeseg loads.
    from edgeseg.trt.inspector import tensors_of_plan
    from edgeseg.trt.plan import open_plan

    if backend not in ("auto", "tensorrt"):
        raise UsageError(
            f"{backend} cannot run the TensorRT engine {path}", "run its ONNX file, or leave --backend out"
        )
    plan, sidecar = open_plan(path)
    if card is None and sidecar is not None and sidecar.card is not None:
        card = sidecar.card
        _refuse_contradiction(card, facts, path)
    if card is None:
        inputs, outputs = tensors_of_plan(plan, path)
        card = card_for_foreign(EngineInfo(path, inputs, outputs, producer="TensorRT"), facts)
    # By name, because importing it loads what only engines need.
    opened = importlib.import_module("edgeseg.backends.tensorrt").TensorRtBackend(plan, card, path)
    try:
        return Segmenter(opened, card, output=facts.output, path=path)
    except ModelError:
        opened.close()
        raise


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
