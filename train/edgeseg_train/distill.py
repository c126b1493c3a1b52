"""Learning from a larger network besides the masks.

Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531, for every pixel, as in
Liu et al., "Structured Knowledge Distillation for Semantic Segmentation", arXiv 1903.04197, section 3.1.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeseg.dataset import DataSet, check_same_classes
from edgeseg.errors import ModelError
from edgeseg.files import sha256_of
from edgeseg_train import checkpoint as checkpoints
from edgeseg_train.deploy import IMAGENET_MEAN, IMAGENET_STD

TEMPERATURE = 2.0
"""Softens both distributions. A teacher has mostly seen the training images itself and is nearly certain there: at 1
its answer would be the mask once more, without what it finds similar."""


class Teacher:
    """A trained network that stays as it is.

    Args:
        path: its checkpoint.
        data: what the student learns; the teacher must know the same classes.
        device: where it runs.

    Raises:
        ModelError: the checkpoint cannot be read, or its network takes images normalised otherwise.
        DataError: it has other classes, or another order of them.
    """

    def __init__(self, path: str, data: DataSet, device: torch.device) -> None:
        saved = checkpoints.load(path)
        check_same_classes(data.classes, saved["classes"], str(data.path), path)
        if (saved["mean"], saved["std"]) != (list(IMAGENET_MEAN), list(IMAGENET_STD)):
            raise ModelError(f"{path} normalises images in another way", "give a teacher trained by 'edgeseg train'")
        self.sha256 = sha256_of(Path(path))
        network = checkpoints.network_from_checkpoint(saved).requires_grad_(False)
        self._network = network.to(device).to(memory_format=torch.channels_last)

    @torch.no_grad()
    def logits(self, images_nchw: Tensor) -> Tensor:
        """Normalised RGB images to logits [N, C, h, w], at the teacher's own stride."""
        logits: Tensor = self._network(images_nchw)
        return logits


def distillation_loss(student_nchw: Tensor, teacher_nchw: Tensor, labelled_nhw: Tensor) -> Tensor:
    """The divergence of the student's class probabilities from the teacher's, at the finer stride of the two.

    Args:
        student_nchw, teacher_nchw: logits of the same classes, each at its own stride.
        labelled_nhw: bool, at the size of the images: which pixels count. Crops are padded beside their image, and
            the teacher knows nothing about padding.

    Returns:
        Kullback-Leibler divergence, a mean over the pixels that count, times the squared temperature, which keeps
        the gradient's size independent of it; 0 where none counts.
    """
    size_hw = max(student_nchw.shape[2:], teacher_nchw.shape[2:])
    log_student, log_teacher = (
        (F.interpolate(logits.float(), size_hw, mode="bilinear") / TEMPERATURE).log_softmax(1)
        for logits in (student_nchw, teacher_nchw)
    )
    counts = F.interpolate(labelled_nhw[:, None].float(), size_hw, mode="nearest-exact")[:, 0]
    divergence = (log_teacher.exp() * (log_teacher - log_student)).sum(1)
    return TEMPERATURE**2 * (divergence * counts).sum() / counts.sum().clamp(min=1)
