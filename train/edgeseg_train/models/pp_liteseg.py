"""PP-LiteSeg-T: the encoder STDC1 and a light decoder with attention between scales.

Peng et al., "PP-LiteSeg: A Superior Real-Time Semantic Segmentation Model", arXiv 2204.02681. Published with ImageNet
weights: Cityscapes val 73.1, test 72.0 mIoU at 512x1024, val 76.0 at 768x1536; CamVid test 73.30 at 720x960. Counted
here: 8.03 M parameters, 45.7 G multiply-adds at 1024x2048.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeseg_train.models.blocks import (
    PoolPyramid,
    conv_bn,
    conv_bn_relu,
    conv_head,
    init_convolutions,
    resize_like,
)
from edgeseg_train.models.outputs import TrainingOutputs
from edgeseg_train.models.stdc import STDC1


class AttentionFusion(nn.Module):
    """The paper's UAFM with spatial attention: coarse and fine features, weighted against each other by pixel.

    Args:
        fine: channels from the encoder.
        coarse: channels from the coarser scale.
        outputs: channels given on.
    """

    def __init__(self, fine: int, coarse: int, outputs: int) -> None:
        super().__init__()
        self.lateral = conv_bn_relu(fine, coarse, 3)
        self.attention = nn.Sequential(conv_bn_relu(4, 2, 3), conv_bn(2, 1, 3), nn.Sigmoid())
        self.out = conv_bn_relu(coarse, outputs, 3)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """[N, fine, H, W] and [N, coarse, h, w] to [N, outputs, H, W]."""
        fine = self.lateral(fine)
        coarse = resize_like(coarse, fine)
        statistics = [s for x in (fine, coarse) for s in (x.mean(1, keepdim=True), x.amax(1, keepdim=True))]
        share = self.attention(torch.cat(statistics, 1))
        return self.out(coarse + share * (fine - coarse))


class PPLiteSeg(nn.Module):
    """PP-LiteSeg-T.

    Args:
        num_classes: classes to tell apart.
        widths: channels given on at strides 32, 16 and 8.
    """

    stride = 8

    def __init__(self, num_classes: int, widths: tuple[int, int, int] = (128, 64, 32)) -> None:
        super().__init__()
        self.encoder = STDC1()
        self.pyramid = PoolPyramid(self.encoder.channels[-1], widths[0], (1, 2, 4))
        self.context = conv_bn_relu(widths[0], widths[0], 3)
        coarse = (widths[0], *widths[:-1])
        self.fusions = nn.ModuleList(
            AttentionFusion(*c) for c in zip(self.encoder.channels[::-1], coarse, widths, strict=True)
        )
        self.head = conv_head(widths[2], widths[2], num_classes)
        self.aux_heads = nn.ModuleList(conv_head(width, width, num_classes) for width in widths[1::-1])
        init_convolutions(self)

    def forward(self, x: Tensor) -> Tensor | TrainingOutputs:
        """Images [N, 3, H, W] to logits [N, classes, H/8, W/8]; while training also those at H/16 and H/32."""
        features = self.encoder(x)
        first, *others = self.pyramid(features[-1])
        y = self.context(sum(others, first))
        outputs: list[Tensor] = []
        for fusion, fine in zip(self.fusions, reversed(features), strict=True):
            y = fusion(fine, y)
            outputs.insert(0, y)
        logits = self.head(outputs[0])
        if not self.training:
            return logits
        auxiliary = tuple(head(output) for head, output in zip(self.aux_heads, outputs[1:], strict=True))
        return TrainingOutputs(logits, auxiliary)
