"""What FP16 and INT8 cost and give, network by network: accuracy in every engine, speed, time and memory of export.

Each model is converted by ``edgeseg export`` in a process of its own, so that its peak of memory is its own. All
figures but time and memory are those that the export's gate measured: see ``edgeseg_export.gate``. A refused model
(exit code 3) is a result like any other.

Example:
    python benchmarks/int8.py runs/*/best.pt model.onnx --data camvid/data.yaml --json results/int8.json
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from conditions import conditions

from edgeseg.files import check_writable, sha256_of, write_text

# Not getrusage: its peak is inherited from the process that forked.
CHILD = (
    "import sys\n"
    "from edgeseg.cli import main\n"
    "code = main(sys.argv[2:])\n"
    "peak = open('/proc/self/status').read().split('VmHWM:')[1].split()[0]\n"
    "open(sys.argv[1], 'w').write(peak)\n"
    "sys.exit(code)\n"
)


def convert(source: Path, args: argparse.Namespace, more: list[str]) -> dict[str, Any]:
    """Convert one model and return what the gate measured, with wall time, memory and exit code."""
    with TemporaryDirectory() as folder:
        figures, peak = Path(folder) / "figures.json", Path(folder) / "peak"
        flags = [
            "export", "--onnx" if source.suffix == ".onnx" else "--checkpoint", str(source),
            "--precision", "int8", "--target", args.target, "--data", args.data, "--calib-images", str(args.images),
            "--out", str(Path(args.out or folder) / f"{source.stem}-int8.onnx"), "--json", str(figures), *more,
        ]  # fmt: skip
        start = time.perf_counter()
        code = subprocess.run([sys.executable, "-c", CHILD, str(peak), *flags], check=False).returncode
        wall_s = time.perf_counter() - start
        if code not in (0, 3):
            raise SystemExit(f"{source}: export ended with exit code {code}")
        row = {
            "source": source.name,
            "source_sha256": sha256_of(source),
            "exit_code": code,
            "export_wall_s": wall_s,
            "export_peak_rss_mib": int(peak.read_text()) / 1024,
            **json.loads(figures.read_text(encoding="utf-8")),
        }
    print_row(row)
    return row


def print_row(row: dict[str, Any]) -> None:
    """One line for each engine."""
    for engine, by_precision in row["engines"].items():
        int8 = by_precision["int8"]
        speed = f", {int8['speedup']['median']:.2f} times fp32's speed" if int8["speedup"] else ""
        print(
            f"{row['source']:<28} {engine:<12} mIoU {100 * by_precision['fp32']['miou']:.2f} -> "
            f"{100 * int8['miou']:.2f}, {100 * int8['agreement']:.3f} % same pixels{speed}"
        )
    print(
        f"{'':<28} {'refused, ' if row['exit_code'] else ''}{len(row['kept'])} groups left out, "
        f"{row['export_wall_s']:.0f} s, {row['export_peak_rss_mib']:.0f} MiB"
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, help="checkpoints (.pt) and fp32 models (.onnx)")
    parser.add_argument("--data", required=True, help="data.yaml with the splits train and val")
    parser.add_argument("--target", default="cpu", choices=("cpu", "tensorrt"))
    parser.add_argument("--images", type=int, default=300, help="calibration images (300)")
    parser.add_argument("--export", default="", help="more options of 'edgeseg export', as one text")
    parser.add_argument("--out", help="folder to keep the INT8 files in")
    parser.add_argument("--json", required=True, help="results file")
    args = parser.parse_args()
    check_writable(args.json)
    start = conditions(target=args.target, calib_images=args.images)
    rows = [convert(source, args, shlex.split(args.export)) for source in args.models]
    after = conditions()["load_average_1min"]
    result = {"conditions": {**start, "load_average_1min_after": after}, "models": rows}
    write_text(args.json, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
