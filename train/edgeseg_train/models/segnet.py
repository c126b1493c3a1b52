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
            _row(i, o, depth).append(conv_bn(o, o, 3))
            for i, o, depth in zip([3, *widths[:-1]], widths, (1, 1, 2, 2, 2), strict=True)
        )
        self.up = nn.ModuleList(
            _row(i, i, depth).extend(conv_bn_relu(i, o, 3))
            for i, o, depth in zip(widths[::-1], [*widths[-2::-1], width], (2, 2, 2, 1, 0), strict=True)
        )
        self.head = nn.Conv2d(width, num_classes, 3, padding=1)
        init_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, 3, H, W] to logits [N, classes, H, W]."""
        winners: list[Tensor] = []
        for block in self.down:
            x = block(x)
            pooled = F.max_pool2d(x, 2, ceil_mode=True)
            winners.append(x == _doubled(pooled, x))
            x = F.relu(pooled)
        for block in self.up:
            winner = winners.pop()
            x = block(_doubled(x, winner) * winner)
        return self.head(x)


def _row(inputs: int, outputs: int, depth: int) -> nn.Sequential:
    row = nn.Sequential()
    for index in range(depth):
        row.extend(conv_bn_relu(outputs if index else inputs, outputs, 3))
    return row


def _doubled(x: Tensor, reference: Tensor) -> Tensor:
    """Every pixel twice in height and width, without the last row or column where the reference's size is odd."""
    height, width = (int(side) for side in x.shape[2:])
    doubled = F.interpolate(x, size=(2 * height, 2 * width), mode="nearest")
    rows, columns = (int(side) for side in reference.shape[2:])
    return doubled if (rows, columns) == (2 * height, 2 * width) else doubled[:, :, :rows, :columns]
