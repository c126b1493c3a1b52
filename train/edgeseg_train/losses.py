"""Losses for dense classification, and the expressions that combine them.

An expression is a sum of losses, each with a weight before it where that is not 1: ``weighted-ce``,
``ohem + 0.5*dice``. All leave out pixels with the ignore id, and are 0 where no pixel is labelled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseg.errors import UsageError, nearest
from edgeseg_train.models.outputs import TrainingOutputs
from edgeseg_train.process_sum import sum_over_processes

BOUNDARY_WEIGHT = 20.0
"""Of the boundary head's loss, as PIDNet has it (arXiv 2206.02066)."""

BOUNDARY_PROBABILITY = 0.8
"""Above it a pixel counts as boundary to the network, and its class a second time (the same paper)."""


def class_weights(pixel_counts: Tensor) -> Tensor:
    """Weights ``1 / ln(1.02 + share)`` that lift rare classes, scaled to a mean of 1 over pixels.

    The bounded weighting of ENet (Paszke et al., arXiv 1606.02147, section 5.2).

    Args:
        pixel_counts: labelled pixels by class, [C].
    """
    share = pixel_counts.double() / pixel_counts.sum().clamp(min=1)
    weights = 1.0 / torch.log(1.02 + share)
    return (weights / (weights * share).sum().clamp(min=1e-12)).float()


class CrossEntropy(nn.Module):
    """Cross-entropy, with weights of the classes where they are given.

    Args:
        ignore_id: label of the pixels that count nothing.
        weights: by class, [C].
    """

    weights: Tensor | None

    def __init__(self, ignore_id: int, weights: Tensor | None = None) -> None:
        super().__init__()
        self.ignore_id = ignore_id
        self.register_buffer("weights", weights)

    def forward(self, logits_nchw: Tensor, labels_nhw: Tensor) -> Tensor:
        """Mean over labelled pixels, weighted; 0 where none is labelled."""
        losses = F.cross_entropy(logits_nchw, labels_nhw, self.weights, ignore_index=self.ignore_id, reduction="none")
        return losses.sum() / (labels_nhw != self.ignore_id).sum().clamp(min=1)


class FocalLoss(nn.Module):
    """Cross-entropy in which a pixel counts ``(1 - p) ** gamma``, where p is the probability of its true class.

    Lin et al., "Focal Loss for Dense Object Detection", arXiv 1708.02002, without class weights.
    """

    def __init__(self, ignore_id: int, gamma: float = 2.0) -> None:
        super().__init__()
        self.ignore_id, self.gamma = ignore_id, gamma

    def forward(self, logits_nchw: Tensor, labels_nhw: Tensor) -> Tensor:
        """Mean over labelled pixels; 0 where none is labelled."""
        losses = F.cross_entropy(logits_nchw, labels_nhw, ignore_index=self.ignore_id, reduction="none")
        losses = (1 - torch.exp(-losses)) ** self.gamma * losses
        return losses.sum() / (labels_nhw != self.ignore_id).sum().clamp(min=1)


class OhemCrossEntropy(nn.Module):
    """Online hard example mining: the mean over pixels whose true class has a probability below ``threshold``.

    At least ``keep_share`` of the pixels count, the hardest first (Shrivastava et al., arXiv 1604.03540, in the
    per-pixel form that BiSeNet and DDRNet train with).
    """

    def __init__(self, ignore_id: int, threshold: float = 0.7, keep_share: float = 1 / 16) -> None:
        super().__init__()
        self.ignore_id, self.keep_share = ignore_id, keep_share
        self.loss_floor = -math.log(threshold)

    def forward(self, logits_nchw: Tensor, labels_nhw: Tensor) -> Tensor:
        """Mean loss of the hard pixels."""
        losses = F.cross_entropy(logits_nchw, labels_nhw, ignore_index=self.ignore_id, reduction="none")
        losses = losses[labels_nhw != self.ignore_id]
        if losses.numel() == 0:
            return losses.sum()
        hard = losses[losses > self.loss_floor]
        least = max(1, int(losses.numel() * self.keep_share))
        return (hard if hard.numel() >= least else losses.topk(least).values).mean()


