"""``edgeseg build``: an ONNX model to a TensorRT engine for this machine. Needs TensorRT, not torch or onnx."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgeseg.cli._options import filled, positive, warnings_told
from edgeseg.errors import UsageError

if TYPE_CHECKING:
    from edgeseg.trt.options import BuildOptions, Profile
    from edgeseg.trt.plan import Sidecar
    from edgeseg.trt.progress import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    add = parser.add_argument
    add("model", type=filled, metavar="FILE.onnx", help="an ONNX model, or the name of a bundled one")
    add("--out", type=filled, metavar="FILE.engine", help="engine to write (the model's name with .engine)")
    add("--workspace-mb", type=positive, default=1024, metavar="N",
        help="memory in MiB that a layer may use while it runs (1024)")  # fmt: skip
    add("--opt-level", type=int, choices=range(6), default=3, metavar="N",
        help="0 builds fast, 5 looks longest for fast kernels (3)")  # fmt: skip
    add("--profile", type=_profile, metavar="MIN,OPT,MAX",
        help="least, usual and largest input shape of a model that leaves it open: 1x3x256x512,...")  # fmt: skip
    add("--timing-cache", type=filled, metavar="FILE", help="measured kernels (kept for each device by default)")
    add("--verbose", action="store_true", help="print what TensorRT says")


def main(args: argparse.Namespace) -> int:
    """Build an engine, check in which precision it computes, and write it with its record.

    Raises:
        UsageError: an option cannot be taken.
        EdgesegError: see ``edgeseg.trt.engine.build_engine``.
    """
    from edgeseg import bundled
    from edgeseg.trt.options import BuildOptions

    onnx = bundled.resolve(args.model)
    if onnx.suffix != ".onnx":
        raise UsageError(f"{onnx} is not an ONNX file", "give a model that `edgeseg export` wrote")
    # A bundled model lies in the installed package, which is no place for engines.
    engine = Path(args.out or (f"{onnx.stem}.engine" if args.model in bundled.names() else onnx.with_suffix(".engine")))
    if engine.suffix != ".engine":
        raise UsageError(f"The engine {engine} does not end in .engine", "give --out NAME.engine")
    options = BuildOptions(args.workspace_mb, args.opt_level, args.profile)
    cache = Path(args.timing_cache) if args.timing_cache else None
    print("\n".join(_lines(engine, build(onnx, engine, options, timing_cache=cache, verbose=args.verbose))))
    return 0


def build(
    onnx: Path, engine: Path, options: BuildOptions, *, timing_cache: Path | None = None, verbose: bool = False
) -> Sidecar:
    """Build an engine with a bar on standard error.

    Raises:
        EdgesegError: see ``edgeseg.trt.engine.build_engine``.
    """
    from edgeseg.trt.builder import StillBuildingError
    from edgeseg.trt.engine import build_engine

    echo = partial(print, file=sys.stderr) if verbose else None
    try:
        with warnings_told(), _bar(engine, hidden=verbose) as progress:
            return build_engine(onnx, engine, options, timing_cache=timing_cache, progress=progress, echo=echo)
    except StillBuildingError:
        # Nothing is written before the build ends.
        os._exit(130)


def rebuild(engine: Path) -> None:
    """Build an engine again, as it was built, from the ONNX file beside it.

    Raises:
        EdgesegError: see ``build``.
    """
    from edgeseg.trt.options import BuildOptions
    from edgeseg.trt.plan import StalePlanError, onnx_beside, read_sidecar

    try:
        sidecar = read_sidecar(engine)
    except StalePlanError:
        sidecar = None
    build(onnx_beside(engine, sidecar), engine, sidecar.options if sidecar else BuildOptions())


def _profile(text: str) -> Profile:
    from edgeseg.trt.options import profile_from_text

    try:
        return profile_from_text(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not three shapes such as 1x3x256x256,1x3x512x512,1x3x512x1024"
        ) from None


@contextlib.contextmanager
def _bar(engine: Path, *, hidden: bool) -> Iterator[Progress]:
    """A bar with the time left where TensorRT tells how far it is, else a clock. On a terminal only."""
    from tqdm import tqdm

    clock = "{desc}: {elapsed}"
    bar_and_rest = "{desc}: {percentage:3.0f} % |{bar}| {elapsed}, {remaining} left{postfix}"
    with tqdm(
        total=1.0, desc=f"building {engine.name}", leave=False, smoothing=0, bar_format=clock, disable=hidden or None
    ) as bar:

        def show(share: float | None, phase: str) -> None:
            bar.bar_format = clock if share is None else bar_and_rest
            bar.set_postfix_str(phase, refresh=False)
            bar.n = share or 0.0
            bar.refresh()

        yield show


def _lines(engine: Path, sidecar: Sidecar) -> list[str]:
    from edgeseg.trt.inspector import shares_text

    here, found = sidecar.platform, sidecar.precision["found"]
    jetpack = f", JetPack {here.jetpack}" if here.jetpack else ""
    return [
        f"{engine}: {engine.stat().st_size / 1e6:.1f} MB, from {sidecar.onnx}",
        f"runs on     {here.gpu} (compute capability {here.compute_capability}), TensorRT {here.tensorrt}{jetpack}",
        f"graph       {shares_text(sidecar.precision['asked']['macs'])} of the multiply-adds",
        f"engine      {shares_text(found['macs'])} of the multiply-adds",
        f"            {shares_text(found['layers'])} of its layers",
        *(f"differing   {name}" for name in sidecar.precision["differing"]),
    ]
