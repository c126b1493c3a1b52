"""Augmentation with torchvision's transforms v2.

torchvision because it is needed for encoders anyway, is kept by the PyTorch project, runs fast on uint8, and
moves image and mask together by type: a ``tv_tensors.Mask`` is mirrored with its image and never recoloured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

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

    def forward(self, image: Tensor, mask: Tensor, point_yx: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
        """uint8 image [3, H, W] and mask [H, W] to the same at ``size_hw``; the pixel ``point_yx`` stays inside."""
        height, width = self.size_hw
        low, high = (torch.log(torch.tensor(s)) for s in self.scale_range)
        factor = float(torch.exp(low + (high - low) * torch.rand(())))
        # Non-square data are fitted, not squeezed, so that shapes stay true.
        fit = max(height / image.shape[-2], width / image.shape[-1])
        new_h = max(1, round(image.shape[-2] * fit * factor))
        new_w = max(1, round(image.shape[-1] * fit * factor))
        crop_h, crop_w = min(height, new_h), min(width, new_w)
        y, x = (None, None) if point_yx is None else point_yx
        top = _random_start(new_h, crop_h, y, image.shape[-2])
        left = _random_start(new_w, crop_w, x, image.shape[-1])
        pad_top = int(torch.randint(height - crop_h + 1, ()))
        pad_left = int(torch.randint(width - crop_w + 1, ()))
        padding = [pad_left, pad_top, width - crop_w - pad_left, height - crop_h - pad_top]

        def geometry(x: Tensor, fill: int) -> Tensor:
            return TF.pad(TF.crop(x, top, left, crop_h, crop_w), padding, fill=fill)

        image = TF.resize(image, [new_h, new_w], antialias=factor * fit < 1)
        # A tv_tensors.Mask would be resized with NEAREST, which is half a pixel off the image.
        ids = TF.resize(mask.as_subclass(Tensor)[None], [new_h, new_w], InterpolationMode.NEAREST_EXACT)[0]
        return geometry(image, 0), geometry(tv_tensors.Mask(ids), self.ignore_id)


def _random_start(length: int, window: int, point: int | None, original: int) -> int:
    low, high = 0, length - window
    if point is not None:
        here = (2 * point + 1) * length // (2 * original)
        low, high = max(low, here - window + 1), min(high, here)
    return int(torch.randint(low, high + 1, ()))


class RandomLight(torch.nn.Module):
    """Another light and another white balance: a gamma for the image and a gain for each channel.

    Args:
        strength: largest logarithm of the gamma; half of it is the largest logarithm of a gain.
    """

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = strength

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 image [3, H, W] to the same in another light; the mask stays."""
        gamma, *gains = torch.exp(self.strength * (2 * torch.rand(4) - 1) * torch.tensor([1, 0.5, 0.5, 0.5])).tolist()
        curve = 255 * (np.arange(256) / 255) ** gamma
        changed = [
            cv2.LUT(channel.numpy(), np.clip(curve * gain + 0.5, 0, 255).astype(np.uint8))
            for channel, gain in zip(image, gains, strict=True)
        ]
        return tv_tensors.Image(torch.from_numpy(np.stack(changed))), mask


class RandomNoise(torch.nn.Module):
    """Gaussian noise of a random strength, as sensors add in low light.

    Args:
        largest: greatest standard deviation, as a share of white.
    """

    def __init__(self, largest: float) -> None:
        super().__init__()
        self.largest = largest

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 image [3, H, W] to the same with noise; the mask stays."""
        noise = torch.randn(image.shape) * (255 * self.largest * float(torch.rand(())))
        return tv_tensors.Image((image + noise).round_().clamp_(0, 255).to(torch.uint8)), mask


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


@contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Random numbers of torch follow from ``seed`` alone inside, and go on as before after.

    A sample's augmentation then depends on (seed, epoch, index) and not on the number of loader processes or
    on where a run was resumed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def appearance(color: float, noise: float) -> v2.Transform:
    """Brightness, contrast, saturation, light, blur, noise and JPEG. uint8 in and out; masks pass.

    Args:
        color: strength of the changes of colour and light, 0 to 1.
        noise: largest standard deviation of the noise, as a share of white.
    """
    changes: list[torch.nn.Module] = [
        v2.RandomApply([v2.ColorJitter(color, color, color)], p=0.8),
        v2.RandomApply([RandomLight(color)], p=0.5),
        v2.RandomApply([v2.GaussianBlur(5, (0.3, 1.5))], p=0.15),
        v2.RandomApply([RandomJpeg(40, 95)], p=0.15),
    ]
    if noise:
        changes.insert(3, v2.RandomApply([RandomNoise(noise)], p=0.3))  # before JPEG, as in a camera
    return v2.Compose(changes)


def pasted(
    image: Tensor, mask: Tensor, other_image: Tensor, other_mask: Tensor, classes: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Copy-paste: what belongs to ``classes`` in the other image, laid over this one where it stands.

    Ghiasi et al., arXiv 2012.07177, by class instead of by instance, as ClassMix does (arXiv 2007.07936): a mask of
    classes knows no instances.

    Args:
        image, other_image: uint8 [3, H, W].
        mask, other_mask: uint8 [H, W].
        classes: ids to paste.
    """
    over = torch.isin(other_mask, torch.tensor(classes, dtype=other_mask.dtype))
    return torch.where(over, other_image, image), torch.where(over, other_mask, mask)


def mixed(image: Tensor, mask: Tensor, other_image: Tensor, other_mask: Tensor) -> tuple[Tensor, Tensor]:
    """CutMix (Yun et al., arXiv 1905.04899): a random rectangle is taken from the other image.

    Args:
        image, other_image: uint8 [3, H, W].
        mask, other_mask: uint8 [H, W].
    """
    height, width = mask.shape
    share = float(torch.rand(())) ** 0.5
    rows, columns = max(1, round(height * share)), max(1, round(width * share))
    top, left = int(torch.randint(height - rows + 1, ())), int(torch.randint(width - columns + 1, ()))
    window = (..., slice(top, top + rows), slice(left, left + columns))
    image, mask = image.clone(), mask.clone()
    image[window], mask[window] = other_image[window], other_mask[window]
    return image, mask