class DiceLoss(nn.Module):
    """1 minus the soft Dice coefficient, a mean over the classes that are labelled in the batch.

    Milletari et al., "V-Net", arXiv 1606.04797, with plain sums in the denominator as in Sudre et al.,
    arXiv 1707.03237. Every class counts alike, however few its pixels.
    """

    def __init__(self, ignore_id: int) -> None:
        super().__init__()
        self.ignore_id = ignore_id

    def forward(self, logits_nchw: Tensor, labels_nhw: Tensor) -> Tensor:
        """Mean over the present classes, 0 to 1; 0 where no pixel is labelled."""
        probabilities, labels = _labelled(logits_nchw, labels_nhw, self.ignore_id)
        pixels = labels.bincount(minlength=len(probabilities))
        true = probabilities.gather(0, labels[None])[0]
        overlap = true.new_zeros(len(pixels)).index_add(0, labels, true)
        # Its images may be spread over several processes.
        overlap, predicted, pixels = sum_over_processes(torch.stack([overlap, probabilities.sum(1), pixels.float()]))
        present = pixels > 0
        dice = 2 * overlap[present] / (predicted + pixels)[present]
        return (1 - dice).sum() / present.sum().clamp(min=1)


class LovaszSoftmax(nn.Module):
    """The Lovász extension of 1 - IoU on softmax probabilities, a mean over the classes labelled in the batch.

    Berman, Triki, Blaschko, "The Lovász-Softmax loss", arXiv 1705.08790. It follows the IoU of the batch, which
    says little before the classes are told apart at all: best beside a cross-entropy.
    """

    def __init__(self, ignore_id: int) -> None:
        super().__init__()
        self.ignore_id = ignore_id

    def forward(self, logits_nchw: Tensor, labels_nhw: Tensor) -> Tensor:
        """Mean over the present classes, 0 to 1; 0 where no pixel is labelled."""
        probabilities, labels = _labelled(logits_nchw, labels_nhw, self.ignore_id)
        present = labels.unique().tolist()
        losses = [_lovasz(probabilities[class_id], labels == class_id) for class_id in present]
        return torch.stack(losses).mean() if losses else probabilities.sum()


def _lovasz(probability: Tensor, foreground: Tensor) -> Tensor:
    """One class: its probability and whether it is true, by pixel, [P]."""
    errors = torch.where(foreground, 1 - probability, probability)
    order = _descending(errors.detach())
    errors, foreground = errors[order], foreground[order]
    # What each further error, the largest first, adds to 1 - intersection / union.
    intersection = foreground.sum() - foreground.cumsum(0)
    union = (~foreground).cumsum(0) + foreground.sum()
    steps = torch.where(foreground, 1.0, intersection / (union - 1)) / union
    return (errors * steps).sum()


def _descending(values: Tensor) -> Tensor:
    """The order that sorts them, the largest first."""
    # numpy takes a fifth of torch's time for it.
    return torch.from_numpy(np.argsort(-values.numpy())) if values.is_cpu else values.argsort(descending=True)


def _labelled(logits_nchw: Tensor, labels_nhw: Tensor, ignore_id: int) -> tuple[Tensor, Tensor]:
    """Probabilities [C, P] and classes [P] of the labelled pixels."""
    kept = (labels_nhw != ignore_id).flatten()
    return logits_nchw.softmax(1).transpose(0, 1).flatten(1)[:, kept], labels_nhw.flatten()[kept]


class WeightedSum(nn.Module):
    """Losses, each with its weight, as one."""

    def __init__(self, losses: list[nn.Module], weights: list[float]) -> None:
        super().__init__()
        self.losses, self.weights = nn.ModuleList(losses), weights

    def forward(self, logits_nchw: Tensor, labels_nhw: Tensor) -> Tensor:
        """Their sum, []."""
        terms = zip(self.weights, self.losses, strict=True)
        return torch.stack([weight * loss(logits_nchw, labels_nhw) for weight, loss in terms]).sum()


