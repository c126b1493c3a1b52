from __future__ import annotations

import numpy as np
import pytest

from edgeseg.draw import color_from_classmap, overlay

PALETTE = ((10, 20, 30), (200, 100, 0))


def test_ids_are_painted_in_bgr_and_unknown_ids_black() -> None:
    painted = color_from_classmap(np.array([[0, 1], [2, 255]], np.uint8), PALETTE)
    assert painted.tolist() == [[[30, 20, 10], [0, 100, 200]], [[0, 0, 0], [0, 0, 0]]]
    assert painted.dtype == np.uint8


def test_all_256_ids_can_have_a_colour() -> None:
    palette = tuple((i, 255 - i, i // 2) for i in range(256))
    mask = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(color_from_classmap(mask, palette)[..., ::-1].reshape(-1, 3), np.array(palette))


def test_a_palette_may_be_a_list_and_a_mask_a_view() -> None:
    mask = np.zeros((6, 8), np.uint8)
    mask[::2] = 1
    assert color_from_classmap(mask[::2, ::-2], list(PALETTE)).tolist() == [[[0, 100, 200]] * 4] * 3


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_overlay_blends(alpha: float) -> None:
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    mask = np.random.default_rng(1).integers(0, 2, (4, 5), np.uint8)
    colors = np.array(PALETTE)[mask][..., ::-1]
    expected = (1 - alpha) * image + alpha * colors
    before = image.copy()
    assert np.abs(overlay(image, mask, PALETTE, alpha) - expected).max() <= 0.51
    assert np.array_equal(image, before)
    assert not np.shares_memory(overlay(image, mask, PALETTE, alpha), image)
