"""Batch normalisation over the images of all processes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeseg_train.process_sum import sum_over_processes


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """What ``torch.nn.SyncBatchNorm`` computes, for CPUs: that one runs on GPUs alone."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to the same; while training all processes must call it."""
        if not self.training:
            return super().forward(x)
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        variance, mean = torch.var_mean(values, (0, 2, 3), correction=0)
        count = mean.new_full((1,), x.numel() / len(mean))
        # In float64, because the variance is the small difference of two large means.
        moments = torch.cat([mean, variance + mean.square(), mean.new_ones(1)]).double() * count
        *sums, total = sum_over_processes(moments).split([len(mean), len(mean), 1])
        mean, square = (channel_sums / total for channel_sums in sums)
        variance = square - mean.square()
        self._track(mean.detach(), (variance * total / (total - 1)).detach())
        scale = self.weight * (variance + self.eps).rsqrt().to(values.dtype)
        shift = self.bias - mean.to(values.dtype) * scale
        return (values * scale[:, None, None] + shift[:, None, None]).to(x.dtype)

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        self.num_batches_tracked += 1
        for running, new in ((self.running_mean, mean), (self.running_var, variance)):
            running.lerp_(new.to(running.dtype), self.momentum)


def synchronise_normalisation(network: nn.Module, device: torch.device) -> None:
    """Have the batch normalisation of a network take its statistics over all processes, in place."""
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncedBatchNorm2d