LOSSES: dict[str, Callable[[int, Tensor], nn.Module]] = {
    "ce": lambda ignore_id, _: CrossEntropy(ignore_id),
    "weighted-ce": lambda ignore_id, pixel_counts: CrossEntropy(ignore_id, class_weights(pixel_counts)),
    "ohem": lambda ignore_id, _: OhemCrossEntropy(ignore_id),
    "focal": lambda ignore_id, _: FocalLoss(ignore_id),
    "dice": lambda ignore_id, _: DiceLoss(ignore_id),
    "lovasz": lambda ignore_id, _: LovaszSoftmax(ignore_id),
}
"""By name: the ignore id and the labelled pixels by class, [C], to a loss on logits [N, C, H, W] and labels."""


def weights_from_expression(expression: str) -> dict[str, float]:
    """The weight of each loss in a sum such as ``"ohem + 0.5*dice"``.

    Raises:
        UsageError: a term is missing, its name unknown (suggests the nearest) or said twice, or its weight is not
            a number above 0.
    """
    weights: dict[str, float] = {}
    for term in expression.split("+"):
        weight, star, name = (part.strip() for part in term.rpartition("*"))
        if name not in LOSSES:
            problem = f"There is no loss '{name}'" if name else f"The loss '{expression}' lacks a term"
            raise UsageError(problem, nearest(name, LOSSES))
        if name in weights:
            raise UsageError(f"The loss '{expression}' has '{name}' twice", "add up its weights")
        weights[name] = _weight(weight) if star else 1.0
        if not 0 < weights[name] < math.inf:
            raise UsageError(f"The weight '{weight}' of '{name}' is no number above 0", f"write it as 0.5*{name}")
    return weights


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


class TrainingLoss(nn.Module):
    """What a step minimises, at every ``step``-th pixel of a random phase.

    The criterion on the logits, and ``aux_weight`` times that on each auxiliary one. A network with a boundary head
    is supervised as PIDNet was (Xu et al., arXiv 2206.02066), whatever the criterion: plain
    cross-entropy on its auxiliary logits, ``BOUNDARY_WEIGHT`` times ``boundary_loss`` on that head, and the
    criterion once more over the pixels where the head sees a boundary.

    Neighbouring pixels say nearly the same, and cross-entropy over all of them costs as much as the whole
    forward pass on a CPU. The phase is drawn anew each time, so every pixel counts alike on average.

    Args:
        criterion: takes logits [N, C, H', W'] and labels [N, H', W'].
        ignore_id: label of the pixels that count nothing.
        aux_weight: weight of each auxiliary head's loss.
        step: 1 uses every pixel.
    """

    def __init__(self, criterion: nn.Module, ignore_id: int, aux_weight: float, step: int = 2) -> None:
        super().__init__()
        self.criterion, self.cross_entropy = criterion, CrossEntropy(ignore_id)
        self.ignore_id, self.aux_weight, self.step = ignore_id, aux_weight, step

    def forward(self, outputs: Tensor | TrainingOutputs, labels_nhw: Tensor) -> Tensor:
        """What a network in training gave, and int64 class ids [N, H, W], to the loss, float32 []."""
        if isinstance(outputs, Tensor):
            outputs = TrainingOutputs(outputs)
        rows, columns = (slice(phase, None, self.step) for phase in torch.randint(self.step, (2,)).tolist())
        labels = labels_nhw[:, rows, columns]

        def sampled(logits: Tensor) -> Tensor:
            return logits_at(logits, labels_nhw.shape[1:], rows, columns)

        with torch.autocast(labels.device.type, enabled=False):
            logits = sampled(outputs.logits)
            loss = self.criterion(logits, labels)
            of_auxiliary = self.criterion if outputs.boundary is None else self.cross_entropy
            for auxiliary in outputs.auxiliary:
                loss = loss + self.aux_weight * of_auxiliary(sampled(auxiliary), labels)
            if outputs.boundary is not None:
                seen = sampled(outputs.boundary)[:, 0]
                truth = boundary_from_labels(labels_nhw, self.ignore_id)[:, rows, columns]
                loss = loss + BOUNDARY_WEIGHT * boundary_loss(seen, truth, labels != self.ignore_id)
                near = labels.where(seen.sigmoid() > BOUNDARY_PROBABILITY, self.ignore_id)
                loss = loss + self.criterion(logits, near)
        return loss


