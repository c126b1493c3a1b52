"""Flicker and accuracy of class maps with and without ``edgeseg.stabilize``, on a labelled clip in order.

flicker
    Share of the pixels whose true class is the same in two frames that follow each other, and whose predicted class
    is not.
boundary accuracy
    Share of correct pixels within two pixels of a true edge: steadying that moved edges would lower it.

The split must hold the frames of one clip in the order of their names, as CamVid's val does (15 Hz).

Example:
    python benchmarks/stability.py --data camvid/data.yaml --json benchmarks/results/today-stability.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

import edgeseg
from edgeseg.conditions import conditions
from edgeseg.dataset import DataSet
from edgeseg.metrics import ConfusionMatrix
from edgeseg.stabilize import Stabilizer

EDGE_PX = 2
Mask = NDArray[np.uint8]


def steadied(results: Sequence[edgeseg.Segmentation], times_ms: list[float]) -> Iterator[edgeseg.Segmentation]:
    """The results after the stabilizer; ``times_ms`` gets how long each call took."""
    stabilizer = Stabilizer()
    for result in results:
        start = time.perf_counter()
        steady = stabilizer(result)
        times_ms.append(1000 * (time.perf_counter() - start))
        if steady is not None:
            yield steady
    last = stabilizer.finish()
    if last is not None:
        yield last


def scores(masks: Sequence[Mask], truths: Sequence[Mask], data: DataSet) -> dict[str, float]:
    """mIoU, flicker and boundary accuracy."""
    matrix = ConfusionMatrix(data.classes, data.ignore_id)
    changed = steady = right = at_edges = 0
    kernel = np.ones((2 * EDGE_PX + 1,) * 2, np.uint8)
    for index, (mask, truth) in enumerate(zip(masks, truths)):
        matrix.update(truth, mask)
        known = truth != data.ignore_id
        edge = (cv2.dilate(truth, kernel) != cv2.erode(truth, kernel)) & known
        right += int((mask == truth)[edge].sum())
        at_edges += int(edge.sum())
        if index:
            same = (truth == truths[index - 1]) & known
            changed += int((mask != masks[index - 1])[same].sum())
            steady += int(same.sum())
    return {
        "miou": matrix.scores().miou,
        "flicker": changed / steady,
        "boundary_accuracy": right / at_edges,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="model file or bundled name (default: the bundled model)")
    parser.add_argument("--data", required=True, help="data.yaml of the clip")
    parser.add_argument("--split", default="val")
    parser.add_argument("--rate", type=float, default=15.0, metavar="HZ", help="frames a second of the clip (15)")
    parser.add_argument("--json", required=True, metavar="OUT")
    args = parser.parse_args()
    start = conditions()
    data = DataSet.from_yaml(args.data)
    results, truths = [], []
    with edgeseg.load(args.model) as segmenter:
        for index, (_, image, truth) in enumerate(data.pairs(args.split)):
            results.append(segmenter(edgeseg.Frame(image, index, time.monotonic(), index / args.rate)))
            truths.append(truth)
        model = segmenter.path.name if segmenter.path else segmenter.card.name
    times_ms: list[float] = []
    after = [result.mask for result in steadied(results, times_ms)]
    result: dict[str, Any] = {
        "what": "flicker, mIoU and accuracy at edges with and without the stabilizer",
        "model": model,
        "split": args.split,
        "frames": len(results),
        "plain": scores([result.mask for result in results], truths, data),
        "stabilized": scores(after, truths, data),
        "delay_frames": 1,
        "stabilizer_ms_p50": statistics.median(times_ms[2:]),
        "infer_ms_p50": statistics.median(result.timing["infer"] for result in results),
        "conditions": {**start, "load_average_1min_after": conditions()["load_average_1min"]},
    }
    print(json.dumps({name: result[name] for name in ("plain", "stabilized", "stabilizer_ms_p50")}, indent=2))
    Path(args.json).parent.mkdir(parents=True, exist_ok=True)
    Path(args.json).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
