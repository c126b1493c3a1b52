"""The network as the robot sees it: camera bytes in, logits or class ids out. What export traces."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class DeployModel(nn.Module):
    """uint8 frames [N, H, W, 3] in BGR to float logits [N, C, h, w] or a uint8 class map [N, H, W].

    Colour order, scaling, mean and std are one 1x1 convolution in front of the network: exact at the borders,
    where the network's own padding must stay zero *after* normalisation.

    Args:
        network: takes normalised RGB images.
        mean, std: in 0..1, RGB.
        head: "logits" or "mask".
    """

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float], head: str) -> None:
        super().__init__()
        self.network, self.head = network, head
        self.normalize = nn.Conv2d(3, 3, 1)
        weight = torch.zeros(3, 3, 1, 1)
        for rgb in range(3):
            weight[rgb, 2 - rgb] = 1.0 / (255.0 * std[rgb])
        self.normalize.weight.data = weight
        self.normalize.bias = nn.Parameter(torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]))
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """uint8 [N, H, W, 3] to logits or class ids."""
        # The cast comes first: TensorRT transposes no uint8.
        x = self.normalize(image.float().permute(0, 3, 1, 2))
        logits = self.network(x)
        if self.head == "logits":
            return logits
        size = (int(image.shape[1]), int(image.shape[2]))
        full = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        return full.argmax(1).to(torch.uint8)
