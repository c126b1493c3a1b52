"""Figures of the first journey: accuracy of the bundled model, frame rate on a video, start-up.

Times are ratios within one run: end to end (``edgeseg.pipeline.run`` without sinks: decode the video,
resize, infer, class map at frame size) against the bare engine (``infer`` on one prepared tensor, again and
again), same file, backend and threads, in turns.

Example:
    python benchmarks/journey.py --data camvid/data.yaml --video drive.mp4 --json results/today.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from conditions import conditions

import edgeseg
from edgeseg.backends import installed_backends
from edgeseg.dataset import DataSet
from edgeseg.evaluate import evaluate
from edgeseg.pipeline import run

# Not getrusage: its peak is inherited from the process that forked.
PEAK_MIB = "print(int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) / 1024)\n"


def accuracy(args: argparse.Namespace) -> list[dict[str, Any]]:
    """mIoU and pixel accuracy of the model on every backend, and of the checkpoint where one is given."""
    data = DataSet.from_yaml(args.data)
    models = [(args.model, b) for b in installed_backends()]
    if args.checkpoint:
        models.append((args.checkpoint, "auto"))
    rows = []
    for model, backend in models:
        with edgeseg.load(model, backend) as segmenter:
            pairs = (data.read(s) for s in data.samples(args.split))
            scores = evaluate(segmenter, pairs, data.ignore_id)
            row = {"model": Path(model or "bundled").name, "backend": segmenter.backend.name, "split": args.split}
            rows.append({**row, **scores.to_dict()})
            print(f"{row['backend']:<12} mIoU {100 * scores.miou:.2f}, pixels {100 * scores.pixel_accuracy:.2f} %")
    return rows


def bare(segmenter: edgeseg.Segmenter, image: Any, frames: int) -> float:
    """Seconds a frame of the engine alone."""
    spec = segmenter.backend.inputs[0]
    tensor = segmenter._preprocess(image)
    start = time.perf_counter()
    for _ in range(frames):
        segmenter.backend.infer({spec.name: tensor})
    return (time.perf_counter() - start) / frames


def speed(args: argparse.Namespace, backend: str) -> dict[str, Any]:
    """End to end against the bare engine, in turns."""
    with edgeseg.load(args.model, backend, threads=args.threads) as segmenter:
        first = edgeseg.open_source(args.video)
        image = next(iter(first)).image
        first.close()
        bare(segmenter, image, 10)
        rounds = []
        for _ in range(args.rounds):
            bare_s = bare(segmenter, image, args.frames)
            report = run(edgeseg.open_source(args.video), segmenter, max_frames=args.frames)
            rounds.append((bare_s, report))
    ratios = [report.wall_s / report.frames / bare_s for bare_s, report in rounds]
    bare_ms = [1000 * b for b, _ in rounds]
    row = {
        "backend": backend,
        "threads": args.threads,
        "video": Path(args.video).name,
        "frame_hw": list(image.shape[:2]),
        "frames_a_round": rounds[0][1].frames,
        "rounds": args.rounds,
        "fps_end_to_end_median": statistics.median(r.fps for _, r in rounds),
        "fps_bare_median": 1000 / statistics.median(bare_ms),
        "ratio_end_to_end_to_bare": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        "latency_ms_last_round": rounds[-1][1].times.summary(),
    }
    print(
        f"{backend:<12} end to end {row['fps_end_to_end_median']:.1f} frames/s, bare {row['fps_bare_median']:.1f}, "
        f"time ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    )
    return row


def _child(code: str, *arguments: str) -> list[float]:
    out = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return [float(x) for x in out.stdout.split()]


def startup(args: argparse.Namespace) -> dict[str, Any]:
    """Import time and memory beside numpy's own, and the time until the first mask, each in new processes."""
    timed = "import time; a = time.perf_counter(); import {}; print(1000 * (time.perf_counter() - a))\n" + PEAK_MIB
    modules = {"numpy": "numpy", "edgeseg": "numpy, edgeseg"}
    rows = {name: [_child(timed.format(what)) for _ in range(args.starts)] for name, what in modules.items()}
    result: dict[str, Any] = {
        name: {
            "import_ms_median": statistics.median(r[0] for r in found),
            "resident_mib_median": statistics.median(r[1] for r in found),
        }
        for name, found in rows.items()
    }
    first = (
        "import sys, time\n"
        "import edgeseg\n"
        "segmenter = edgeseg.load(None, sys.argv[2])\n"
        "source = edgeseg.open_source(sys.argv[1])\n"
        "for i, result in enumerate(segmenter.stream(source)):\n"
        "    if i == 0: print(time.time())\n"
        "    if i == 50: break\n"
    ) + PEAK_MIB
    command = [sys.executable, "-m", "edgeseg", "run", "--source", args.video, "--headless", "--max-frames", "1"]
    for backend in installed_backends():
        masks, memory, commands = [], [], []
        for _ in range(args.starts):
            start = time.time()
            finished, mib = _child(first, args.video, backend)
            masks.append(finished - start)
            memory.append(mib)
            start = time.time()
            subprocess.run([*command, "--backend", backend], capture_output=True, check=True)
            commands.append(time.time() - start)
        result[backend] = {
            "first_mask_s_median": statistics.median(masks),
            "run_one_frame_process_s_median": statistics.median(commands),
            "loop_resident_mib_median": statistics.median(memory),
        }
    print(json.dumps(result, indent=2))
    return result


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="model file or bundled name (default: the bundled model)")
    parser.add_argument("--checkpoint", help="score this checkpoint as well (needs torch)")
    parser.add_argument("--data", help="data.yaml to score on")
    parser.add_argument("--split", default="val")
    parser.add_argument("--video", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--frames", type=int, default=300, help="frames a round (300)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--starts", type=int, default=7, help="processes started for each start-up figure (7)")
    parser.add_argument("--json", required=True, metavar="OUT")
    args = parser.parse_args()
    start = conditions()
    result = {
        "what": "accuracy of the bundled model, end to end against bare inference, start-up",
        "accuracy": accuracy(args) if args.data else None,
        "speed": [speed(args, backend) for backend in installed_backends()],
        "startup": startup(args),
        "conditions": {**start, "load_average_1min_after": conditions()["load_average_1min"]},
    }
    Path(args.json).parent.mkdir(parents=True, exist_ok=True)
    Path(args.json).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
