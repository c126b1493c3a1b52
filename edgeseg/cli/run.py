"""``edgeseg run``: segment a source and show, save or measure the results."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg.cli._options import above_zero, add_model_arguments, filled, positive, segmenter_from_args
from edgeseg.cli._serve_options import add_serve_arguments, web_sink_from_args
from edgeseg.cli._sink_options import add_sink_arguments, outputs, sinks_from_args
from edgeseg.cli._source_options import add_source_arguments, source_from_args

if TYPE_CHECKING:
    from edgeseg.io.base import Source
    from edgeseg.io.sinks import Sink
    from edgeseg.report import Report
    from edgeseg.segmentation import Segmentation
    from edgeseg.segmenter import Segmenter
    from edgeseg.watchdog import SystemdNotifier


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    add_source_arguments(parser)
    add_model_arguments(parser)
    add_sink_arguments(parser)
    add_serve_arguments(parser)
    parser.add_argument("--stats", type=filled, metavar="OUT.json", help="write frames, rate, latencies, states, drops")
    parser.add_argument("--max-frames", type=positive, metavar="N", help="stop after N frames")
    parser.add_argument(
        "--deadline-ms", type=above_zero, metavar="MS", help="count results older than MS, from capture to class map"
    )
    parser.add_argument(
        "--stabilize", action="store_true", help="steady the class maps along the motion of the picture, a frame late"
    )
    parser.add_argument(
        "--watchdog-s", type=above_zero, metavar="S", help="end with exit code 4 when no result comes for S seconds"
    )


def main(args: argparse.Namespace) -> int:
    """Run until the source ends, --max-frames, q in the window, or a signal: 0; 1 when it broke off half-way."""
    from edgeseg.cli import print_error
    from edgeseg.errors import EdgesegError
    from edgeseg.report import Report
    from edgeseg.stopping import result_unless_stopped, stopped_by_signals
    from edgeseg.watchdog import SystemdNotifier

    # What it logs of a source is told here in its own words.
    logging.getLogger("edgeseg.io").addHandler(logging.NullHandler())
    stop, report, systemd = threading.Event(), Report(), SystemdNotifier()
    with contextlib.ExitStack() as stack:
        stack.enter_context(stopped_by_signals(stop))
        # On another thread: an engine may load for minutes, and the main thread must hear a signal.
        opened = result_unless_stopped(lambda: _opened(args, stack), stop)
        if opened is None:
            return _left(0)
        source, segmenter, sinks = opened
        systemd.ready()
        try:
            _segment(args, source, segmenter, sinks, stop, report, systemd)
        except EdgesegError as error:
            if not report.left_behind:
                raise
            print_error(error)
            return _left(error.exit_code)
        systemd.stopping()
        code = _conclude(args, report, _stats(report, segmenter, source))
        # Closing an engine under a thread that still uses it would crash.
        return _left(code) if report.left_behind else code


def _opened(args: argparse.Namespace, stack: contextlib.ExitStack) -> tuple[Source, Segmenter, list[Sink]]:
    from edgeseg.files import check_writable
    from edgeseg.io.recording import Recorder
    from edgeseg.io.uri import is_camera

    # A misspelt path must not wait for an engine to load, nor come out after an hour's run.
    if args.stats:
        check_writable(args.stats)
    web = web_sink_from_args(args)
    if web is not None:
        stack.enter_context(web)
    # A camera is opened last: some go to sleep for good when nobody reads them while an engine loads.
    last = is_camera(args.source or str(args.camera))
    source = None if last else stack.enter_context(source_from_args(args))
    segmenter = stack.enter_context(segmenter_from_args(args))
    source = source or stack.enter_context(source_from_args(args))
    sinks = sinks_from_args(args, source)
    if args.record:
        source.attach(Recorder(args.record, source.name, source.rate_hz))
    if web is not None:
        sinks.append(web)
    if not (sinks or args.headless or args.stats):
        print("note: there is no display; add --save OUT.mkv to see the result", file=sys.stderr)
    return source, segmenter, sinks


def _segment(
    args: argparse.Namespace,
    source: Source,
    segmenter: Segmenter,
    sinks: list[Sink],
    stop: threading.Event,
    report: Report,
    systemd: SystemdNotifier,
) -> None:
    from tqdm import tqdm

    from edgeseg.frame import State
    from edgeseg.io.options import SourceOptions
    from edgeseg.pipeline import goes_on_without_sink, run
    from edgeseg.stabilize import Stabilizer

    warned: list[bool] = []
    goes_on = goes_on_without_sink(source, args.on_sink_error)
    known = [n for n in (source.frame_count, args.max_frames) if n is not None]
    with tqdm(total=min(known, default=None), unit="frame", desc=source.name[-40:], disable=None) as bar:

        def shown(result: Segmentation, report: Report) -> None:
            if not bar.disable:
                latency_ms = f"{report.times.median_ms('end_to_end'):.1f}"
                bar.set_postfix(latency_ms=latency_ms, dropped=report.dropped, refresh=False)
                bar.update()
            systemd.alive(lambda: f"{report.state.value}, {report.recent().fps:.1f} frames/s, {report.dropped} dropped")
            if report.error is not None and goes_on and not warned:
                warned.append(True)
                bar.write(f"warning: {report.error}; segmentation goes on", file=sys.stderr)

        def changed(old: State, new: State, reason: str) -> None:
            if {old, new} & {State.STALLED, State.RECONNECTING}:
                bar.write(f"note: {source.name} is {new.value}{f' ({reason})' if reason else ''}", file=sys.stderr)

        source.on_state(changed)
        run(
            source,
            segmenter,
            sinks,
            max_frames=args.max_frames,
            stop=stop,
            on_result=shown,
            report=report,
            on_sink_error=args.on_sink_error,
            deadline_ms=args.deadline_ms,
            watchdog_s=args.watchdog_s,
            stabilizer=Stabilizer() if args.stabilize else None,
            max_age_s=SourceOptions.max_age_s if args.max_age is None else args.max_age,
        )


def _conclude(args: argparse.Namespace, report: Report, stats: dict[str, Any]) -> int:
    from edgeseg.cli import print_error
    from edgeseg.errors import SinkError
    from edgeseg.files import write_text
    from edgeseg.watchdog import HungError

    if args.stats:
        try:
            write_text(args.stats, json.dumps(stats, indent=2) + "\n")
        except SinkError as error:
            report.fail(error)
    _summarise(args, report)
    if report.error is None:
        return 0
    print_error(report.error)
    return HungError.exit_code if isinstance(report.error, HungError) else 1


def _left(code: int) -> int:
    """End the process at once, without waiting for threads that are still at work."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _stats(report: Report, segmenter: Segmenter, source: Source) -> dict[str, Any]:
    import platform
    from dataclasses import asdict

    import cv2
    import numpy as np

    import edgeseg

    backend = segmenter.backend
    return {
        **report.to_dict(),
        "source": source.name,
        "source_state": source.state.value,
        "source_counts": asdict(source.counts),
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
    if report.deadline_ms is not None:
        parts.append(f"{report.missed} older than {report.deadline_ms:g} ms")
    if report.invalid:
        parts.append(f"{report.invalid} INVALID (the network gave NaN or infinity)")
    print(", ".join(parts))
    for target in outputs(args):
        if report.frames and Path(target).exists():
            print(f"wrote {target}")
