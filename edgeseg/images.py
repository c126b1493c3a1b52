"""Image and mask files as arrays: whole or not at all."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_GREY, _PNG_PALETTE = 0, 3
_PNG_KINDS = {_PNG_GREY: "grey", 2: "RGB", _PNG_PALETTE: "palette", 4: "grey with alpha", 6: "RGBA"}


def read_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """An image file as uint8 [H, W, 3], BGR.

    Grey is repeated in all channels, a palette is looked up, of 16 bits the upper 8 are kept, transparency is
    left out, and photos are turned as their EXIF data say. A PNG or JPEG that breaks off is refused whole:
    decoders fill the missing part with grey.

    Raises:
        DataError: the file is missing or is no image that OpenCV can decode.
    """
    path = Path(path)
    return image_from_bytes(_bytes_of(path), path)


def image_from_bytes(data: NDArray[np.uint8], origin: str | Path) -> NDArray[np.uint8]:
    """``read_image`` for the bytes of a file; ``origin`` names it in errors."""
    import cv2

    return _decode(data, origin, cv2.IMREAD_COLOR)


def read_mask(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """A mask file as uint8 [H, W], pixel = class id; in a PNG with a palette, its index is the id.

    Raises:
        DataError: the file is missing, cannot be decoded, or is not a single-channel image of up to 8 bits.
    """
    path = Path(path)
    return mask_from_bytes(_bytes_of(path), path)


def mask_from_bytes(data: NDArray[np.uint8], origin: str | Path) -> NDArray[np.uint8]:
    """``read_mask`` for the bytes of a file; ``origin`` names it in errors."""
    import cv2

    bits = 8
    if _is_png(data.data) and _is_whole(data.data):
        bits, kind = int(data[24]), int(data[25])
        if kind == _PNG_PALETTE:
            data = _grey_from_palette_png(data.data)
    mask = _decode(data, origin, cv2.IMREAD_UNCHANGED)
    if mask.ndim != 2:
        raise DataError(
            f"The mask {origin} has {mask.shape[2]} channels, not one: it holds colours instead of class ids",
            "turn colours into ids with `edgeseg data convert --format colors`, or write single-channel 8-bit PNGs",
        )
    if mask.dtype != np.uint8:
        raise DataError(
            f"The mask {origin} is {mask.dtype}, not of 8 bits", "write class ids as a single-channel 8-bit PNG"
        )
    # OpenCV spreads the values of fewer bits over 0..255.
    return mask if bits == 8 else mask // np.uint8(255 // (2**bits - 1))


def pixel_kind(path: str | os.PathLike[str]) -> str:
    """How the pixels of an image file are stored, such as "RGB", "grey, 16-bit" or "palette".

    Raises:
        DataError: the file is missing or is no image that OpenCV can decode.
    """
    import cv2

    path = Path(path)
    data = _bytes_of(path)
    if _is_png(data.data) and _is_whole(data.data):
        bits, kind = int(data[24]), _PNG_KINDS.get(int(data[25]), "unknown")
    else:
        image = _decode(data, path, cv2.IMREAD_UNCHANGED)
        bits = 8 * image.itemsize
        kind = "grey" if image.ndim == 2 else {3: "RGB", 4: "RGBA"}.get(image.shape[2], f"{image.shape[2]} channels")
    return f"{kind}, {bits}-bit" if bits > 8 else kind


def _bytes_of(path: Path) -> NDArray[np.uint8]:
    try:
        return np.fromfile(path, np.uint8)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"Cannot read {path} ({reason})", "check the path and its permissions") from error


def _decode(data: NDArray[np.uint8], origin: str | Path, flag: int) -> NDArray[np.uint8]:
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
        raise DataError(
            f"{origin} is not an image that can be decoded", "replace or remove the file; it may be cut off"
        )
    result: NDArray[np.uint8] = image
    return result


def _is_whole(data: memoryview) -> bool:
    """False for a PNG or JPEG without its end, or a PNG with a damaged part; True for what it does not know."""
    if _is_png(data):
        kinds = [kind for kind, _ in _png_chunks(data)]
        return kinds[:1] == [b"IHDR"] and kinds[-1] == b"IEND"
    if bytes(data[:3]) == b"\xff\xd8\xff":
        return _is_whole_jpeg(data)
    return True


def _is_png(data: memoryview) -> bool:
    return bytes(data[:8]) == _PNG_SIGNATURE


def _png_chunks(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and whole bytes of each chunk, to the first that is damaged or to the end of the picture."""
    at = len(_PNG_SIGNATURE)
    while at + 12 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), bytes(data[at + 4 : at + 8])
        end = at + 12 + length
        if end > len(data) or zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            return
        yield kind, data[at:end]
        if kind == b"IEND":
            return
        at = end


def _grey_from_palette_png(data: memoryview) -> NDArray[np.uint8]:
    """The same PNG with its indices declared as grey values: OpenCV would look them up in the palette."""
    parts: list[bytes | bytearray | memoryview] = [_PNG_SIGNATURE]
    for kind, chunk in _png_chunks(data):
        if kind == b"IHDR":
            header = bytearray(chunk[4:-4])
            header[4 + 9] = _PNG_GREY
            parts += [chunk[:4], header, zlib.crc32(header).to_bytes(4, "big")]
        elif kind not in (b"PLTE", b"tRNS"):
            parts.append(chunk)
    return np.frombuffer(b"".join(parts), np.uint8)


def _is_whole_jpeg(data: memoryview) -> bool:
    at = 2
    # The segments before the picture are stepped over: a preview among them has an end of its own.
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xDA:
            return bytes(data[at:]).find(b"\xff\xd9") >= 0
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False
