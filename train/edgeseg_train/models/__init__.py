"""The networks, by name. Each maps RGB float images [N, 3, H, W] to class logits at its own stride."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from edgeseg.errors import UsageError, nearest
from edgeseg_train.models.ddrnet import DDRNet

NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "ddrnet-c16": partial(DDRNet, width=16, head_width=32, pyramid_width=64),
    "ddrnet-c32": partial(DDRNet, width=32, head_width=64),
    "ddrnet-c64": partial(DDRNet, width=64, head_width=128),
}


def build(name: str, num_classes: int) -> nn.Module:
    """A freshly initialised network.

    Raises:
        UsageError: no network has that name; suggests the nearest.
    """
    if name not in NETWORKS:
        raise UsageError(f"There is no network '{name}'", nearest(name, NETWORKS))
    return NETWORKS[name](num_classes)
