"""``edgeseg train``: the flags; the work is done by the package edgeseg_train, which needs torch."""

from __future__ import annotations

import argparse

from edgeseg.cli import import_tool
from edgeseg.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags: one for every field of ``edgeseg_train.config.TrainConfig``, and what is no field."""
    parser.add_argument("--list-models", action="store_true", help="print the networks with their sizes, and end")
    parser.add_argument("--list-recipes", action="store_true", help="print the recipes with their values, and end")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    import_tool("edgeseg_train.config", "train", "train").add_flags(parser)


def main(args: argparse.Namespace) -> int:
    """Train; see ``edgeseg_train.cli``.

    Raises:
        UsageError: no data set or no folder is given.
    """
    missing = [flag for flag, value in (("--data", args.data), ("--out", args.out)) if value is None]
    if missing and not (args.list_models or args.list_recipes):
        raise UsageError(f"the following arguments are required: {', '.join(missing)}", "see 'edgeseg train --help'")
    code: int = import_tool("edgeseg_train.cli", "train", "train").main(args)
    return code
