"""A ``data.yaml`` split as a torch data set, kept decoded in memory where it is small enough."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from tqdm import tqdm

from edgeseg.dataset import DataSet, Sample
from edgeseg.errors import DataError
from edgeseg_train.augment import RandomScaleCrop, appearance, drawn_from, mixed, pasted
from edgeseg_train.config import TrainConfig

CACHE_BYTES = 2 << 30
"""Decoded samples beyond this are read again each epoch."""


def check_split(data: DataSet, split: str) -> None:
    """Read every file of a split once, so that a broken one stops a run before its first epoch, not after.

    Raises:
        DataError: the split is missing or empty, no pixel has a class, or a file is broken (named).
    """
    labelled = False
    for sample in _progress(data.samples(split)):
        _, mask = data.read(sample)
        labelled = labelled or bool((mask != data.ignore_id).any())
    if not labelled:
        raise _no_labels(data, split)


class TrainingSplit(Dataset[tuple[Tensor, Tensor]]):
    """Augmented pairs: uint8 image [3, H, W] in RGB and int64 mask [H, W].

    Classes that hold less than half of an even share of the pixels count as rare: ``config.balance`` lays crops
    around them, ``config.paste`` copies them from other images.

    Args:
        data: the data set.
        config: names the split, says how to augment; its seed, with the epoch and the index, decides every choice.

    Raises:
        DataError: the split is missing or empty, or a file is not what it should be (named).
    """

    def __init__(self, data: DataSet, config: TrainConfig) -> None:
        self.data, self.config = data, config
        self.samples = data.samples(config.train_split)
        self.epoch = 0
        self.ignore_id = 255 if data.ignore_id is None else data.ignore_id
        self._crop = RandomScaleCrop(config.imgsz, (config.scale_min, config.scale_max), self.ignore_id)
        self._flip = v2.RandomHorizontalFlip()
        self._appearance = appearance(config.color, config.noise)
        self._cache: dict[int, tuple[Tensor, Tensor]] = {}
        counts = self._load()
        self.pixel_counts = counts.sum(0)
        if int(self.pixel_counts.sum()) == 0:
            raise _no_labels(data, config.train_split)
        share = self.pixel_counts / self.pixel_counts.sum()
        present = self.pixel_counts > 0
        self.rare = torch.nonzero(present & (share < 0.5 / present.sum())).flatten().tolist()
        self._images_with = {c: torch.nonzero(counts[:, c]).flatten().tolist() for c in self.rare}

    def _load(self) -> Tensor:
        """Labelled pixels by image and class, int64 [N, C]."""
        cached, counts = 0, torch.zeros(len(self.samples), 256, dtype=torch.int64)
        for index, sample in enumerate(_progress(self.samples)):
            image, mask = self._read(sample)
            counts[index] = torch.bincount(mask.flatten().long(), minlength=256)
            cached += image.numel() + mask.numel()
            if cached <= CACHE_BYTES:
                self._cache[index] = (image, mask)
        counts[:, self.ignore_id] = 0  # it may be the id of a named class, such as "void"
        return counts[:, : len(self.data.classes)]

    def _read(self, sample: Sample) -> tuple[Tensor, Tensor]:
        image, mask = self.data.read(sample)
        return torch.from_numpy(image[:, :, ::-1].copy()).permute(2, 0, 1), torch.from_numpy(mask)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index >= len(self):
            raise IndexError(index)  # what ends a plain for loop; below, the index may be exchanged
        with drawn_from(hash((self.config.seed, self.epoch, index)) & 0x7FFFFFFF):
            image, mask = self._cropped(index)
            if self.rare and _chance(self.config.paste):
                kept = [c for c in self.rare if _chance(0.5)] or self.rare
                image, mask = pasted(image, mask, *self._cropped(_choice(self._images_with[_choice(kept)])), kept)
            if _chance(self.config.cutmix):
                image, mask = mixed(image, mask, *self._cropped(int(torch.randint(len(self), ()))))
            image, mask = self._appearance(tv_tensors.Image(image), tv_tensors.Mask(mask))
        return image.as_subclass(Tensor), mask.as_subclass(Tensor).long()

    def _cropped(self, index: int) -> tuple[Tensor, Tensor]:
        point_yx = None
        balanced = bool(self.rare) and _chance(self.config.balance)
        if balanced:
            class_id = _choice(self.rare)
            index = _choice(self._images_with[class_id])
        image, mask = self._cache[index] if index in self._cache else self._read(self.samples[index])
        if balanced:
            rows, columns = torch.nonzero(mask == class_id, as_tuple=True)
            pixel = int(torch.randint(len(rows), ()))
            point_yx = int(rows[pixel]), int(columns[pixel])
        image, mask = self._crop(tv_tensors.Image(image), tv_tensors.Mask(mask), point_yx)
        image, mask = self._flip(image, mask)
        return image.as_subclass(Tensor), mask.as_subclass(Tensor)


def _chance(probability: float) -> bool:
    # Nothing is drawn for what never happens, so switching one augmentation on leaves the others' choices alone.
    return probability > 0 and float(torch.rand(())) < probability


def _choice(values: Sequence[int]) -> int:
    return values[int(torch.randint(len(values), ()))]


def _progress(samples: list[Sample]) -> Iterable[Sample]:
    return tqdm(samples, "reading", unit="image", leave=False, disable=None)


def _no_labels(data: DataSet, split: str) -> DataError:
    return DataError(
        f"In the split '{split}' of {data.path} no pixel has a class", "check the masks and the 'ignore' id"
    )
