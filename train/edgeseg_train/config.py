"""Everything that decides a training run, in one value, saved beside its checkpoints."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any

from edgeseg.errors import UsageError, nearest
from edgeseg_train.backend import MAX_SIDE, MIN_SIDE
from edgeseg_train.losses import LOSSES
from edgeseg_train.models import NETWORKS

SCHEDULES = ("cosine", "poly")
AMP = ("bf16", "fp16", "off")

MACHINE_FIELDS = frozenset({"data", "out", "device", "workers", "amp"})
"""Fields that say where a run happens, not what it computes: they may differ when it is resumed."""

_LIMITS = {
    "epochs": (1, math.inf),
    "batch": (2, math.inf),
    "seed": (0, 2**32 - 1),
    "lr": (1e-9, math.inf),
    "weight_decay": (0, math.inf),
    "warmup": (0, 1),
    "aux_weight": (0, math.inf),
    "ema_decay": (0, 1),
    "grad_clip": (1e-9, math.inf),
    "scale_min": (0.01, 100),
    "scale_max": (0.01, 100),
    "color": (0, 1),
    "noise": (0, 1),
    "balance": (0, 1),
    "paste": (0, 1),
    "cutmix": (0, 1),
    "accumulate": (1, math.inf),
    "early_stop": (0, math.inf),
    "encoder_lr": (0, 1),
    "distill_weight": (0, math.inf),
    "eval_every": (0, math.inf),
    "workers": (0, math.inf),
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run.

    Attributes:
        data: path of the ``data.yaml``.
        model: a name from ``edgeseg_train.models.NETWORKS``.
        out: folder of the run.
        imgsz: height and width in pixels.
        epochs: passes over the training split; the learning rate reaches zero at the end of the last.
        batch: images a step, at least 2: batch normalisation needs several.
        seed: decides initial weights, order and augmentation.
        train_split, val_split: splits of the data set.
        lr, weight_decay: of AdamW; normalisation layers and biases are not decayed.
        warmup: share of all steps in which the learning rate rises.
        schedule: "cosine" or "poly" (power 0.9), both down to zero.
        loss: "weighted-ce" or "ohem".
        aux_weight: weight of each auxiliary head's loss.
        ema_decay: decay of the weight average once it is warm.
        grad_clip: largest norm of the gradient.
        scale_min, scale_max: range of the random scale.
        color: strength of colour augmentation.
        noise: largest standard deviation of sensor noise, as a share of white.
        balance: share of crops that are laid around a rare class.
        paste: share of images that get objects of another image (copy-paste).
        cutmix: share of images that get a rectangle of another image.
        eval_every: epochs between evaluations; 0 chooses about thirty a run.
        workers: loader processes.
        device: "auto", "cpu" or "cuda".
        amp: autocast to "bf16" or "fp16", or "off".
        accumulate: batches whose gradients make one step.
        early_stop: evaluations without a better mIoU after which the run ends; 0 never ends it early.
        init_from: a checkpoint whose fitting weights are kept, or "imagenet"; empty for random weights.
        encoder_lr: learning rate of the kept weights, as a share of ``lr``.
        teacher: checkpoint of a larger network to learn from besides the masks; empty for none.
        distill_weight: weight of that loss.
        recipe: name of the recipe that the configuration began with.
    """

    data: str
    model: str = "ddrnet-c32"
    out: str = "runs/train"
    imgsz: tuple[int, int] = (360, 480)
    epochs: int = 100
    batch: int = 8
    seed: int = 0
    train_split: str = "train"
    val_split: str = "val"
    lr: float = 1e-3
    weight_decay: float = 0.02
    warmup: float = 0.03
    schedule: str = "cosine"
    loss: str = "weighted-ce"
    aux_weight: float = 0.4
    ema_decay: float = 0.999
    grad_clip: float = 5.0
    scale_min: float = 0.6
    scale_max: float = 2.0
    color: float = 0.4
    noise: float = 0.0
    balance: float = 0.0
    paste: float = 0.0
    cutmix: float = 0.0
    accumulate: int = 1
    early_stop: int = 0
    init_from: str = ""
    encoder_lr: float = 1.0
    teacher: str = ""
    distill_weight: float = 1.0
    recipe: str = ""
    eval_every: int = 0
    workers: int = 2
    device: str = "auto"
    amp: str = "bf16"

    def __post_init__(self) -> None:
        object.__setattr__(self, "imgsz", (int(self.imgsz[0]), int(self.imgsz[1])))
        for name, value, known in (
            ("network", self.model, NETWORKS), ("schedule", self.schedule, SCHEDULES),
            ("loss", self.loss, LOSSES), ("amp", self.amp, AMP),
            ("device", self.device.split(":")[0], ("auto", "cpu", "cuda")),
        ):  # fmt: skip
            if value not in known:
                raise UsageError(f"There is no {name} '{value}'", nearest(value, known))
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            if not low <= value <= high:  # NaN fails this as well
                allowed = f"of at least {low}" if high == math.inf else f"from {low} to {high}"
                raise UsageError(f"{name} is {value}", f"give --{name.replace('_', '-')} {allowed}")
        if self.scale_min > self.scale_max:
            raise UsageError(f"scale_min {self.scale_min} is above scale_max {self.scale_max}", "swap them")
        if not all(MIN_SIDE <= side <= MAX_SIDE for side in self.imgsz):
            raise UsageError(
                f"imgsz is {self.imgsz[0]} {self.imgsz[1]}, the network halves it six times",
                f"give --imgsz HEIGHT WIDTH with both from {MIN_SIDE} to {MAX_SIDE}",
            )

    def save_text(self) -> str:
        """The configuration as JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    def differences(self, other: dict[str, Any]) -> list[str]:
        """Names of the fields that decide the result and differ from a saved configuration."""
        mine = json.loads(self.save_text())
        return sorted(k for k, v in mine.items() if k not in MACHINE_FIELDS and other.get(k) != v)
