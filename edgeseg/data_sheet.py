"""A contact sheet: some images of a data set under their masks, beside a legend of the classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeseg.data_check import SplitReport
from edgeseg.dataset import DataSet, Sample
from edgeseg.draw import overlay

TILES = 12
_COLUMNS = 3
_TILE_HW = (240, 320)
_CAPTION = 20
_ROW = 20
_MARGIN = 10
_SWATCH = 26
_TEXT_BGR = (30, 30, 30)
_PAPER = 245


def contact_sheet(data: DataSet, reports: Sequence[SplitReport]) -> NDArray[np.uint8]:
    """Up to 12 images of the splits checked: for each class, the rarest first, the one that shows most of it.

    Args:
        data: the data set.
        reports: of ``edgeseg.data_check.check``, with at least one sound pair among them.

    Returns:
        uint8 [H, W, 3], BGR.

    Raises:
        DataError: a file has changed since the check.
    """
    tiles = [_tile(data, sample, caption) for sample, caption in _chosen(data, reports)]
    tiles += [np.full_like(tiles[0], _PAPER)] * (-len(tiles) % _COLUMNS)
    rows = [np.hstack(tiles[i : i + _COLUMNS]) for i in range(0, len(tiles), _COLUMNS)]
    pictures = np.vstack(rows)
    legend = _legend(data, reports, pictures.shape[0])
    height = max(pictures.shape[0], legend.shape[0])
    sheet: NDArray[np.uint8] = np.hstack([_padded(pictures, height), _padded(legend, height)])
    return sheet


def _chosen(data: DataSet, reports: Sequence[SplitReport]) -> list[tuple[Sample, str]]:
    """Samples with their captions: those that show the rare classes, then others, evenly spaced."""
    images_with = sum((report.images_with for report in reports), np.zeros(256, np.int64))
    shown: dict[Sample, list[str]] = {}
    for class_id in np.argsort(images_with[: len(data.classes)], kind="stable").tolist():
        candidates = [report.best[class_id] for report in reports if class_id in report.best]
        if not candidates or class_id == data.ignore_id:
            continue
        sample = max(candidates, key=lambda candidate: candidate[0])[1]
        if sample in shown or len(shown) < TILES:
            shown.setdefault(sample, []).append(data.classes[class_id])
    sound = [sample for report in reports for sample in report.sound]
    for i in np.linspace(0, len(sound) - 1, TILES).astype(int).tolist():
        if len(shown) < TILES:
            shown.setdefault(sound[i], [])
    split_of = {sample: report.name for report in reports for sample in report.sound}
    return [
        (sample, f"{split_of[sample]} {sample.image_path.stem}" + (f": {', '.join(names)}" if names else ""))
        for sample, names in shown.items()
    ]


def _tile(data: DataSet, sample: Sample, caption: str) -> NDArray[np.uint8]:
    import cv2

    image, mask = data.read(sample)
    scale = min(_TILE_HW[0] / image.shape[0], _TILE_HW[1] / image.shape[1])
    height, width = (max(1, round(scale * side)) for side in image.shape[:2])
    small = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    small_mask = np.asarray(cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)
    tile = np.full((_TILE_HW[0] + _CAPTION + _MARGIN, _TILE_HW[1] + _MARGIN, 3), _PAPER, np.uint8)
    tile[_MARGIN : _MARGIN + height, _MARGIN : _MARGIN + width] = overlay(small, small_mask, data.palette)
    _write(tile, caption, _MARGIN, _MARGIN + _TILE_HW[0] + 14, _TILE_HW[1])
    return tile


def _legend(data: DataSet, reports: Sequence[SplitReport], height: int) -> NDArray[np.uint8]:
    """Colour, id, name and share of the labelled pixels of each class, in as many columns as it takes."""
    counts = sum((report.labelled_pixels(data) for report in reports), np.zeros(len(data.classes), np.int64))
    total = max(1, int(counts.sum()))
    rows = [
        (color, f"{i} {name}  " + (f"{100 * count / total:.2f} %" if count else "never"))
        for i, (name, color, count) in enumerate(zip(data.classes, data.palette, counts.tolist()))
        if i != data.ignore_id
    ]
    if data.ignore_id is not None:
        color = data.palette[data.ignore_id] if data.ignore_id < len(data.palette) else (0, 0, 0)
        rows.append((color, f"{data.ignore_id} ignored"))
    per_column = max(1, (height - 2 * _MARGIN) // _ROW)
    columns = [_legend_column(rows[i : i + per_column], height) for i in range(0, len(rows), per_column)]
    return np.hstack(columns)


def _legend_column(rows: Sequence[tuple[tuple[int, int, int], str]], height: int) -> NDArray[np.uint8]:
    width = _MARGIN + _SWATCH + max(_text_width(text) for _, text in rows) + 2 * _MARGIN
    column = np.full((max(height, 2 * _MARGIN + _ROW * len(rows)), width, 3), _PAPER, np.uint8)
    for i, (color, text) in enumerate(rows):
        top = _MARGIN + _ROW * i
        column[top : top + _ROW - 4, _MARGIN : _MARGIN + _SWATCH - 6] = color[::-1]
        _write(column, text, _MARGIN + _SWATCH, top + 13, width)
    return column


def _padded(picture: NDArray[np.uint8], height: int) -> NDArray[np.uint8]:
    filler = np.full((height - picture.shape[0], *picture.shape[1:]), _PAPER, np.uint8)
    return np.vstack([picture, filler])


def _text_width(text: str) -> int:
    import cv2

    return int(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.42, 1)[0][0])


def _write(picture: NDArray[np.uint8], text: str, x: int, y: int, width: int) -> None:
    import cv2

    text = text.encode("ascii", "replace").decode()  # OpenCV's font has no more
    while (drawn := _text_width(text)) > width:
        text = f"{text[: len(text) * width // drawn - 4]}..."
    cv2.putText(picture, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, _TEXT_BGR, 1, cv2.LINE_AA)
