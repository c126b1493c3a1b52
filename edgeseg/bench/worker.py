"""One combination of model, size and engine in a process of its own: ``python -m edgeseg.bench.worker``.

It opens the model once and then waits, so that rounds cost no loading and processes that wait take no time. Requests
come as JSON lines on the standard input, ``{"call": NAME, "arguments": {...}}``; each is answered by one line on the
standard output, ``{"answer": ...}`` or ``{"error": TEXT}``. The process ends with its input.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from edgeseg.bench.streaming import streaming_scores
from edgeseg.dataset import DataSet
from edgeseg.errors import EdgesegError
from edgeseg.evaluate import confusion_of
from edgeseg.files import sha256_of
from edgeseg.foreign import ModelFacts
from edgeseg.io import open_source
from edgeseg.io.sources import FrameList
from edgeseg.metrics import ConfusionMatrix
from edgeseg.pipeline import run
from edgeseg.preprocess import Preprocessor
from edgeseg.segmenter import Segmenter, load

WARM_UP_BLOCK, STEADY_CHANGE, WARM_UP_LIMIT_S = 50, 0.02, 20.0
"""Warm-up ends when the medians of two blocks in succession differ by less than this, or after this time."""

TURN_WARM_UP = 5
"""Frames before every turn that are not counted: another process has had the caches since the last one."""


class Worker:
    """A model in an engine, and the frames it is timed on. Every public method can be requested."""

    def __init__(self) -> None:
        self._segmenter: Segmenter
        self._images: list[NDArray[np.uint8]]

    def open(
        self,
        model: str,
        backend: str,
        imgsz: list[int] | None,
        threads: int | None,
        facts: Mapping[str, Any],
        card: str | None,
        frames: str,
        data: str | None,
    ) -> dict[str, Any]:
        """Open the model and load the frames; what was opened.

        Args:
            model, backend, threads, card: see ``edgeseg.load``.
            imgsz: height and width in pixels, or None.
            facts: the other attributes of ``ModelFacts``.
            frames: a NumPy file with the frames to time, uint8 [N, H, W, 3] in BGR.
            data: a ``data.yaml`` that will be scored, or None; its classes must be the model's.
        """
        size = None if imgsz is None else (imgsz[0], imgsz[1])
        self._segmenter = load(model, backend, card=card, facts=ModelFacts(**facts, imgsz=size), threads=threads)
        if data is not None:
            self._checked_data(data)
        self._images = list(np.load(frames))
        segmenter, path = self._segmenter, self._segmenter.path
        return {
            "file": path.name if path else None,
            "sha256": sha256_of(path) if path else None,
            "bytes": path.stat().st_size if path else None,
            "name": segmenter.card.name,
            "precision": segmenter.card.precision,
            "head": segmenter.card.head,
            "imgsz": list(segmenter.card.input_size_hw),
            "backend": segmenter.backend.name,
            "backend_version": segmenter.backend.version,
            "device": segmenter.backend.device,
            "frame_hw": list(self._images[0].shape[:2]),
            "frames_held": len(self._images),
        }

    def warm_up(self) -> dict[str, Any]:
        """Run until the times are steady; how many frames it took, and whether they are."""
        started, frames, before = time.monotonic(), 0, 0.0
        while True:
            median = statistics.median(self.closed(WARM_UP_BLOCK)["timing_ms"]["end_to_end"])
            frames += WARM_UP_BLOCK + TURN_WARM_UP
            steady = abs(median - before) < STEADY_CHANGE * before
            if steady or time.monotonic() - started > WARM_UP_LIMIT_S:
                return {"frames": frames, "steady": steady}
            before = median

    def closed(self, frames: int) -> dict[str, Any]:
        """Frame after frame, each as soon as the one before is done: milliseconds by stage, wall time in seconds."""
        timing_ms: dict[str, list[float]] = {}
        invalid = 0
        for image in self._turn(TURN_WARM_UP):
            self._segmenter(image)
        start = time.perf_counter()
        for image in self._turn(frames):
            result = self._segmenter(image)
            invalid += not result.valid
            _append(timing_ms, result.timing)
        return {"timing_ms": timing_ms, "invalid": invalid, "wall_s": time.perf_counter() - start, "dropped": 0}

    def paced(self, frames: int, rate_hz: float) -> dict[str, Any]:
        """Frames that arrive like a camera's; the newest wins. As ``closed``, with the stage ``age``.

        ``age`` is from the arrival of a frame to its result; frames without a result are counted in ``dropped``.
        """
        timing_ms: dict[str, list[float]] = {}
        invalid = dropped = 0
        for image in self._turn(TURN_WARM_UP):
            self._segmenter(image)
        start, last = time.perf_counter(), -1
        while last < frames - 1:
            newest = min(int((time.perf_counter() - start) * rate_hz), frames - 1)
            if newest <= last:
                newest = last + 1
                time.sleep(max(0.0, start + newest / rate_hz - time.perf_counter()))
            dropped += newest - last - 1
            result = self._segmenter(self._images[newest % len(self._images)])
            age_ms = 1000 * (time.perf_counter() - start - newest / rate_hz)
            invalid += not result.valid
            _append(timing_ms, {**result.timing, "age": age_ms})
            last = newest
        return {"timing_ms": timing_ms, "invalid": invalid, "wall_s": time.perf_counter() - start, "dropped": dropped}

    def engine(self, frames: int) -> list[float]:
        """Milliseconds of each bare inference of one prepared tensor."""
        backend = self._segmenter.backend
        feed = {backend.inputs[0].name: Preprocessor(self._segmenter.card)(self._images[0])}
        times_ms = []
        for number in range(-TURN_WARM_UP, frames):
            start = time.perf_counter()
            backend.infer(feed)
            if number >= 0:
                times_ms.append(1000 * (time.perf_counter() - start))
        return times_ms

    def pipeline(self, frames: int) -> float:
        """Frames a second of ``edgeseg.pipeline.run`` without sinks, everything that can overlap overlapping."""
        run(FrameList(list(self._turn(TURN_WARM_UP))), self._segmenter)
        return run(FrameList(list(self._turn(frames))), self._segmenter).fps

    def peak_rss_mib(self) -> float | None:
        """Largest resident memory of this process so far; None where the system does not tell."""
        # Not getrusage: its peak is inherited from the process that forked.
        try:
            text = Path("/proc/self/status").read_text(encoding="utf-8")
        except OSError:
            return None
        return int(text.split("VmHWM:")[1].split()[0]) / 1024

    def score(self, data: str, split: str, worst: int) -> dict[str, Any]:
        """Accuracy on a labelled split, and the images with the lowest mIoU with their pictures.

        Args:
            data: a ``data.yaml``.
            split: its split.
            worst: how many images to return.
        """
        labelled = self._checked_data(data)
        samples = labelled.samples(split)
        total = ConfusionMatrix(labelled.classes, labelled.ignore_id)
        by_image = []
        for sample in samples:
            one = confusion_of(self._segmenter, [labelled.read(sample)], labelled.ignore_id)
            total.matrix += one.matrix
            if one.matrix.any():
                by_image.append((one.scores().miou, sample))
        by_image.sort(key=lambda pair: pair[0])
        scores = total.scores()
        return {
            "accuracy": {
                "miou": scores.miou, "iou": scores.iou, "pixel_accuracy": scores.pixel_accuracy, "images": len(samples),
            },
            "worst": [
                {"name": sample.image_path.name, "miou": miou, "pictures": self._pictures(labelled, sample)}
                for miou, sample in by_image[:worst]
            ],
        }  # fmt: skip

    def stream(self, clip: str, split: str | None, rates_hz: list[float]) -> list[dict[str, Any]]:
        """Streaming accuracy of a labelled clip, at every rate; see ``edgeseg.bench.streaming``.

        Args:
            clip: a ``data.yaml`` whose split is a video in order, or a ``synthetic://`` address.
            split: of the data set.
            rates_hz: frames a second. The clip has the first of them; at a lower one, which must divide it, every
                n-th frame is taken.

        Returns:
            A score for each rate; none where the clip is synthetic and its classes are not the model's.
        """
        labelled = self._clip(clip, split)
        if labelled is None:
            return []
        ignore_id, pairs = labelled
        latencies_s, predicted, truths = [], [], []
        for image, truth in pairs:
            result = self._segmenter(image)
            latencies_s.append(result.timing["end_to_end"] / 1000)
            predicted.append(result.mask)
            truths.append(truth)
        classes = self._segmenter.card.classes
        steps = [round(rates_hz[0] / rate_hz) for rate_hz in rates_hz]
        return [
            streaming_scores(latencies_s[::n], predicted[::n], truths[::n], classes, ignore_id, rate_hz)
            for n, rate_hz in zip(steps, rates_hz)
        ]

    def _clip(
        self, clip: str, split: str | None
    ) -> tuple[int | None, Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]] | None:
        if not clip.startswith("synthetic:"):
            data = self._checked_data(clip)
            return data.ignore_id, (data.read(sample) for sample in data.samples(split or ""))
        from edgeseg.io.street import CLASSES, IGNORE_ID

        if self._segmenter.card.classes != CLASSES:
            return None
        frames = ((frame.image, frame.truth) for frame in open_source(clip))
        return IGNORE_ID, ((image, truth) for image, truth in frames if truth is not None)

    def _checked_data(self, data: str) -> DataSet:
        labelled = DataSet.from_yaml(data)
        labelled.check_classes(self._segmenter.card, str(self._segmenter.path))
        return labelled

    def _pictures(self, data: DataSet, sample: Any) -> dict[str, str]:
        from edgeseg.draw import color_from_classmap, error_picture
        from edgeseg.pages import data_url

        image, truth = data.read(sample)
        predicted = self._segmenter(image).mask
        return {
            "image": data_url(image, ".jpg"),
            "truth": data_url(color_from_classmap(truth, data.palette), ".png"),
            "prediction": data_url(color_from_classmap(predicted, data.palette), ".png"),
            "errors": data_url(error_picture(image, truth, predicted, data.ignore_id), ".jpg"),
        }

    def _turn(self, frames: int) -> Iterator[NDArray[np.uint8]]:
        return itertools.islice(itertools.cycle(self._images), frames)


def _append(timing_ms: dict[str, list[float]], one_ms: Mapping[str, float]) -> None:
    for stage, value in one_ms.items():
        timing_ms.setdefault(stage, []).append(value)


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answer requests until they end."""
    worker = Worker()
    for line in requests:
        request = json.loads(line)
        try:
            reply = {"answer": getattr(worker, request["call"])(**request["arguments"])}
        except EdgesegError as error:
            reply = {"error": str(error)}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()


def main() -> None:
    """Serve the standard streams. What engines print goes to the standard error instead."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
