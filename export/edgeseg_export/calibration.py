"""The images that INT8 ranges are measured on: chosen by seed, never made up, read one at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.card import ModelCard
from edgeseg.dataset import DataSet, Sample
from edgeseg.errors import DataError, UsageError
from edgeseg.images import read_image, read_mask
from edgeseg.preprocess import Preprocessor

MIN_PIXELS = 100
"""A class counts as present in an image from this many pixels on."""


def choose_samples(data: DataSet, split: str, count: int, seed: int, min_pixels: int = MIN_PIXELS) -> list[Sample]:
    """Choose images of a split so that every class that occurs in it has its share.

    First the class that the fewest images show gives one of its images, then the next, until each class that
    occurs is shown; the rest is drawn at random. The same arguments give the same images, sorted by path; a
    split with no more than ``count`` images is taken whole.

    Args:
        data: the data set.
        split: name of one of its splits.
        count: images to choose, at least 1.
        seed: of the draw.
        min_pixels: a class counts as present from this many pixels on.

    Raises:
        UsageError: ``count`` is below 1.
        DataError: no such split, or a mask is missing, cannot be read or holds an unknown id; names it.
    """
    if count < 1:
        raise UsageError(f"{count} calibration images are none", "give at least 1, better 300")
    samples = data.samples(split)
    if len(samples) <= count:
        return samples
    shown = np.stack([_classes_shown(data, sample, min_pixels) for sample in samples])
    order = np.random.default_rng(seed).permutation(len(samples))
    images_per_class = shown.sum(0)
    chosen: list[int] = []
    for class_id in np.argsort(images_per_class, kind="stable"):
        if images_per_class[class_id] and len(chosen) < count and not shown[chosen, class_id].any():
            chosen.append(next(int(index) for index in order if shown[index, class_id]))
    taken = set(chosen)
    chosen += [int(index) for index in order if int(index) not in taken][: count - len(chosen)]
    return [samples[index] for index in sorted(chosen)]


def _classes_shown(data: DataSet, sample: Sample, min_pixels: int) -> NDArray[np.bool_]:
    mask = read_mask(sample.mask_path)
    data.check_ids(mask, str(sample.mask_path))
    counts = np.bincount(mask.reshape(-1), minlength=256)[: len(data.classes)] >= min_pixels
    if data.ignore_id is not None and data.ignore_id < len(counts):
        counts[data.ignore_id] = False
    return counts


class CalibrationSet:
    """Images as the inputs of one model: ``for tensor in calibration`` reads and preprocesses one at a time.

    The preprocessing is the runtime's own; a tensor is valid until the next one is taken. ``len(calibration)``
    is the number of images.

    Args:
        samples: at least one.
        card: of the model that will be fed.

    Raises:
        UsageError: there is no sample.
    """

    def __init__(self, samples: Sequence[Sample], card: ModelCard) -> None:
        if not samples:
            raise UsageError("There are no calibration images", "give at least 1, better 300")
        self.samples = tuple(samples)
        self._preprocess = Preprocessor(card)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """Tensors as the card describes the model's input, in the order of the samples.

        Raises:
            DataError: an image is missing or cannot be decoded; names it.
        """
        for sample in self.samples:
            yield self._preprocess(read_image(sample.image_path))

    def __len__(self) -> int:
        return len(self.samples)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over the bytes of the image files in their order, as hexadecimal text; for the card.

        Raises:
            DataError: a file is missing or cannot be read; names it.
        """
        digest = hashlib.sha256()
        for sample in self.samples:
            try:
                digest.update(sample.image_path.read_bytes())
            except OSError as error:
                raise DataError(
                    f"Cannot read the calibration image {sample.image_path} ({error.strerror})",
                    "restore it, or choose the images again",
                ) from error
        return digest.hexdigest()
