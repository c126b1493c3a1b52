"""U-Net, half as wide as published.

Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", arXiv 1505.04597.
Here with 32 to 512 channels in place of 64 to 1024, batch normalisation, and padding, so that the output has the
image's size. The paper measured on cell images; a re-implementation of full width reached 49.8 mIoU on CamVid.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseg_train.models.blocks import conv_bn_relu, init_convolutions, resize_like


class UNet(nn.Module):
    """U-Net with its width as a parameter.

    Args:
        num_classes: classes to tell apart.
        width: channels of the first level; the paper has 64.
    """

    stride = 1

    def __init__(self, num_classes: int, width: int = 32) -> None:
        super().__init__()
        widths = [width << level for level in range(5)]
        self.down = nn.ModuleList(_pair(i, o) for i, o in zip([3, *widths[:-1]], widths, strict=True))
        self.halve = nn.ModuleList(nn.Conv2d(2 * w, w, 1) for w in widths[-2::-1])
        self.up = nn.ModuleList(_pair(2 * w, w) for w in widths[-2::-1])
        self.head = nn.Conv2d(width, num_classes, 1)
        init_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, 3, H, W] to logits [N, classes, H, W]."""
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)
            skips.append(x)
        skips.pop()
        for halve, block in zip(self.halve, self.up, strict=True):
            skip = skips.pop()
            # The paper convolves after upsampling; before it, a 1x1 convolution gives the same for a quarter.
            x = block(torch.cat([skip, resize_like(halve(x), skip)], 1))
        return self.head(x)


def _pair(inputs: int, outputs: int) -> nn.Sequential:
    return conv_bn_relu(inputs, outputs, 3).extend(conv_bn_relu(outputs, outputs, 3))
