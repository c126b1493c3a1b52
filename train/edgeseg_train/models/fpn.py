"""Encoders of torchvision under a pyramid decoder of additions.

The top-down pathway of Lin et al., "Feature Pyramid Networks for Object Detection", arXiv 1612.03144, down to stride
8, with pooled context on top. The decoder's details are edgeseg's own, so no figures are published for these networks.
They are among those that can start from ImageNet weights. ResNet-18 is made of plain convolutions, which lose least in
INT8; MobileNetV3 and RegNetY have squeeze-and-excitation gates.
"""

from __future__ import annotations

from torch import Tensor, nn

from edgeseg_train.models.blocks import PoolPyramid, conv_bn_relu, conv_head, init_convolutions, resize_like
from edgeseg_train.models.encoders import Encoder


class FPN(nn.Module):
    """An encoder and the pyramid decoder.

    Args:
        num_classes: classes to tell apart.
        encoder: name of a torchvision encoder, see ``Encoder``.
        width: channels of the decoder.
    """

    stride = 8

    def __init__(self, num_classes: int, *, encoder: str = "resnet18", width: int = 128) -> None:
        super().__init__()
        self.encoder = Encoder(encoder)
        self.laterals = nn.ModuleList(nn.Conv2d(c, width, 1) for c in self.encoder.channels[:0:-1])
        self.pyramid = PoolPyramid(width, width, (1, 2, 4))
        self.smooth = nn.ModuleList(conv_bn_relu(width, width, 3) for _ in self.laterals)
        self.head = conv_head(width, width, num_classes)
        init_convolutions(self.pyramid, self.smooth, self.head)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, 3, H, W] to logits [N, classes, H/8, W/8]."""
        top, *finer = (lateral(f) for lateral, f in zip(self.laterals, self.encoder(x)[:0:-1], strict=True))
        y = self.smooth[0](sum(self.pyramid(top), top))
        for smooth, fine in zip(self.smooth[1:], finer, strict=True):
            y = smooth(fine + resize_like(y, fine))
        return self.head(y)
