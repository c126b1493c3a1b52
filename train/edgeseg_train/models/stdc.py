"""STDC1: the encoder of short-term dense concatenation blocks.

Fan et al., "Rethinking BiSeNet for Real-time Semantic Segmentation", arXiv 2104.13188.
A block's convolutions halve their channels one after the other, and their outputs are concatenated. Published for
STDC1-Seg with ImageNet weights, on Cityscapes: val 72.2 mIoU at 512x1024, 74.5 at 768x1536.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeseg_train.models.blocks import conv_bn, conv_bn_relu


class DenseConcat(nn.Module):
    """Four convolutions in a row whose outputs, a half, a quarter and two eighths of the channels, are concatenated.

    At stride 2 the first output is halved twice over: by a depthwise convolution on its way to the second, and by
    an average on its way into the concatenation.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half, quarter, eighth = outputs // 2, outputs // 4, outputs // 8
        self.first = conv_bn_relu(inputs, half, 1)
        self.down = conv_bn(half, half, 3, 2, groups=half) if stride == 2 else nn.Identity()
        self.pool = nn.AvgPool2d(3, 2, 1) if stride == 2 else nn.Identity()
        self.second = conv_bn_relu(half, quarter, 3)
        self.third = conv_bn_relu(quarter, eighth, 3)
        self.fourth = conv_bn_relu(eighth, eighth, 3)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] to [N, outputs, H/stride, W/stride]."""
        first = self.first(x)
        second = self.second(self.down(first))
        third = self.third(second)
        return torch.cat([self.pool(first), second, third, self.fourth(third)], 1)


class STDC1(nn.Module):
    """Images to features of 256, 512 and 1024 channels at strides 8, 16 and 32."""

    channels = (256, 512, 1024)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn_relu(3, 32, 3, 2), conv_bn_relu(32, 64, 3, 2))
        self.stages = nn.ModuleList(
            nn.Sequential(DenseConcat(inputs, outputs, 2), DenseConcat(outputs, outputs, 1))
            for inputs, outputs in zip((64, *self.channels[:-1]), self.channels, strict=True)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """[N, 3, H, W] to the features, finest first."""
        x = self.stem(x)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features
