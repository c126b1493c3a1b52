"""What stands at the kerb and on roofs: lamps, signs, traffic lights, bollards, chimneys.

Flat figures that face the camera, in plain shapes. Each takes its place as (lateral, along) in metres.
"""

from __future__ import annotations

import numpy as np

from edgeseg.io._street_canvas import Camera, Canvas
from edgeseg.io._street_labels import BUILDING, POLE, SIGN, Paint, paint

_STEEL = paint((78, 80, 80), POLE)
_DARK_STEEL = paint((38, 42, 40), POLE)
_CONCRETE = paint((120, 124, 124), POLE)
_CHIMNEY = paint((60, 68, 90), BUILDING)

_RED, _WHITE, _BLUE = paint((44, 40, 150), SIGN), paint((176, 180, 178), SIGN), paint((130, 70, 30), SIGN)
_SIGNAL_CASE = paint((24, 24, 26), SIGN)
_SIGNAL_LAMPS = (  # metres below the top of the case
    (0.18, paint((50, 50, 200), SIGN)),
    (0.50, paint((40, 60, 66), SIGN)),
    (0.82, paint((60, 70, 50), SIGN)),
)
_BOARDS = tuple(paint(bgr, SIGN) for bgr in ((50, 46, 120), (96, 60, 40), (44, 44, 46), (170, 176, 180)))
_BOARD_TEXT = paint((150, 160, 165), SIGN)
_BOARD_TEXT_SCALE = 12.0  # pixels per metre from which it can be seen


class _Place:
    """Draws in metres around one point of the ground: right of it, and up."""

    def __init__(self, canvas: Canvas, camera: Camera, lateral_m: float, along_m: float) -> None:
        self._canvas = canvas
        self.column, self.ground, self.scale = camera.locate(lateral_m, along_m)

    def box(self, left_m: float, bottom_m: float, right_m: float, top_m: float, colour: Paint) -> None:
        self._canvas.box(
            self.column + left_m * self.scale,
            self.ground - top_m * self.scale,
            self.column + right_m * self.scale,
            self.ground - bottom_m * self.scale,
            colour,
        )

    def post(self, half_width_m: float, bottom_m: float, top_m: float, colour: Paint) -> None:
        self.box(-half_width_m, bottom_m, half_width_m, top_m, colour)

    def disc(self, middle_m: float, radius_m: float, colour: Paint) -> None:
        self._canvas.disc(self.column, self.ground - middle_m * self.scale, radius_m * self.scale, colour)

    def triangle(self, middle_m: float, size_m: float, colour: Paint) -> None:
        corners = np.array([[-0.9, 0.55], [0.9, 0.55], [0.0, -1.0]]) * (size_m * self.scale)
        self._canvas.polygon(corners + (self.column, self.ground - middle_m * self.scale), colour)


def lamp(canvas: Canvas, camera: Camera, lateral_m: float, along_m: float) -> None:
    """A street lamp whose arm reaches over the road."""
    place = _Place(canvas, camera, lateral_m, along_m)
    place.post(0.11, 0.0, 1.2, _DARK_STEEL)
    place.post(0.08, 1.1, 7.5, _STEEL)
    inward = -1.0 if lateral_m > 0 else 1.0
    for near, far, bottom, top, colour in ((0.0, 1.5, 7.45, 7.55, _STEEL), (1.0, 1.7, 7.38, 7.58, _CONCRETE)):
        left, right = sorted((inward * near, inward * far))
        place.box(left, bottom, right, top, colour)


def sign(canvas: Canvas, camera: Camera, lateral_m: float, along_m: float, luck: float) -> None:
    """A road sign on its post; ``luck`` in [0, 1) says which."""
    place = _Place(canvas, camera, lateral_m, along_m)
    place.post(0.055, 0.0, 2.5, _STEEL)
    kind = int(luck * 4)
    if kind == 0:  # no entry for somebody
        place.disc(2.5, 0.36, _RED)
        place.disc(2.5, 0.25, _WHITE)
    elif kind == 1:  # an order
        place.disc(2.5, 0.36, _BLUE)
        place.post(0.05, 2.3, 2.7, _WHITE)
    elif kind == 2:  # a warning
        place.triangle(2.5, 0.5, _RED)
        place.triangle(2.5, 0.3, _WHITE)
    else:  # two lines of text
        place.post(0.5, 2.05, 2.95, _BLUE)
        place.box(-0.35, 2.58, 0.3, 2.7, _WHITE)
        place.box(-0.35, 2.28, 0.3, 2.4, _WHITE)


def traffic_light(canvas: Canvas, camera: Camera, lateral_m: float, along_m: float) -> None:
    """A post with three lamps: a sign to CamVid."""
    place = _Place(canvas, camera, lateral_m, along_m)
    place.post(0.08, 0.0, 3.4, _DARK_STEEL)
    place.post(0.24, 2.3, 3.3, _SIGNAL_CASE)
    for drop_m, colour in _SIGNAL_LAMPS:
        place.disc(3.3 - drop_m, 0.11, colour)


def bollard(canvas: Canvas, camera: Camera, lateral_m: float, along_m: float) -> None:
    """A low iron post."""
    _Place(canvas, camera, lateral_m, along_m).post(0.09, 0.0, 1.0, _DARK_STEEL)


def shop_sign(canvas: Canvas, camera: Camera, lateral_m: float, along_m: float, luck: float) -> None:
    """A board that hangs from a house front over the pavement."""
    place = _Place(canvas, camera, lateral_m, along_m)
    left, right = (-0.9, 0.0) if lateral_m > 0 else (0.0, 0.9)
    place.box(left, 3.0, right, 3.9, _BOARDS[int(luck * len(_BOARDS))])
    if place.scale > _BOARD_TEXT_SCALE:
        place.box(left + 0.12, 3.24, right - 0.12, 3.66, _BOARD_TEXT)


def chimney(canvas: Canvas, camera: Camera, lateral_m: float, along_m: float, ridge_m: float) -> None:
    """A chimney on the ridge of a roof."""
    _Place(canvas, camera, lateral_m, along_m).post(0.5, ridge_m - 1.0, ridge_m + 1.3, _CHIMNEY)
