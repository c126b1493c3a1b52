"""Losses for dense classification."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LOSSES = ("weighted-ce", "ohem")


def class_weights(pixel_counts: Tensor) -> Tensor:
    """Weights ``1 / ln(1.02 + share)`` that lift rare classes, scaled to a mean of 1 over pixels.

    The bounded weighting of ENet (Paszke et al., arXiv 1606.02147, section 5.2).

    Args:
        pixel_counts: labelled pixels by class, [C].
    """
    share = pixel_counts.double() / pixel_counts.sum().clamp(min=1)
    weights = 1.0 / torch.log(1.02 + share)
    return (weights / (weights * share).sum().clamp(min=1e-12)).float()


class WeightedCrossEntropy(nn.Module):
    """Cross-entropy with class weights; pixels with the ignore id count nothing."""

    weights: Tensor

    def __init__(self, ignore_id: int, weights: Tensor) -> None:
        super().__init__()
        self.ignore_id = ignore_id
        self.register_buffer("weights", weights)

    def forward(self, logits_nchw: Tensor, labels_nhw: Tensor) -> Tensor:
        """Mean over labelled pixels, weighted; 0 where none is labelled."""
        losses = F.cross_entropy(logits_nchw, labels_nhw, self.weights, ignore_index=self.ignore_id, reduction="none")
        return losses.sum() / (labels_nhw != self.ignore_id).sum().clamp(min=1)


class OhemCrossEntropy(nn.Module):
    """Online hard example mining: the mean over pixels whose true class has a probability below ``threshold``.

    At least ``keep_share`` of the pixels count, the hardest first (Shrivastava et al., arXiv 1604.03540, in the
    per-pixel form that BiSeNet and DDRNet train with).
    """

    def __init__(self, ignore_id: int, threshold: float = 0.7, keep_share: float = 1 / 16) -> None:
        super().__init__()
        self.ignore_id, self.keep_share = ignore_id, keep_share
        self.loss_floor = -float(torch.log(torch.tensor(threshold)))

    def forward(self, logits_nchw: Tensor, labels_nhw: Tensor) -> Tensor:
        """Mean loss of the hard pixels."""
        losses = F.cross_entropy(logits_nchw, labels_nhw, ignore_index=self.ignore_id, reduction="none")
        losses = losses[labels_nhw != self.ignore_id]
        if losses.numel() == 0:
            return logits_nchw.sum() * 0
        hard = losses[losses > self.loss_floor]
        least = max(1, int(losses.numel() * self.keep_share))
        return (hard if hard.numel() >= least else losses.topk(least).values).mean()


class TrainingLoss(nn.Module):
    """What a step minimises: the criterion on the main logits, and with ``aux_weight`` on each auxiliary one.

    Args:
        criterion: takes logits [N, C, H', W'] and labels [N, H', W'].
        aux_weight: weight of each auxiliary head's loss.
    """

    def __init__(self, criterion: nn.Module, aux_weight: float) -> None:
        super().__init__()
        self.criterion, self.aux_weight = criterion, aux_weight

    def forward(self, outputs: Tensor | tuple[Tensor, ...], labels_nhw: Tensor) -> Tensor:
        """What a network in training gave, and int64 class ids [N, H, W], to the loss, float32 []."""
        main, *auxiliary = (outputs,) if isinstance(outputs, Tensor) else outputs
        loss = dense_loss(self.criterion, main, labels_nhw)
        for logits in auxiliary:
            loss = loss + self.aux_weight * dense_loss(self.criterion, logits, labels_nhw)
        return loss


def build(name: str, ignore_id: int, pixel_counts: Tensor, *, aux_weight: float) -> TrainingLoss:
    """The loss of that name, one of ``LOSSES``."""
    if name == "ohem":
        return TrainingLoss(OhemCrossEntropy(ignore_id), aux_weight)
    return TrainingLoss(WeightedCrossEntropy(ignore_id, class_weights(pixel_counts)), aux_weight)


def dense_loss(criterion: nn.Module, logits_nchw: Tensor, labels_nhw: Tensor, step: int = 2) -> Tensor:
    """``criterion`` on logits brought to label size, at every ``step``-th pixel of a random phase.

    Neighbouring pixels say nearly the same, and cross-entropy over all of them costs as much as the whole
    forward pass on a CPU. The phase is drawn anew each time, so every pixel counts alike on average.

    Args:
        criterion: takes logits [N, C, H', W'] and labels [N, H', W'].
        logits_nchw: at the network's own stride.
        labels_nhw: int64 class ids.
        step: 1 uses every pixel.
    """
    dy, dx = torch.randint(step, (2,)).tolist()
    (height, width), (rows, columns) = logits_nchw.shape[2:], labels_nhw.shape[1:]
    # Two small matrix products interpolate the wanted pixels alone, which no resize function offers.
    along_y = _interpolation_matrix(height, rows, logits_nchw.device)[dy::step]
    along_x = _interpolation_matrix(width, columns, logits_nchw.device)[dx::step]
    sampled = along_y @ logits_nchw.float().contiguous() @ along_x.T
    return criterion(sampled, labels_nhw[:, dy::step, dx::step])


@lru_cache(maxsize=16)
def _interpolation_matrix(inputs: int, outputs: int, device: torch.device) -> Tensor:
    """[outputs, inputs]: what bilinear interpolation (half-pixel centres) does along one axis."""
    unit = torch.eye(inputs, device=device)[None]
    return F.interpolate(unit, size=outputs, mode="linear", align_corners=False)[0].T.contiguous()
