"""A ``data.yaml`` split as a torch data set, kept decoded in memory where it is small enough."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2
from tqdm import tqdm

from edgeseg.dataset import DataSet, Sample
from edgeseg.errors import DataError
from edgeseg_train.augment import augmented

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

    Args:
        data: the data set.
        split: name of the split.
        transform: augmentation, see ``edgeseg_train.augment``.
        seed: with the epoch and the index it decides every random choice.

    Raises:
        DataError: the split is missing or empty, or a file is not what it should be (named).
    """

    def __init__(self, data: DataSet, split: str, transform: v2.Transform, seed: int) -> None:
        self.data, self.name, self.transform, self.seed = data, split, transform, seed
        self.samples = data.samples(split)
        self.epoch = 0
        self.ignore_id = 255 if data.ignore_id is None else data.ignore_id
        self.pixel_counts = torch.zeros(len(data.classes), dtype=torch.int64)
        self._cache: dict[int, tuple[Tensor, Tensor]] = {}
        self._load()

    def _load(self) -> None:
        cached = 0
        for index, sample in enumerate(_progress(self.samples)):
            image, mask = self._read(sample)
            counts = torch.bincount(mask.flatten().long(), minlength=256)
            counts[self.ignore_id] = 0  # it may be the id of a named class, such as "void"
            self.pixel_counts += counts[: len(self.data.classes)]
            cached += image.numel() + mask.numel()
            if cached <= CACHE_BYTES:
                self._cache[index] = (image, mask)
        if int(self.pixel_counts.sum()) == 0:
            raise _no_labels(self.data, self.name)

    def _read(self, sample: Sample) -> tuple[Tensor, Tensor]:
        image, mask = self.data.read(sample)
        return torch.from_numpy(image[:, :, ::-1].copy()).permute(2, 0, 1), torch.from_numpy(mask)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, mask = self._cache[index] if index in self._cache else self._read(self.samples[index])
        seed = hash((self.seed, self.epoch, index)) & 0x7FFFFFFF
        image, mask = augmented(self.transform, image, mask, seed)
        return image, mask.long()


def _progress(samples: list[Sample]) -> Iterable[Sample]:
    return tqdm(samples, "reading", unit="image", leave=False, disable=None)


def _no_labels(data: DataSet, split: str) -> DataError:
    return DataError(
        f"In the split '{split}' of {data.path} no pixel has a class", "check the masks and the 'ignore' id"
    )
