"""The order of a network's values in memory: channels last, but for what torch computes wrongly in that order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def to_channels_last(network: nn.Module, device: torch.device) -> nn.Module:
    """A network on a device, with channels last in memory, which is faster; in place.

    On CPUs torch (2.14 at least) gives dilated depthwise convolutions wrong gradients of their weights in bfloat16 and
    channels last, up to 1e34 times too large. These alone are computed with channels first.
    """
    network.to(device).to(memory_format=torch.channels_last)
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1 and max(module.dilation) > 1 and device.type == "cpu":
            module.weight.data = module.weight.data.clone(memory_format=torch.contiguous_format)
            module.register_forward_pre_hook(_channels_first)
    return network


def _channels_first(module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    return tuple(x.contiguous() for x in inputs)
