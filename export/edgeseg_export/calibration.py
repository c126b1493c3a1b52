"""The images that INT8 ranges are measured on: chosen by seed, never made up, read one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from edgeseg.card import ModelCard
from edgeseg.dataset import DataSet, Sample

MIN_PIXELS = 100
"""A class counts as present in an image from this many pixels on."""


def choose_samples(data: DataSet, split: str, count: int, seed: int, min_pixels: int = MIN_PIXELS) -> list[Sample]:
    """Choose images of a split so that every class that occurs in it has its share.

    Raises:
        UsageError: ``count`` is below 1.
        DataError: no such split, or a mask cannot be read; names it.
    """
    raise NotImplementedError


class CalibrationSet:
    """Images as the inputs of one model: ``for tensor in calibration`` reads and preprocesses one at a time.

    The preprocessing is the runtime's own. ``len(calibration)`` is the number of images.

    Args:
        samples: at least one.
        card: of the model that will be fed.

    Raises:
        UsageError: there is no sample.
    """

    def __init__(self, samples: Sequence[Sample], card: ModelCard) -> None:
        raise NotImplementedError

    def __iter__(self) -> Iterator[NDArray[Any]]:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over the bytes of the image files in their order, as hexadecimal text; for the card.

        Raises:
            DataError: a file is missing or cannot be read; names it.
        """
        raise NotImplementedError
