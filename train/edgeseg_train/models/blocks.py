"""What several networks are built of."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


def conv_bn(
    inputs: int, outputs: int, kernel: int, stride: int = 1, *, groups: int = 1, dilation: int = 1
) -> nn.Sequential:
    """Convolution without bias, then batch normalisation; at stride 1 the size stays."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def conv_bn_relu(
    inputs: int, outputs: int, kernel: int, stride: int = 1, *, groups: int = 1, dilation: int = 1
) -> nn.Sequential:
    """Convolution without bias, batch normalisation, ReLU."""
    return conv_bn(inputs, outputs, kernel, stride, groups=groups, dilation=dilation).append(nn.ReLU(inplace=True))


def bn_relu_conv(inputs: int, outputs: int, kernel: int, *, groups: int = 1, bias: bool = False) -> nn.Sequential:
    """The pre-activation order, as the pyramid and the heads of DDRNet use it."""
    return nn.Sequential(
        nn.BatchNorm2d(inputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=bias),
    )


def bn_relu_head(inputs: int, width: int, num_classes: int) -> nn.Sequential:
    """3x3 convolution, then the 1x1 classifier, in the pre-activation order."""
    return bn_relu_conv(inputs, width, 3).extend(bn_relu_conv(width, num_classes, 1, bias=True))


def separable(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Depthwise 3x3, then 1x1, each with batch normalisation and ReLU."""
    depthwise = conv_bn_relu(inputs, inputs, 3, stride, groups=inputs, dilation=dilation)
    return depthwise.extend(conv_bn_relu(inputs, outputs, 1))


def conv_head(inputs: int, width: int, num_classes: int) -> nn.Sequential:
    """3x3 convolution, then the 1x1 classifier."""
    return conv_bn_relu(inputs, width, 3).append(nn.Conv2d(width, num_classes, 1))


def resize_like(x: Tensor, reference: Tensor) -> Tensor:
    """Bilinear to the reference's height and width: sizes need not divide by the stride."""
    return F.interpolate(x, size=reference.shape[2:], mode="bilinear", align_corners=False)


def average_bins(x: Tensor, bins: int) -> Tensor:
    """Averages over a grid of ``bins`` x ``bins`` windows, or fewer where the map has fewer rows or columns.

    Adaptive pooling, but with windows of one size, which overlap where the map does not divide: the same where
    it does, and an ordinary AveragePool in ONNX, which has no adaptive one.
    """
    height, width = int(x.shape[2]), int(x.shape[3])
    rows, columns = min(bins, height), min(bins, width)
    stride = height // rows, width // columns
    kernel = height - (rows - 1) * stride[0], width - (columns - 1) * stride[1]
    return F.avg_pool2d(x, kernel, stride)


class PoolPyramid(nn.Module):
    """Context at several scales: averages over grids, a 1x1 convolution each, back at the input's size.

    Args:
        inputs, outputs: channels in, and of each scale.
        bins: windows along each axis, one number a scale.
    """

    def __init__(self, inputs: int, outputs: int, bins: Sequence[int]) -> None:
        super().__init__()
        self.bins = tuple(bins)
        self.scales = nn.ModuleList(conv_bn_relu(inputs, outputs, 1) for _ in self.bins)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[N, inputs, h, w] to one [N, outputs, h, w] a scale."""
        return [
            resize_like(scale(average_bins(x, bins)), x) for scale, bins in zip(self.scales, self.bins, strict=True)
        ]


def init_convolutions(*parts: nn.Module, with_bias: bool = False) -> None:
    """Kaiming initialisation of the convolutions' weights.

    Those with a bias have no normalisation behind them, classifiers mostly: there it would make the first logits
    large, and torch's own initialisation stays, except where ``with_bias`` asks for them too.
    """
    for part in parts:
        for module in part.modules():
            if isinstance(module, nn.Conv2d) and (with_bias or module.bias is None):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
