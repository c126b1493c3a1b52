"""What turns gradients into weights: the optimiser, its learning rate, and the average of the weights."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def build_optimizer(
    network: nn.Module, lr: float, weight_decay: float, kept: Collection[str] = (), kept_lr: float = 1.0
) -> torch.optim.AdamW:
    """AdamW that decays the kernels alone, not biases and normalisation layers.

    Args:
        network: its parameters are trained.
        lr: highest learning rate.
        weight_decay: of the kernels.
        kept: names of the parameters that were trained before.
        kept_lr: their learning rate, as a share of ``lr``.
    """
    groups = []
    for rate, are_kept in ((lr, False), (lr * kept_lr, True)):
        chosen = [p for name, p in network.named_parameters() if (name in kept) == are_kept]
        groups += [
            {"params": [p for p in chosen if p.ndim > 1], "lr": rate, "weight_decay": weight_decay},
            {"params": [p for p in chosen if p.ndim <= 1], "lr": rate, "weight_decay": 0.0},
        ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=lr)


def learning_rate_factor(step: int, total: int, warmup: float, schedule: str) -> float:
    """Share of the highest learning rate in a step: a linear rise, then a fall to zero after the last step.

    Args:
        step: from 0; ``total`` stands for the end of the run.
        total: steps of the run.
        warmup: share of ``total`` in which the rate rises.
        schedule: "cosine" or "poly" (power 0.9).
    """
    if step >= total:
        return 0.0
    rise = max(1, round(total * warmup))
    if step < rise:
        return (step + 1) / rise
    done = (step - rise) / (total - rise)
    return 0.5 * (1 + math.cos(math.pi * done)) if schedule == "cosine" else (1 - done) ** 0.9


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Give every group ``factor`` times the rate it was built with."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group.setdefault("initial_lr", group["lr"])


def build_average(network: nn.Module, decay: float) -> AveragedModel:
    """The exponential moving average of a network's weights and normalisation statistics.

    The decay rises to its full value over the first updates: a fixed one would carry the random initial
    weights through most of a short run.

    Args:
        network: is copied.
        decay: share of the old average that each update keeps, 0 to 1.
    """

    # All tensors at once: one at a time would make a GPU wait for each to learn the count.
    def update(averaged: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        updates = int(count)
        kept = min(decay, (1 + updates) / (10 + updates))
        for old, new in zip(averaged, current, strict=True):
            # Integers are the counters of batch normalisation.
            old.copy_(torch.lerp(new, old, kept) if old.is_floating_point() else new)

    return AveragedModel(network, multi_avg_fn=update, use_buffers=True)
