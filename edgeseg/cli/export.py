"""``edgeseg export``: the flags; the work is done by the package edgeseg_export, which needs torch and onnx."""

from __future__ import annotations

import argparse

from edgeseg.card import HEADS
from edgeseg.cli import import_tool
from edgeseg.cli._options import positive, share


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="FILE.pt", help="best.pt or last.pt of a training run")
    add("--out", required=True, metavar="FILE.onnx", help="model file to write")
    add("--imgsz", type=positive, nargs=2, metavar=("H", "W"), help="input height and width (those of training)")
    add("--head", default="logits", choices=HEADS, help="logits, decoded by edgeseg (default), or a class map")
    add("--opset", default=17, type=int, choices=range(17, 21), metavar="N", help="17 (default) to 20")
    add("--weights", default="fp32", choices=("fp32", "fp16"), help="fp16 halves the file; it computes in fp32")
    add("--data", metavar="data.yaml", help="compare and score on a data set, not on a synthetic street")
    add("--split", default="val", metavar="NAME", help="split of the data set (val)")
    add("--notes", metavar="TEXT", help="origin and licence of the data, for the card (those of data.yaml)")
    add("--tolerance", default=0.001, type=share, metavar="SHARE",
        help="share of pixels whose class may differ from PyTorch's (0.001)")  # fmt: skip


def main(args: argparse.Namespace) -> int:
    """Export; see ``edgeseg_export.cli``."""
    code: int = import_tool("edgeseg_export.cli", "export", "export").main(args)
    return code
