"""``edgeseg verify``: does a model compute on this machine what it computed where it was made?"""

from __future__ import annotations

import argparse
import dataclasses
import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from edgeseg.cli._options import add_engine_arguments, filled, segmenter_from_args, share
from edgeseg.errors import UsageError

if TYPE_CHECKING:
    from edgeseg.golden import Golden, Verification
    from edgeseg.segmenter import Segmenter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument(
        "model", nargs="?", type=filled, metavar="FILE", help="model file or bundled name (default: the bundled model)"
    )
    add_engine_arguments(parser)
    parser.add_argument(
        "--golden", type=filled, metavar="FILE.zip", help="golden frames (default: those beside the model)"
    )
    parser.add_argument(
        "--min-agreement",
        type=share,
        metavar="SHARE",
        help="pixels that must agree (default: as stored with the frames)",
    )
    parser.add_argument("--json", type=filled, metavar="OUT", help="write the figures as JSON")
    parser.add_argument("--make", action="store_true", help="make the golden frames here, instead of checking them")
    parser.add_argument("--data", type=filled, metavar="data.yaml", help="with --make: not of the synthetic street")
    parser.add_argument("--split", metavar="NAME", help="with --make: split of the data set (val)")


def main(args: argparse.Namespace) -> int:
    """Check the golden frames of a model, or make them.

    Raises:
        VerifyError: a frame agrees on fewer pixels than are asked for.
        UsageError: flags that exclude each other.
        EdgesegError: see ``edgeseg.golden`` and ``edgeseg.segmenter.load``.
    """
    making = {"--data": args.data, "--split": args.split}
    checking = {"--golden": args.golden, "--min-agreement": args.min_agreement, "--json": args.json}
    for flag, value in (checking if args.make else making).items():
        if value is not None:
            raise UsageError(f"{flag} means nothing {'with' if args.make else 'without'} --make", "leave one out")
    return _make(args) if args.make else _check(args)


def _check(args: argparse.Namespace) -> int:
    from edgeseg import bundled
    from edgeseg.backends import ON_GPU
    from edgeseg.files import check_writable, write_text
    from edgeseg.golden import golden_of, read_golden, verify

    if args.json:
        check_writable(args.json)
    model = args.model or bundled.default(on_gpu=args.backend in ON_GPU)
    golden = read_golden(args.golden) if args.golden else golden_of(bundled.resolve(model))
    if args.min_agreement is not None:
        golden = dataclasses.replace(golden, min_agreement=args.min_agreement)
    with segmenter_from_args(args) as segmenter:
        found = verify(segmenter, golden)
    if args.json:
        write_text(args.json, json.dumps(_figures(found, golden, segmenter), indent=2) + "\n")
    print("\n".join(_lines(found, golden, segmenter)))
    found.check()
    return 0


def _make(args: argparse.Namespace) -> int:
    from edgeseg.dataset import DataSet
    from edgeseg.files import check_writable
    from edgeseg.golden import golden_from_data, golden_path, write_golden

    data = None if args.data is None else DataSet.from_yaml(args.data)
    with ExitStack() as stack:
        segmenters = _segmenters(args, stack)
        path = _file_of(segmenters[0])
        check_writable(golden_path(path))
        golden = golden_from_data(segmenters, data, args.split or "val")
    written = write_golden(golden, path)
    print(
        f"{written}: {len(golden.frames)} frames of {golden.frames_from}, masks by {golden.masks_from}; "
        f"{100 * golden.min_agreement:.4g} % of pixels must agree"
    )
    return 0


def _segmenters(args: argparse.Namespace, stack: ExitStack) -> list[Segmenter]:
    """The model in the engine that the flags choose, and in every other one that computes its graph as written."""
    from edgeseg.backends import faithful_engines

    first = stack.enter_context(segmenter_from_args(args))
    engines = faithful_engines(first.card) if _file_of(first).suffix == ".onnx" else ()
    others = [
        stack.enter_context(segmenter_from_args(argparse.Namespace(**{**vars(args), "backend": name})))
        for name in engines
        if name != first.backend.name
    ]
    is_unfit = args.backend == "auto" and others and first.backend.name not in engines
    return others if is_unfit else [first, *others]


def _file_of(segmenter: Segmenter) -> Path:
    assert segmenter.path is not None  # load sets it
    return segmenter.path


def _figures(found: Verification, golden: Golden, segmenter: Segmenter) -> dict[str, object]:
    backend = segmenter.backend
    return {
        **found.to_dict(),
        "model": _file_of(segmenter).name,
        "backend": backend.name,
        "device": backend.device,
        "versions": {backend.name: backend.version},
        "golden": {"frames_from": golden.frames_from, "masks_from": golden.masks_from, "made_with": golden.model},
    }


def _lines(found: Verification, golden: Golden, segmenter: Segmenter) -> list[str]:
    backend = segmenter.backend
    name, iou = found.worst_class
    return [
        f"{_file_of(segmenter)} in {backend.name} {backend.version}, {backend.device}",
        f"expected: {golden.masks_from}, on {golden.frames_from}",
        "",
        "frame  same class",
        *(f"{index:5}  {100 * share:8.4f} %" for index, share in enumerate(found.agreement)),
        "",
        f"worst class: {name}, IoU {100 * iou:.2f} with what was expected",
        *([f"passed: {100 * found.min_agreement:.4g} % are asked for"] if found.passed else []),
    ]