def build(expression: str, ignore_id: int, pixel_counts: Tensor, *, aux_weight: float) -> TrainingLoss:
    """The loss that an expression names.

    Args:
        expression: see ``weights_from_expression``.
        ignore_id: label of the pixels that count nothing.
        pixel_counts: labelled pixels by class, [C].
        aux_weight: weight of each auxiliary head's loss.

    Raises:
        UsageError: the expression is not one.
    """
    weights = weights_from_expression(expression)
    terms = [LOSSES[name](ignore_id, pixel_counts) for name in weights]
    return TrainingLoss(WeightedSum(terms, list(weights.values())), ignore_id, aux_weight)


def boundary_from_labels(labels_nhw: Tensor, ignore_id: int) -> Tensor:
    """Where a class meets another: bool [N, H, W], bands four pixels wide, two on each side.

    The border of an ignored region is none.

    Args:
        labels_nhw: class ids.
        ignore_id: label of the pixels whose class is not known.
    """
    boundary = torch.zeros_like(labels_nhw, dtype=torch.bool)
    for axis in (1, 2):
        pairs = labels_nhw.shape[axis] - 1
        first, second = labels_nhw.narrow(axis, 0, pairs), labels_nhw.narrow(axis, 1, pairs)
        change = (first != second) & (first != ignore_id) & (second != ignore_id)
        for start in (0, 1):
            boundary.narrow(axis, start, pairs).logical_or_(change)
    return F.max_pool2d(boundary[:, None].float(), 3, 1, 1)[:, 0] > 0


def boundary_loss(logits_nhw: Tensor, boundary_nhw: Tensor, labelled_nhw: Tensor) -> Tensor:
    """Binary cross-entropy in which boundary and the rest weigh alike: each pixel by the share of the other kind.

    Args:
        logits_nhw: of being boundary.
        boundary_nhw: the truth, bool.
        labelled_nhw: which pixels count, bool.

    Returns:
        The mean over labelled pixels, []; 0 where none is labelled, or all are of one kind.
    """
    count = labelled_nhw.sum().clamp(min=1)
    share = (boundary_nhw & labelled_nhw).sum() / count
    weights = torch.where(boundary_nhw, 1 - share, share) * labelled_nhw
    truth = boundary_nhw.to(logits_nhw.dtype)
    return F.binary_cross_entropy_with_logits(logits_nhw, truth, weights, reduction="sum") / count


def logits_at(logits_nchw: Tensor, size_hw: Sequence[int], rows: slice, columns: slice) -> Tensor:
    """The logits brought to ``size_hw`` by bilinear interpolation, at some rows and columns of it, in float32.

    Two small matrix products interpolate the wanted pixels alone, which no resize function offers.
    """
    (height, width), device = logits_nchw.shape[2:], logits_nchw.device
    along_y = _interpolation_matrix(height, size_hw[0], device)[rows]
    along_x = _interpolation_matrix(width, size_hw[1], device)[columns]
    return along_y @ logits_nchw.float().contiguous() @ along_x.T


@lru_cache(maxsize=16)
def _interpolation_matrix(inputs: int, outputs: int, device: torch.device) -> Tensor:
    """[outputs, inputs]: what bilinear interpolation (half-pixel centres) does along one axis."""
    unit = torch.eye(inputs, device=device)[None]
    return F.interpolate(unit, size=outputs, mode="linear", align_corners=False)[0].T.contiguous()
