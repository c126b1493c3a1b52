"""What the procedural street paints once: drawing tools, the sky, the grain of the ground, sensor noise.

Pictures have four channels: blue, green, red and class id.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.io._street_canvas import Texture
from edgeseg.io._street_labels import BUILDING, CLEAR, SKY, TREE, Paint, paint

Picture = NDArray[np.uint8]

GRAIN_MEAN = 24
GRAIN_PERIOD_M = 16.0
GRAIN_LENGTH_M = 3 * GRAIN_PERIOD_M  # beyond, the ground is too far away to show any
GRAIN_HALF_WIDTH_M = 14.0


def soft_noise(rng: np.random.Generator, size_hw: tuple[int, int], cell_px: float) -> NDArray[np.float32]:
    """Smooth random hills, float32 [h, w] in [-1, 1]; ``cell_px`` pixels from one to the next."""
    import cv2

    rows, columns = size_hw
    coarse = rng.uniform(-1, 1, (int(rows / cell_px) + 3, int(columns / cell_px) + 3)).astype(np.float32)
    smooth: NDArray[np.float32] = cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_CUBIC)
    return smooth


def to_texture(picture: Picture, width_m: float, height_m: float) -> Texture:
    """A texture with all its smaller levels. Colours are averaged, class ids are picked."""
    import cv2

    labels = picture[..., 3]
    mean = cv2.mean(picture, np.asarray(labels != CLEAR, np.uint8))[:3]
    if labels.max() == CLEAR:  # so that smaller levels do not get dark rims
        picture = picture.copy()
        picture[labels == CLEAR, :3] = mean
    levels = [picture]
    while min(levels[-1].shape[:2]) >= 8:
        rows, columns = levels[-1].shape[:2]
        half = cv2.resize(levels[-1], (columns // 2, rows // 2), interpolation=cv2.INTER_AREA)
        half[..., 3] = levels[-1][: rows // 2 * 2 : 2, : columns // 2 * 2 : 2, 3]
        levels.append(half)
    return Texture(tuple(levels), width_m, height_m, paint(mean, int(labels.min())))


class Drawing:
    """A picture measured in metres, origin at the bottom left."""

    def __init__(self, width_m: float, height_m: float, pixels_per_m: float, ground: Paint) -> None:
        import cv2

        self._cv2: Any = cv2
        self.width_m, self.height_m, self._ppm = width_m, height_m, pixels_per_m
        size = max(1, round(height_m * pixels_per_m)), max(1, round(width_m * pixels_per_m))
        self.picture: Picture = np.empty((*size, 4), np.uint8)
        self.picture[:] = ground

    def at(self, x_m: float, y_m: float) -> tuple[int, int]:
        """The pixel of a place."""
        return round(x_m * self._ppm), self.picture.shape[0] - 1 - round(y_m * self._ppm)

    def box(self, left_m: float, bottom_m: float, right_m: float, top_m: float, colour: Paint) -> None:
        """A filled rectangle."""
        self._cv2.rectangle(self.picture, self.at(left_m, top_m), self.at(right_m, bottom_m), colour, -1)

    def stroke(self, points_m: Sequence[tuple[float, float]], thick_m: float, colour: Paint) -> None:
        """A thick line through some places, round at its ends."""
        points = np.array([self.at(*point) for point in points_m], np.int32)
        thick = max(1, round(thick_m * self._ppm))
        self._cv2.polylines(self.picture, [points], False, colour, thick)

    def oval(self, x_m: float, y_m: float, half_width_m: float, half_height_m: float, colour: Paint) -> None:
        """A filled ellipse."""
        axes = round(half_width_m * self._ppm), round(half_height_m * self._ppm)
        self._cv2.ellipse(self.picture, self.at(x_m, y_m), axes, 0, 0, 360, colour, -1)

    def shape(self, points_m: Sequence[tuple[float, float]], colour: Paint) -> None:
        """A filled polygon."""
        points = np.array([self.at(*point) for point in points_m], np.int32)
        self._cv2.fillPoly(self.picture, [points], colour)

    def texture(self) -> Texture:
        """The finished picture."""
        return to_texture(self.picture, self.width_m, self.height_m)


def sky_panorama(rng: np.random.Generator, size_hw: tuple[int, int], focal_px: float) -> Picture:
    """Clouds over a line of far trees and houses, uint8 [h, w, 4]; the last row is the horizon."""
    rows, columns = size_hw
    clouds = soft_noise(rng, size_hw, max(focal_px * 0.5, 2.0)) + 0.5 * soft_noise(
        rng, size_hw, max(focal_px * 0.17, 2.0)
    )
    overcast = rng.random() < 0.6
    height = np.linspace(1.0, 0.0, rows, dtype=np.float32)[:, None]  # 1 at the top, 0 at the horizon
    cover = np.clip(0.75 + 0.6 * clouds, 0, 1) if overcast else np.clip(0.25 + 0.9 * clouds - 0.3 * height, 0, 1)
    picture = np.empty((rows, columns, 4), np.uint8)
    picture[..., 3] = SKY
    for channel, (top, low, cloud) in enumerate(((246, 250, 244), (218, 246, 243), (192, 240, 241))):
        clear = low + (top - low) * height
        grey = cloud - (16 + 16 * overcast) * np.clip(-clouds, 0, 1)
        picture[..., channel] = np.clip(clear + (grey - clear) * cover, 0, 255)
    _far_trees(rng, picture, focal_px)
    return picture


def _far_trees(rng: np.random.Generator, sky: Picture, focal_px: float) -> None:
    """Paint the skyline on a sky, its foot on the last row."""
    rows, columns = sky.shape[:2]
    for label, colour, least, most, cell in (
        (TREE, (118, 122, 118), 0.012, 0.05, 0.030),
        (BUILDING, (112, 112, 116), -0.03, 0.034, 0.045),
        (TREE, (88, 98, 94), 0.000, 0.03, 0.022),
    ):
        cell_px = max(focal_px * cell, 1.0)
        hills = 0.5 + 0.5 * soft_noise(rng, (1, columns), cell_px)[0]
        if label == BUILDING:  # flat roofs: one height over a whole cell
            hills = hills[(np.arange(columns) // cell_px * cell_px).astype(int)]
        else:
            hills = hills + 0.10 * rng.standard_normal(columns)
        tops = np.clip(rows - focal_px * (least + (most - least) * hills), 0, rows).astype(int)
        inside = np.arange(rows)[:, None] >= tops
        speckle = rng.integers(-14, 15, (rows, columns, 1))
        sky[inside] = np.concatenate(
            [np.clip(np.array(colour) + speckle, 0, 255), np.full((rows, columns, 1), label)], axis=2
        ).astype(np.uint8)[inside]


def ground_grain(rng: np.random.Generator, columns_per_m: int = 32, rows_per_m: int = 16) -> Picture:
    """Brightness to add to the ground, around ``GRAIN_MEAN``: uint8 [along, lateral, 4], class channel 0.

    It repeats every ``GRAIN_PERIOD_M`` along the road, so it can be laid anywhere.
    """
    rows, columns = int(GRAIN_PERIOD_M * rows_per_m), int(2 * GRAIN_HALF_WIDTH_M * columns_per_m)
    grain = rng.normal(0, 5.0, (rows, columns)).astype(np.float32)
    grain += 4.0 * np.tile(soft_noise(rng, (rows // 2, columns), 6.0), (2, 1))
    lateral = np.linspace(-GRAIN_HALF_WIDTH_M, GRAIN_HALF_WIDTH_M, columns)
    for wheel_m in (-2.6, -1.1, 1.1, 2.6):  # tyres polish the asphalt
        grain -= (4.0 * np.exp(-(((lateral - wheel_m) / 0.3) ** 2))).astype(np.float32)
    for _ in range(5):  # mended places
        row, column = int(rng.integers(0, rows - 40)), int(rng.integers(columns // 4, columns * 3 // 4))
        grain[row : row + int(rng.integers(10, 40)), column : column + int(rng.integers(16, 60))] -= rng.uniform(-5, 9)
    slabs = np.abs(lateral) > 5.95
    grain[:: max(1, rows_per_m * 4 // 5), slabs] -= 9.0
    grain[:, slabs & (np.mod(np.abs(lateral) - 5.95, 0.6) < 1.0 / columns_per_m)] -= 7.0
    periods = round(GRAIN_LENGTH_M / GRAIN_PERIOD_M)
    shade = np.tile(np.clip(GRAIN_MEAN + grain, 0, 255).astype(np.uint8), (periods, 1))
    return np.dstack([shade, shade, shade, np.zeros_like(shade)])


def sensor_noise(rng: np.random.Generator, size_hw: tuple[int, int], deviation: float) -> tuple[Picture, Picture]:
    """What to add and what to take away: two uint8 [h, w, 3]."""
    noise = rng.normal(0, deviation, (*size_hw, 1)) + rng.normal(0, 0.5 * deviation, (*size_hw, 3))
    noise = np.rint(noise)
    return np.clip(noise, 0, 255).astype(np.uint8), np.clip(-noise, 0, 255).astype(np.uint8)


def vignette(size_hw: tuple[int, int], depth: float) -> Picture:
    """What the lens takes away towards the corners: uint8 [h, w, 3], ``depth`` grey levels in a corner."""
    rows, columns = np.linspace(-1, 1, size_hw[0])[:, None], np.linspace(-1, 1, size_hw[1])
    shade = np.rint(depth * (0.5 * (rows**2 + columns**2)) ** 1.5).astype(np.uint8)
    return np.dstack([shade, shade, shade])
