"""Figures of the procedural street that are painted once and face the camera: trees, walkers, cyclists."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgeseg.io._street_canvas import Texture
from edgeseg.io._street_labels import BICYCLIST, CLEAR, PEDESTRIAN, TREE, Paint, paint
from edgeseg.io._street_textures import Drawing, soft_noise, to_texture

Bgr = tuple[float, float, float]

PHASES = 8  # pictures per stride
STRIDE_M = 1.45
PEDAL_M = 4.5  # metres per turn of the pedals

_TREE_PX = 288
_CLEAR: Paint = (0, 0, 0, CLEAR)
_COATS: tuple[Bgr, ...] = (
    (34, 32, 32),
    (70, 44, 30),
    (44, 44, 84),
    (52, 58, 60),
    (90, 86, 80),
    (40, 60, 48),
    (28, 24, 26),
)
_TROUSERS: tuple[Bgr, ...] = ((34, 30, 28), (74, 54, 40), (60, 62, 64), (26, 26, 28))
_SKIN: Bgr = (120, 140, 176)
_HAIR: tuple[Bgr, ...] = ((28, 30, 36), (40, 56, 76), (84, 90, 92))


def trees(rng: np.random.Generator) -> tuple[Texture, ...]:
    """Whole trees: bare ones, leafy ones, evergreens."""
    bare = [_tree(rng, 9.0, (66, 76, 78), leaves=0.35, low=0.30) for _ in range(2)]
    leafy = [_tree(rng, 8.0, tint, leaves=0.75, low=0.28) for tint in ((48, 74, 66), (44, 66, 70), (58, 84, 80))]
    evergreen = [_tree(rng, 7.0, (34, 52, 44), leaves=0.95, low=0.08) for _ in range(2)]
    return (*bare, *leafy, *evergreen)


def bushes(rng: np.random.Generator) -> tuple[Texture, ...]:
    """Low shrubs."""
    return tuple(_tree(rng, 2.2, tint, leaves=0.95, low=-0.15) for tint in ((40, 60, 52), (46, 62, 64), (52, 78, 70)))


def _tree(rng: np.random.Generator, height_m: float, tint: Bgr, leaves: float, low: float) -> Texture:
    """Branches, and clumps of twigs or leaves around them.

    Args:
        rng: where chance comes from.
        height_m: of the tree; it is four fifths as wide.
        tint: colour of the leaves.
        leaves: how dense they are, 0..1.
        low: where the crown begins, as a part of the height.
    """
    size = _TREE_PX
    drawing = Drawing(0.8 * height_m, height_m, size / height_m, _CLEAR)
    rows, columns = drawing.picture.shape[:2]
    v, u = np.mgrid[0:rows, 0:columns].astype(np.float32)
    middle = 0.5 * (1 + low)
    height = 1 - v / rows
    reach = np.hypot((u / columns - 0.5) / 0.47, (height - middle) / (0.5 * (1 - low)))
    edge = 0.86 + 0.16 * soft_noise(rng, (rows, columns), 40) + 0.14 * soft_noise(rng, (rows, columns), 14)
    clumps = 0.5 * soft_noise(rng, (rows, columns), 18) + 0.6 * soft_noise(rng, (rows, columns), 6)
    density = leaves - 1.05 * clumps - 0.9 * np.clip(reach - 0.55, 0, 1)
    crown = (reach < edge) & (density > 0.12)
    wood = paint((44, 50, 56), TREE)
    _branch(rng, drawing, (0.4 * height_m, 0.0), math.pi / 2, 0.34 * height_m, 0.045 * height_m**0.7, wood)
    drawing.picture[(reach > edge + 0.06) & (height > low + 0.1), 3] = CLEAR  # twigs end a little outside the leaves
    light = 0.80 + 0.25 * clumps + 0.35 * (0.5 - v / rows) + 0.16 * rng.standard_normal((rows, columns))
    for channel in range(3):
        shade = np.clip(tint[channel] * 1.25 * np.maximum(light, 0.25), 0, 255).astype(np.uint8)
        drawing.picture[..., channel][crown] = shade[crown]
    drawing.picture[..., 3][crown] = TREE
    return to_texture(drawing.picture, drawing.width_m, drawing.height_m)


def _branch(
    rng: np.random.Generator,
    drawing: Drawing,
    start_m: tuple[float, float],
    angle_rad: float,
    length_m: float,
    thick_m: float,
    wood: Paint,
) -> None:
    """A branch and, from its end, thinner ones."""
    end = start_m[0] + length_m * math.cos(angle_rad), start_m[1] + length_m * math.sin(angle_rad)
    drawing.stroke([start_m, end], thick_m, wood)
    if length_m < 0.06 * drawing.height_m:
        return
    for turn in (-0.5, 0.05, 0.5):
        _branch(
            rng,
            drawing,
            end,
            angle_rad + turn + rng.uniform(-0.25, 0.25),
            length_m * rng.uniform(0.55, 0.78),
            thick_m * 0.58,
            wood,
        )


@dataclass(frozen=True)
class Gait:
    """One person or cyclist: ``PHASES`` pictures, seen from behind or from the side."""

    along: tuple[Texture, ...]
    across: tuple[Texture, ...] = ()

    def picture(self, step_m: float, stride_m: float, across: bool = False) -> Texture:
        """The picture after ``step_m`` metres."""
        return (self.across if across else self.along)[int(step_m / stride_m * PHASES) % PHASES]


def walkers(rng: np.random.Generator) -> tuple[Gait, ...]:
    """Pedestrians in different clothes."""
    people = []
    for index in range(7):
        coat, trousers = _COATS[index], _TROUSERS[int(rng.integers(len(_TROUSERS)))]
        hair, long_coat = _HAIR[int(rng.integers(len(_HAIR)))], bool(rng.random() < 0.4)
        turns = [2 * math.pi * phase / PHASES for phase in range(PHASES)]
        people.append(
            Gait(
                tuple(_walker_from_behind(turn, coat, trousers, hair, long_coat) for turn in turns),
                tuple(_walker_from_the_side(turn, coat, trousers, hair, long_coat) for turn in turns),
            )
        )
    return tuple(people)


def _person_paint(bgr: Bgr, shade: float = 1.0) -> Paint:
    return paint(bgr, PEDESTRIAN, shade)


def _walker_from_behind(turn: float, coat: Bgr, trousers: Bgr, hair: Bgr, long_coat: bool) -> Texture:
    drawing = Drawing(1.0, 1.8, 110, _CLEAR)
    swing = math.sin(turn)
    for side in (-1, 1):
        lift = max(0.0, side * swing) * 0.13
        hip, knee, foot = (0.5 + side * 0.09, 0.9), (0.5 + side * 0.10, 0.48 + lift), (0.5 + side * 0.09, 0.06 + lift)
        drawing.stroke([hip, knee, foot], 0.15, _person_paint(trousers, 0.85 + 0.15 * side))
        drawing.oval(foot[0], 0.05 + lift, 0.06, 0.05, _person_paint((26, 26, 28)))
        hand = 0.5 + side * 0.27, 0.82 + 0.05 * side * swing
        drawing.stroke([(0.5 + side * 0.2, 1.40), (0.5 + side * 0.27, 1.1), hand], 0.11, _person_paint(coat, 0.85))
        drawing.oval(*hand, 0.045, 0.06, _person_paint(_SKIN, 0.8))
    hem = 0.62 if long_coat else 0.84
    drawing.shape(
        [(0.30, hem), (0.70, hem), (0.68, 1.1), (0.73, 1.40), (0.6, 1.5), (0.4, 1.5), (0.27, 1.40), (0.32, 1.1)],
        _person_paint(coat),
    )
    drawing.box(0.47, hem, 0.50, 1.40, _person_paint(coat, 0.8))
    drawing.box(0.45, 1.46, 0.55, 1.56, _person_paint(_SKIN, 0.8))
    drawing.oval(0.5, 1.65, 0.095, 0.13, _person_paint(_SKIN))
    drawing.oval(0.5, 1.69, 0.105, 0.10, _person_paint(hair))
    return drawing.texture()


def _walker_from_the_side(turn: float, coat: Bgr, trousers: Bgr, hair: Bgr, long_coat: bool) -> Texture:
    """Walking to the right."""
    drawing = Drawing(1.2, 1.8, 110, _CLEAR)
    middle = 0.6
    for leg in (0, 1):
        angle = 0.45 * math.sin(turn + math.pi * leg)
        bend = 0.35 * max(0.0, math.cos(turn + math.pi * leg))
        knee = middle + 0.42 * math.sin(angle), 0.9 - 0.42 * math.cos(angle)
        foot = knee[0] + 0.42 * math.sin(angle - bend), max(0.05, knee[1] - 0.42 * math.cos(angle - bend))
        drawing.stroke([(middle, 0.9), knee, foot], 0.15, _person_paint(trousers, 0.75 + 0.25 * leg))
        drawing.stroke([foot, (foot[0] + 0.13, foot[1] - 0.01)], 0.09, _person_paint((26, 26, 28)))
    hem = 0.65 if long_coat else 0.84
    drawing.shape([(0.45, hem), (0.75, hem), (0.73, 1.2), (0.71, 1.48), (0.5, 1.48), (0.46, 1.2)], _person_paint(coat))
    reach = 0.35 * math.sin(turn)
    hand = middle + 0.55 * math.sin(reach), 1.4 - 0.55 * math.cos(reach)
    drawing.stroke([(middle, 1.4), hand], 0.11, _person_paint(coat, 0.8))
    drawing.oval(*hand, 0.05, 0.05, _person_paint(_SKIN, 0.8))
    drawing.oval(middle + 0.02, 1.64, 0.105, 0.13, _person_paint(_SKIN))
    drawing.oval(middle - 0.01, 1.69, 0.11, 0.10, _person_paint(hair))
    return drawing.texture()


def cyclists(rng: np.random.Generator) -> tuple[Gait, ...]:
    """Riders on bicycles, seen along the road."""
    riders = []
    for jacket in ((36, 32, 34), (30, 40, 110), (60, 190, 200), (110, 60, 40), (60, 66, 62)):
        trousers = _TROUSERS[int(rng.integers(len(_TROUSERS)))]
        helmet = (60, 60, 64) if rng.random() < 0.5 else _HAIR[0]
        turns = [2 * math.pi * phase / PHASES for phase in range(PHASES)]
        riders.append(Gait(tuple(_cyclist(turn, jacket, trousers, helmet) for turn in turns)))
    return tuple(riders)


def _cyclist(turn: float, jacket: Bgr, trousers: Bgr, helmet: Bgr) -> Texture:
    drawing = Drawing(1.0, 1.8, 110, _CLEAR)

    def colour(bgr: Bgr, shade: float = 1.0) -> Paint:
        return paint(bgr, BICYCLIST, shade)

    black = colour((24, 24, 26))
    drawing.oval(0.54, 0.36, 0.07, 0.34, colour((40, 40, 42)))  # the wheel farther off
    drawing.oval(0.5, 0.34, 0.075, 0.34, black)
    drawing.oval(0.5, 0.34, 0.03, 0.28, colour((90, 92, 94)))
    drawing.stroke([(0.5, 0.34), (0.5, 0.95)], 0.05, colour((70, 60, 90)))
    drawing.box(0.44, 0.66, 0.56, 0.70, colour((40, 40, 160)))  # rear light
    for side in (-1, 1):
        height = 0.32 + 0.17 * math.sin(turn + (math.pi if side > 0 else 0.0))
        pedal = 0.5 + side * 0.14, height
        knee = 0.5 + side * 0.17, 0.5 * (height + 0.95) + 0.08
        drawing.stroke([(0.5 + side * 0.08, 0.95), knee, pedal], 0.14, colour(trousers, 0.9 + 0.1 * side))
        drawing.oval(pedal[0], pedal[1] - 0.02, 0.055, 0.05, black)
        grip = 0.5 + side * 0.27, 1.02
        drawing.stroke([(0.5 + side * 0.19, 1.42), (0.5 + side * 0.30, 1.2), grip], 0.10, colour(jacket, 0.85))
    drawing.stroke([(0.22, 1.03), (0.78, 1.03)], 0.035, black)
    drawing.shape(
        [(0.36, 0.90), (0.64, 0.90), (0.68, 1.2), (0.72, 1.42), (0.6, 1.5), (0.4, 1.5), (0.28, 1.42), (0.32, 1.2)],
        colour(jacket),
    )
    drawing.oval(0.5, 1.62, 0.09, 0.13, colour(_SKIN, 0.9))
    drawing.oval(0.5, 1.67, 0.11, 0.10, colour(helmet))
    return drawing.texture()


def mirrored(gait: Gait) -> Gait:
    """The same person walking to the left."""

    def flip(texture: Texture) -> Texture:
        levels = tuple(np.ascontiguousarray(level[:, ::-1]) for level in texture.levels)
        return Texture(levels, texture.width_m, texture.height_m, texture.mean)

    return Gait(gait.along, tuple(flip(texture) for texture in gait.across))
