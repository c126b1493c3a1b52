"""Options that say where results go."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeseg.cli._options import filled, share
from edgeseg.errors import UsageError

if TYPE_CHECKING:
    from edgeseg.io.base import Source
    from edgeseg.io.sinks import Sink


def add_sink_arguments(parser: argparse.ArgumentParser) -> None:
    """The window, and the files that results are written to."""
    parser.add_argument("--headless", action="store_true", help="open no window")
    parser.add_argument("--alpha", type=share, default=0.5, metavar="X", help="share of the class colours (0.5)")
    group = parser.add_argument_group("files (%%Y%%m%%d-%%H%%M%%S in a name becomes the time of the start)")
    group.add_argument("--save", type=_dated, metavar="OUT.mkv", help="write the overlay as a video (.mp4, .mkv, .avi)")
    group.add_argument(
        "--save-masks", type=_dated, metavar="DIR", help="write class maps as PNGs, pixel = class id, with their times"
    )
    group.add_argument(
        "--save-classmap", type=_dated, metavar="OUT.mkv", help="write class maps as a lossless video (FFV1)"
    )
    group.add_argument(
        "--save-jsonl", type=_dated, metavar="OUT.jsonl", help="write times, stages and area by class, a line a frame"
    )
    group.add_argument(
        "--on-sink-error",
        choices=("stop", "continue"),
        help="when one cannot be written (default: stop a file, go on with a live source)",
    )


def sinks_from_args(args: argparse.Namespace, source: Source) -> list[Sink]:
    """The sinks that the flags name, and a window where one can be opened.

    Raises:
        SinkError: one cannot be written.
        UsageError: one would replace what the source reads.
    """
    from edgeseg.io.sinks import JsonLinesSink, MaskSink
    from edgeseg.io.video_sink import ClassmapVideoSink, VideoSink
    from edgeseg.io.window_sink import WindowSink, display_available

    _refuse_to_overwrite(args, source)
    rate_hz = source.rate_hz or 30.0
    sinks: list[Sink] = []
    if args.save:
        sinks.append(VideoSink(args.save, rate_hz, args.alpha, live=source.live))
    if args.save_masks:
        sinks.append(MaskSink(args.save_masks))
    if args.save_classmap:
        sinks.append(ClassmapVideoSink(args.save_classmap, rate_hz, live=source.live))
    if args.save_jsonl:
        sinks.append(JsonLinesSink(args.save_jsonl))
    if not args.headless and display_available():
        sinks.append(WindowSink(alpha=args.alpha))
    return sinks


def outputs(args: argparse.Namespace) -> Sequence[str]:
    """The files and folders that the flags name."""
    named = (args.save, args.save_masks, args.save_classmap, args.save_jsonl, args.stats)
    return [name for name in named if name]


def _refuse_to_overwrite(args: argparse.Namespace, source: Source) -> None:
    sources = {path.resolve() for path in source.paths}
    written = [Path(name) for name in outputs(args)]
    if args.save_masks:
        written += [Path(args.save_masks) / f"{path.stem}.png" for path in source.paths]
    for path in written:
        if path.resolve() in sources:
            raise UsageError(f"Writing {path} would replace the source", "choose another file or folder")
    if len({path.resolve() for path in written}) < len(written):
        raise UsageError("Two outputs have the same name", "give each its own")


def _dated(text: str) -> str:
    return time.strftime(filled(text)) if "%" in text else filled(text)
