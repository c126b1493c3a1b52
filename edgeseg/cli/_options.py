"""Options that several commands share."""

from __future__ import annotations

import argparse
import contextlib
import errno
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgeseg.errors import UsageError
from edgeseg.foreign import ModelFacts

if TYPE_CHECKING:
    from edgeseg.segmenter import Segmenter


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that choose a model, its engine, and the facts a foreign file lacks."""
    parser.add_argument(
        "--model", type=filled, metavar="FILE", help="model file or bundled name (default: the bundled model)"
    )
    add_engine_arguments(parser)


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """The same without ``--model``."""
    parser.add_argument(
        "--backend",
        default="auto",
        metavar="NAME",
        help="auto, openvino, openvino-bf16, onnxruntime, onnxruntime-cuda, onnxruntime-tensorrt or tensorrt",
    )
    parser.add_argument("--threads", type=positive, metavar="N", help="threads for one inference")
    parser.add_argument("--imgsz", type=positive, nargs=2, metavar=("H", "W"), help="input height and width")
    parser.add_argument(
        "--rebuild",
        action="store_true",
        help="build a TensorRT engine again that does not fit this machine or its ONNX file",
    )
    add_facts_arguments(parser)


def add_facts_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags for the facts that a foreign file lacks."""
    facts = parser.add_argument_group("models without a card (not exported by edgeseg)")
    facts.add_argument("--card", type=filled, metavar="FILE.json", help="a model card")
    facts.add_argument("--classes", metavar="NAMES", help="class names by id: a,b,c or a file with one a line")
    facts.add_argument("--mean", type=float, nargs="+", metavar="X", help="of pixels in 0..1, in --color-order")
    facts.add_argument("--std", type=float, nargs="+", metavar="X", help="of pixels in 0..1, in --color-order")
    facts.add_argument("--color-order", choices=("rgb", "bgr"), help="channel order of the input")
    facts.add_argument("--output", metavar="NAME", help="output that holds the classes, if there are several")


def segmenter_from_args(args: argparse.Namespace) -> Segmenter:
    """Open the model that the flags name.

    Raises:
        EdgesegError: see ``edgeseg.segmenter.load``.
    """
    from edgeseg.segmenter import load
    from edgeseg.trt.library import EngineWarning
    from edgeseg.trt.plan import StalePlanError

    facts = facts_from_args(args, None if args.imgsz is None else (args.imgsz[0], args.imgsz[1]))
    opened = partial(load, args.model, args.backend, card=args.card, facts=facts, threads=args.threads)
    if args.rebuild:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", EngineWarning)
                return opened()
        except (StalePlanError, EngineWarning):
            from edgeseg.cli.build import rebuild

            rebuild(Path(args.model))
    with warnings_told():
        return opened()


def facts_from_args(args: argparse.Namespace, imgsz: tuple[int, int] | None) -> ModelFacts:
    """What the flags of ``add_facts_arguments`` say, for an input of ``imgsz``.

    Raises:
        UsageError: a flag has a value it cannot take.
    """
    return ModelFacts(
        classes=None if args.classes is None else _classes(args.classes),
        mean=_triple(args.mean, "--mean"),
        std=_triple(args.std, "--std"),
        color_order=args.color_order,
        imgsz=imgsz,
        output=args.output,
    )


@contextlib.contextmanager
def warnings_told() -> Iterator[None]:
    """Warnings as lines on standard error, without where in the code they arose."""
    with warnings.catch_warnings(record=True) as caught:
        try:
            yield
        finally:
            for warning in caught:
                print("warning:", " ".join(str(warning.message).split()), file=sys.stderr)


def filled(text: str) -> str:
    """A path or name, for argparse: an unset shell variable in quotes is empty."""
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise argparse.ArgumentTypeError("is not UTF-8; rename it") from error
    return text


def positive(text: str) -> int:
    """A whole number from 1 on, for argparse."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return value


def above_zero(text: str) -> float:
    """A finite number above 0, for argparse."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number") from None
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def share(text: str) -> float:
    """A number from 0 to 1, for argparse."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number") from None
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not in 0..1")
    return value


def _triple(values: list[float] | None, flag: str) -> list[float] | None:
    if values is not None and len(values) not in (1, 3):
        raise UsageError(f"{flag} has {len(values)} values", "give three, or one for all channels")
    return values


def _classes(text: str) -> tuple[str, ...]:
    names = [name.strip() for name in (_classes_from_file(text) or text.split(","))]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise UsageError("--classes names no class", "give names by id: road,car,...")
    if "" in names:
        # Leaving it out would give every later name another id.
        raise UsageError(f"--classes has no name for the class {names.index('')}", "give every id a name: a,b,c")
    return tuple(names)


def _classes_from_file(text: str) -> list[str] | None:
    path = Path(text)
    try:
        if not path.is_file():
            return None
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a text file", "give class names, one a line") from error
    except OSError as error:
        # More names than a file name may be long.
        if error.errno == errno.ENAMETOOLONG:
            return None
        raise UsageError(f"Cannot read {path} ({error.strerror})", "give a file with one class name a line") from error
