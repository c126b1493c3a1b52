"""DDRNet: deep dual-resolution network.

Hong, Pan, Sun, Jia, "Deep Dual-resolution Networks for Real-time and Accurate Semantic Segmentation of Road
Scenes", arXiv 2101.06085. DDRNet-23-slim is width 32 (published: 5.7 M parameters, 36.3 G multiply-adds at
1024x2048, Cityscapes val 77.8 mIoU with ImageNet weights), DDRNet-23 is width 64 (20.1 M, 143 G, 79.5).

A high branch stays at stride 8, a low branch goes down to 64; they exchange features twice, and a pooling
pyramid (DAPPM) at stride 64 gives the high branch its context.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseg_train.models.blocks import (
    bn_relu_conv,
    bn_relu_head,
    conv_bn,
    conv_bn_relu,
    init_convolutions,
    resize_like,
)
from edgeseg_train.models.outputs import TrainingOutputs


class Residual(nn.Module):
    """``body(x) + skip(x)``, with a ReLU after the sum unless the consumer applies it."""

    def __init__(self, body: nn.Sequential, skip: nn.Module, relu: bool) -> None:
        super().__init__()
        self.body, self.skip, self.relu = body, skip, relu

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C', H', W']."""
        y = self.body(x) + self.skip(x)
        return F.relu(y) if self.relu else y


def basic_block(inputs: int, outputs: int, stride: int, relu: bool) -> Residual:
    """Two 3x3 convolutions around a skip."""
    body = conv_bn_relu(inputs, outputs, 3, stride).extend(conv_bn(outputs, outputs, 3))
    return Residual(body, _skip(inputs, outputs, stride), relu)


def basic_stage(inputs: int, outputs: int, stride: int, depth: int = 2) -> nn.Sequential:
    """Basic blocks in a row, two or more; the last one leaves its ReLU to the consumer."""
    inner = (basic_block(outputs, outputs, 1, relu=True) for _ in range(depth - 2))
    return nn.Sequential(
        basic_block(inputs, outputs, stride, relu=True), *inner, basic_block(outputs, outputs, 1, relu=False)
    )


def bottleneck(inputs: int, planes: int, stride: int) -> Residual:
    """1x1, 3x3 and 1x1 to twice ``planes``, without the final ReLU."""
    body = conv_bn_relu(inputs, planes, 1)
    body.extend(conv_bn_relu(planes, planes, 3, stride))
    body.extend(conv_bn(planes, 2 * planes, 1))
    return Residual(body, _skip(inputs, 2 * planes, stride), relu=False)


def _skip(inputs: int, outputs: int, stride: int) -> nn.Module:
    return nn.Identity() if (inputs, 1) == (outputs, stride) else conv_bn(inputs, outputs, 1, stride)


def pooled_scales(inputs: int, middle: int) -> nn.ModuleList:
    """The pyramid's scales below the input's own: averages over 5, 9, 17 pixels and over all, 1x1 convolutions."""
    pools: list[nn.Module] = [nn.AvgPool2d(k, s, p) for k, s, p in ((5, 2, 2), (9, 4, 4), (17, 8, 8))]
    return nn.ModuleList(
        nn.Sequential(pool, bn_relu_conv(inputs, middle, 1)) for pool in [*pools, nn.AdaptiveAvgPool2d(1)]
    )


