"""PIDNet: a network of three branches.

Xu, Xiong, Bhattacharyya, "PIDNet: A Real-time Semantic Segmentation Network Inspired by PID Controllers",
arXiv 2206.02066. PIDNet-S was published with 7.6 M parameters, 47.6 G multiply-adds at 1024x2048, and 78.8 (val) and
78.6 (test) mIoU on Cityscapes from ImageNet weights. Trained from random ones by others: 76.4 (val).

Beside a branch at stride 8 for detail (P) and one down to stride 64 for context (I), as in DDRNet, a slim third one
at stride 8 (D) learns where classes meet, and there the result follows detail rather than context.
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
from edgeseg_train.models.ddrnet import basic_block, basic_stage, bottleneck, pooled_scales
from edgeseg_train.models.outputs import TrainingOutputs


class AttentionGuide(nn.Module):
    """Takes context into the detail branch where the two see alike (the paper's PagFM)."""

    def __init__(self, channels: int, middle: int) -> None:
        super().__init__()
        self.detail, self.context = conv_bn(channels, middle, 1), conv_bn(channels, middle, 1)

    def forward(self, detail: Tensor, context: Tensor) -> Tensor:
        """[N, C, H, W] and [N, C, h, w] to [N, C, H, W]."""
        product = self.detail(detail) * resize_like(self.context(context), detail)
        likeness = product.sum(1, keepdim=True).sigmoid()
        return detail + likeness * (resize_like(context, detail) - detail)


class PAPPM(nn.Module):
    """The pooling pyramid of DDRNet with its scales side by side in place of one after the other (PAPPM)."""

    def __init__(self, inputs: int, middle: int, outputs: int) -> None:
        super().__init__()
        self.scale0 = bn_relu_conv(inputs, middle, 1)
        self.scales = pooled_scales(inputs, middle)
        count = len(self.scales)
        self.merge = bn_relu_conv(count * middle, count * middle, 3, groups=count)
        self.compress = bn_relu_conv((1 + count) * middle, outputs, 1)
        self.shortcut = bn_relu_conv(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, h, w] to [N, outputs, h, w]."""
        own = self.scale0(x)
        merged = self.merge(torch.cat([resize_like(scale(x), x) + own for scale in self.scales], 1))
        return self.compress(torch.cat([own, merged], 1)) + self.shortcut(x)


class BoundaryGuide(nn.Module):
    """Detail where the boundary branch sees a boundary, context elsewhere (Light-Bag)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.detail, self.context = conv_bn(channels, channels, 1), conv_bn(channels, channels, 1)

    def forward(self, detail: Tensor, context: Tensor, boundary: Tensor) -> Tensor:
        """Three [N, C, H, W] to one."""
        edge = boundary.sigmoid()
        return self.detail(detail + (1 - edge) * context) + self.context(context + edge * detail)


class PIDNet(nn.Module):
    """PIDNet-S, with its width as a parameter.

    Args:
        num_classes: classes to tell apart.
        width: channels of the first stage.
        head_width: channels inside the head.
        pyramid_width: channels inside the pooling pyramid.
    """

    stride = 8

    def __init__(self, num_classes: int, *, width: int = 32, head_width: int = 128, pyramid_width: int = 96) -> None:
        super().__init__()
        c = width
        self.stem = conv_bn_relu(3, c, 3, 2).extend(conv_bn_relu(c, c, 3, 2))
        self.layer1 = basic_stage(c, c, 1)
        self.layer2 = basic_stage(c, 2 * c, 2)
        self.context3, self.context4 = basic_stage(2 * c, 4 * c, 2, depth=3), basic_stage(4 * c, 8 * c, 2, depth=3)
        self.context5 = nn.Sequential(bottleneck(8 * c, 8 * c, 2), bottleneck(16 * c, 8 * c, 1))
        self.pyramid = PAPPM(16 * c, pyramid_width, 4 * c)
        self.detail3, self.detail4 = basic_stage(2 * c, 2 * c, 1), basic_stage(2 * c, 2 * c, 1)
        self.detail5 = bottleneck(2 * c, 2 * c, 1)
        self.compress3, self.compress4 = conv_bn(4 * c, 2 * c, 1), conv_bn(8 * c, 2 * c, 1)
        self.guide3, self.guide4 = AttentionGuide(2 * c, c), AttentionGuide(2 * c, c)
        self.boundary3 = basic_block(2 * c, c, 1, relu=False)
        self.boundary4, self.boundary5 = bottleneck(c, c, 1), bottleneck(2 * c, 2 * c, 1)
        self.difference3, self.difference4 = conv_bn(4 * c, c, 3), conv_bn(8 * c, 2 * c, 3)
        self.fuse = BoundaryGuide(4 * c)
        self.head = bn_relu_head(4 * c, head_width, num_classes)
        self.aux_detail = bn_relu_head(2 * c, head_width, num_classes)
        self.aux_boundary = bn_relu_head(2 * c, c, 1)
        init_convolutions(self, with_bias=True)

    def forward(self, x: Tensor) -> Tensor | TrainingOutputs:
        """Images [N, 3, H, W] to logits [N, classes, H/8, W/8].

        While training also auxiliary logits of the detail branch and those of being boundary, at the same stride.
        """
        shared = F.relu(self.layer2(F.relu(self.layer1(self.stem(x)))))
        context = F.relu(self.context3(shared))
        detail3 = self.guide3(self.detail3(shared), self.compress3(context))
        boundary = self.boundary3(shared) + resize_like(self.difference3(context), shared)
        context = F.relu(self.context4(context))
        detail = self.guide4(self.detail4(F.relu(detail3)), self.compress4(context))
        boundary4 = self.boundary4(F.relu(boundary)) + resize_like(self.difference4(context), shared)
        detail, boundary = self.detail5(F.relu(detail)), self.boundary5(F.relu(boundary4))
        context = resize_like(self.pyramid(self.context5(context)), shared)
        logits = self.head(self.fuse(detail, context, boundary))
        if not self.training:
            return logits
        return TrainingOutputs(logits, (self.aux_detail(detail3),), self.aux_boundary(boundary4))
