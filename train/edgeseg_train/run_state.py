"""What a run leaves in its checkpoints, and how it goes on from there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg.errors import ModelError, UsageError
from edgeseg.metrics import Scores
from edgeseg_train import checkpoint as checkpoints
from edgeseg_train.deploy import IMAGENET_MEAN, IMAGENET_STD
from edgeseg_train.quantize import without_limits

if TYPE_CHECKING:
    from edgeseg_train.loop import Trainer

_OBJECTS = ("network", "average", "optimizer", "scaler")
_NUMBERS = ("step", "best_miou", "evaluations_since_best")


def facts_of(trainer: Trainer, scores: Scores | None) -> checkpoints.Checkpoint:
    """The averaged weights, and everything that scoring and exporting them needs."""
    config, data = trainer.config, trainer.data
    return {
        "model": config.model,
        "weights": without_limits(trainer.average.module.state_dict()),
        "classes": list(data.classes),
        "palette": [list(c) for c in data.palette],
        "ignore_id": data.ignore_id,
        "imgsz": list(config.imgsz),
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
        "epoch": trainer.epoch,
        "config": {**vars(config), "imgsz": list(config.imgsz)},
        "dataset_notes": data.notes,
        "scores": None if scores is None else scores.to_dict(),
    }


def state_of(trainer: Trainer) -> dict[str, Any]:
    """Everything else that the next epoch depends on."""
    return {
        **{name: getattr(trainer, name).state_dict() for name in _OBJECTS},
        **{name: getattr(trainer, name) for name in _NUMBERS},
        "kept": sorted(trainer.kept),
        "teacher_sha256": trainer.teacher.sha256 if trainer.teacher else None,
    }


def restore(trainer: Trainer, path: Path) -> None:
    """Bring a run to where the one that wrote ``path`` stood.

    Raises:
        ModelError: the checkpoint is missing, cannot be read, or holds no such state.
        UsageError: it was made with another configuration, data set or teacher; says what differs.
    """
    saved = checkpoints.load(path)
    if "state" not in saved:
        raise ModelError(f"{path} holds no training state", "resume from a folder with a last.pt")
    try:
        different = _differences(trainer, saved)
        if different:
            raise UsageError(
                f"{path} belongs to another run ({', '.join(different)})", "give the same options, or another --out"
            )
        _restore(trainer, saved)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{path} lacks a part of its state ({error!r:.80})", "train again into another --out"
        ) from error


def _differences(trainer: Trainer, saved: checkpoints.Checkpoint) -> list[str]:
    config, data, before, state = trainer.config, trainer.data, saved["config"], saved["state"]
    different = [f"{name} was {before.get(name)}, is {vars(config)[name]}" for name in config.differences(before)]
    if saved["classes"] != list(data.classes) or saved["ignore_id"] != data.ignore_id:
        different.append(f"{data.path} has other classes or another ignore id")
    steps = state["step"] // saved["epoch"]
    if not different and steps != trainer.steps_per_epoch:
        different.append(f"an epoch had {steps} steps, has {trainer.steps_per_epoch}: the training split changed")
    if not different and trainer.teacher and trainer.teacher.sha256 != state["teacher_sha256"]:
        different.append(f"the teacher {config.teacher} is another file than before")
    return different


def _restore(trainer: Trainer, saved: checkpoints.Checkpoint) -> None:
    state = saved["state"]
    trainer.build_optimizer(frozenset(state["kept"]))  # its groups must be those of the saved one
    for name in _OBJECTS:
        if state[name]:  # a scaler that was not used, for the run was on another device, says nothing
            getattr(trainer, name).load_state_dict(state[name])
    for name in _NUMBERS:
        setattr(trainer, name, state[name])
    trainer.epoch = trainer.saved_epoch = saved["epoch"]
