"""Places for the labels of points, so that none covers another, a point, or the edge of the picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Box(NamedTuple):
    """A rectangle by two corners, in any unit."""

    left: float
    low: float
    right: float
    high: float

    def overlaps(self, other: Box) -> bool:
        """Whether both have some area in common."""
        return self.left < other.right and other.left < self.right and self.low < other.high and other.low < self.high

    def holds(self, other: Box) -> bool:
        """Whether the other lies inside."""
        return (
            self.left <= other.left and self.low <= other.low and other.right <= self.right and other.high <= self.high
        )


_DIRECTIONS = (
    (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (0, -1), (0.5, 1), (-0.5, 1), (0.5, -1), (-0.5, -1),
)  # fmt: skip
_DISTANCES = (1.0, 2.0, 3.5, 5.5, 8.0)


def label_boxes(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    area: Box,
    gap: float,
    obstacles: Sequence[Box] = (),
) -> list[Box | None]:
    """A box for the label of each point, as near to it as there is room; None where there is none.

    The first points choose first. A label may lie some distance away from its point: a line should then join them.

    Args:
        points: x and y.
        sizes: width and height of each label.
        area: what the labels must stay in.
        gap: smallest distance between a point and a label; every point takes a square of this radius.
        obstacles: rectangles to keep free as well.
    """
    taken = [*obstacles, *(Box(x - gap, y - gap, x + gap, y + gap) for x, y in points)]
    placed: list[Box | None] = []
    for (x, y), (width, height) in zip(points, sizes):
        candidates = (
            _beside(x, y, width, height, gap * distance, direction)
            for distance in _DISTANCES
            for direction in _DIRECTIONS
        )
        free = (box for box in candidates if area.holds(box) and not any(box.overlaps(other) for other in taken))
        box = next(free, None)
        placed.append(box)
        if box is not None:
            taken.append(box)
    return placed


def _beside(x: float, y: float, width: float, height: float, gap: float, direction: tuple[float, float]) -> Box:
    across, up = direction
    center_x = x + across * (gap + width / 2)
    center_y = y + up * (gap + height / 2)
    return Box(center_x - width / 2, center_y - height / 2, center_x + width / 2, center_y + height / 2)


def stair_boxes(points: Sequence[tuple[float, float]], margin: float) -> list[Box]:
    """Rectangles that cover a line which goes across and then up or down from each point to the next."""
    boxes = []
    for (x0, y0), (x1, y1) in zip(points, points[1:]):
        boxes += [Box(x0, y0 - margin, x1, y0 + margin), Box(x1 - margin, min(y0, y1), x1 + margin, max(y0, y1))]
    return boxes
