"""Camera and canvas of the procedural street.

Places are given in road coordinates, in metres: ``lateral`` to the right of the road's centre
line, ``height`` above the road, ``along`` the road from its start. The road bends, so the same
lateral offset is another place in the world at another ``along``.

The canvas has four channels: blue, green, red and class id. Whatever paints a pixel labels it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeseg.io._street_labels import CLEAR, Paint

NEAR_M = 1.0  # nothing nearer can be inside the picture, so points are pulled forward to here
_SUBPIXEL_BITS = 4
_TEXTURE_MIN_PX = 10  # flatter walls show no texture


class Bend:
    """The road's centre line: sideways offset in metres as a smooth function of the distance."""

    _WIDE_M, _WIDE_RATE = 7.0, 1 / 97.0
    _TIGHT_M, _TIGHT_RATE = 2.2, 1 / 41.0

    def __init__(self, phases: Sequence[float]) -> None:
        self._wide_phase, self._tight_phase = 2 * math.pi * phases[0], 2 * math.pi * phases[1]

    def offset_m(self, along_m: float) -> float:
        """Offset at one distance."""
        wide = self._WIDE_M * math.sin(along_m * self._WIDE_RATE + self._wide_phase)
        return wide + self._TIGHT_M * math.sin(along_m * self._TIGHT_RATE + self._tight_phase)

    def offsets_m(self, along_m: NDArray[np.float64]) -> NDArray[np.float64]:
        """Offsets at many distances."""
        wide: NDArray[np.float64] = self._WIDE_M * np.sin(along_m * self._WIDE_RATE + self._wide_phase)
        return wide + self._TIGHT_M * np.sin(along_m * self._TIGHT_RATE + self._tight_phase)

    def slope(self, along_m: float) -> float:
        """Sideways metres per metre of road."""
        wide = self._WIDE_M * self._WIDE_RATE * math.cos(along_m * self._WIDE_RATE + self._wide_phase)
        tight = math.cos(along_m * self._TIGHT_RATE + self._tight_phase)
        return wide + self._TIGHT_M * self._TIGHT_RATE * tight


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks along the road. Pitch moves the horizon, so upright things stay upright.

    Attributes:
        size_hw: picture size in pixels.
        focal_px: focal length.
        horizon_px: row of the horizon.
        along_m, x_m, height_m: where it is; ``x_m`` is in the world, not measured from the centre line.
        yaw_rad: heading in the world, positive to the right.
        bend: the road.
    """

    size_hw: tuple[int, int]
    focal_px: float
    horizon_px: float
    along_m: float
    x_m: float
    height_m: float
    yaw_rad: float
    bend: Bend

    def locate(self, lateral_m: float, along_m: float) -> tuple[float, float, float]:
        """Column and row in pixels of a point on the ground, and the pixels per metre there."""
        along_m = max(along_m, self.along_m + NEAR_M)
        right = lateral_m + self.bend.offset_m(along_m) - self.x_m
        ahead = along_m - self.along_m
        cos, sin = math.cos(self.yaw_rad), math.sin(self.yaw_rad)
        scale = self.focal_px / max(right * sin + ahead * cos, 0.1)
        column = (self.size_hw[1] - 1) / 2 + (right * cos - ahead * sin) * scale
        return column, self.horizon_px + self.height_m * scale, scale

    def project(self, points_m: NDArray[np.float64]) -> NDArray[np.float64]:
        """Pixels (column, row) [..., 2] of points (lateral, height, along) [..., 3]."""
        along = np.maximum(points_m[..., 2], self.along_m + NEAR_M)
        right = points_m[..., 0] + self.bend.offsets_m(along) - self.x_m
        ahead = along - self.along_m
        cos, sin = math.cos(self.yaw_rad), math.sin(self.yaw_rad)
        scale = self.focal_px / np.maximum(right * sin + ahead * cos, 0.1)
        pixels = np.empty((*points_m.shape[:-1], 2))
        pixels[..., 0] = (self.size_hw[1] - 1) / 2 + (right * cos - ahead * sin) * scale
        pixels[..., 1] = self.horizon_px + (self.height_m - points_m[..., 1]) * scale
        return pixels

    def plane(self, axes_m: NDArray[np.float64]) -> NDArray[np.float64]:
        """Homography [3, 3] from a flat texture to pixels.

        Args:
            axes_m: [3, 3], columns: step per texture column, step per texture row, and place of texture
                pixel (0, 0); each as (right, up, ahead) of the camera in world directions.
        """
        cos, sin = math.cos(self.yaw_rad), math.sin(self.yaw_rad)
        focal, centre = self.focal_px, (self.size_hw[1] - 1) / 2
        view = np.array(
            [
                [focal * cos + centre * sin, 0.0, centre * cos - focal * sin],
                [self.horizon_px * sin, -focal, self.horizon_px * cos],
                [sin, 0.0, cos],
            ]
        )
        homography: NDArray[np.float64] = view @ axes_m
        return homography


@dataclass(frozen=True)
class Texture:
    """A painted rectangle: ``levels`` uint8 [h, w, 4], each half as large as the one before."""

    levels: tuple[NDArray[np.uint8], ...]
    width_m: float
    height_m: float
    mean: Paint

    def level(self, area_px: float) -> NDArray[np.uint8]:
        """The level with about as many pixels as it will cover."""
        rows, columns = self.levels[0].shape[:2]
        halvings = 0.5 * math.log2(max(rows * columns / max(area_px, 1.0), 1.0))
        return self.levels[min(round(halvings), len(self.levels) - 1)]


class Canvas:
    """Picture and mask in the making: ``pixels`` uint8 [H, W, 4]."""

    def __init__(self, size_hw: tuple[int, int]) -> None:
        import cv2

        self._cv2: Any = cv2
        self.size_hw = size_hw
        self.pixels: NDArray[np.uint8] = np.zeros((*size_hw, 4), np.uint8)

    def polygon(self, corners_px: ArrayLike, colour: Paint) -> None:
        """One filled polygon [n, 2]."""
        self.polygon_fixed(to_fixed_point(corners_px), colour)

    def polygon_fixed(self, corners: NDArray[np.int32], colour: Paint) -> None:
        """One filled polygon [n, 2] of ``to_fixed_point``."""
        self._cv2.fillPoly(self.pixels, [corners], colour, 8, _SUBPIXEL_BITS)

    def polygons(self, corners_px: NDArray[np.float64], colour: Paint) -> None:
        """Many filled polygons [m, n, 2] that do not overlap."""
        self._cv2.fillPoly(self.pixels, list(to_fixed_point(corners_px)), colour, 8, _SUBPIXEL_BITS)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Paint) -> None:
        """One upright filled rectangle, in pixels; never thinner than a pixel."""
        height, width = self.size_hw
        if right < 0 or bottom < 0 or left > width or top > height:
            return
        corners = (round(left), round(top)), (round(max(right - 1, left)), round(max(bottom - 1, top)))
        self._cv2.rectangle(self.pixels, *corners, colour, -1)

    def disc(self, column: float, row: float, radius: float, colour: Paint) -> None:
        """One filled circle, in pixels."""
        self._cv2.circle(self.pixels, (round(column), round(row)), round(radius), colour, -1)

    def wall(self, camera: Camera, texture: Texture, start_m: tuple[float, float], end_m: tuple[float, float]) -> None:
        """An upright textured rectangle, as high as its texture, between two (lateral, along) places."""
        (x0, z0), (x1, z1) = start_m, end_m
        column0, ground0, scale0 = camera.locate(x0, z0)
        column1, ground1, scale1 = camera.locate(x1, z1)
        top0, top1 = ground0 - texture.height_m * scale0, ground1 - texture.height_m * scale1
        wide, high = abs(column1 - column0), max(ground0, ground1) - min(top0, top1)
        roi = self._clip(min(column0, column1), min(top0, top1), max(column0, column1), max(ground0, ground1))
        if roi is None:
            return
        self.polygon(((column0, ground0), (column1, ground1), (column1, top1), (column0, top0)), texture.mean)
        if high < _TEXTURE_MIN_PX or wide < 2:
            return
        source = texture.level(wide * high)
        rows, columns = source.shape[:2]
        right0 = x0 + camera.bend.offset_m(z0) - camera.x_m
        right1 = x1 + camera.bend.offset_m(z1) - camera.x_m
        axes = np.array(
            [
                [(right1 - right0) / columns, 0.0, right0],
                [0.0, -texture.height_m / rows, texture.height_m - camera.height_m],
                [(z1 - z0) / columns, 0.0, z0 - camera.along_m],
            ]
        )
        left, up, right, down = roi
        homography = camera.plane(axes)
        homography[0] -= left * homography[2]
        homography[1] -= up * homography[2]
        self._cv2.warpPerspective(
            source,
            homography,
            (right - left, down - up),
            dst=self.pixels[up:down, left:right],
            flags=self._cv2.INTER_NEAREST,  # mixing neighbours would mix class ids
            borderMode=self._cv2.BORDER_TRANSPARENT,
        )

    def sprite(self, texture: Texture, column: float, ground_row: float, scale: float) -> None:
        """A flat figure that faces the camera, standing centred on a ground pixel. Clear pixels stay as they are.

        Args:
            texture: the figure.
            column, ground_row: where its feet are, in pixels.
            scale: pixels per metre there.
        """
        width, height = texture.width_m * scale, texture.height_m * scale
        left, top = column - width / 2, ground_row - height
        roi = self._clip(left, top, left + width, ground_row)
        if roi is None:
            return
        source = texture.level(width * height)
        ratio_u, ratio_v = width / source.shape[1], height / source.shape[0]
        matrix = np.array([[ratio_u, 0.0, left - roi[0]], [0.0, ratio_v, top - roi[1]]])
        patch = self._cv2.warpAffine(
            source,
            matrix,
            (roi[2] - roi[0], roi[3] - roi[1]),
            flags=self._cv2.INTER_NEAREST,
            borderValue=(0, 0, 0, CLEAR),
        )
        labels = self._cv2.extractChannel(patch, 3)
        _, opaque = self._cv2.threshold(labels, CLEAR - 1, 255, self._cv2.THRESH_BINARY_INV)
        self._cv2.copyTo(patch, opaque, self.pixels[roi[1] : roi[3], roi[0] : roi[2]])

    def _clip(self, left: float, top: float, right: float, bottom: float) -> tuple[int, int, int, int] | None:
        """Whole pixels of a rectangle that are inside the picture, as left, top, right, bottom."""
        height, width = self.size_hw
        edges = (
            max(math.floor(left), 0),
            max(math.floor(top), 0),
            min(math.ceil(right) + 1, width),
            min(math.ceil(bottom) + 1, height),
        )
        return edges if edges[0] < edges[2] and edges[1] < edges[3] else None


def to_fixed_point(corners_px: ArrayLike) -> NDArray[np.int32]:
    """Pixels as the whole numbers that OpenCV's polygons take, with some bits below the pixel."""
    return np.asarray(np.asarray(corners_px) * (1 << _SUBPIXEL_BITS)).astype(np.int32)
