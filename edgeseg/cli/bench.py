"""``edgeseg bench``: measure latency beside accuracy, compare two measurements, choose from one, show one."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg.cli._options import above_zero, add_facts_arguments, facts_from_args, filled, positive
from edgeseg.errors import UsageError

if TYPE_CHECKING:
    from edgeseg.bench.measure import Plan

ACTIONS = {
    "measure": "time models and score them; this action need not be named",
    "compare": "say what became faster or slower beyond noise from one results file to another",
    "pick": "name the model to use, and why",
    "show": "print the table of a results file, and draw it again",
}
STREET = "synthetic://street?size=1280x720"
"""The frames that are timed where no source and no data set is given."""

ONE_WORSE = 1
"""Exit code of a comparison in which something became slower or less accurate."""


def complete(words: Sequence[str]) -> list[str]:
    """``edgeseg bench MODEL`` is short for ``edgeseg bench measure MODEL``."""
    return list(words) if words and words[0] in (*ACTIONS, "-h", "--help") else ["measure", *words]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and their flags."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    parsers = {
        name: actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        for name, text in ACTIONS.items()
    }
    _add_measure_arguments(parsers["measure"])
    parsers["compare"].add_argument("before", type=filled, metavar="A.json", help="results of 'edgeseg bench'")
    parsers["compare"].add_argument("after", type=filled, metavar="B.json", help="results under the same conditions")
    pick = parsers["pick"]
    pick.add_argument("results", type=filled, metavar="RESULTS.json", help="results with --data")
    wish = pick.add_mutually_exclusive_group(required=True)
    wish.add_argument("--max-ms", type=above_zero, metavar="X", help="the most accurate whose p90 stays within X ms")
    wish.add_argument("--min-miou", type=above_zero, metavar="X", help="the fastest with at least X per cent mIoU")
    parsers["show"].add_argument("results", type=filled, metavar="RESULTS.json", help="results of 'edgeseg bench'")
    _add_picture_arguments(parsers["show"])


def _add_measure_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("models", type=filled, nargs="*", metavar="MODEL", help="model files or bundled names (all bundled models)")
    add("--backend", nargs="+", default=["auto"], metavar="NAME", help="engines for ONNX files (auto)")
    add("--imgsz", type=positive, nargs=2, action="append", metavar=("H", "W"),
        help="input height and width, for models that leave it open; may be repeated")  # fmt: skip
    add("--threads", type=positive, metavar="N", help="threads for one inference")
    add("--source", type=filled, metavar="SRC",
        help="what the timed frames come from (images of --data, else a street of 1280x720)")  # fmt: skip
    add("--data", type=filled, metavar="data.yaml", help="data set to score every model on")
    add("--split", default="val", metavar="NAME", help="split of the data set (val)")
    add("--mode", choices=("closed", "paced"), default="closed",
        help="a frame as soon as the one before is done (default), or frames that arrive at --rate")  # fmt: skip
    add("--rate", type=above_zero, metavar="HZ",
        help="frames a second: of the camera in paced mode, of --data as a video with --streaming")  # fmt: skip
    add("--frames", type=positive, default=1000, metavar="N", help="timed frames of each combination (1000)")
    add("--rounds", type=positive, default=10, metavar="N", help="turns they are divided into (10)")
    add("--streaming", action="store_true", help="score what would have been there at each frame's time as well")
    add("--json", type=filled, metavar="OUT", help="write the results")
    _add_picture_arguments(parser)
    add_facts_arguments(parser)


def _add_picture_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--plot", type=filled, metavar="OUT.png", help="draw accuracy over latency; dark: OUT-dark.png")
    parser.add_argument("--html", type=filled, metavar="OUT.html", help="write a page with every point's details")


def main(args: argparse.Namespace) -> int:
    """Run the action. Exit code 1 where a combination failed, or a comparison found something worse.

    Raises:
        UsageError: flags contradict each other, or a results file is not one.
        EdgesegError: nothing could be measured, or a result cannot be written.
    """
    return {"measure": _measure, "compare": _compare, "pick": _pick, "show": _show}[args.action](args)


def _measure(args: argparse.Namespace) -> int:
    from edgeseg.bench.measure import measure
    from edgeseg.files import check_writable, write_text

    plan = _plan(args)
    _check_outputs(args)
    if args.json:
        check_writable(args.json)
    results, worst = measure(plan, lambda text: print(text, file=sys.stderr))
    if args.json:
        write_text(args.json, json.dumps(results, indent=1) + "\n")
    _present(args, results, worst)
    return int(any(row["error"] is not None for row in results["rows"]))


def _plan(args: argparse.Namespace) -> Plan:
    from edgeseg import bundled
    from edgeseg.bench.measure import Plan

    if args.mode == "paced" and args.rate is None:
        raise UsageError("--mode paced needs the rate of the camera", "add --rate 30")
    if args.rate is not None and args.mode == "closed" and not (args.streaming and args.data):
        raise UsageError("--rate says nothing here", "add --mode paced, or --streaming with --data")
    if args.plot and args.data is None:
        raise UsageError("--plot draws accuracy, and there is none without data", "add --data data.yaml")
    if args.frames < args.rounds:
        raise UsageError(f"{args.frames} frames cannot be divided into {args.rounds} rounds", "lower --rounds")
    facts = {name: value for name, value in vars(facts_from_args(args, None)).items() if name != "imgsz"}
    return Plan(
        models=list(dict.fromkeys(args.models)) or bundled.names(),
        backends=list(dict.fromkeys(args.backend)),
        sizes=[(height, width) for height, width in args.imgsz] if args.imgsz else (None,),
        source=args.source or (STREET if args.data is None else None),
        data=args.data,
        split=args.split,
        mode=args.mode,
        rate_hz=args.rate,
        frames=args.frames,
        rounds=args.rounds,
        threads=args.threads,
        streaming=args.streaming,
        facts=facts,
        card=args.card,
        worst=3 if args.html else 0,
    )


def _compare(args: argparse.Namespace) -> int:
    from edgeseg.bench.compare import compare, version_changes
    from edgeseg.bench.results import read_results

    before, after = read_results(args.before), read_results(args.after)
    changes = compare(before, after)
    for line in (*(change.text() for change in changes), *version_changes(before, after)):
        print(line)
    return ONE_WORSE if any(change.worse for change in changes) else 0


def _pick(args: argparse.Namespace) -> int:
    from edgeseg.bench.pick import pick_accurate, pick_within
    from edgeseg.bench.results import read_results

    results = read_results(args.results)
    if args.max_ms is not None:
        print(pick_within(results, args.max_ms))
    else:
        print(pick_accurate(results, args.min_miou))
    return 0


def _show(args: argparse.Namespace) -> int:
    from edgeseg.bench.results import read_results

    results = read_results(args.results)
    _check_outputs(args)
    _present(args, results)
    return 0


def _check_outputs(args: argparse.Namespace) -> None:
    """Refuse before the work what could not be written after it."""
    from edgeseg.bench.page import check_page
    from edgeseg.bench.picture import check_drawable
    from edgeseg.files import check_writable

    if args.plot:
        check_writable(args.plot)
        check_drawable()
    if args.html:
        check_writable(args.html)
        check_page()


def _present(
    args: argparse.Namespace, results: Mapping[str, Any], worst: Sequence[Sequence[Mapping[str, Any]]] = ()
) -> None:
    from edgeseg.bench.page import html
    from edgeseg.bench.picture import write_pictures
    from edgeseg.bench.results import streaming_verdicts, table
    from edgeseg.files import write_text

    print(table(results))
    verdicts = streaming_verdicts(results)
    if verdicts:
        print("", "Streaming, the best for each clip:", *verdicts, sep="\n")
    if args.plot:
        print("wrote", *write_pictures(results, Path(args.plot)))
    if args.html:
        write_text(args.html, html(results, worst))
        print("wrote", args.html)
