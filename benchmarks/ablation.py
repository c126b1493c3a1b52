"""Measure what each ingredient of a training recipe gives, on two splits that choose nothing.

One drive of the training split, the images whose names begin with ``--hold-out``, is kept back as a second validation
split: val alone is one drive, and choices would fit it. Two kinds of runs, each without choosing an epoch:

- networks, from random weights: 30 epochs;
- everything else goes on from the run ``base`` (seed 0, weighted cross-entropy) for 20 epochs, so that short runs
  compare what trained networks do.

A run that has its ``result.json`` is not repeated, so the script can be stopped and started again, with other names
too. With two cores, two scripts with ``OMP_NUM_THREADS=1`` and different names get more done than one after the other.

Example:
    python benchmarks/ablation.py --data camvid/data.yaml --hold-out 0006R0 --out runs/ablation --json ablation.json
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import yaml

from conditions import conditions  # isort: skip
from edgeseg.dataset import DataSet
from edgeseg.files import write_text
from edgeseg_train.config import TrainConfig
from edgeseg_train.evaluate import evaluate_network
from edgeseg_train.loop import Trainer

SCRATCH: dict[str, dict[str, Any]] = {
    "base": {"model": "ddrnet-c16-s4", "loss": "weighted-ce"},
    "stride-8": {"model": "ddrnet-c16", "loss": "weighted-ce"},
}
FROM_BASE: dict[str, dict[str, Any]] = {
    "control": {"loss": "weighted-ce"},
    "ohem": {"loss": "ohem"},
    "ce-dice": {"loss": "ce + 0.5*dice"},
    "ce-lovasz": {"loss": "ce + 0.5*lovasz"},
    "weighted-lovasz": {"loss": "weighted-ce + 0.5*lovasz"},
    "paste": {"loss": "weighted-ce", "paste": 0.5},
    "balance": {"loss": "weighted-ce", "balance": 0.5},
    "cutmix": {"loss": "weighted-ce", "cutmix": 0.5},
}


def held_out(data: DataSet, prefix: str, out: Path) -> Path:
    """A ``data.yaml`` in ``out`` whose splits are fit and holdout, linked from train, and val."""
    for sample in data.samples("train"):
        split = "holdout" if sample.image_path.name.startswith(prefix) else "fit"
        for folder, file in (("images", sample.image_path), ("masks", sample.mask_path)):
            link = out / split / folder / file.name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(file.resolve())
    raw = {
        "fit": "fit",
        "holdout": "holdout",
        "val": [str(folder.resolve()) for folder in data.splits["val"]],
        "ignore": data.ignore_id,
        "names": list(data.classes),
        "palette": [list(color) for color in data.palette],
    }
    write_text(out / "data.yaml", yaml.safe_dump(raw))
    return out / "data.yaml"


def train_and_score(name: str, seed: int, data_yaml: Path, out: Path) -> dict[str, Any]:
    """Train one variant, or read what an earlier call measured."""
    run = out / f"{name}-{seed}"
    if (run / "result.json").exists():
        found: dict[str, Any] = json.loads((run / "result.json").read_text(encoding="utf-8"))
        return found
    length: dict[str, Any] = {"epochs": 30}
    if name in FROM_BASE:
        train_and_score("base", 0, data_yaml, out)
        length = {
            "epochs": 20, "lr": 5e-4, "model": "ddrnet-c16-s4", "init_from": str(out / "base-0" / "last.pt"),
        }  # fmt: skip
    changed = {**SCRATCH, **FROM_BASE}[name]
    config = TrainConfig(
        data=str(data_yaml), out=str(run), seed=seed, train_split="fit", val_split="holdout", workers=0,
        eval_every=10**6, **length, **changed,
    )  # fmt: skip
    data = DataSet.from_yaml(data_yaml)
    started = time.monotonic()
    trainer = Trainer(config, data, resume=(run / "last.pt").exists())
    trainer.run()
    result: dict[str, Any] = {"name": name, "seed": seed, "changed": changed, "wall_s": time.monotonic() - started}
    for split in ("val", "holdout"):
        scores = evaluate_network(trainer.average.module.eval(), data, split, config.imgsz, trainer.processes)
        result[split] = {"miou": scores.miou, "iou": scores.iou}
    write_text(run / "result.json", json.dumps(result, indent=1))
    return result


def main() -> None:
    """Train what is missing, print a table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--hold-out", required=True, metavar="PREFIX")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--names", nargs="+", choices=[*SCRATCH, *FROM_BASE], default=[*SCRATCH, *FROM_BASE])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--json", metavar="OUT")
    args = parser.parse_args()
    before = conditions()
    data_yaml = held_out(DataSet.from_yaml(args.data), args.hold_out, args.out)
    results = [train_and_score(name, seed, data_yaml, args.out) for name in args.names for seed in args.seeds]
    for r in results:
        print(f"{r['name']:12} {r['seed']}  val {100 * r['val']['miou']:5.2f}  held {100 * r['holdout']['miou']:5.2f}")
    if args.json:
        write_text(args.json, json.dumps({"conditions": before, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
