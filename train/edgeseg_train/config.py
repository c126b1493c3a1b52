"""Everything that decides a training run, in one value, saved beside its checkpoints.

Each field is declared once, with its default, its limits and its help; the command line makes a flag of each. So that
``edgeseg train --help`` stays quick and works without torch, this module loads it only when a configuration is made.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Collection
from dataclasses import MISSING, Field, dataclass
from typing import Any

from edgeseg.errors import UsageError, nearest

MACHINE_FIELDS = frozenset({"data", "out", "device", "workers", "amp"})
"""Fields that say where a run happens, not what it computes: they may differ when it is resumed."""


def _option(
    default: Any,
    help: str,
    *,
    least: float = -math.inf,
    most: float = math.inf,
    choices: tuple[str, ...] = (),
    metavar: Any = None,
    flag: str = "",
) -> Any:
    """A field with its flag: limits for numbers, ``flag`` where it is not the field's name with dashes."""
    option = {"help": help, "least": least, "most": most, "choices": choices, "metavar": metavar, "flag": flag}
    return dataclasses.field(default=default, metadata=option)


@dataclass(frozen=True)
class TrainConfig:
    """One training run; each field's ``help`` says what it is.

    Raises:
        UsageError: a value is unknown or out of range.
    """

    data: str = _option(MISSING, "data set", metavar="data.yaml")
    out: str = _option(MISSING, "folder of the run, such as runs/first", metavar="DIR")
    recipe: str = _option("", "recipe to begin with, see --list-recipes: its values replace the defaults shown here")
    model: str = _option("ddrnet-c32", "network, see --list-models; with --from, the checkpoint's")
    imgsz: tuple[int, int] = _option((360, 480), "height and width; with --from, the checkpoint's", metavar=("H", "W"))
    epochs: int = _option(100, "passes over the training split; the learning rate ends at zero with the last", least=1)
    batch: int = _option(8, "images a step, of which batch normalisation needs several", least=2)
    accumulate: int = _option(1, "batches whose gradients make one step", least=1)
    seed: int = _option(0, "of initial weights, order and augmentation", least=0, most=2**32 - 1)
    train_split: str = _option("train", "split to train on")
    val_split: str = _option("val", "split that chooses best.pt")
    eval_every: int = _option(0, "epochs between evaluations; 0: about thirty a run", least=0)
    early_stop: int = _option(0, "end after N evaluations without a better mIoU; 0: never", least=0)

    lr: float = _option(1e-3, "highest learning rate, of AdamW", least=1e-9)
    weight_decay: float = _option(0.02, "of kernels; biases and normalisation layers are not decayed", least=0)
    warmup: float = _option(0.03, "share of the steps in which the rate rises", least=0, most=1)
    schedule: str = _option("cosine", "fall of the rate to zero; poly has the power 0.9", choices=("cosine", "poly"))
    grad_clip: float = _option(5.0, "largest norm of the gradient", least=1e-9)
    ema_decay: float = _option(0.999, "decay of the weight average once it is warm", least=0, most=1)
    loss: str = _option("ce + 0.5*dice", "loss, or a sum of several with weights")
    aux_weight: float = _option(0.4, "weight of each auxiliary head's loss", least=0)

    scale_min: float = _option(0.6, "smallest random scale", least=0.01, most=100)
    scale_max: float = _option(2.0, "largest random scale", least=0.01, most=100)
    color: float = _option(0.4, "strength of colour augmentation", least=0, most=1)
    noise: float = _option(0.0, "largest deviation of sensor noise, as a share of white", least=0, most=1)
    balance: float = _option(0.0, "share of crops laid around a rare class", least=0, most=1)
    paste: float = _option(0.0, "share of images that get objects of another (copy-paste)", least=0, most=1)
    cutmix: float = _option(0.0, "share of images that get a rectangle of another", least=0, most=1)

    init_from: str = _option("", "checkpoint whose fitting weights to keep, or imagenet", metavar="FILE", flag="--from")
    encoder_lr: float = _option(1.0, "learning rate of the kept weights, as a share of --lr", least=0, most=1)
    qat: bool = _option(False, "train with the rounding of INT8 (quantization-aware); needs --from best.pt")
    teacher: str = _option("", "checkpoint of a larger network to learn from besides the masks", metavar="FILE")
    distill_weight: float = _option(1.0, "weight of the teacher's loss", least=0)

    workers: int = _option(2, "loader processes", least=0)
    device: str = _option("auto", "auto, cpu or cuda")
    amp: str = _option("bf16", "autocast", choices=("bf16", "fp16", "off"))

    def __post_init__(self) -> None:
        from edgeseg_train.backend import MAX_SIDE, MIN_SIDE
        from edgeseg_train.losses import weights_from_expression
        from edgeseg_train.models import NETWORKS

        object.__setattr__(self, "imgsz", (int(self.imgsz[0]), int(self.imgsz[1])))
        _check_known("network", self.model, NETWORKS)
        weights_from_expression(self.loss)
        _check_known("device", self.device.split(":")[0], ("auto", "cpu", "cuda"))
        for field in dataclasses.fields(self):
            value, option = getattr(self, field.name), field.metadata
            if option["choices"]:
                _check_known(field.name, value, option["choices"])
            least, most = option["least"], option["most"]
            if isinstance(value, (int, float)) and not least <= value <= most:  # NaN fails this as well
                allowed = f"of at least {least}" if most == math.inf else f"from {least} to {most}"
                raise UsageError(f"{field.name} is {value}", f"give {flag_of(field)} {allowed}")
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


def flag_of(field: Field[Any]) -> str:
    """The flag that sets a field of ``TrainConfig`` on the command line."""
    return field.metadata["flag"] or f"--{field.name.replace('_', '-')}"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare a flag for every field of ``TrainConfig``; those left out parse as None."""
    for field in dataclasses.fields(TrainConfig):
        option, default = field.metadata, field.default
        text = option["help"]
        if default is False:
            parser.add_argument(flag_of(field), dest=field.name, action="store_true", default=None, help=text)
            continue
        if option["choices"]:
            text += f": {', '.join(option['choices'])}"
        if isinstance(default, tuple):
            kind, shown = type(default[0]), " ".join(map(str, default))
        else:
            kind, shown = (str, "required") if default is MISSING else (type(default), str(default))
        parser.add_argument(
            flag_of(field),
            dest=field.name,
            type=kind,
            nargs=len(default) if isinstance(default, tuple) else None,
            metavar=option["metavar"] or {int: "N", float: "X", str: "NAME"}[kind],
            help=f"{text} ({shown})" if shown else text,
        )


def _check_known(what: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        raise UsageError(f"There is no {what} '{name}'", nearest(name, known))
