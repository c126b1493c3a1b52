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
    """Which values of a network were taken over.

    Attributes:
        source: the checkpoint's path, or "imagenet".
        kept: values (parameters and statistics) by name of the entries of its state that were taken over whole.
        new: the same of the entries that keep their random values, apart from rows of classes.
        rows: entries of ``new`` of which the rows of the classes in ``carried`` were taken over.
        carried: classes that both class lists name, where the lists differ.
        classes: classes of the network.
    """

    source: str
    kept: Mapping[str, int]
    new: Mapping[str, int]
    rows: tuple[str, ...]
    carried: tuple[str, ...]
    classes: tuple[str, ...]

    def text(self) -> str:
        """What was kept and what was not, for the user."""
        kept, new = sum(self.kept.values()), sum(self.new.values())
        layers, kept_layers = len(_layers([*self.kept, *self.new])), len(_layers(self.kept))
        text = (
            f"from {self.source}: kept {kept / 1e6:.2f} of {(kept + new) / 1e6:.2f} M values, "
            f"{kept_layers} of {layers} layers\nre-initialised: {', '.join(self._new_parts()) or 'nothing'}"
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
    if source == IMAGENET:
        load_imagenet(network)
        return _summary(source, state, {name for name in state if name.startswith("encoder.")}, classes)
    saved = checkpoints.load(source)
    weights: Mapping[str, Tensor] = saved["weights"]
    fitting = {name for name, value in state.items() if name in weights and weights[name].shape == value.shape}
    if _count(state, fitting) < LEAST_KEPT * _count(state, state):
        raise UsageError(
            f"{source} holds a {saved['model']}, of whose weights too few fit {model} "
            f"({_count(state, fitting) / _count(state, state):.0%} of it)",
            f"give --model {saved['model']}, or a checkpoint of {model}",
        )
    rows: list[str] = []
    carried: list[str] = []
    if list(classes) != saved["classes"]:
        dependent = _class_dependent(network, model, len(classes))
        fitting.difference_update(dependent)
        carried = [name for name in classes if name in saved["classes"]]
        targets = [list(classes).index(name) for name in carried]
        origins = [saved["classes"].index(name) for name in carried]
        rows = [n for n in dependent if n in weights and weights[n].shape[1:] == state[n].shape[1:]] if carried else []
        for name in rows:
            state[name][targets] = weights[name][origins].to(state[name].dtype)
    for name in fitting:
        state[name].copy_(weights[name])
    return _summary(source, state, fitting, classes, rows, carried)


def _class_dependent(network: nn.Module, model: str, num_classes: int) -> list[str]:
    # Found by comparison, not by name: every network calls its classifiers something else.
    with torch.device("meta"):
        other = build(model, num_classes + 1).state_dict()
    return [name for name, value in network.state_dict().items() if other[name].shape != value.shape]


def _summary(
    source: str,
    state: Mapping[str, Tensor],
    kept: set[str],
    classes: Sequence[str],
    rows: Sequence[str] = (),
    carried: Sequence[str] = (),
) -> InitialWeights:
    sizes = {name: value.numel() for name, value in state.items()}
    return InitialWeights(
        source,
        kept={name: size for name, size in sizes.items() if name in kept},
        new={name: size for name, size in sizes.items() if name not in kept},
        rows=tuple(rows),
        carried=tuple(carried),
        classes=tuple(classes),
    )


def _count(state: Mapping[str, Tensor], names: Iterable[str]) -> int:
    return sum(state[name].numel() for name in names)


def _layers(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(name.rpartition(".")[0] for name in names))
