"""Image and mask files as arrays: whole or not at all."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def read_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """An image file as uint8 [H, W, 3], BGR; grey, 16-bit and transparent images are converted.

    A PNG or JPEG that breaks off is refused whole: decoders fill the missing part with grey.

    Raises:
        DataError: the file is missing or is no image that OpenCV can decode.
    """
    import cv2

    path = Path(path)
    return _decode(_bytes_of(path), path, cv2.IMREAD_COLOR)


def read_mask(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """A mask file as uint8 [H, W], pixel = class id.

    Raises:
        DataError: the file is missing, cannot be decoded, or is not an 8-bit single-channel image.
    """
    import cv2

    path = Path(path)
    data = _bytes_of(path)
    mask = _decode(data, path, cv2.IMREAD_UNCHANGED)
    depth = None
    if mask.ndim != 2 or mask.dtype != np.uint8:
        depth = f"{mask.shape[2] if mask.ndim == 3 else 1} channels of {mask.dtype}"
    elif data[:8].tobytes() == _PNG_SIGNATURE and int(data[24]) < 8:
        # OpenCV spreads the ids of such a file over 0..255.
        depth = f"one channel of {int(data[24])} bits"
    if depth is not None:
        raise DataError(
            f"The mask {path} has {depth}, not one of 8 bits",
            "write class ids, not colours: a single-channel 8-bit PNG",
        )
    return mask


def _bytes_of(path: Path) -> NDArray[np.uint8]:
    try:
        return np.fromfile(path, np.uint8)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"Cannot read {path} ({reason})", "check the path and its permissions") from error


def _decode(data: NDArray[np.uint8], path: Path, flag: int) -> NDArray[np.uint8]:
    import cv2

    # Looked at first, because some versions of OpenCV make a picture of the part that is there, and libpng
    # writes to stderr.
    image = None
    if data.size and _is_whole(data.data):
        try:
            image = cv2.imdecode(data, flag)
        except cv2.error:
            image = None
    if image is None:
        raise DataError(f"{path} is not an image that can be decoded", "replace or remove the file; it may be cut off")
    result: NDArray[np.uint8] = image
    return result


def _is_whole(data: memoryview) -> bool:
    """False for a PNG or JPEG without its end, or a PNG with a damaged part; True for what it does not know."""
    if bytes(data[:8]) == _PNG_SIGNATURE:
        return _is_whole_png(data)
    if bytes(data[:3]) == b"\xff\xd8\xff":
        return _is_whole_jpeg(data)
    return True


def _is_whole_png(data: memoryview) -> bool:
    at = len(_PNG_SIGNATURE)
    while at + 12 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), bytes(data[at + 4 : at + 8])
        end = at + 12 + length
        if end > len(data) or zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            return False
        if kind == b"IEND":
            return True
        at = end
    return False


def _is_whole_jpeg(data: memoryview) -> bool:
    at = 2
    # The segments before the picture are stepped over: a preview among them has an end of its own.
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xDA:
            return bytes(data[at:]).find(b"\xff\xd9") >= 0
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False
