"""A backend without a network, for the tests of programs that embed edgeseg.

It is a product, not a stand-in: nothing in edgeseg ever chooses it by itself, and its results say
``backend == "fake"``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.card import ModelCard
from edgeseg.errors import BackendError
from edgeseg.tensors import TensorSpec, check_feed, network_input_shape


class FakeBackend:
    """Logits that make the brightest input channel, split in bands, choose the class; or a fixed array.

    Args:
        card: classes and input size, with head "logits".
        logits_nchw: float32 [1, C, h, w] to return every time; None derives them from the frame's brightness.
        latency_s: how long an inference takes.
        error: raised by every inference, to see a program's handling.
    """

    name = "fake"
    device = "none"
    version = "1"

    def __init__(
        self,
        card: ModelCard,
        *,
        logits_nchw: NDArray[np.float32] | None = None,
        latency_s: float = 0.0,
        error: Exception | None = None,
    ) -> None:
        self.card, self._logits, self._latency_s, self._error = card, logits_nchw, latency_s, error
        self._closed = False
        height, width = card.input_size_hw
        shape = (1, card.num_classes, -(-height // 8), -(-width // 8)) if logits_nchw is None else logits_nchw.shape
        self.inputs = (TensorSpec("image", np.dtype(card.input_dtype), network_input_shape(card)),)
        self.outputs = (TensorSpec("logits", np.dtype(np.float32), tuple(shape)),)

    def infer(self, feed: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Run once; see ``Backend.infer``."""
        if self._closed:
            raise BackendError("The fake backend is closed", "load the model again")
        check_feed(feed, self.inputs)
        if self._error is not None:
            raise self._error
        if self._latency_s:
            time.sleep(self._latency_s)
        if self._logits is not None:
            return {"logits": self._logits}
        image = feed["image"][0]
        if self.card.input_layout == "nchw":
            image = image.transpose(1, 2, 0)
        brightness = image[::8, ::8].mean(-1) / 256.0
        band = np.clip((brightness * self.card.num_classes).astype(np.int64), 0, self.card.num_classes - 1)
        one_hot = np.eye(self.card.num_classes, dtype=np.float32)[band]
        return {"logits": np.ascontiguousarray(one_hot.transpose(2, 0, 1))[None]}

    def close(self) -> None:
        """Refuse further inferences."""
        self._closed = True
