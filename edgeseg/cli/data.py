"""``edgeseg data``: ``check`` says what a data set holds and what is wrong with it, ``convert`` makes one."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg.cli._options import filled
from edgeseg.errors import UsageError

if TYPE_CHECKING:
    from edgeseg.data_check import SplitReport
    from edgeseg.dataset import DataSet

_SIZES_SHOWN = 5
_PROBLEMS_SHOWN = 50


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the two actions and their flags."""
    from edgeseg.readers import READERS

    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    text = "read every file of a data set; say what it holds and all that is wrong"
    check = actions.add_parser("check", help=text, description=text.capitalize() + ".")
    check.add_argument("data", type=filled, metavar="data.yaml", help="the data set")
    check.add_argument("--split", type=filled, nargs="+", metavar="NAME", help="splits to read; default: all")
    check.add_argument("--json", type=filled, metavar="OUT", help="write the report as JSON")
    check.add_argument(
        "--sheet", type=filled, metavar="OUT.png", help="draw a contact sheet: images under their masks, and a legend"
    )
    text = "turn a well-known data set into the folders and the data.yaml that edgeseg reads"
    formats = "\n".join(f"  {name:<14} {about}" for name, about in READERS.items())
    convert = actions.add_parser(
        "convert",
        help=text,
        description=f"{text.capitalize()}.",
        epilog=f"formats:\n{formats}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    convert.add_argument("--format", required=True, metavar="NAME", help="one of those below")
    convert.add_argument(
        "--from", type=filled, required=True, dest="root", metavar="ROOT", help="folder it was unpacked into"
    )
    convert.add_argument(
        "--out", type=filled, required=True, metavar="DIR", help="folder to make; must not hold anything"
    )
    convert.add_argument("--classes", metavar="LIST", help="camvid: 11 or 32; coco-stuff: stuff or things-and-stuff")
    convert.add_argument("--link", action="store_true", help="link to the images instead of copying them")


def main(args: argparse.Namespace) -> int:
    """Run the action. Exit code 1 where a check found something wrong.

    Raises:
        UsageError: a flag has a value it cannot take.
        DataError: the data set cannot be opened, or not be converted.
        SinkError: a result cannot be written.
    """
    return _check(args) if args.action == "check" else _convert(args)


def _convert(args: argparse.Namespace) -> int:
    from edgeseg.data_convert import convert
    from edgeseg.readers import read_format

    source = read_format(args.format, args.root, args.classes)
    data = convert(source, args.out, link=args.link)
    for split in data.splits:
        count = sum(image.split == split for image in source.images)
        print(f"{split:<8}{count} pairs")
    print(f"{len(data.classes)} classes, described in {data.path}")
    print(f"next: edgeseg data check {data.path} --sheet sheet.png")
    return 0


def _check(args: argparse.Namespace) -> int:
    from edgeseg.data_check import check
    from edgeseg.dataset import DataSet
    from edgeseg.files import check_writable, write_text

    if args.sheet and Path(args.sheet).suffix.lower() != ".png":
        raise UsageError(f"--sheet {args.sheet} is no PNG file", "give a name that ends in .png")
    for path in filter(None, (args.json, args.sheet)):
        check_writable(path)
    data = DataSet.from_yaml(args.data)
    reports, warnings = check(data, args.split or list(data.splits))
    warnings = [*(warning for report in reports for warning in report.warnings), *warnings]
    if args.json:
        write_text(args.json, json.dumps(_as_json(data, reports, warnings), indent=2) + "\n")
    print("\n".join(_as_text(data, reports, warnings)))
    if args.sheet:
        print(_write_sheet(data, reports, args.sheet))
    return 1 if any(report.problems for report in reports) else 0


def _write_sheet(data: DataSet, reports: Sequence[SplitReport], path: str) -> str:
    import cv2

    from edgeseg.data_sheet import contact_sheet
    from edgeseg.files import replacing

    if not any(report.sound for report in reports):
        return "no contact sheet: there is no pair without a fault"
    png = cv2.imencode(".png", contact_sheet(data, reports))[1].tobytes()
    with replacing(path) as temporary:
        temporary.write_bytes(png)
    return f"contact sheet: {path}"


def _as_json(data: DataSet, reports: Sequence[SplitReport], warnings: Sequence[str]) -> dict[str, Any]:
    return {
        "data": str(data.path),
        "splits": {report.name: _split_json(data, report) for report in reports},
        "problems": [
            {"split": report.name, "problem": problem.problem, "mend": problem.mend}
            for report in reports
            for problem in report.problems
        ],
        "warnings": list(warnings),
    }


def _split_json(data: DataSet, report: SplitReport) -> dict[str, Any]:
    pixels = report.labelled_pixels(data)
    labelled, total = int(pixels.sum()), int(report.pixels.sum())
    ignored = 0 if data.ignore_id is None else int(report.pixels[data.ignore_id])
    return {
        "images": report.images,
        "sound": len(report.sound),
        "sizes": {f"{width}x{height}": count for (width, height), count in report.sizes.most_common()},
        "kinds": dict(report.kinds.most_common()),
        "ignored_share": ignored / max(1, total),
        "classes": [
            {
                "id": i,
                "name": name,
                "pixels": int(pixels[i]),
                "share": int(pixels[i]) / max(1, labelled),
                "images": int(report.images_with[i]),
            }
            for i, name in enumerate(data.classes)
            if i != data.ignore_id
        ],
        "absent": report.absent(data),
    }


def _as_text(data: DataSet, reports: Sequence[SplitReport], warnings: Sequence[str]) -> Iterator[str]:
    for report in reports:
        yield from _split_text(_split_json(data, report), report.name)
    problems = [problem for report in reports for problem in report.problems]
    yield from (f"warning: {warning}" for warning in warnings)
    yield from (f"problem: {problem}" for problem in problems[:_PROBLEMS_SHOWN])
    if len(problems) > _PROBLEMS_SHOWN:
        yield f"and {len(problems) - _PROBLEMS_SHOWN} more problems: --json lists them all"
    yield f"{len(problems)} problems, {len(warnings)} warnings" if problems or warnings else "nothing is wrong"


def _split_text(split: dict[str, Any], name: str) -> Iterator[str]:
    yield f"{name}: {split['images']} images"
    sizes = [f"{size} ({count})" for size, count in split["sizes"].items()]
    more = f" and {len(sizes) - _SIZES_SHOWN} other sizes" if len(sizes) > _SIZES_SHOWN else ""
    yield f"  sizes    {', '.join(sizes[:_SIZES_SHOWN]) or '-'}{more}"
    yield f"  pixels   {', '.join(f'{kind} ({count})' for kind, count in split['kinds'].items()) or '-'}"
    yield f"  ignored  {100 * split['ignored_share']:.2f} % of all pixels"
    width = max([5, *(len(row["name"]) for row in split["classes"])])
    yield f"  {'id':>3}  {'class':<{width}}  {'share':>8}  {'images':>7}"
    for row in split["classes"]:
        yield f"  {row['id']:>3}  {row['name']:<{width}}  {100 * row['share']:6.2f} %  {row['images']:>7}"
    if split["absent"]:
        yield f"  never    {', '.join(split['absent'])}"
    yield ""
