"""Time both forms of the exact decoder against the plain way, in turns within one run.

The plain way is what most projects do: ``cv2.resize`` of every class to frame size, then ``np.argmax``.
All start from the same low-resolution logits and end with a uint8 mask at frame size. A round times
each of them once on the same logits, so that a busy machine slows all; a ratio is the median over
rounds of plain divided by one form of the decoder. The decoder uses one thread, OpenCV those of ``--threads``.

Logits come from label maps: one-hot at a finer size, blurred and shrunk as a network's coarse output is,
plus noise. Give real ones with ``--masks``; without it, maps of random regions are drawn. ``noise`` rows
are the worst case, independent random logits in which no cell agrees.

Example:
    python benchmarks/decode.py --masks data/camvid/val/masks --json decode.json
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from conditions import conditions
from numpy.typing import NDArray

from edgeseg import decode_compiled
from edgeseg.decode import Decoder

SHAPES = [  # classes, logits, frame
    (19, (128, 256), (1024, 2048)),
    (19, (64, 128), (512, 1024)),
    (11, (45, 60), (360, 480)),
    (11, (45, 60), (720, 1280)),
    (11, (90, 120), (360, 480)),
    (11, (90, 120), (720, 1280)),
]
LOGIT_SCALE = 10.0
LOGIT_NOISE = 0.3


def plain(logits_chw: NDArray[np.float32], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """``cv2.resize`` per class, then ``np.argmax``."""
    full = [cv2.resize(c, size_hw[::-1], interpolation=cv2.INTER_LINEAR) for c in logits_chw]
    mask: NDArray[np.uint8] = np.stack(full).argmax(axis=0).astype(np.uint8)
    return mask


def drawn_labels(rng: np.random.Generator, classes: int) -> NDArray[np.uint8]:
    """A label map of random regions, uint8 [360, 480]: nearest of 25 seeds, each with a class."""
    seeds = rng.uniform(0, 1, (25, 2)) * (360, 480)
    y, x = np.mgrid[0:360, 0:480]
    nearest = np.argmin([(y - sy) ** 2 + (x - sx) ** 2 for sy, sx in seeds], axis=0)
    labels: NDArray[np.uint8] = rng.integers(0, classes, 25).astype(np.uint8)[nearest]
    return labels


def logits_of(
    labels_hw: NDArray[np.uint8], classes: int, logits_hw: tuple[int, int], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Logits as a network would put out for these labels, float32 [C, h, w]."""
    height, width = logits_hw
    fine = cv2.resize(labels_hw, (width * 4, height * 4), interpolation=cv2.INTER_NEAREST) % classes
    soft = [cv2.GaussianBlur((fine == c).astype(np.float32), (0, 0), 3.0) for c in range(classes)]
    low = np.stack([cv2.resize(c, (width, height), interpolation=cv2.INTER_AREA) for c in soft])
    return (LOGIT_SCALE * low + LOGIT_NOISE * rng.standard_normal(low.shape)).astype(np.float32)


def agreeing_share(logits_chw: NDArray[np.float32]) -> float:
    """Share of low-resolution cells whose four corners have the same winner."""
    low = logits_chw.argmax(axis=0)
    same = (low[1:, 1:] == low[:-1, :-1]) & (low[1:, :-1] == low[:-1, :-1]) & (low[:-1, 1:] == low[:-1, :-1])
    return float(same.mean())


def measure(items: list[NDArray[np.float32]], size_hw: tuple[int, int], rounds: int) -> dict[str, Any]:
    """Times in milliseconds, their ratio, and how many pixels differ, over ``rounds`` rounds."""
    logits_hw, classes = items[0].shape[1:], len(items[0])
    forms = {"numpy": Decoder(logits_hw, size_hw, classes, compiled=False)}
    if decode_compiled.available():
        forms["compiled"] = Decoder(logits_hw, size_hw, classes)
    times_ms: dict[str, list[float]] = {name: [] for name in ("plain", *forms)}
    differing: dict[str, list[int]] = {name: [] for name in forms}
    for turn in range(-2, rounds):  # the first two warm up
        logits_chw = items[turn % len(items)]
        start = time.perf_counter()
        expected = plain(logits_chw, size_hw)
        taken = {"plain": time.perf_counter() - start}
        masks = {}
        for name, decoder in forms.items():
            start = time.perf_counter()
            masks[name], _ = decoder(logits_chw)
            taken[name] = time.perf_counter() - start
        if turn >= 0:
            for name, seconds in taken.items():
                times_ms[name].append(1e3 * seconds)
            for name, mask in masks.items():
                differing[name].append(int((mask != expected).sum()))
    return {
        "agreeing_cells": float(np.median([agreeing_share(item) for item in items])),
        "rounds": rounds,
        "ms": {name: {f"p{p}": float(np.percentile(v, p)) for p in (50, 90)} for name, v in times_ms.items()},
        "ratio_p50": {name: float(np.median(np.divide(times_ms["plain"], times_ms[name]))) for name in forms},
        "differing_pixels_per_frame": {name: float(np.mean(counts)) for name, counts in differing.items()},
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masks", type=Path, help="folder of label maps, PNG (default: drawn maps)")
    parser.add_argument("--maps", type=int, default=8, help="how many maps to use (default: 8)")
    parser.add_argument("--rounds", type=int, default=60, help="rounds per row (default: 60)")
    parser.add_argument("--threads", type=int, help="OpenCV threads (default: OpenCV's own choice)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the numbers and conditions here")
    args = parser.parse_args()
    if args.threads is not None:
        cv2.setNumThreads(args.threads)
    paths = sorted(args.masks.glob("*.png")) if args.masks else []
    if args.masks and not paths:
        parser.error(f"no PNG files in {args.masks}")
    rng = np.random.default_rng(0)

    start = conditions(cv2_threads=cv2.getNumThreads())
    print("classes  logits    frame      logits from  agree  plain ms  ms, times faster, differing pixels by form")
    rows = []
    for classes, logits_hw, size_hw in SHAPES:
        picked = paths[:: max(1, len(paths) // args.maps)][: args.maps]
        labels: list[Any] = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in picked]
        labels = labels or [drawn_labels(rng, classes) for _ in range(args.maps)]
        scenes = {
            "label maps": [logits_of(label, classes, logits_hw, rng) for label in labels],
            "noise": [rng.standard_normal((classes, *logits_hw)).astype(np.float32) for _ in range(2)],
        }
        for kind, items in scenes.items():
            row = {"classes": classes, "logits_hw": logits_hw, "size_hw": size_hw, "logits_from": kind}
            row.update(measure(items, size_hw, args.rounds))
            rows.append(row)
            forms = "   ".join(
                f"{name} {row['ms'][name]['p50']:.2f}, {ratio:.1f}, {row['differing_pixels_per_frame'][name]:.2f}"
                for name, ratio in row["ratio_p50"].items()
            )
            print(
                f"{classes:7d}  {'x'.join(map(str, logits_hw)):8s}  {'x'.join(map(str, size_hw)):9s}"
                f"  {kind:11s}  {row['agreeing_cells']:5.2f}  {row['ms']['plain']['p50']:8.2f}  {forms}"
            )
    if args.json:
        after = conditions()["load_average_1min"]
        args.json.parent.mkdir(parents=True, exist_ok=True)
        result = {"conditions": {**start, "load_average_1min_after": after}, "rows": rows}
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
