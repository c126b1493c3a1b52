"""What the pipeline costs beside the bare engine, how old results are, and what an idle live loop burns.

throughput
    ``edgeseg.pipeline.run`` on a file without sinks against ``infer`` on one prepared tensor, again and again, with
    the same model, engine and threads, in turns. ``one_by_one`` is the same run with one frame at a time.
age
    A paced source and an engine that takes a given time: age from capture to class map. ``slow`` is an engine that
    takes five frame intervals.
idle
    Processor time of a live loop at 10 Hz against that of its inferences alone.

Example:
    python benchmarks/pipeline.py --video drive.mp4 --json benchmarks/results/today-pipeline.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edgeseg
from edgeseg import pipeline
from edgeseg.backends import installed_backends
from edgeseg.backends.fake import FakeBackend
from edgeseg.card import ModelCard
from edgeseg.conditions import conditions
from edgeseg.io.base import Source
from edgeseg.pipeline import run

AGE_S = 20.0
WARM_UP = 10


def bare_s(segmenter: edgeseg.Segmenter, tensor: NDArray[Any], frames: int) -> float:
    """Seconds a frame of the engine alone."""
    start = time.perf_counter()
    for _ in range(frames):
        segmenter.backend.infer({segmenter.backend.inputs[0].name: tensor})
    return (time.perf_counter() - start) / frames


def throughput(args: argparse.Namespace, backend: str) -> dict[str, Any]:
    """Frames a second of a file against the bare engine, in turns."""
    lanes_from = pipeline.LANES_FROM_FRAMES
    rows: dict[str, list[float]] = {"bare": [], "one_by_one": [], "run": []}
    with edgeseg.load(args.model, backend, threads=args.threads) as segmenter:
        with edgeseg.open_source(args.video) as first:
            image = next(iter(first)).image
        tensor = segmenter._preprocess(image).copy()
        bare_s(segmenter, tensor, WARM_UP)
        for _ in range(args.rounds):
            rows["bare"].append(bare_s(segmenter, tensor, args.frames))
            for name, limit in (("one_by_one", 10**9), ("run", 1)):
                pipeline.LANES_FROM_FRAMES = limit
                report = run(edgeseg.open_source(args.video), segmenter, max_frames=args.frames)
                rows[name].append(report.wall_s / report.frames)
    pipeline.LANES_FROM_FRAMES = lanes_from
    ratios = {name: [b / s for b, s in zip(rows["bare"], rows[name])] for name in ("one_by_one", "run")}
    row = {
        "backend": backend,
        "threads": args.threads,
        "video": Path(args.video).name,
        "frame_hw": list(image.shape[:2]),
        "frames_a_round": args.frames,
        "rounds": args.rounds,
        "fps_median": {name: 1 / statistics.median(seconds) for name, seconds in rows.items()},
        "rate_to_bare": {
            name: {"median": statistics.median(r), "min": min(r), "max": max(r)} for name, r in ratios.items()
        },
    }
    print(backend, json.dumps(row["rate_to_bare"]))
    return row


class Paced(Source):
    """Black frames that appear at a rate, each captured when it appears."""

    live = True

    def __init__(self, rate_hz: float) -> None:
        super().__init__(f"{rate_hz:g} Hz", None, rate_hz)
        self._image = np.zeros((480, 640, 3), np.uint8)
        self._next, self._start = 0, time.monotonic()

    def _read(self) -> edgeseg.Frame:
        due = self._start + self._next / (self.rate_hz or 1.0)
        time.sleep(max(0.0, due - time.monotonic()))
        self._next += 1
        return edgeseg.Frame(self._image, self._next - 1, time.monotonic())


def for_seconds(source: Source, segmenter: edgeseg.Segmenter, seconds: float) -> pipeline.Report:
    """Run a live source for a while."""
    stop = threading.Event()
    timer = threading.Timer(seconds, stop.set)
    timer.start()
    return run(source, segmenter, stop=stop)


def age(rate_hz: float, latency_s: float, seconds: float) -> dict[str, Any]:
    """Age of results from capture to class map, with an engine that takes a given time."""
    card = ModelCard(classes=("a", "b"), palette=((0, 0, 0), (9, 9, 9)), input_size_hw=(480, 640), name="age")
    with edgeseg.Segmenter(FakeBackend(card, latency_s=latency_s), card) as segmenter:
        report = for_seconds(Paced(rate_hz), segmenter, seconds)
    times = report.times.summary()
    row = {
        "rate_hz": rate_hz,
        "engine_ms": 1000 * latency_s,
        "seconds": seconds,
        "frames": report.frames,
        "dropped": report.dropped,
        "age_ms": times["age"],
        "bound_ms": 1000 / rate_hz + times["end_to_end"]["max"],
    }
    print(json.dumps(row))
    return row


def idle(args: argparse.Namespace, backend: str) -> dict[str, Any]:
    """Processor time a frame of a live loop at 10 Hz against that of its stages called one after the other."""
    with edgeseg.load(args.model, backend, threads=args.threads) as segmenter:
        image = np.zeros((480, 640, 3), np.uint8)
        for _ in range(WARM_UP):
            segmenter(image)
        loops, alone = [], []
        for _ in range(args.rounds):
            start = time.process_time()
            for _ in range(50):
                segmenter(image)
            alone.append((time.process_time() - start) / 50)
            start = time.process_time()
            report = for_seconds(Paced(10.0), segmenter, 5.0)
            loops.append((time.process_time() - start) / report.frames)
    ratios = [loop / one for loop, one in zip(loops, alone)]
    row = {
        "backend": backend,
        "cpu_ms_a_frame_live": 1000 * statistics.median(loops),
        "cpu_ms_a_frame_alone": 1000 * statistics.median(alone),
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
    }
    print(json.dumps(row))
    return row


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="model file or bundled name (default: the bundled model)")
    parser.add_argument("--video", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--frames", type=int, default=300, help="frames a round (300)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=AGE_S, help=f"length of a run of the age ({AGE_S:g})")
    parser.add_argument("--json", required=True, metavar="OUT")
    args = parser.parse_args()
    start = conditions()
    engines = [name for name in installed_backends() if name in ("openvino", "onnxruntime")]
    result = {
        "what": "frames a second beside the bare engine, age of results, processor time of an idle live loop",
        "throughput": [throughput(args, name) for name in engines],
        "age": {
            "camera_30_hz_engine_20_ms": age(30.0, 0.020, args.seconds),
            "engine_of_five_intervals": age(30.0, 5 / 30, args.seconds),
        },
        "idle": [idle(args, name) for name in engines],
        "conditions": {**start, "load_average_1min_after": conditions()["load_average_1min"]},
    }
    Path(args.json).parent.mkdir(parents=True, exist_ok=True)
    Path(args.json).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
