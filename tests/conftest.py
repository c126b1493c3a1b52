"""Fixtures for every folder of tests: numpy and OpenCV alone, no torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

TINY_COLORS_BGR = ((40, 40, 200), (60, 200, 60), (220, 90, 40))


@pytest.fixture
def tiny_dataset(tmp_path: Path) -> Path:
    """The path of a ``data.yaml``: 8 train and 4 val images of 64x96 in three classes, with some ignored pixels.

    The colour of a pixel says its class, so that a network learns it in a few steps.
    """
    import cv2

    folder = tmp_path / "tiny"
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for name in ("images", "masks"):
            (folder / split / name).mkdir(parents=True)
        for index in range(count):
            mask = np.zeros((64, 96), np.uint8)
            for class_id in (1, 2):
                top, left = int(rng.integers(0, 32)), int(rng.integers(0, 48))
                mask[top : top + 32, left : left + 48] = class_id
            image = np.array(TINY_COLORS_BGR, np.uint8)[mask]
            mask[:3] = 255
            cv2.imwrite(str(folder / split / "images" / f"{index}.png"), image)
            cv2.imwrite(str(folder / split / "masks" / f"{index}.png"), mask)
    path = folder / "data.yaml"
    path.write_text(
        "train: train\nval: val\nignore: 255\nnames: [red, green, blue]\n"
        "palette: [[200, 40, 40], [60, 200, 60], [40, 90, 220]]\nnotes: made by the tests\n",
        encoding="utf-8",
    )
    return path
