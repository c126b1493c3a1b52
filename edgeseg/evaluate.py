"""Score a segmenter on labelled images: what ``edgeseg eval`` reports, training watches and export checks."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from edgeseg.metrics import ConfusionMatrix, Scores
from edgeseg.segmenter import Segmenter


def evaluate(
    segmenter: Segmenter,
    pairs: Iterable[tuple[NDArray[np.uint8], NDArray[np.uint8]]],
    ignore_id: int | None,
) -> Scores:
    """One confusion matrix over all pairs, each scored at the size of its own image.

    Pixels without a valid result count as wrong.

    Args:
        segmenter: its card names the classes.
        pairs: image (uint8 [H, W, 3], BGR) and true class ids (uint8 [H, W]); taken one at a time.
        ignore_id: true id to leave out, or None.

    Raises:
        DataError: there is no labelled pixel, a mask has another size than its image, or it holds an id that
            is neither a class nor ``ignore_id``.
        UsageError, BackendError, ModelError: see ``Segmenter.__call__``.
    """
    return confusion_of(segmenter, pairs, ignore_id).scores()


def confusion_of(
    segmenter: Segmenter,
    pairs: Iterable[tuple[NDArray[np.uint8], NDArray[np.uint8]]],
    ignore_id: int | None,
) -> ConfusionMatrix:
    """The confusion matrix behind ``evaluate``, whose arguments and errors it has; it may have counted no pixel."""
    confusion = ConfusionMatrix(segmenter.card.classes, ignore_id)
    for image, truth in pairs:
        confusion.update(truth, segmenter(image).mask)
    return confusion
