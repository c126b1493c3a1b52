"""``edgeseg eval``: score a model on a labelled split."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from edgeseg.cli._options import add_model_arguments, filled, positive, segmenter_from_args

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgeseg.segmenter import Segmenter

SYNTHETIC_FRAMES = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    add_model_arguments(parser)
    parser.add_argument(
        "--data", type=filled, required=True, metavar="data.yaml", help="data set, or synthetic://street?frames=100"
    )
    parser.add_argument("--split", default="val", metavar="NAME", help="split of the data set (val)")
    parser.add_argument("--json", type=filled, metavar="OUT", help="write the figures as JSON")
    parser.add_argument("--max-images", type=positive, metavar="N", help="score only the first N")


def main(args: argparse.Namespace) -> int:
    """Print per-class IoU and Dice and the means."""
    from edgeseg.evaluate import evaluate
    from edgeseg.files import check_writable, write_text

    if args.json:
        check_writable(args.json)
    with segmenter_from_args(args) as segmenter:
        pairs, count, ignore_id = _pairs(args, segmenter)
        scores = evaluate(segmenter, _with_progress(pairs, count), ignore_id)
        figures = {
            **scores.to_dict(),
            "images": count,
            "data": args.data.rpartition("/")[2] if "://" not in args.data else args.data,
            "split": None if "://" in args.data else args.split,
            "model": segmenter.path.name if segmenter.path else segmenter.card.name,
            "imgsz": list(segmenter.card.input_size_hw),
            "backend": segmenter.backend.name,
            "versions": {segmenter.backend.name: segmenter.backend.version},
        }
    if args.json:
        write_text(args.json, json.dumps(figures, indent=2) + "\n")
    print(scores.table())
    return 0


_Pair = tuple["NDArray[np.uint8]", "NDArray[np.uint8]"]


def _pairs(args: argparse.Namespace, segmenter: Segmenter) -> tuple[Iterator[_Pair], int, int | None]:
    from edgeseg.dataset import DataSet, check_same_classes

    model = str(segmenter.path or segmenter.card.name)
    if args.data.startswith("synthetic:"):
        from edgeseg.io.street import CLASSES, IGNORE_ID, Street, street_from_uri

        options = street_from_uri(args.data)
        check_same_classes(CLASSES, segmenter.card.classes, args.data, model)
        street = Street(size_hw=options.size_hw, rate_hz=options.rate_hz, seed=options.seed)
        count = min(options.frames or SYNTHETIC_FRAMES, args.max_images or sys.maxsize)
        return (street.render(i) for i in range(count)), count, IGNORE_ID
    data = DataSet.from_yaml(args.data)
    data.check_classes(segmenter.card, model)
    samples = data.samples(args.split)[: args.max_images]
    return (data.read(s) for s in samples), len(samples), data.ignore_id


def _with_progress(pairs: Iterator[_Pair], count: int) -> Any:
    from tqdm import tqdm

    return tqdm(pairs, total=count, unit="image", leave=False, disable=None)
