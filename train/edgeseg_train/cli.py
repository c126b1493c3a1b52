"""``edgeseg train``: command line of a training run."""

from __future__ import annotations

import argparse
import dataclasses
import signal
from pathlib import Path
from types import FrameType

from edgeseg.dataset import DataSet
from edgeseg.errors import UsageError
from edgeseg_train.config import TrainConfig
from edgeseg_train.loop import Trainer


def config_from_args(args: argparse.Namespace) -> TrainConfig:
    """The configuration that the parsed flags describe; flags not given keep their defaults."""
    names = {f.name for f in dataclasses.fields(TrainConfig)}
    given = {k: v for k, v in vars(args).items() if k in names and v is not None}
    return TrainConfig(**given)


def main(args: argparse.Namespace) -> int:
    """Train; 0 when the run is complete, 130 when it was interrupted (the last epoch's checkpoint is kept)."""
    config = config_from_args(args)
    last = Path(config.out) / "last.pt"
    if last.exists() and not args.resume:
        raise UsageError(f"{config.out} already holds a run", "add --resume to continue it, or choose another --out")
    if args.resume and not last.exists():
        raise UsageError(f"There is nothing to resume in {config.out}", "leave --resume out, or check --out")
    trainer = Trainer(config, DataSet.from_yaml(config.data))
    if args.resume:
        trainer.resume()
        print(f"resumed after epoch {trainer.epoch} of {config.epochs}")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        best = trainer.run()
    except KeyboardInterrupt:
        print(f"\nstopped after epoch {trainer.epoch}; continue with --resume")
        return 130
    print(f"best {config.val_split} mIoU {100 * best:.2f}: {Path(config.out) / 'best.pt'}")
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
