"""Pictures of what a network gets right and wrong, for TensorBoard and the report."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgeseg.dataset import DataSet
from edgeseg.draw import color_from_classmap, error_picture
from edgeseg_train.evaluate import segmenter_for_network


def sample_picture(
    network: nn.Module, data: DataSet, split: str, imgsz: tuple[int, int], device: torch.device, count: int = 4
) -> NDArray[np.uint8]:
    """Images of a split, evenly spaced, beside their truth, the network's prediction and its errors.

    Args:
        network, data, imgsz, device: see ``segmenter_for_network``.
        split: name of the split.
        count: rows at most.

    Returns:
        uint8 [count * H, 4 * W, 3], RGB, with H and W of ``imgsz``; one row for each image.

    Raises:
        DataError: the split is missing, or a file in it is not what it should be.
    """
    samples = data.samples(split)
    rows = []
    with segmenter_for_network(network, data, imgsz, device) as segmenter:
        for sample in samples[:: max(1, len(samples) // count)][:count]:
            image, truth = data.read(sample)
            image = np.asarray(cv2.resize(image, imgsz[::-1]), np.uint8)
            truth = np.asarray(cv2.resize(truth, imgsz[::-1], interpolation=cv2.INTER_NEAREST), np.uint8)
            predicted = segmenter(image).mask
            painted = [color_from_classmap(mask, data.palette) for mask in (truth, predicted)]
            rows.append(np.hstack([image, *painted, error_picture(image, truth, predicted, data.ignore_id)]))
    return np.ascontiguousarray(np.vstack(rows)[:, :, ::-1])
