"""Classes and colours of the procedural street: the eleven CamVid classes, in CamVid's order."""

from __future__ import annotations

from collections.abc import Sequence

CLASSES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)

PALETTE = (  # RGB
    (128, 128, 128),
    (128, 0, 0),
    (192, 192, 128),
    (128, 64, 128),
    (60, 40, 222),
    (128, 128, 0),
    (192, 128, 128),
    (64, 64, 128),
    (64, 0, 128),
    (64, 64, 0),
    (0, 128, 192),
)

IGNORE_ID = 11

SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = range(len(CLASSES))

CLEAR = 255
"""Label of a sprite's see-through pixels. Never reaches a mask."""

Paint = tuple[int, int, int, int]
"""Blue, green, red and class id: one drawing call sets the image and the mask together."""


def paint(bgr: Sequence[float], label: int, shade: float = 1.0) -> Paint:
    """A paint of class ``label`` from a colour (0..255) times ``shade``."""
    blue, green, red = (min(255, max(0, round(channel * shade))) for channel in bgr)
    return blue, green, red, label
