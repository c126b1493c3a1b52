"""Score a network during training through the runtime itself: the figures are those of ``edgeseg eval``."""

from __future__ import annotations

import torch
from torch import nn

from edgeseg.dataset import DataSet
from edgeseg.evaluate import confusion_of
from edgeseg.metrics import Scores
from edgeseg.segmenter import Segmenter
from edgeseg_train.backend import TorchBackend, card_for_network
from edgeseg_train.distributed import Processes


def segmenter_for_network(network: nn.Module, data: DataSet, imgsz: tuple[int, int], device: torch.device) -> Segmenter:
    """A network in memory as a ``Segmenter`` for a data set's classes.

    Args:
        network: maps normalised RGB images to logits; moved to ``device`` and put into evaluation mode.
        data: gives classes, palette and ignore id.
        imgsz: height and width of the network input in pixels.
        device: where it runs.

    Raises:
        UsageError: ``imgsz`` is out of range, or there is no such device.
    """
    card = card_for_network(classes=data.classes, palette=data.palette, ignore_id=data.ignore_id, imgsz=imgsz)
    return Segmenter(TorchBackend(network, card, device=device), card)


def evaluate_network(
    network: nn.Module, data: DataSet, split: str, imgsz: tuple[int, int], processes: Processes
) -> Scores:
    """Scores of a network on a split, each of the processes with its share of the images.

    Args:
        network, data, imgsz: see ``segmenter_for_network``.
        split: name of the split.
        processes: all of them must call it, and all get the same.

    Raises:
        DataError: the split is missing, or a file in it is not what it should be.
        UsageError: ``imgsz`` is out of range, or there is no such device.
    """
    with segmenter_for_network(network, data, imgsz, processes.device) as segmenter:
        pairs = (data.read(sample) for sample in processes.share(data.samples(split)))
        confusion = confusion_of(segmenter, pairs, data.ignore_id)
    confusion.matrix = processes.total(torch.from_numpy(confusion.matrix)).cpu().numpy()
    return confusion.scores()
