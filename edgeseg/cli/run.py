"""``edgeseg run``: segment a source and show, save or measure the results."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg.cli._options import add_model_arguments, filled, positive, segmenter_from_args, share
from edgeseg.cli._serve_options import add_serve_arguments, web_sink_from_args
from edgeseg.errors import UsageError

if TYPE_CHECKING:
    from edgeseg.io.base import Source
    from edgeseg.io.sinks import Sink
    from edgeseg.pipeline import Report
    from edgeseg.segmentation import Segmentation
    from edgeseg.segmenter import Segmenter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument(
        "--source",
        type=filled,
        metavar="SRC",
        help="camera number, /dev/videoN, video, image, folder, quoted glob, .txt list, or synthetic://street",
    )
    parser.add_argument("--camera", type=int, metavar="N", help="short for --source N")
    add_model_arguments(parser)
    parser.add_argument("--headless", action="store_true", help="open no window")
    parser.add_argument(
        "--save", type=filled, metavar="OUT.mp4", help="write the overlay as a video (.mp4, .mkv, .avi)"
    )
    parser.add_argument("--save-masks", type=filled, metavar="DIR", help="write class maps as PNGs, pixel = class id")
    parser.add_argument("--stats", type=filled, metavar="OUT.json", help="write frames, rate and latencies")
    parser.add_argument("--max-frames", type=positive, metavar="N", help="stop after N frames")
    parser.add_argument("--alpha", type=share, default=0.5, metavar="X", help="share of the class colours (0.5)")
    add_serve_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Run until the source ends, --max-frames, q in the window, or Ctrl-C: 0; 1 when it broke off half-way."""
    if (args.source is None) == (args.camera is None):
        raise UsageError("No source is given" if args.source is None else "Both --source and --camera are given",
                         "give one of --source SRC and --camera N")  # fmt: skip
    from edgeseg.cli import print_error
    from edgeseg.errors import SinkError
    from edgeseg.files import check_writable, write_text
    from edgeseg.io.sources import is_camera, open_source
    from edgeseg.report import Report
    from edgeseg.stopping import stopped_by_signals

    # A misspelt path must not wait for an engine to load, nor come out after an hour's run.
    if args.stats:
        check_writable(args.stats)
    uri = args.source if args.source is not None else str(args.camera)
    with contextlib.ExitStack() as stack:
        web = web_sink_from_args(args)
        if web is not None:
            stack.enter_context(web)
        # A camera is opened last: some go to sleep for good when nobody reads them while an engine loads.
        source = None if is_camera(uri) else stack.enter_context(open_source(uri))
        segmenter = stack.enter_context(segmenter_from_args(args))
        source = source or stack.enter_context(open_source(uri))
        _refuse_to_overwrite(args, source)
        report = Report()
        sinks = _sinks(args, source)
        if web is not None:
            web.attach(source, report)
            sinks.append(web)
        _note_missing_display(args, sinks)
        stop = threading.Event()
        # Not before: while all this loads there is nothing to finish, and Ctrl-C may end it at once.
        stack.enter_context(stopped_by_signals(stop))
        _segment(args, source, segmenter, sinks, stop, report)
        if args.stats:
            try:
                write_text(args.stats, json.dumps(_stats(report, segmenter, source), indent=2) + "\n")
            except SinkError as error:
                report.error = report.error or error
    _summarise(args, report)
    if report.error is not None:
        print_error(report.error)
        return 1
    return 0


def _segment(
    args: argparse.Namespace,
    source: Source,
    segmenter: Segmenter,
    sinks: list[Sink],
    stop: threading.Event,
    report: Report,
) -> None:
    from tqdm import tqdm

    from edgeseg.pipeline import run

    total = _total(source, args.max_frames)
    with tqdm(total=total, unit="frame", desc=source.name[-40:], disable=None) as bar:

        def shown(result: Segmentation, report: Report) -> None:
            if not bar.disable:
                latency_ms = f"{report.times.median_ms('end_to_end'):.1f}"
                bar.set_postfix(latency_ms=latency_ms, dropped=report.dropped, refresh=False)
                bar.update()
            if any(getattr(sink, "closed", False) for sink in sinks):
                stop.set()

        run(source, segmenter, sinks, max_frames=args.max_frames, stop=stop, on_result=shown, report=report)


def _refuse_to_overwrite(args: argparse.Namespace, source: Source) -> None:
    sources = {path.resolve() for path in source.paths}
    outputs = [Path(path) for path in (args.save, args.stats) if path]
    if args.save_masks:
        outputs += [Path(args.save_masks) / f"{path.stem}.png" for path in source.paths]
    for path in outputs:
        if path.resolve() in sources:
            raise UsageError(f"Writing {path} would replace the source", "choose another file or folder")


def _sinks(args: argparse.Namespace, source: Source) -> list[Sink]:
    from edgeseg.io.sinks import MaskSink, VideoSink, WindowSink, display_available

    sinks: list[Sink] = []
    if args.save:
        sinks.append(VideoSink(args.save, source.rate_hz or 30.0, args.alpha))
    if args.save_masks:
        sinks.append(MaskSink(args.save_masks))
    if not args.headless and display_available():
        sinks.append(WindowSink(alpha=args.alpha))
    return sinks


def _note_missing_display(args: argparse.Namespace, sinks: list[Sink]) -> None:
    if not (sinks or args.headless or args.stats):
        print("note: there is no display; add --save OUT.mp4 to see the result", file=sys.stderr)


def _total(source: Source, max_frames: int | None) -> int | None:
    known = [n for n in (source.frame_count, max_frames) if n is not None]
    return min(known) if known else None


def _stats(report: Report, segmenter: Segmenter, source: Source) -> dict[str, Any]:
    import platform

    import cv2
    import numpy as np

    import edgeseg

    backend = segmenter.backend
    return {
        **report.to_dict(),
        "source": source.name,
        "source_state": source.state.value,
        "model": str(segmenter.path.name if segmenter.path else segmenter.card.name),
        "precision": segmenter.card.precision,
        "imgsz": list(segmenter.card.input_size_hw),
        "backend": backend.name,
        "device": backend.device,
        "versions": {
            "edgeseg": edgeseg.__version__,
            backend.name: backend.version,
            "opencv": cv2.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def _summarise(args: argparse.Namespace, report: Report) -> None:
    parts = [f"{report.frames} frames", f"{report.fps:.1f} frames/s"]
    if report.frames:
        times = report.times.summary()["end_to_end"]
        parts.append(f"latency p50 {times['p50']:.1f} ms, p99 {times['p99']:.1f} ms")
    parts.append(f"{report.dropped} dropped")
    if report.invalid:
        parts.append(f"{report.invalid} INVALID (the network gave NaN or infinity)")
    print(", ".join(parts))
    for target in (args.save, args.save_masks, args.stats):
        if target and report.frames and Path(target).exists():
            print(f"wrote {target}")
