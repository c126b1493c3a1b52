"""Training with the rounding of INT8 in the forward pass, so that the weights learn to live with it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

LIMIT = "input_limit"

_STEPS = 127
"""Of a symmetric 8-bit code: the coarser of the two that export writes, so that either holds."""

_NEWEST = 0.01
"""Share of the newest batch in the average of the largest magnitudes."""


class QuantizedConv2d(nn.Conv2d):
    """A convolution whose input and weights are rounded to symmetric 8-bit codes, as export does it.

    The codes of the input reach to a moving average of its largest magnitude in training; those of the weights to the
    largest weight of each output channel. Normalisation behind it scales whole channels, which changes no code.
    """

    input_limit: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C', h, w]; while training, also follows the magnitude of ``x``."""
        values = x.float()
        if self.training:
            largest = values.detach().abs().max()
            known = self.input_limit > 0
            self.input_limit.copy_(torch.where(known, self.input_limit.lerp(largest, _NEWEST), largest))
        zero = torch.zeros(1, dtype=torch.int32, device=x.device)
        rounded = torch.fake_quantize_per_tensor_affine(values, _scale(self.input_limit), zero, -_STEPS, _STEPS)
        largest_weights = self.weight.detach().float().abs().amax((1, 2, 3))
        weight = torch.fake_quantize_per_channel_affine(
            self.weight.float(), _scale(largest_weights), zero.expand(len(largest_weights)), 0, -_STEPS, _STEPS
        )
        return self._conv_forward(rounded.to(x.dtype), weight, self.bias)


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Normalisation by the statistics that it has: in INT8 they are folded into the weights and stay as they are."""

    def train(self, mode: bool = True) -> FrozenBatchNorm2d:
        """Stays in evaluation mode."""
        super().train(False)
        return self


def simulate_int8(network: nn.Module) -> None:
    """Have a trained network compute as it will in INT8, in place. Parameters and their names stay.

    Gradients pass the rounding unchanged where a value lies within the codes, and not at all beyond them (the
    straight-through estimator; Jacob et al., arXiv 1712.05877).
    """
    for module in network.modules():
        if type(module) is nn.Conv2d:
            module.__class__ = QuantizedConv2d
            module.register_buffer(LIMIT, torch.zeros(1, device=module.weight.device))
        elif isinstance(module, _BatchNorm):
            module.__class__ = FrozenBatchNorm2d


def without_limits(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of the network before ``simulate_int8``: weights that fit the plain network."""
    return {name: value for name, value in state.items() if name.rpartition(".")[2] != LIMIT}


def _scale(largest: Tensor) -> Tensor:
    return (largest / _STEPS).clamp(min=torch.finfo(torch.float32).tiny)
