"""What a network begins with: the weights of a checkpoint or of ImageNet, as far as they fit it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgeseg.errors import UsageError
from edgeseg_train import checkpoint as checkpoints
from edgeseg_train.models import build
from edgeseg_train.models.encoders import load_imagenet

IMAGENET = "imagenet"
"""The source that stands for torchvision's weights of the encoder."""

LEAST_KEPT = 0.5
"""Share of a network's values that a checkpoint must fill: less is most likely the wrong checkpoint."""


@dataclass(frozen=True)
class InitialWeights:
    """What of a network's state was taken over, by the names of its entries.

    Attributes:
        source: the checkpoint's path, or "imagenet".
        kept: entries that were taken over whole.
        new: entries that keep their random values, apart from rows of classes.
        rows: those of ``new`` of which the rows of the classes in ``carried`` were taken over.
        carried: classes that both class lists name, where the lists differ.
        classes: classes of the network.
    """

    source: str
    kept: Sequence[str]
    new: Sequence[str]
    rows: Sequence[str]
    carried: Sequence[str]
    classes: Sequence[str]

    def text(self) -> str:
        """What was kept and what was not, for the user."""
        text = (
            f"from {self.source}: kept {len(_layers(self.kept))} of {len(_layers([*self.kept, *self.new]))} layers\n"
            f"re-initialised: {', '.join(self._new_parts()) or 'nothing'}"
        )
        if self.rows:
            others = [name for name in self.classes if name not in self.carried]
            text += (
                f"\nbut in {', '.join(_layers(self.rows))} kept the rows of {len(self.carried)} of "
                f"{len(self.classes)} classes: {', '.join(self.carried)}"
                + (f"; new: {', '.join(others)}" if others else "")
            )
        return text

    def _new_parts(self) -> list[str]:
        """The largest parts of the network in which nothing was kept."""
        parts = []
        for layer in _layers(self.new):
            words = layer.split(".")
            above = (".".join(words[:depth]) for depth in range(1, len(words) + 1))
            parts.append(next(p for p in above if p == layer or not any(k.startswith(f"{p}.") for k in self.kept)))
        return list(dict.fromkeys(parts))


def load_initial(network: nn.Module, model: str, classes: Sequence[str], source: str) -> InitialWeights:
    """Give a fresh network the weights of ``source`` that fit it, in place.

    A checkpoint's weights fit by name and shape. Where its class list is another one, all that depends on the
    classes stays random, except the rows of the classes that both lists name.

    Args:
        network: on the CPU.
        model: its name in ``edgeseg_train.models.NETWORKS``.
        classes: the names of its classes by id.
        source: path of a checkpoint of any precision, or "imagenet".

    Raises:
        ModelError: the checkpoint is missing or cannot be read.
        UsageError: its network is so different that less than half fits, or there are no ImageNet weights.
        WeightsError: the ImageNet weights can be neither fetched nor found.
    """
    state = network.state_dict()
    carried: list[str] = []
    rows: list[str] = []
    if source == IMAGENET:
        load_imagenet(network)
        kept = {name for name in state if name.startswith("encoder.")}
    else:
        saved = checkpoints.load(source)
        kept = _fitting(state, model, saved, source)
        if list(classes) != saved["classes"]:
            dependent = _class_dependent(state, model, len(classes))
            kept -= dependent
            carried = [name for name in classes if name in saved["classes"]]
            rows = _copy_rows(state, dependent, classes, carried, saved)
        for name in kept:
            state[name].copy_(saved["weights"][name])
    new = [name for name in state if name not in kept]
    return InitialWeights(source, [name for name in state if name in kept], new, rows, carried, classes)


def _fitting(state: Mapping[str, Tensor], model: str, saved: checkpoints.Checkpoint, source: str) -> set[str]:
    weights = saved["weights"]
    fitting = {name for name, value in state.items() if name in weights and weights[name].shape == value.shape}
    share = sum(state[name].numel() for name in fitting) / sum(value.numel() for value in state.values())
    if share < LEAST_KEPT:
        raise UsageError(
            f"{source} holds a {saved['model']}, of whose weights too few fit {model} ({share:.0%} of it)",
            f"give --model {saved['model']}, or a checkpoint of {model}",
        )
    return fitting


def _class_dependent(state: Mapping[str, Tensor], model: str, num_classes: int) -> set[str]:
    # Found by comparison, not by name: every network calls its classifiers something else.
    with torch.device("meta"):
        other = build(model, num_classes + 1).state_dict()
    return {name for name, value in state.items() if other[name].shape != value.shape}


def _copy_rows(
    state: Mapping[str, Tensor],
    dependent: set[str],
    classes: Sequence[str],
    carried: Sequence[str],
    saved: checkpoints.Checkpoint,
) -> list[str]:
    """Names of the entries that got rows: those of ``dependent`` whose rows are as long in the checkpoint."""
    weights = saved["weights"]
    targets = [classes.index(name) for name in carried]
    origins = [saved["classes"].index(name) for name in carried]
    rows = [
        name for name, value in state.items()
        if carried and name in dependent and name in weights and weights[name].shape[1:] == value.shape[1:]
    ]  # fmt: skip
    for name in rows:
        state[name][targets] = weights[name][origins].to(state[name].dtype)
    return rows


def _layers(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(name.rpartition(".")[0] for name in names))
