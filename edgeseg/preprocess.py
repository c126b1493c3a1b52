"""From a frame to the network's input: written once, used by run, eval, calibration and parity checks alike."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.card import ModelCard
from edgeseg.errors import UsageError
from edgeseg.tensors import network_input_shape


class Preprocessor:
    """uint8 BGR frames of any size to the input tensor that a card describes.

    Resizing is bilinear on bytes (OpenCV's INTER_LINEAR, half-pixel centres). A model with a uint8 input gets
    the bytes; a float input gets ``(pixel / 255 - mean) / std``.

    The returned tensor is reused by the next call: one thread at a time.
    """

    def __init__(self, card: ModelCard) -> None:
        import cv2

        self._cv2 = cv2
        self._card = card
        self._size_wh = (card.input_size_hw[1], card.input_size_hw[0])
        self._tensor: NDArray[Any] = np.empty(network_input_shape(card), np.dtype(card.input_dtype))
        self._scale = [1.0 / (255.0 * s) for s in card.std]
        self._offset = [-m / s for m, s in zip(card.mean, card.std)]

    def __call__(self, image_hwc: NDArray[np.uint8]) -> NDArray[Any]:
        """The input tensor, [1, H, W, 3] or [1, 3, H, W] in the card's dtype.

        Raises:
            UsageError: not a uint8 [H, W, 3] array.
        """
        check_picture(image_hwc)
        card = self._card
        direct = card.input_dtype == "uint8" and card.input_layout == "nhwc" and card.color_order == "bgr"
        same_size = image_hwc.shape[:2] == card.input_size_hw
        if direct and same_size:
            return np.ascontiguousarray(image_hwc)[None]
        if direct:
            self._cv2.resize(image_hwc, self._size_wh, dst=self._tensor[0])
            return self._tensor
        resized = image_hwc if same_size else self._cv2.resize(image_hwc, self._size_wh)
        for channel in range(3):
            plane = resized[:, :, channel if card.color_order == "bgr" else 2 - channel]
            nchw = card.input_layout == "nchw"
            target = self._tensor[0, channel] if nchw else self._tensor[0, :, :, channel]
            if card.input_dtype == "uint8":
                target[...] = plane
            else:
                np.multiply(plane, self._scale[channel], out=target, casting="unsafe")
                target += self._offset[channel]
        return self._tensor


def check_picture(image: object) -> None:
    """Refuse what is no picture.

    Raises:
        UsageError: not a uint8 [H, W, 3] array.
    """
    if (
        isinstance(image, np.ndarray)
        and image.dtype == np.uint8
        and image.ndim == 3
        and image.shape[2] == 3
        and image.size > 0
    ):
        return
    # None is what cv2.imread gives for a file it cannot read.
    what = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else repr(image)
    raise UsageError(f"A frame is {what}", "give uint8 [H, W, 3] in BGR order")
