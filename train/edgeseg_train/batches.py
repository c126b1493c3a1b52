"""What training is fed: the images of a split, which of them make which step, and their loading."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from edgeseg.dataset import DataSet
from edgeseg.errors import UsageError
from edgeseg_train.config import TrainConfig
from edgeseg_train.data import TrainingSplit

Step = list[list[int]]
"""The batches of one optimiser step, each the indices of its images in the split."""


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def training_split(config: TrainConfig, data: DataSet, processes: int) -> TrainingSplit:
    """The split that is trained on, read once.

    Raises:
        UsageError: it has a single image, or a batch does not divide among the processes.
        DataError: it is missing or empty, or a file is not what it should be (named).
    """
    split = TrainingSplit(data, config)
    if len(split) < 2:
        raise UsageError(
            f"The split '{config.train_split}' has one image, a step needs at least 2 (batch normalisation)",
            "add images to the split",
        )
    batch = min(config.batch, len(split))
    if batch % processes:
        raise UsageError(
            f"A batch of {batch} images does not divide among {processes} processes",
            f"give --batch a multiple of {processes}",
        )
    return split


def steps_of_epoch(images: int, batch: int, accumulate: int, *, seed: int, epoch: int) -> list[Step]:
    """All images once in random order, in full batches; the images left over wait for another epoch's order.

    A split smaller than a batch is one batch. The last step takes the batches that are left, ``accumulate`` or fewer.

    Args:
        images: number of images in the split.
        batch: images a batch.
        accumulate: batches a step.
        seed, epoch: decide the order.
    """
    order = torch.randperm(images, generator=torch.Generator().manual_seed((seed << 20) + epoch)).tolist()
    size = min(batch, images)
    batches = [order[start : start + size] for start in range(0, images - size + 1, size)]
    return [batches[start : start + accumulate] for start in range(0, len(batches), accumulate)]


def load_batches(
    split: TrainingSplit, batches: Sequence[list[int]], workers: int, pin_memory: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Augmented images, uint8 [N, 3, H, W] in RGB, and class ids, int64 [N, H, W], batch by batch.

    Args:
        split: where they come from.
        batches: indices of the images.
        workers: loader processes; 0 loads between the steps.
        pin_memory: copies to a GPU go faster from such memory.
    """
    return iter(
        DataLoader(
            split, batch_sampler=batches, num_workers=workers, pin_memory=pin_memory,
            # Python 3.14 would no longer fork, and send each process a copy of all decoded images.
            multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        )
    )  # fmt: skip
