"""FCN: the fully convolutional network, on ResNet-18.

Long, Shelhamer, Darrell, "Fully Convolutional Networks for Semantic Segmentation", arXiv 1411.4038, in its form
FCN-8s: class scores at strides 32, 16 and 8, each coarser one resized and added. The paper's encoder is VGG-16, so
its figures do not hold here; ResNet-18 and bilinear resizing in place of learnt deconvolution keep it small.
"""

from __future__ import annotations

from torch import Tensor, nn

from edgeseg_train.models.blocks import resize_like
from edgeseg_train.models.encoders import Encoder


class FCN(nn.Module):
    """FCN-8s on ResNet-18.

    Args:
        num_classes: classes to tell apart.
    """

    stride = 8

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.encoder = Encoder("resnet18")
        self.scores = nn.ModuleList(nn.Conv2d(c, num_classes, 1) for c in self.encoder.channels[1:])

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, 3, H, W] to logits [N, classes, H/8, W/8]."""
        at8, at16, at32 = (score(f) for score, f in zip(self.scores, self.encoder(x)[1:], strict=True))
        at16 = at16 + resize_like(at32, at16)
        return at8 + resize_like(at16, at8)
