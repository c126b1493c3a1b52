"""``edgeseg train``: command line of a training run."""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from edgeseg.dataset import DataSet
from edgeseg.errors import SinkError, UsageError
from edgeseg_train.config import TrainConfig
from edgeseg_train.loop import Trainer
from edgeseg_train.models.size import list_text


def config_from_args(args: argparse.Namespace) -> TrainConfig:
    """The configuration that the parsed flags describe; flags not given keep their defaults.

    Raises:
        UsageError: a value is unknown or out of range.
    """
    names = {f.name for f in dataclasses.fields(TrainConfig)}
    given = {k: v for k, v in vars(args).items() if k in names and v is not None}
    return TrainConfig(**given)


def main(args: argparse.Namespace) -> int:
    """Train; 0 when the run is complete, 130 when it was interrupted (the last epoch's checkpoint is kept).

    Raises:
        EdgesegError: see ``edgeseg_train.loop.Trainer``.
    """
    if args.list_models:
        print(list_text())
        return 0
    config = config_from_args(args)
    _check_folder(Path(config.out), args.resume)
    with _sigterm_interrupts():
        trainer = Trainer(config, DataSet.from_yaml(config.data), resume=args.resume)
        if trainer.initial:
            print(trainer.initial.text())
        if args.resume:
            print(f"resumed after epoch {trainer.epoch} of {config.epochs}")
        try:
            best = trainer.run()
        except KeyboardInterrupt:
            print(_stopped(trainer))
            return 130
    print(f"best {config.val_split} mIoU {100 * best:.2f} %: {trainer.out / 'best.pt'}")
    return 0


def _check_folder(out: Path, resume: bool) -> None:
    last = out / "last.pt"
    if last.exists() and not resume:
        raise UsageError(f"{out} already holds a run", "add --resume to continue it, or choose another --out")
    if resume and not last.exists():
        raise UsageError(f"There is nothing to resume in {out}", "leave --resume out, or check --out")
    existing = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        reason = "cannot be written" if existing.is_dir() else "is not a folder"
        raise SinkError(f"There is no writing to {out}: {existing} {reason}", "choose another --out", exit_code=2)


def _stopped(trainer: Trainer) -> str:
    if trainer.saved_epoch == 0:
        return "stopped before the first epoch was saved; start again with the same command"
    return f"stopped, saved after epoch {trainer.saved_epoch} of {trainer.config.epochs}; continue with --resume"


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM, as batch systems and ``docker stop`` send it, end a run as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
