"""Fast-SCNN: fast segmentation convolutional neural network.

Poudel, Liwicki, Cipolla, "Fast-SCNN: Fast Semantic Segmentation Network", arXiv 1902.04502. Published: Cityscapes
val 68.6, test 68.0 mIoU at 1024x2048. Counted here: 1.14 M parameters, 6.71 G multiply-adds at that size.

Three strided layers feed both a detail path that stays at stride 8 and a chain of inverted residuals down to
stride 32; the two are added. Depthwise convolutions suffer most from INT8 (MMDeploy: 70.9 to 66.0 mIoU).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseg_train.models.blocks import (
    PoolPyramid,
    conv_bn,
    conv_bn_relu,
    init_convolutions,
    resize_like,
    separable,
)
from edgeseg_train.models.outputs import TrainingOutputs


class InvertedResidual(nn.Module):
    """1x1 to six times the channels, depthwise 3x3, linear 1x1; with a skip where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        wide = 6 * inputs
        self.body = conv_bn_relu(inputs, wide, 1)
        self.body.extend(conv_bn_relu(wide, wide, 3, stride, groups=wide))
        self.body.extend(conv_bn(wide, outputs, 1))
        self.skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, H/stride, W/stride]."""
        return x + self.body(x) if self.skip else self.body(x)


class FastSCNN(nn.Module):
    """Fast-SCNN as published.

    Args:
        num_classes: classes to tell apart.
    """

    stride = 8

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.downsample = nn.Sequential(conv_bn_relu(3, 32, 3, 2), separable(32, 48, 2), separable(48, 64, 2))
        self.deep = nn.Sequential(_bottlenecks(64, 64, 2), _bottlenecks(64, 96, 2), _bottlenecks(96, 128, 1))
        self.pyramid = PoolPyramid(128, 32, (1, 2, 3, 6))
        self.compress = conv_bn_relu(256, 128, 1)
        self.fuse_deep = conv_bn_relu(128, 128, 3, groups=128, dilation=4).extend(conv_bn(128, 128, 1))
        self.fuse_detail = conv_bn(64, 128, 1)
        self.head = nn.Sequential(
            separable(128, 128), separable(128, 128), nn.Dropout(0.1), nn.Conv2d(128, num_classes, 1)
        )
        self.aux_head = nn.Sequential(conv_bn_relu(64, 64, 3), nn.Dropout(0.1), nn.Conv2d(64, num_classes, 1))
        init_convolutions(self)

    def forward(self, x: Tensor) -> Tensor | TrainingOutputs:
        """Images [N, 3, H, W] to logits [N, classes, H/8, W/8]; while training also the auxiliary logits."""
        detail = self.downsample(x)
        deep = self.deep(detail)
        deep = self.compress(torch.cat([deep, *self.pyramid(deep)], 1))
        deep = self.fuse_deep(resize_like(deep, detail))
        logits = self.head(F.relu(deep + self.fuse_detail(detail)))
        return TrainingOutputs(logits, (self.aux_head(detail),)) if self.training else logits


def _bottlenecks(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        InvertedResidual(inputs, outputs, stride),
        InvertedResidual(outputs, outputs, 1),
        InvertedResidual(outputs, outputs, 1),
    )
