"""Charts as numbers for an SVG: the template of a page draws them, in the colours of the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

MOST_DOTS = 120
"""A curve of more points shows its value at every n-th only, to keep the page small."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Area:
    """Size of a drawing, and the room its axis labels take, in units of the SVG."""

    width: int
    height: int
    left: int
    bottom: int
    edge: int = 8


WIDE = Area(width=400, height=200, left=44, bottom=22)
SMALL = Area(width=160, height=52, left=2, bottom=2, edge=4)


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis, in units of the SVG."""

    at: float
    label: str


@dataclass(frozen=True)
class Dot:
    """A point of a curve, in units of the SVG, and what it says under the pointer."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Curve:
    """A curve as the ``d`` of an SVG path, and its points."""

    name: str
    path: str
    dots: tuple[Dot, ...]


@dataclass(frozen=True)
class Chart:
    """Curves, or points alone where a curve's path is empty; ``mark`` is a place on the horizontal axis, or None."""

    title: str
    area: Area
    curves: tuple[Curve, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    mark: Tick | None


def line_chart(
    title: str,
    curves: Mapping[str, Sequence[Point]],
    *,
    top: float | None = None,
    mark_epoch: int | None = None,
    area: Area = WIDE,
    step: str = "epoch",
) -> Chart:
    """A chart of (epoch, value) points by the curve's name, or of another whole number than the epoch.

    Args:
        title: what the values are, with their unit.
        curves: at least one point in all, values of at least 0.
        top: end of the value axis; None lays it above the largest value.
        mark_epoch: an epoch to point out.
        area: of the drawing.
        step: what is counted on the horizontal axis.
    """
    points = [point for curve in curves.values() for point in curve]
    x_high = max(x for x, _ in points)
    y_values = ticks(max(y for _, y in points) if top is None else top)
    y_high = y_values[-1]

    def x_at(x: float) -> float:
        return round(area.left + (area.width - area.left - area.edge) * x / x_high, 1)

    def y_at(y: float) -> float:
        return round(area.height - area.bottom - (area.height - area.bottom - area.edge) * y / y_high, 1)

    def curve_of(name: str, points: Sequence[Point]) -> Curve:
        path = "M" + " L".join(f"{x_at(x)} {y_at(y)}" for x, y in points)
        shown = points[:: len(points) // MOST_DOTS + 1]
        return Curve(name, path, tuple(Dot(x_at(x), y_at(y), f"{step} {x:g}: {y:.4g}") for x, y in shown))

    return Chart(
        title,
        area,
        tuple(curve_of(name, points) for name, points in curves.items() if points),
        tuple(Tick(x_at(x), f"{x:g}") for x in ticks(x_high, whole=True) if x <= x_high),
        tuple(Tick(y_at(y), f"{y:.3g}") for y in y_values),
        None if mark_epoch is None else Tick(x_at(mark_epoch), str(mark_epoch)),
    )


@dataclass(frozen=True)
class Axes:
    """Where values lie in a drawing, in units of the SVG, and the ticks of both axes."""

    x_at: Callable[[float], float]
    y_at: Callable[[float], float]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


def scatter_axes(xs: Sequence[float], ys: Sequence[float], area: Area) -> Axes:
    """Axes for points, at least one: the horizontal one from zero, the vertical one over the span of the points.

    Args:
        xs: of at least 0.
        ys: their differences are what matters.
        area: of the drawing.
    """
    x_values = ticks(max(xs))
    step = _step((max(ys) - min(ys)) / 5 or 1.0)
    first = math.floor(min(ys) / step)
    last = max(math.ceil(max(ys) / step), first + 1)

    def x_at(x: float) -> float:
        return round(area.left + (area.width - area.left - area.edge) * x / x_values[-1], 1)

    def y_at(y: float) -> float:
        room = area.height - area.bottom - area.edge
        return round(area.height - area.bottom - room * (y / step - first) / (last - first), 1)

    return Axes(
        x_at,
        y_at,
        tuple(Tick(x_at(x), f"{x:g}") for x in x_values),
        tuple(Tick(y_at(k * step), f"{k * step:.5g}") for k in range(first, last + 1)),
    )


def scatter_chart(title: str, clouds: Mapping[str, Sequence[tuple[float, float, str]]]) -> Chart:
    """Points with what each says under the pointer, by the cloud's name, at least one in all; see ``scatter_axes``.

    Args:
        title: what the axes are, with their units.
        clouds: (x, y, text) of each point, x of at least 0.
    """
    xs, ys, _ = zip(*(point for cloud in clouds.values() for point in cloud))
    axes = scatter_axes(xs, ys, WIDE)
    return Chart(
        title,
        WIDE,
        tuple(
            Curve(name, "", tuple(Dot(axes.x_at(x), axes.y_at(y), text) for x, y, text in cloud))
            for name, cloud in clouds.items()
        ),
        axes.x_ticks,
        axes.y_ticks,
        None,
    )


def ticks(high: float, *, whole: bool = False) -> list[float]:
    """Round values from 0, three to six, the last one at ``high`` or the first one above it."""
    high = high or 1.0
    step = _step(high / 5)
    if whole:
        step = max(1.0, step)
    return [step * k for k in range(math.ceil(high / step - 1e-9) + 1)]


def _step(rough: float) -> float:
    """1, 2 or 5 times a power of ten, at ``rough`` or the first above it."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= rough * (1 - 1e-9))
