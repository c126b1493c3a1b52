"""``edgeseg doctor``: what of this machine edgeseg can use, each missing thing with its mend."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import sys
from collections.abc import Sequence

from edgeseg import doctor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of ``edgeseg doctor``."""
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def main(args: argparse.Namespace) -> int:
    """Examine this machine and print what was found. Exit code 1 where no inference engine can be used."""
    # Importing the engines can print; standard output carries the report alone.
    with contextlib.redirect_stdout(sys.stderr):
        findings = doctor.examine()
    verdict = doctor.verdict(findings)
    print(as_json(findings, verdict) if args.json else as_text(findings, verdict))
    return 0 if verdict.usable else 1


def as_json(findings: Sequence[doctor.Finding], verdict: doctor.Verdict) -> str:
    """The report for programs."""
    report = {
        "findings": [dataclasses.asdict(finding) for finding in findings],
        "backend": {"onnx": verdict.onnx, "engine": verdict.engine},
        "advice": dataclasses.asdict(verdict.advice) if verdict.advice else None,
        "versions": doctor.installed_versions(),
    }
    return json.dumps(report, indent=2)


def as_text(findings: Sequence[doctor.Finding], verdict: doctor.Verdict) -> str:
    """The report for people: one line per finding, its mend on the next."""
    width = max((len(finding.name) for finding in findings), default=0)
    lines: list[str] = []
    for section, group in itertools.groupby(findings, key=lambda finding: finding.section):
        lines.append(section)
        for finding in group:
            lines.append(f"  {finding.status:<7}  {finding.name:<{width}}  {finding.detail}")
            if finding.mend:
                lines.append(f"  {'':<7}  {'':<{width}}  mend: {finding.mend}")
        lines.append("")
    return "\n".join([*lines, *_verdict_lines(verdict)])


def _verdict_lines(verdict: doctor.Verdict) -> list[str]:
    onnx = f"run with {verdict.onnx}" if verdict.onnx else "cannot be run here"
    engine = f"run with {verdict.engine}" if verdict.engine else "cannot be run here"
    lines = ["verdict (--backend auto)", f"  ONNX models       {onnx}", f"  TensorRT engines  {engine}"]
    if verdict.engine and not verdict.onnx:
        lines.append("                    (edgeseg build makes an engine from an ONNX model)")
    if verdict.advice:
        lines.append(f"  most worth mending: {verdict.advice.name}, {verdict.advice.detail}")
        lines.append(f"    mend: {verdict.advice.mend}")
    elif verdict.usable:
        lines.append("  nothing urgent to mend")
    return lines
