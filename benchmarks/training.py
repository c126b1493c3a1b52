"""Figures of training on this machine: images a second, where the time of a step goes, and memory by epoch.

Everything is the real run: ``Trainer`` with its loader, augmentation, weight average and schedule. A round measures
each of three things in turn, so that a busy machine slows all of them, and the median over rounds is given:

- ``training``: steps with their loading, as ``edgeseg train`` makes them;
- ``step``: the same steps on batches that are loaded already;
- ``loader``: the same batches loaded and augmented, with no training beside them.

Where the loader is faster than the step, training is as fast as the step. The shares are those of the ``step``;
``rest`` is what no part names: copies, normalisation of images, clipping. Memory is the resident set after each epoch
of a tiny data set drawn here; its growth is that of the median of the last ten epochs over the epochs 6 to 15.

Example:
    python benchmarks/training.py --data camvid/data.yaml --json results/today.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from conditions import conditions

from edgeseg.dataset import DataSet
from edgeseg_train.batches import load_batches, steps_of_epoch
from edgeseg_train.config import TrainConfig
from edgeseg_train.loop import Trainer

WARM_UP_STEPS = 3


@contextmanager
def timed(seconds: dict[str, float], name: str, owner: Any, method: str) -> Iterator[None]:
    """Add the time spent in ``owner.method`` to ``seconds[name]``."""
    original: Callable[..., Any] = getattr(owner, method)

    def call(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return original(*args, **kwargs)
        finally:
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start

    setattr(owner, method, call)
    try:
        yield
    finally:
        setattr(owner, method, original)


def step_parts(trainer: Trainer, steps: list[Any], loaded: list[Any]) -> dict[str, float]:
    """Seconds of each part of steps on loaded batches, and in all."""
    seconds: dict[str, float] = {}
    with (
        timed(seconds, "forward", trainer.network, "forward"),
        timed(seconds, "loss", trainer.criterion, "forward"),
        timed(seconds, "backward", torch.Tensor, "backward"),
        timed(seconds, "optimiser", trainer.optimizer, "step"),
        timed(seconds, "average", trainer.average, "update_parameters"),
    ):
        start = time.perf_counter()
        batches = iter(loaded)
        for step in steps:
            trainer.train_step(step, batches)
        seconds["step"] = time.perf_counter() - start
    return seconds


def speed(model: str, args: argparse.Namespace, out: str) -> dict[str, Any]:
    """Images a second of one network."""
    config = TrainConfig(
        data=args.data,
        out=out,
        model=model,
        imgsz=tuple(args.imgsz),
        batch=args.batch,
        workers=args.workers,
        device="cpu",
    )
    trainer = Trainer(config, DataSet.from_yaml(args.data))
    trainer.network.train()
    steps = steps_of_epoch(len(trainer.split), args.batch, 1, seed=0, epoch=0)
    steps = (steps * (1 + args.steps // len(steps)))[: args.steps]
    batches = [batch for step in steps for batch in step]
    loaded = list(load_batches(trainer.split, batches, args.workers, pin_memory=False))
    for step, batch in zip(steps[:WARM_UP_STEPS], loaded[:WARM_UP_STEPS], strict=True):
        trainer.train_step(step, iter([batch]))
    rounds: list[dict[str, float]] = []
    for _ in range(args.rounds):
        start = time.perf_counter()
        loading = load_batches(trainer.split, batches, args.workers, pin_memory=False)
        for step in steps:
            trainer.train_step(step, loading)
        training = time.perf_counter() - start
        start = time.perf_counter()
        for _ in load_batches(trainer.split, batches, args.workers, pin_memory=False):
            pass
        loader = time.perf_counter() - start
        rounds.append({"training": training, "loader": loader, **step_parts(trainer, steps, loaded)})
    images_per_s = {
        what: sorted(args.batch * len(steps) / seconds[what] for seconds in rounds)
        for what in ("training", "step", "loader")
    }
    parts = ("forward", "loss", "backward", "optimiser", "average")
    shares = {part: statistics.median(seconds[part] / seconds["step"] for seconds in rounds) for part in parts}
    row: dict[str, Any] = {
        "model": model, "imgsz": args.imgsz, "batch": args.batch, "amp": config.amp, "workers": args.workers,
        "loss": config.loss, "threads": torch.get_num_threads(), "steps_a_round": len(steps), "rounds": args.rounds,
        "images_per_s_p50": {what: statistics.median(values) for what, values in images_per_s.items()},
        "images_per_s_range": {what: [values[0], values[-1]] for what, values in images_per_s.items()},
        "share_of_step_p50": {**shares, "rest": 1 - sum(shares.values())},
    }  # fmt: skip
    print(model, {k: round(v, 1) for k, v in row["images_per_s_p50"].items()}, "images/s;",
          {k: f"{100 * v:.0f} %" for k, v in row["share_of_step_p50"].items()})  # fmt: skip
    return row


def draw_tiny(folder: Path) -> Path:
    """The ``data.yaml`` of 16 train and 4 val images of 64x96 in two classes."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 4)):
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True)
        for index in range(count):
            mask = cv2.resize(rng.integers(0, 2, (4, 6), np.uint8), (96, 64), interpolation=cv2.INTER_NEAREST)
            image = np.repeat(mask[:, :, None] * 200, 3, 2) + rng.integers(0, 40, (64, 96, 3), np.uint8)
            cv2.imwrite(str(folder / split / "images" / f"{index}.png"), image)
            cv2.imwrite(str(folder / split / "masks" / f"{index}.png"), mask)
    path = folder / "data.yaml"
    path.write_text("train: train\nval: val\nnames: [dark, light]\n", encoding="utf-8")
    return path


def resident_mib() -> float:
    """Memory of this process that is in RAM."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def memory(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Resident memory after each epoch of a whole run, evaluations and checkpoints included."""
    data = draw_tiny(folder / "tiny")
    config = TrainConfig(
        data=str(data), out=str(folder / "run"), model="ddrnet-c16", imgsz=(64, 96), epochs=args.memory_epochs,
        workers=0, device="cpu",
    )  # fmt: skip
    trainer, resident = Trainer(config, DataSet.from_yaml(str(data))), []
    train_epoch = trainer._train_epoch

    def recorded() -> float:
        resident.append(round(resident_mib(), 1))
        return train_epoch()

    trainer._train_epoch = recorded  # type: ignore[method-assign]
    trainer.run()
    growth = statistics.median(resident[-10:]) - statistics.median(resident[5:15]) if len(resident) >= 25 else None
    print(f"resident memory: {resident[0]} MiB at first, {resident[-1]} MiB at last, growth {growth} MiB")
    return {"model": config.model, "epochs": args.memory_epochs, "resident_mib": resident, "growth_mib": growth}


def main() -> None:
    """Run, print, and write the results file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="data.yaml with a split train")
    parser.add_argument("--models", nargs="+", default=["ddrnet-c32", "ddrnet-c16"])
    parser.add_argument("--imgsz", type=int, nargs=2, default=[360, 480], metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20, help="steps a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-epochs", type=int, default=50, help="0 leaves the memory out")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = {"conditions": conditions()}
    with tempfile.TemporaryDirectory() as folder:
        found["speed"] = [speed(model, args, folder) for model in args.models]
        if args.memory_epochs:
            found["memory"] = memory(args, Path(folder))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
