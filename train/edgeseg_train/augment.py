"""Augmentation with torchvision's transforms v2.

torchvision because it is needed for encoders anyway, is kept by the PyTorch project, runs fast on uint8, and
moves image and mask together by type: a ``tv_tensors.Mask`` is mirrored with its image and never recoloured.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as TF


class RandomScaleCrop(torch.nn.Module):
    """Scale by a random factor, then cut a random window of a fixed size, padding with the ignore id.

    Args:
        size_hw: height and width of the result.
        scale_range: smallest and largest factor, relative to ``size_hw`` fitted over the image.
        ignore_id: what the mask is padded with.
    """

    def __init__(self, size_hw: tuple[int, int], scale_range: tuple[float, float], ignore_id: int) -> None:
        super().__init__()
        self.size_hw, self.scale_range, self.ignore_id = size_hw, scale_range, ignore_id

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 image [3, H, W] and mask [H, W] to the same at ``size_hw``."""
        height, width = self.size_hw
        low, high = (torch.log(torch.tensor(s)) for s in self.scale_range)
        factor = float(torch.exp(low + (high - low) * torch.rand(())))
        # Non-square data are fitted, not squeezed, so that shapes stay true.
        fit = max(height / image.shape[-2], width / image.shape[-1])
        new_h = max(1, round(image.shape[-2] * fit * factor))
        new_w = max(1, round(image.shape[-1] * fit * factor))
        crop_h, crop_w = min(height, new_h), min(width, new_w)
        top = int(torch.randint(new_h - crop_h + 1, ()))
        left = int(torch.randint(new_w - crop_w + 1, ()))
        pad_top = int(torch.randint(height - crop_h + 1, ()))
        pad_left = int(torch.randint(width - crop_w + 1, ()))
        padding = [pad_left, pad_top, width - crop_w - pad_left, height - crop_h - pad_top]

        def geometry(x: Tensor, fill: int) -> Tensor:
            return TF.pad(TF.crop(x, top, left, crop_h, crop_w), padding, fill=fill)

        image = TF.resize(image, [new_h, new_w], antialias=factor * fit < 1)
        # A tv_tensors.Mask would be resized with NEAREST, which is half a pixel off the image.
        ids = TF.resize(mask.as_subclass(Tensor)[None], [new_h, new_w], InterpolationMode.NEAREST_EXACT)[0]
        return geometry(image, 0), geometry(tv_tensors.Mask(ids), self.ignore_id)


class RandomJpeg(torch.nn.Module):
    """JPEG compression of a random quality, such as cameras and links apply.

    With OpenCV, because torchvision is about to drop its own encoder; the pixels are the same.

    Args:
        lowest, highest: quality, 1 to 100.
    """

    def __init__(self, lowest: int, highest: int) -> None:
        super().__init__()
        self.lowest, self.highest = lowest, highest

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 image [3, H, W] to the same after compression; the mask stays."""
        quality = int(torch.randint(self.lowest, self.highest + 1, ()))
        bgr = np.ascontiguousarray(image.flip(0).permute(1, 2, 0).numpy())
        _, code = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
        decoded = torch.from_numpy(cv2.imdecode(code, cv2.IMREAD_COLOR))
        return tv_tensors.Image(decoded.permute(2, 0, 1).flip(0)), mask


def training_transform(
    size_hw: tuple[int, int], scale_range: tuple[float, float], color: float, ignore_id: int
) -> v2.Transform:
    """Scale and crop, mirror, brightness, contrast and saturation, blur, JPEG. uint8 in and out.

    Args:
        size_hw: size of the result.
        scale_range: smallest and largest scale.
        color: strength of the colour changes, 0 to 1.
        ignore_id: id for padding.
    """
    return v2.Compose(
        [
            RandomScaleCrop(size_hw, scale_range, ignore_id),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(color, color, color)], p=0.8),
            v2.RandomApply([v2.GaussianBlur(5, (0.3, 1.5))], p=0.15),
            v2.RandomApply([RandomJpeg(40, 95)], p=0.15),
        ]
    )


def augmented(transform: v2.Transform, image_chw: Tensor, mask_hw: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Apply ``transform`` with its random numbers drawn from ``seed`` alone.

    A sample's augmentation then depends on (seed, epoch, index) and not on the number of loader processes or
    on where a run was resumed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        image, mask = transform(tv_tensors.Image(image_chw), tv_tensors.Mask(mask_hw))
    return image.as_subclass(torch.Tensor), mask.as_subclass(torch.Tensor)