class DAPPM(nn.Module):
    """Deep aggregation pyramid pooling (section 3.3 of the paper): five scales, each added to the finer one."""

    def __init__(self, inputs: int, middle: int, outputs: int) -> None:
        super().__init__()
        self.scale0 = bn_relu_conv(inputs, middle, 1)
        self.scales = pooled_scales(inputs, middle)
        self.merges = nn.ModuleList(bn_relu_conv(middle, middle, 3) for _ in self.scales)
        self.compress = bn_relu_conv(5 * middle, outputs, 1)
        self.shortcut = bn_relu_conv(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, h, w] to [N, outputs, h, w]."""
        levels = [self.scale0(x)]
        for scale, merge in zip(self.scales, self.merges, strict=True):
            levels.append(merge(resize_like(scale(x), x) + levels[-1]))
        return self.compress(torch.cat(levels, 1)) + self.shortcut(x)


class FineHead(nn.Module):
    """Logits at stride 4: the paper's head brought to the first stage's size, and that stage's features added.

    Args:
        inputs: channels at stride 8.
        fine: channels of the first stage, at stride 4.
        width: channels in between.
        num_classes: channels of the logits.
    """

    def __init__(self, inputs: int, fine: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.coarse = bn_relu_conv(inputs, width, 3)
        self.fine = conv_bn(fine, width, 1)
        self.classify = bn_relu_conv(width, width // 2, 3).extend(bn_relu_conv(width // 2, num_classes, 1, bias=True))

    def forward(self, x: Tensor, first: Tensor) -> Tensor:
        """[N, inputs, H/8, W/8] and [N, fine, H/4, W/4] to [N, classes, H/4, W/4]."""
        return self.classify(self.fine(first) + resize_like(self.coarse(x), first))


class DDRNet(nn.Module):
    """DDRNet with its width as a parameter.

    Args:
        num_classes: classes to tell apart.
        width: channels of the first stage; 32 is the paper's 23-slim, 64 its 23.
        head_width: channels inside the heads.
        pyramid_width: channels inside the pooling pyramid.
        stride: of the logits; 8 is the paper's head, 4 adds the first stage's features to it (not in the paper):
            at 480x360 a pole is narrower than the 8 pixels that one logit covers.
    """

    def __init__(
        self, num_classes: int, *, width: int = 32, head_width: int = 64, pyramid_width: int = 128, stride: int = 8
    ) -> None:
        super().__init__()
        self.stride = stride
        c = width
        self.stem = conv_bn_relu(3, c, 3, 2).extend(conv_bn_relu(c, c, 3, 2))
        self.layer1 = basic_stage(c, c, 1)
        self.layer2 = basic_stage(c, 2 * c, 2)
        self.low3, self.high3 = basic_stage(2 * c, 4 * c, 2), basic_stage(2 * c, 2 * c, 1)
        self.low4, self.high4 = basic_stage(4 * c, 8 * c, 2), basic_stage(2 * c, 2 * c, 1)
        self.low5, self.high5 = bottleneck(8 * c, 8 * c, 2), bottleneck(2 * c, 2 * c, 1)
        self.down3 = conv_bn(2 * c, 4 * c, 3, 2)
        self.down4 = conv_bn_relu(2 * c, 4 * c, 3, 2).extend(conv_bn(4 * c, 8 * c, 3, 2))
        self.up3, self.up4 = conv_bn(4 * c, 2 * c, 1), conv_bn(8 * c, 2 * c, 1)
        self.pyramid = DAPPM(16 * c, pyramid_width, 4 * c)
        self.head = (
            bn_relu_head(4 * c, head_width, num_classes) if stride == 8 else FineHead(4 * c, c, head_width, num_classes)
        )
        self.aux_head = bn_relu_head(2 * c, head_width, num_classes)
        init_convolutions(self, with_bias=True)

    def forward(self, x: Tensor) -> Tensor | TrainingOutputs:
        """Images [N, 3, H, W] to logits [N, classes, H/stride, W/stride]; while training also the auxiliary logits."""
        first = F.relu(self.layer1(self.stem(x)))
        shared = F.relu(self.layer2(first))
        low, high = self.low3(shared), self.high3(shared)
        low, high = low + self.down3(F.relu(high)), high + resize_like(self.up3(F.relu(low)), high)
        auxiliary = self.aux_head(high) if self.training else None
        low, high = self.low4(F.relu(low)), self.high4(F.relu(high))
        low, high = low + self.down4(F.relu(high)), high + resize_like(self.up4(F.relu(low)), high)
        high = self.high5(F.relu(high))
        context = self.pyramid(self.low5(F.relu(low)))
        fused = high + resize_like(context, high)
        logits = self.head(fused) if self.stride == 8 else self.head(fused, first)
        return logits if auxiliary is None else TrainingOutputs(logits, (auxiliary,))
