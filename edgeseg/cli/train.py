"""``edgeseg train``: the flags; the work is done by the package edgeseg_train, which needs torch."""

from __future__ import annotations

import argparse

from edgeseg.cli import import_tool
from edgeseg.cli._options import positive
from edgeseg.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags; those left out keep the defaults of ``edgeseg_train.config.TrainConfig``."""
    add = parser.add_argument
    add("--list-models", action="store_true", help="print the networks with their sizes, and end")
    add("--data", metavar="data.yaml", help="data set (required)")
    add("--model", metavar="NAME", help="network: ddrnet-c32 (default) or another of --list-models")
    add("--imgsz", type=positive, nargs=2, metavar=("H", "W"), help="height and width (360 480)")
    add("--epochs", type=positive, metavar="N", help="passes over the training split (100)")
    add("--batch", type=positive, metavar="N", help="images a step (8)")
    add("--out", metavar="DIR", help="folder of the run, such as runs/first (required)")
    add("--resume", action="store_true", help="continue the run in --out")
    add("--seed", type=int, metavar="N", help="of initial weights, order and augmentation (0)")
    add("--train-split", metavar="NAME", help="split to train on (train)")
    add("--val-split", metavar="NAME", help="split that chooses best.pt (val)")
    add("--lr", type=float, metavar="X", help="highest learning rate (0.001)")
    add("--weight-decay", type=float, metavar="X", help="of AdamW (0.02)")
    add("--warmup", type=float, metavar="X", help="share of the steps in which the rate rises (0.03)")
    add("--schedule", metavar="NAME", help="cosine (default) or poly")
    add("--loss", metavar="NAME", help="weighted-ce (default) or ohem")
    add("--aux-weight", type=float, metavar="X", help="weight of the auxiliary loss (0.4)")
    add("--ema-decay", type=float, metavar="X", help="decay of the weight average (0.999)")
    add("--grad-clip", type=float, metavar="X", help="largest gradient norm (5)")
    add("--scale-min", type=float, metavar="X", help="smallest random scale (0.6)")
    add("--scale-max", type=float, metavar="X", help="largest random scale (2.0)")
    add("--color", type=float, metavar="X", help="strength of colour augmentation (0.4)")
    add("--noise", type=float, metavar="X", help="largest sensor noise, as a share of white (0)")
    add("--balance", type=float, metavar="X", help="share of crops laid around a rare class (0)")
    add("--paste", type=float, metavar="X", help="share of images that get objects of another (0)")
    add("--cutmix", type=float, metavar="X", help="share of images that get a rectangle of another (0)")
    add("--accumulate", type=positive, metavar="N", help="batches whose gradients make one step (1)")
    add("--early-stop", type=int, metavar="N", help="end after N evaluations without a better mIoU (0: never)")
    add("--from", dest="init_from", metavar="FILE", help="checkpoint to start from, or imagenet")
    add("--encoder-lr", type=float, metavar="X", help="rate of the kept weights, as a share of --lr (1)")
    add("--teacher", metavar="FILE", help="checkpoint of a larger network to learn from as well")
    add("--distill-weight", type=float, metavar="X", help="weight of the teacher's loss (1)")
    add("--eval-every", type=int, metavar="N", help="epochs between evaluations (about thirty a run)")
    add("--workers", type=int, metavar="N", help="loader processes (2)")
    add("--device", metavar="NAME", help="auto (default), cpu or cuda")
    add("--amp", metavar="NAME", help="bf16 (default) or fp16 autocast, or off")


def main(args: argparse.Namespace) -> int:
    """Train; see ``edgeseg_train.cli``.

    Raises:
        UsageError: no data set or no folder is given.
    """
    missing = [flag for flag, value in (("--data", args.data), ("--out", args.out)) if value is None]
    if missing and not args.list_models:
        raise UsageError(f"the following arguments are required: {', '.join(missing)}", "see 'edgeseg train --help'")
    code: int = import_tool("edgeseg_train.cli", "train", "train").main(args)
    return code
