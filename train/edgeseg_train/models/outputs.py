"""What a network gives while it is trained."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class TrainingOutputs(NamedTuple):
    """The logits and those of the heads that only training has, each at its own stride.

    Attributes:
        logits: [N, C, h, w].
        auxiliary: of other heads with the same classes, [N, C, h', w'] each.
        boundary: of being where two classes meet, [N, 1, h", w"].
    """

    logits: Tensor
    auxiliary: tuple[Tensor, ...] = ()
    boundary: Tensor | None = None
