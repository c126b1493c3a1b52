"""``edgeseg train``: command line of a training run."""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from edgeseg.dataset import DataSet
from edgeseg.errors import EdgesegError, SinkError, UsageError
from edgeseg_train import recipes
from edgeseg_train.config import TrainConfig
from edgeseg_train.distributed import joined_processes
from edgeseg_train.loop import Trainer
from edgeseg_train.models import size
from edgeseg_train.report import write_report


def main(args: argparse.Namespace) -> int:
    """Train; 0 when the run is complete, 130 when it was interrupted (the last epoch's checkpoint is kept).

    Raises:
        EdgesegError: see ``edgeseg_train.loop.Trainer``.
    """
    if args.list_models:
        print(size.list_text())
        return 0
    if args.list_recipes:
        print(recipes.list_text())
        return 0
    _check_folder(Path(args.out), args.resume)
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    values = {k: v for k, v in vars(args).items() if k in fields and v is not None}
    config = recipes.config_from_values(values, resume=args.resume)
    with _sigterm_interrupts(), joined_processes(config.device) as processes:
        trainer = Trainer(config, DataSet.from_yaml(config.data), resume=args.resume, processes=processes)
        print(_summary(trainer))
        if args.resume:
            print(f"resumed after epoch {trainer.epoch} of {config.epochs}{', finished' if trainer.finished else ''}")
        try:
            best = trainer.run()
        except KeyboardInterrupt:
            print(_stopped(trainer))
            return 130
        if trainer.stopped_early:
            print(f"ended early, after epoch {trainer.epoch}: {config.early_stop} evaluations without a better mIoU")
        print(f"best {config.val_split} mIoU {100 * best:.2f} %: {trainer.out / 'best.pt'}")
        if processes.is_main:
            _report(trainer)
        print(_next_commands(trainer))
    return 0


def _report(trainer: Trainer) -> None:
    try:
        print(f"report: {write_report(trainer.out, device=trainer.config.device)}")
    except EdgesegError as error:
        again = f"python -m edgeseg_train.report {shlex.quote(str(trainer.out))}"
        print(f"warning: {' '.join(str(error).split())}; then '{again}' makes the missing report", file=sys.stderr)


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


def _summary(trainer: Trainer) -> str:
    config, height, width = trainer.config, *trainer.config.imgsz
    parameters = size.count_parameters(trainer.average.module)
    val_images = len(trainer.data.samples(config.val_split))
    slow = config.amp == "fp16" and trainer.device.type == "cpu"
    text = (
        f"network   {config.model}, {parameters / 1e6:.2f} M parameters, {width}x{height} pixels\n"
        f"images    {config.train_split} {len(trainer.split)}, {config.val_split} {val_images}; "
        f"{len(trainer.data.classes)} classes\n"
        f"length    {config.epochs} epochs of {trainer.steps_per_epoch} steps, recipe {config.recipe or 'none'}\n"
        f"device    {trainer.device}, autocast {config.amp}{' (bf16 is many times faster on a CPU)' if slow else ''}"
    )
    return f"{text}\n{trainer.initial.text()}" if trainer.initial else text


def _next_commands(trainer: Trainer) -> str:
    best, data = shlex.quote(str(trainer.out / "best.pt")), shlex.quote(trainer.config.data)
    split = shlex.quote(trainer.config.val_split)
    return (
        f"next:\n  edgeseg eval --model {best} --data {data} --split {split}\n"
        f"  edgeseg export --checkpoint {best} --data {data} --split {split} --out model.onnx\n"
        f"  tensorboard --logdir {shlex.quote(str(trainer.out / 'tensorboard'))}"
    )


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
