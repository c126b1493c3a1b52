"""``edgeseg export``: the flags; the work is done by the package edgeseg_export, which needs torch and onnx."""

from __future__ import annotations

import argparse
from math import isfinite

from edgeseg.card import HEADS
from edgeseg.cli import import_tool
from edgeseg.cli._options import filled, positive, share


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", metavar="FILE.pt", help="best.pt or last.pt of a training run")
    source.add_argument("--onnx", type=filled, metavar="FILE.onnx", help="an fp32 model, or the name of a bundled one")
    add = parser.add_argument
    add("--out", required=True, metavar="FILE.onnx", help="model file to write")
    add("--precision", default="fp32", choices=("fp32", "fp16", "int8"), help="what the graph computes in (fp32)")
    add("--target", default="cpu", choices=("cpu", "tensorrt"),
        help="who runs an int8 graph: OpenVINO and ONNX Runtime (default), or TensorRT")  # fmt: skip
    add("--weight-bits", type=int, default=8, choices=(7, 8),
        help="7: an int8 graph for x86 processors without VNNI, whose sums 8 bits overflow (8)")  # fmt: skip
    add("--imgsz", type=positive, nargs=2, metavar=("H", "W"), help="input height and width (those of training)")
    add("--head", choices=HEADS, help="logits, decoded by edgeseg (default), or a class map")
    add("--opset", type=int, choices=range(17, 21), metavar="N", help="17 (default) to 20")
    add("--weights", choices=("fp32", "fp16"), help="fp16 halves an fp32 file; it computes in fp32")
    add("--notes", metavar="TEXT", help="origin and licence of the data, for the card (those of data.yaml)")
    add("--tolerance", type=share, metavar="SHARE",
        help="share of pixels whose class may differ (0.001; fp16 without --data 0.01)")  # fmt: skip
    data = parser.add_argument_group("real images: for parity and scores, needed for int8")
    add = data.add_argument
    add("--data", metavar="data.yaml", help="data set; without one a synthetic street, and no scores")
    add("--eval-split", "--split", dest="split", default="val", metavar="NAME", help="split that is scored (val)")
    add("--calib-split", default="train", metavar="NAME", help="split that the ranges are measured on (train)")
    add("--calib-images", default=300, type=positive, metavar="N", help="images of it, every class among them (300)")
    add("--calib-seed", default=0, type=int, metavar="N", help="which images (0)")
    gate = parser.add_argument_group("accuracy of fp16 and int8")
    add = gate.add_argument
    add("--max-miou-drop", default=0.5, type=_points, metavar="X", help="points of mIoU that may be lost (0.5)")
    add("--repair-steps", default=16, type=_count, metavar="N",
        help="networks measured in search of the layers to leave out of int8 (16); 0 repairs nothing")  # fmt: skip
    add("--json", type=filled, metavar="OUT", help="write the figures and the steps of repair as JSON")


def main(args: argparse.Namespace) -> int:
    """Export; see ``edgeseg_export.cli``."""
    code: int = import_tool("edgeseg_export.cli", "export", "export").main(args)
    return code


def _points(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number") from None
    if not (isfinite(value) and 0 <= value <= 100):
        raise argparse.ArgumentTypeError(f"{text} is not in 0..100")
    return value


def _count(text: str) -> int:
    return 0 if text == "0" else positive(text)
