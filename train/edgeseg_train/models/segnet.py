"""SegNet, half as wide as published.

Badrinarayanan, Kendall, Cipolla, "SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image
Segmentation", arXiv 1511.00561. Published: 29.5 M parameters; CamVid test 46.4 to 55.6 mIoU at 360x480, by length
of training, from VGG-16 weights. Here with 32 to 256 channels in place of 64 to 512.

Its idea is that the decoder puts each value back to where the encoder's pooling found it. ONNX engines do not agree
on an operation for that, so the place is found by comparison: a pixel is the winner of its window where it equals
the window's maximum. The comparison comes before the ReLU, where equal values hardly occur.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from edgeseg_train.models.blocks import conv_bn, conv_bn_relu, init_convolutions

_DEPTHS = (2, 2, 3, 3, 3)


class SegNet(nn.Module):
    """SegNet on the thirteen convolutions of VGG-16, with its width as a parameter.

    Args:
        num_classes: classes to tell apart.
        width: channels of the first level; the paper has 64.
    """

    stride = 1

    def __init__(self, num_classes: int, width: int = 32) -> None:
        super().__init__()
        widths = [width * factor for factor in (1, 2, 4, 8, 8)]
        self.down = nn.ModuleList(
            _row(i, i, o, depth, last_relu=False)
            for i, o, depth in zip([3, *widths[:-1]], widths, _DEPTHS, strict=True)
        )
        self.up = nn.ModuleList(
            _row(i, i, o, depth, last_relu=True)
            for i, o, depth in zip(widths[::-1], [*widths[-2::-1], width], _DEPTHS[::-1], strict=True)
        )
        self.head = nn.Conv2d(width, num_classes, 1)
        init_convolutions(self)
