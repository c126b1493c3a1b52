"""Recipes: whole configurations for a purpose, to begin a run with.

Each is a plain function; ``dataclasses.replace`` changes its values in a program, flags do on the command line.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edgeseg.errors import UsageError, nearest
from edgeseg_train import checkpoint as checkpoints
from edgeseg_train.config import TrainConfig, flag_of
from edgeseg_train.initial import IMAGENET


def camvid_quick(data: str, out: str) -> TrainConfig:
    """``camvid_standard`` in 30 epochs: the whole way in minutes, with a part of its mIoU.

    A short schedule of its own, with the learning rate at zero after its last epoch, beats the beginning of a long one.
    """
    return dataclasses.replace(camvid_standard(data, out), recipe="camvid-quick", epochs=30)


def camvid_standard(data: str, out: str) -> TrainConfig:
    """CamVid at 480x360, 11 classes, from random weights.

    Where the values come from: the network with logits at stride 4 and the loss won the comparison in
    docs/guides/bundled-model.md; half of the crops around rare classes, as RegSeg has it (arXiv 2111.09957), cost
    nothing there. LMFFNet and DABNet take Adam with 1e-3 on CamVid from random weights too; the auxiliary weight is
    DDRNet's (arXiv 2101.06085). A decay of 0.9999, common in longer runs, would average over nearly all of these
    10,800 steps.
    """
    return TrainConfig(
        data=data,
        out=out,
        recipe="camvid-standard",
        model="ddrnet-c32-s4",
        imgsz=(360, 480),
        epochs=240,
        batch=8,
        lr=1e-3,
        weight_decay=0.02,
        warmup=0.03,
        schedule="cosine",
        loss="ce + 0.5*dice",
        aux_weight=0.4,
        ema_decay=0.999,
        scale_min=0.6,
        scale_max=2.0,
        color=0.4,
        balance=0.5,
    )


def camvid_full(data: str, out: str) -> TrainConfig:
    """``camvid_standard`` in 1000 epochs, the length at which DABNet (arXiv 1907.11357) and LMFFNet are published."""
    return dataclasses.replace(camvid_standard(data, out), recipe="camvid-full", epochs=1000)


def cityscapes(data: str, out: str) -> TrainConfig:
    """Cityscapes at half its resolution, from random weights.

    Where the values come from: 484 epochs, batches of 12, scales from 0.5 to 2, OHEM, the schedule "poly" and the
    auxiliary weight 0.4 are DDRNet's and PIDNet's (arXiv 2101.06085, 2206.02066); the warm-up of about a thousand steps
    is STDC's (arXiv 2104.13188). They take crops of 1024x1024 and SGD. Here a crop has the size and scale at which
    the network will run, and AdamW has its rate from CamVid.
    """
    return TrainConfig(
        data=data,
        out=out,
        recipe="cityscapes",
        model="ddrnet-c32",
        imgsz=(512, 1024),
        epochs=484,
        batch=12,
        lr=1e-3,
        weight_decay=0.02,
        warmup=0.01,
        schedule="poly",
        loss="ohem",
        aux_weight=0.4,
        ema_decay=0.999,
        scale_min=0.5,
        scale_max=2.0,
        color=0.4,
        workers=8,
    )


def finetune(data: str, out: str) -> TrainConfig:
    """A trained network on new data or new classes; ``init_from`` has to be set besides.

    Where the values come from: for CamVid after Cityscapes, PIDNet takes half of its learning rate (arXiv 2206.02066),
    RDRNet a tenth. Here new layers take the half, kept weights the tenth; 40 epochs are a sixth of ``camvid_standard``.
    """
    return dataclasses.replace(
        camvid_standard(data, out), recipe="finetune", epochs=40, lr=5e-4, encoder_lr=0.2, warmup=0.1
    )


def qat(data: str, out: str) -> TrainConfig:
    """A trained network that INT8 costs too much learns to live with the rounding; ``init_from`` has to be set besides.

    Where the values come from: a short schedule from a trained network, with its normalisation frozen, is what
    Krishnamoorthi found best (arXiv 1806.08342); a tenth of the learning rate of ``camvid_standard``.
    """
    return dataclasses.replace(camvid_standard(data, out), recipe="qat", qat=True, epochs=15, lr=1e-4, warmup=0.1)


@dataclass(frozen=True)
class Recipe:
    """A recipe as the command line lists it.

    Attributes:
        build: makes the configuration from the paths of the data set and of the run's folder.
        purpose: what it is for.
        time: how long it takes, roughly.
    """

    build: Callable[[str, str], TrainConfig]
    purpose: str
    time: str


# Times follow from 27 s for an epoch of ddrnet-c32 over 367 images of 480x360, measured on two cores of an EPYC.
RECIPES: dict[str, Recipe] = {
    "camvid-quick": Recipe(camvid_quick, "CamVid, a first look", "a quarter of an hour on two CPU cores"),
    "camvid-standard": Recipe(camvid_standard, "CamVid from random weights", "two hours on two CPU cores"),
    "camvid-full": Recipe(camvid_full, "CamVid, for the last points of mIoU", "eight hours on two CPU cores"),
    "cityscapes": Recipe(cityscapes, "Cityscapes from random weights", "days on two CPU cores: for a GPU"),
    "finetune": Recipe(finetune, "new data or classes; needs --from", "20 minutes for 400 images on two CPU cores"),
    "qat": Recipe(qat, "what INT8 costs too much; needs --from", "15 minutes for 400 images on two CPU cores"),
}

_ALWAYS_LISTED = frozenset({"model", "imgsz", "epochs", "batch", "lr", "schedule", "loss"})
_NEVER_LISTED = frozenset({"data", "out", "recipe"})


def config_from_values(values: Mapping[str, Any], *, resume: bool = False) -> TrainConfig:
    """The recipe that ``values`` names, or else the defaults, with all of ``values`` put in.

    Where only ``qat`` is given, the recipe is "qat".

    Network and size, where they are not given, are those of the checkpoint to start from or to resume.

    Args:
        values: by field of ``TrainConfig``; "data" and "out" among them.
        resume: continue the run in "out".

    Raises:
        ModelError: the checkpoint to start from or to resume is missing or cannot be read.
        UsageError: there is no such recipe, it needs a checkpoint that is not given, or a value is out of range.
    """
    source = os.path.join(values["out"], "last.pt") if resume else values.get("init_from")
    if source and source != IMAGENET:
        saved = checkpoints.load(source)
        values = {name: saved[name] for name in ("model", "imgsz") if name in saved} | dict(values)
    name = values.get("recipe") or ("qat" if values.get("qat") else None)
    if name is None:
        return TrainConfig(**values)
    if name not in RECIPES:
        raise UsageError(f"There is no recipe '{name}'", nearest(name, RECIPES))
    config = dataclasses.replace(RECIPES[name].build(values["data"], values["out"]), **values)
    if name == "finetune" and not config.init_from:
        raise UsageError(
            "The recipe 'finetune' starts from a checkpoint, and none is given",
            "add --from best.pt, or --from imagenet",
        )
    if config.qat and config.init_from in ("", IMAGENET):
        raise UsageError("Rounding to INT8 is learnt by a network that is trained already", "add --from best.pt")
    return config


def list_text() -> str:
    """All recipes: name, purpose, time, and as flags the main values and those that are not the defaults."""
    blocks = []
    for name, recipe in RECIPES.items():
        config = recipe.build("", "")
        shown = [
            flag_of(field)
            if value is True
            else f"{flag_of(field)} {shlex.join(map(str, value if isinstance(value, tuple) else (value,)))}"
            for field in dataclasses.fields(config)
            if (value := getattr(config, field.name)) != field.default or field.name in _ALWAYS_LISTED
            if field.name not in _NEVER_LISTED
        ]
        blocks.append(f"{name:<16}{recipe.purpose} ({recipe.time})\n    {' '.join(shown)}")
    return "\n".join(blocks)
