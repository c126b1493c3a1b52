"""Cars, vans and buses of the procedural street: bodies of flat panels.

A body is given by its outline from the side. Only what can be seen is painted: the end that faces
the camera, and one long side.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeseg.io._street_canvas import Camera, Canvas, to_fixed_point
from edgeseg.io._street_labels import CAR, ROAD, Paint, paint

Bgr = tuple[float, float, float]
Outline = tuple[tuple[float, float, str], ...]

_DETAIL_SCALE = 9.0  # pixels per metre below which lamps, pillars and plates are left out
_SHADOW: Bgr = (26, 25, 24)


@dataclass(frozen=True)
class Shape:
    """A kind of vehicle, in metres.

    Attributes:
        length_m, half_width_m: of the body.
        belt_m: height of the lower edge of the windows; the body narrows above it.
        roof_share: width of the roof as part of the width.
        rear, front: from the bumper up to the roof: distance from that end, height, and what is below
            the point: ``body`` or ``glass``.
        windows: side windows, corners (distance from the rear, height).
        wheels_m: distances of the axles from the rear.
        wheel_radius_m: of the wheels.
    """

    length_m: float
    half_width_m: float
    belt_m: float
    roof_share: float
    rear: Outline
    front: Outline
    windows: tuple[tuple[tuple[float, float], ...], ...]
    wheels_m: tuple[float, ...]
    wheel_radius_m: float = 0.31

    def half_width_at(self, height_m: float) -> float:
        """Half the width of the body at a height."""
        roof_m = self.rear[-1][1]
        part = min(max((height_m - self.belt_m) / (roof_m - self.belt_m), 0.0), 1.0)
        return self.half_width_m * (1 + (self.roof_share - 1) * part)


HATCHBACK = Shape(
    length_m=3.95,
    half_width_m=0.86,
    belt_m=0.92,
    roof_share=0.76,
    rear=((0.0, 0.22, ""), (0.0, 0.62, "bumper"), (0.06, 0.94, "body"), (0.42, 1.44, "glass")),
    front=((0.0, 0.24, ""), (0.0, 0.50, "bumper"), (0.06, 0.72, "body"), (0.95, 0.95, "bonnet"), (1.75, 1.43, "glass")),
    windows=(
        ((0.42, 0.98), (0.62, 1.36), (1.60, 1.38), (1.60, 0.97)),
        ((1.70, 0.97), (1.70, 1.38), (2.15, 1.36), (2.78, 0.97)),
    ),
    wheels_m=(0.62, 3.15),
)
SALOON = Shape(
    length_m=4.5,
    half_width_m=0.89,
    belt_m=0.93,
    roof_share=0.75,
    rear=((0.0, 0.23, ""), (0.0, 0.60, "bumper"), (0.05, 0.92, "body"), (0.65, 0.98, "bonnet"), (1.25, 1.42, "glass")),
    front=((0.0, 0.24, ""), (0.0, 0.50, "bumper"), (0.06, 0.72, "body"), (1.10, 0.95, "bonnet"), (1.85, 1.41, "glass")),
    windows=(
        ((0.95, 0.99), (1.35, 1.35), (2.05, 1.37), (2.05, 0.98)),
        ((2.15, 0.98), (2.15, 1.37), (2.60, 1.35), (3.20, 0.98)),
    ),
    wheels_m=(0.85, 3.6),
)
VAN = Shape(
    length_m=5.0,
    half_width_m=0.95,
    belt_m=1.15,
    roof_share=0.90,
    rear=((0.0, 0.32, ""), (0.0, 0.60, "bumper"), (0.0, 1.20, "body"), (0.06, 1.75, "glass"), (0.12, 2.10, "body")),
    front=(
        (0.0, 0.30, ""),
        (0.0, 0.60, "bumper"),
        (0.1, 0.95, "body"),
        (0.75, 1.18, "bonnet"),
        (1.4, 1.85, "glass"),
        (1.8, 2.1, "body"),
    ),
    windows=(((3.35, 1.2), (3.35, 1.78), (3.65, 1.78), (4.15, 1.2)),),
    wheels_m=(0.95, 4.05),
    wheel_radius_m=0.34,
)
BUS = Shape(
    length_m=9.8,
    half_width_m=1.22,
    belt_m=1.5,
    roof_share=0.97,
    rear=((0.0, 0.35, ""), (0.0, 0.75, "bumper"), (0.0, 2.55, "body"), (0.0, 3.45, "glass"), (0.15, 4.1, "body")),
    front=(
        (0.0, 0.35, ""),
        (0.0, 0.75, "bumper"),
        (0.0, 1.05, "body"),
        (0.1, 2.3, "glass"),
        (0.1, 2.8, "body"),
        (0.2, 3.7, "glass"),
        (0.35, 4.1, "body"),
    ),
    windows=(
        ((0.8, 1.35), (0.8, 2.2), (9.0, 2.2), (9.0, 1.35)),
        ((0.3, 2.9), (0.3, 3.65), (9.4, 3.65), (9.4, 2.9)),
    ),
    wheels_m=(2.2, 7.4),
    wheel_radius_m=0.48,
)

_BODIES: tuple[Bgr, ...] = (
    (128, 128, 124),
    (30, 29, 28),
    (74, 50, 34),
    (40, 38, 108),
    (184, 186, 184),
    (84, 82, 78),
    (44, 54, 40),
    (100, 78, 62),
    (58, 56, 54),
)
_BUS_BODIES: tuple[Bgr, ...] = ((42, 40, 128), (128, 84, 44), (150, 160, 164))


@dataclass(frozen=True)
class Part:
    """A run of corners that makes one polygon of one colour."""

    first: int
    last: int
    role: str
    is_detail: bool


@dataclass(frozen=True)
class Model:
    """A shape seen from one end: its corners [n, 3] (lateral, height, along from the near end)."""

    corners_m: NDArray[np.float64]
    side_parts: dict[int, tuple[Part, ...]]
    end_parts: tuple[Part, ...]


class _Builder:
    def __init__(self) -> None:
        self.corners: list[tuple[float, float, float]] = []

    def part(self, corners: list[tuple[float, float, float]], role: str, is_detail: bool = False) -> Part:
        first = len(self.corners)
        self.corners += corners
        return Part(first, len(self.corners), role, is_detail)


@functools.cache
def model(shape: Shape, from_front: bool) -> Model:
    """The panels of a shape, for a camera before or behind it."""
    build = _Builder()
    near, far = (shape.front, shape.rear) if from_front else (shape.rear, shape.front)
    sides = {side: _side(build, shape, near, far, side, from_front) for side in (-1, 1)}
    return Model(end_parts=_end(build, shape, near, from_front), side_parts=sides, corners_m=np.array(build.corners))


def _side(build: _Builder, shape: Shape, near: Outline, far: Outline, side: int, from_front: bool) -> tuple[Part, ...]:
    def corner(along_m: float, height_m: float, inset: float = 1.0) -> tuple[float, float, float]:
        return side * shape.half_width_at(height_m) * inset, height_m, along_m

    outline = [corner(along, height) for along, height, _ in near]
    outline += [corner(shape.length_m - along, height) for along, height, _ in reversed(far)]
    parts = [build.part(outline, "side")]
    for axle in shape.wheels_m:
        along = shape.length_m - axle if from_front else axle
        for radius, role in ((shape.wheel_radius_m, "tyre"), (0.55 * shape.wheel_radius_m, "rim")):
            turns = np.linspace(0, 2 * np.pi, 10, endpoint=False)
            rim = [
                (
                    side * shape.half_width_m,
                    shape.wheel_radius_m + radius * float(np.sin(turn)),
                    along + radius * float(np.cos(turn)),
                )
                for turn in turns
            ]
            parts.append(build.part(rim, role, is_detail=role == "rim"))
    for window in shape.windows:
        pane = [corner(shape.length_m - along if from_front else along, height) for along, height in window]
        parts.append(build.part(pane, "glass"))
    return tuple(parts)


def _end(build: _Builder, shape: Shape, near: Outline, from_front: bool) -> tuple[Part, ...]:
    def across(
        left: float, right: float, low: tuple[float, float], high: tuple[float, float]
    ) -> list[tuple[float, float, float]]:
        """A panel between two (along, height) edges; left and right as parts of the half width."""
        wide_low, wide_high = shape.half_width_at(low[1]), shape.half_width_at(high[1])
        return [
            (left * wide_low, low[1], low[0]),
            (right * wide_low, low[1], low[0]),
            (right * wide_high, high[1], high[0]),
            (left * wide_high, high[1], high[0]),
        ]

    parts = []
    for left, right in ((-0.95, -0.74), (0.74, 0.95)):
        parts.append(build.part(across(left, right, (0.3, 0.0), (0.3, 0.4)), "tyre"))
    for (along0, height0, _), (along1, height1, role) in zip(near, near[1:]):
        low, high = (along0, height0), (along1, height1)
        if role == "glass":
            parts.append(build.part(across(-1, 1, low, high), "body"))
            parts.append(build.part(across(-0.90, 0.90, _between(low, high, 0.10), _between(low, high, 0.90)), "glass"))
            parts.append(
                build.part(across(-0.86, 0.86, _between(low, high, 0.55), _between(low, high, 0.86)), "mirror", True)
            )
        else:
            parts.append(build.part(across(-1, 1, low, high), role))
    lamp_low, lamp_high = (near[1][0], near[1][1] + 0.03), (near[2][0], near[1][1] + 0.20)
    role = "headlamp" if from_front else "rear lamp"
    for left, right in ((-0.96, -0.66), (0.66, 0.96)):
        parts.append(build.part(across(left, right, lamp_low, lamp_high), role))
    plate = near[1][1] - 0.16
    parts.append(build.part(across(-0.28, 0.28, (near[1][0], plate), (near[1][0], plate + 0.11)), "plate", True))
    if from_front:
        parts.append(build.part(across(-0.5, 0.5, lamp_low, lamp_high), "grille", True))
    return tuple(parts)


def _between(low: tuple[float, float], high: tuple[float, float], part: float) -> tuple[float, float]:
    return low[0] + part * (high[0] - low[0]), low[1] + part * (high[1] - low[1])


@functools.cache
def _paints(body: Bgr, plate: Bgr, is_braking: bool) -> dict[str, Paint]:
    return {
        "side": paint(body, CAR, 0.72),
        "body": paint(body, CAR, 0.9),
        "bonnet": paint(body, CAR, 1.15),
        "bumper": paint(body, CAR, 0.65),
        "glass": paint((40, 37, 34), CAR),
        "mirror": paint((82, 78, 72), CAR),
        "tyre": paint((20, 20, 20), CAR),
        "rim": paint((92, 92, 92), CAR),
        "headlamp": paint((190, 194, 194), CAR),
        "rear lamp": paint((70, 70, 235) if is_braking else (36, 34, 118), CAR),
        "grille": paint((24, 24, 24), CAR),
        "plate": paint(plate, CAR),
    }


@dataclass(frozen=True)
class Vehicle:
    """A vehicle at one moment.

    Attributes:
        shape, body: its kind and colour.
        lateral_m: its middle.
        along_m: its end nearer to the camera.
        from_front: whether that end is its front.
        is_braking: whether its brake lamps are lit.
    """

    shape: Shape
    body: Bgr
    lateral_m: float
    along_m: float
    from_front: bool
    is_braking: bool = False

    @property
    def far_m(self) -> float:
        """Where its far end is, along the road."""
        return self.along_m + self.shape.length_m

    def shadow_m(self) -> NDArray[np.float64]:
        """The corners [4, 3] of the dark ground below it."""
        wide = self.shape.half_width_m + 0.12
        left, right = self.lateral_m - wide, self.lateral_m + wide
        near, far = self.along_m - 0.25, self.far_m + 0.1
        return np.array([[left, 0.0, near], [right, 0.0, near], [right, 0.0, far], [left, 0.0, far]])


def pick(luck: tuple[float, ...], buses: float) -> tuple[Shape, Bgr]:
    """A kind and a colour; ``buses`` is the share of buses, 0..1."""
    if luck[3] < buses:
        return BUS, _BUS_BODIES[int(luck[4] * len(_BUS_BODIES))]
    body = _BODIES[int(luck[4] * len(_BODIES))]
    if luck[3] > 0.88:
        return VAN, (176, 178, 176) if luck[4] < 0.6 else body
    return (SALOON if luck[3] > 0.55 else HATCHBACK), body


SHADOW_PAINT = paint(_SHADOW, ROAD)


def outlines(camera: Camera, vehicles: list[Vehicle]) -> list[NDArray[np.int32]]:
    """The corners of each vehicle in the picture, for ``draw``. Together, because it is faster."""
    corners = [
        model(vehicle.shape, vehicle.from_front).corners_m + (vehicle.lateral_m, 0.0, vehicle.along_m)
        for vehicle in vehicles
    ]
    if not corners:
        return []
    pixels = to_fixed_point(camera.project(np.concatenate(corners)))
    return np.split(pixels, np.cumsum([len(each) for each in corners[:-1]]))


def draw(canvas: Canvas, camera: Camera, vehicle: Vehicle, outline: NDArray[np.int32]) -> None:
    """Paint a vehicle: first the long side that can be seen, then the end."""
    if vehicle.far_m < camera.along_m + 1.5:
        return
    parts = model(vehicle.shape, vehicle.from_front)
    plate: Bgr = (200, 204, 204) if vehicle.from_front else (60, 170, 190)
    paints = _paints(vehicle.body, plate, vehicle.is_braking)
    visible: tuple[Part, ...] = ()
    for side in (-1, 1):
        lateral_m = vehicle.lateral_m + side * vehicle.shape.half_width_m
        near, far = camera.locate(lateral_m, vehicle.along_m)[0], camera.locate(lateral_m, vehicle.far_m)[0]
        if side * (far - near) > 0:
            visible += parts.side_parts[side]
    if vehicle.along_m > camera.along_m + 1.0:
        visible += parts.end_parts
    is_fine = camera.locate(vehicle.lateral_m, vehicle.along_m)[2] > _DETAIL_SCALE
    for part in visible:
        if is_fine or not part.is_detail:
            canvas.polygon_fixed(outline[part.first : part.last], paints[part.role])
