"""DeepLabV3+, on ResNet-18.

Chen, Zhu, Papandreou, Schroff, Adam, "Encoder-Decoder with Atrous Separable Convolution for Semantic Image
Segmentation", arXiv 1802.02611. The paper's encoders are larger; a re-implementation on ResNet-18 reached
75.9 mIoU on Cityscapes val. Encoder at stride 16, atrous pyramid with separable convolutions of
rates 6, 12 and 18, decoder at stride 4.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeseg_train.models.blocks import PoolPyramid, conv_bn_relu, init_convolutions, resize_like, separable
from edgeseg_train.models.encoders import Encoder


class DeepLabV3Plus(nn.Module):
    """DeepLabV3+ on ResNet-18.

    Args:
        num_classes: classes to tell apart.
        width: channels of the atrous pyramid and of the decoder.
    """

    stride = 4

    def __init__(self, num_classes: int, width: int = 256) -> None:
        super().__init__()
        self.encoder = Encoder("resnet18", dilated=True)
        low, *_, high = self.encoder.channels
        self.atrous = nn.ModuleList([conv_bn_relu(high, width, 1)])
        self.atrous.extend(separable(high, width, dilation=rate) for rate in (6, 12, 18))
        self.whole = PoolPyramid(high, width, (1,))
        self.project = conv_bn_relu(5 * width, width, 1)
        self.detail = conv_bn_relu(low, 48, 1)
        self.head = nn.Sequential(
            separable(width + 48, width), separable(width, width), nn.Conv2d(width, num_classes, 1)
        )
        init_convolutions(self.atrous, self.whole, self.project, self.detail, self.head)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, 3, H, W] to logits [N, classes, H/4, W/4]."""
        low, *_, high = self.encoder(x)
        y = self.project(torch.cat([*(layer(high) for layer in self.atrous), *self.whole(high)], 1))
        detail = self.detail(low)
        return self.head(torch.cat([resize_like(y, detail), detail], 1))
