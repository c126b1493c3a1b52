"""What several readers share: label files to class maps, and colours for sets that bring none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import DataError
from edgeseg.images import read_image, read_mask

IGNORE_ID = 255

_NAMED_AT_MOST = 5


def classmap_from_ids(path: Path, class_from_id: Mapping[int, int]) -> NDArray[np.uint8]:
    """A label file with one id a pixel as class ids, uint8 [H, W].

    Raises:
        DataError: the file cannot be read, or holds an id that ``class_from_id`` lacks.
    """
    label_hw = read_mask(path)
    table = np.zeros(256, np.uint8)
    table[list(class_from_id)] = list(class_from_id.values())
    unknown = sorted({int(i) for i in np.flatnonzero(np.bincount(label_hw.reshape(-1)))} - set(class_from_id))
    if unknown:
        raise DataError(f"{path} holds the ids {_some(unknown)}, which are no labels of this format", _AS_PUBLISHED)
    classmap: NDArray[np.uint8] = table[label_hw]
    return classmap


def classmap_from_colors(path: Path, class_from_rgb: Mapping[tuple[int, int, int], int]) -> NDArray[np.uint8]:
    """A colour-coded label file as class ids, uint8 [H, W].

    Raises:
        DataError: the file cannot be read, or holds a colour that ``class_from_rgb`` lacks.
    """
    class_from_code = {r + 256 * g + 65536 * b: class_id for (r, g, b), class_id in class_from_rgb.items()}
    classmap, unknown = _classmap_from_codes(_codes_of(path), class_from_code)
    if unknown:
        colors = [(code % 256, code // 256 % 256, code // 65536) for code in unknown]
        raise DataError(f"{path} holds the colours {_some(colors)} (RGB), which are no class", _EXACT_COLORS)
    return classmap


def classmap_from_segments(path: Path, class_from_segment: Mapping[int, int]) -> NDArray[np.uint8]:
    """A label file whose colours are segment ids, R + 256 G + 65536 B, as class ids, uint8 [H, W].

    Raises:
        DataError: the file cannot be read, or holds a segment that ``class_from_segment`` lacks.
    """
    classmap, unknown = _classmap_from_codes(_codes_of(path), class_from_segment)
    if unknown:
        raise DataError(
            f"{path} holds the segments {_some(unknown)}, which its annotation file does not list",
            "take the annotation file and the pictures from the same release",
        )
    return classmap


def _codes_of(path: Path) -> NDArray[np.int64]:
    """R + 256 G + 65536 B of each pixel of an image file: int64 [H, W].

    Raises:
        DataError: the file cannot be read.
    """
    blue, green, red = np.moveaxis(read_image(path).astype(np.int64), 2, 0)
    codes: NDArray[np.int64] = red + 256 * green + 65536 * blue
    return codes


def distinct_colors(count: int) -> tuple[tuple[int, int, int], ...]:
    """Up to 256 different colours (RGB), beginning with black: the colour map of Pascal VOC.

    The bits of the index are dealt out in turn to red, green and blue, from their highest bit down.
    """
    shifts = range(8)
    return tuple(
        (
            sum((i >> 3 * n & 1) << 7 - n for n in shifts),
            sum((i >> 3 * n + 1 & 1) << 7 - n for n in shifts),
            sum((i >> 3 * n + 2 & 1) << 7 - n for n in shifts),
        )
        for i in range(count)
    )


_AS_PUBLISHED = "check that the files are of this format, and as they were published"
_EXACT_COLORS = "give every colour a class; and keep masks from being saved as JPEG, or resized other than by nearest"


def _classmap_from_codes(
    codes_hw: NDArray[np.int64], class_from_code: Mapping[int, int]
) -> tuple[NDArray[np.uint8], list[int]]:
    """Class ids, and the codes that have none, sorted."""
    known = np.array(sorted(class_from_code), np.int64)
    classes = np.array([class_from_code[int(code)] for code in known], np.uint8)
    nearest = np.searchsorted(known, codes_hw).clip(max=len(known) - 1)
    strange = known[nearest] != codes_hw
    classmap: NDArray[np.uint8] = classes[nearest]
    return classmap, np.unique(codes_hw[strange]).tolist()


def _some(values: list[int] | list[tuple[int, int, int]]) -> str:
    rest = len(values) - _NAMED_AT_MOST
    return ", ".join(map(str, values[:_NAMED_AT_MOST])) + (f" and {rest} more" if rest > 0 else "")
