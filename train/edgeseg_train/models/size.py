"""How large the networks are, counted where nothing is computed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgeseg_train.models import NETWORKS, build

LIST_CLASSES, LIST_SIZE_HW = 11, (360, 480)
"""Classes and size of the printed list: those of CamVid."""


@dataclass(frozen=True)
class Size:
    """What a network costs to run.

    Attributes:
        parameters: without the auxiliary heads, which only training has.
        giga_macs: 1e9 multiply-adds of convolutions and matrix products for one image.
    """

    parameters: int
    giga_macs: float


def size_of(name: str, num_classes: int, size_hw: tuple[int, int]) -> Size:
    """The size of a network of that name for an image of height and width ``size_hw``.

    Raises:
        UsageError: no network has that name.
    """
    with torch.device("meta"):
        network = build(name, num_classes).eval()
        images = torch.zeros(1, 3, *size_hw)
    with FlopCounterMode(display=False) as counter:
        network(images)
    return Size(count_parameters(network), counter.get_total_flops() / 2e9)


def count_parameters(network: nn.Module) -> int:
    """Without the auxiliary heads, which only training has."""
    return sum(p.numel() for name, p in network.named_parameters() if not name.startswith("aux_"))


def list_text() -> str:
    """All networks as a table, one line each."""
    height, width = LIST_SIZE_HW
    lines = [f"{'network':<24}{'M parameters':>12}{f'GMACs {width}x{height}':>16}  paper"]
    for name, network in NETWORKS.items():
        size = size_of(name, LIST_CLASSES, LIST_SIZE_HW)
        lines.append(
            f"{name:<24}{size.parameters / 1e6:>12.2f}{size.giga_macs:>16.2f}  {network.paper} ({network.note})"
        )
    return "\n".join(lines)
