"""LR-ASPP: the light segmentation head of MobileNetV3, on its dilated large encoder.

Howard et al., "Searching for MobileNetV3", arXiv 1905.02244. Cityscapes val of MMSegmentation's training: 69.5 mIoU
with ImageNet weights, 67.9 without. Counted here: 3.22 M parameters, 15.8 G multiply-adds at 1024x2048.
"""

from __future__ import annotations

from torch import Tensor, nn

from edgeseg_train.models.blocks import conv_bn_relu, init_convolutions, resize_like
from edgeseg_train.models.encoders import Encoder


class LRASPP(nn.Module):
    """LR-ASPP on MobileNetV3-Large.

    Args:
        num_classes: classes to tell apart.
        width: channels of the head.
    """

    stride = 8

    def __init__(self, num_classes: int, width: int = 128) -> None:
        super().__init__()
        self.encoder = Encoder("mobilenet_v3_large", dilated=True)
        _, low, _, high = self.encoder.channels
        self.features = conv_bn_relu(high, width, 1)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(high, width, 1, bias=False), nn.Sigmoid())
        self.low_head, self.high_head = nn.Conv2d(low, num_classes, 1), nn.Conv2d(width, num_classes, 1)
        init_convolutions(self.features, self.gate)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, 3, H, W] to logits [N, classes, H/8, W/8]."""
        _, low, _, high = self.encoder(x)
        high = self.features(high) * self.gate(high)
        return self.low_head(low) + self.high_head(resize_like(high, low))
