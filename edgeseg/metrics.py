"""Accuracy of class maps, all from one confusion matrix over a whole split.

Definitions follow the field's practice (Long et al., "Fully Convolutional Networks for Semantic
Segmentation", CVPR 2015): ignored pixels are dropped by ground truth alone, and a class counts in the mean
where it is present in ground truth or prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import DataError


@dataclass(frozen=True)
class Scores:
    """Accuracy figures, all 0 to 1.

    Attributes:
        miou: mean intersection over union over the classes present in ground truth or prediction.
        iou: by class name; None where the class is in neither.
        dice: mean Dice coefficient, ``2 TP / (2 TP + FP + FN)``, over the same classes.
        dice_by_class: by class name; None as for ``iou``.
        pixel_accuracy: share of labelled pixels that are right.
        pixels: labelled pixels counted.
    """

    miou: float
    iou: dict[str, float | None]
    dice: float
    dice_by_class: dict[str, float | None]
    pixel_accuracy: float
    pixels: int

    def to_dict(self) -> dict[str, Any]:
        """The same as plain JSON types."""
        return dict(vars(self))

    def table(self) -> str:
        """Per-class IoU and Dice with the means, as aligned text in per cent."""
        width = max([len(name) for name in self.iou] + [14])
        lines = [f"{'class':<{width}}    IoU   Dice"]
        for name, iou in self.iou.items():
            dice = self.dice_by_class[name]
            lines.append(
                f"{name:<{width}}  absent" if iou is None or dice is None
                else f"{name:<{width}}  {100 * iou:5.2f}  {100 * dice:5.2f}"
            )  # fmt: skip
        lines.append(f"{'mean':<{width}}  {100 * self.miou:5.2f}  {100 * self.dice:5.2f}")
        lines.append(f"{'pixel accuracy':<{width}}  {100 * self.pixel_accuracy:5.2f}")
        return "\n".join(lines)


class ConfusionMatrix:
    """Counts ``matrix[truth, prediction]`` over any number of masks.

    A prediction outside the class list (255: no valid result) is counted as wrong, never dropped.

    Args:
        classes: class names by id.
        ignore_id: ground-truth id to drop, or None.
    """

    def __init__(self, classes: Sequence[str], ignore_id: int | None) -> None:
        self.classes = tuple(classes)
        self.ignore_id = ignore_id
        n = len(self.classes)
        # The last column takes predictions that name no class, so that they count as misses.
        self.matrix = np.zeros((n, n + 1), np.int64)

    def update(self, truth_hw: NDArray[np.integer[Any]], prediction_hw: NDArray[np.integer[Any]]) -> None:
        """Add one pair of masks, integer [H, W].

        Raises:
            DataError: the shapes differ, or the truth holds an id that is neither a class nor the ignore id.
        """
        if truth_hw.shape != prediction_hw.shape:
            raise DataError(
                f"The prediction has the shape {prediction_hw.shape}, the mask {truth_hw.shape}",
                "score a prediction at the size of its mask",
            )
        n = len(self.classes)
        truth = truth_hw.reshape(-1).astype(np.int64)
        prediction = prediction_hw.reshape(-1).astype(np.int64)
        prediction[(prediction < 0) | (prediction > n)] = n
        if self.ignore_id is not None:
            kept = truth != self.ignore_id
            truth, prediction = truth[kept], prediction[kept]
        if truth.size and not 0 <= int(truth.min()) <= int(truth.max()) < n:
            bad = int(truth.max()) if int(truth.max()) >= n else int(truth.min())
            raise DataError(f"A mask holds the class id {bad}, there are {n} classes", _UNKNOWN_ID_MEND)
        self.matrix += np.bincount(truth * (n + 1) + prediction, minlength=n * (n + 1)).reshape(n, n + 1)

    def scores(self) -> Scores:
        """The figures so far.

        Raises:
            DataError: no labelled pixel was counted.
        """
        total = int(self.matrix.sum())
        if total == 0:
            raise DataError("There is no labelled pixel to score", "choose a split whose masks hold classes")
        hit = np.diagonal(self.matrix).astype(np.float64)
        truth = self.matrix.sum(1)
        predicted = self.matrix[:, :-1].sum(0)
        present = (truth + predicted) > 0
        union = np.maximum(truth + predicted - hit, 1)
        iou = hit / union
        dice = 2 * hit / np.maximum(truth + predicted, 1)

        def by_class(values: NDArray[np.float64]) -> dict[str, float | None]:
            return {c: float(v) if p else None for c, v, p in zip(self.classes, values, present)}

        return Scores(
            miou=float(iou[present].mean()),
            iou=by_class(iou),
            dice=float(dice[present].mean()),
            dice_by_class=by_class(dice),
            pixel_accuracy=float(hit.sum() / total),
            pixels=total,
        )


_UNKNOWN_ID_MEND = "add the class to 'names' in data.yaml, or map the id to the 'ignore' id in the masks"
