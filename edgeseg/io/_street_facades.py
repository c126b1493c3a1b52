"""Fronts of the procedural street: houses, shops, fences, hedges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeseg.io._street_canvas import Texture
from edgeseg.io._street_labels import BUILDING, FENCE, TREE, paint
from edgeseg.io._street_textures import Drawing, soft_noise
from edgeseg.io._street_world import PLOT_M

Bgr = tuple[float, ...]

_PPM = 40  # pixels per metre of the finest level
_STOREY_M = 2.9

_BRICKS: tuple[Bgr, ...] = ((58, 68, 92), (92, 110, 128), (64, 72, 82), (78, 96, 116), (48, 54, 70))
_PLASTERS: tuple[Bgr, ...] = ((150, 162, 168), (112, 128, 140), (134, 138, 134), (92, 104, 116))
_PANELS: tuple[Bgr, ...] = ((116, 118, 116), (88, 94, 100), (72, 80, 92))
_FASCIAS: tuple[Bgr, ...] = ((104, 50, 32), (40, 40, 112), (48, 74, 36), (36, 36, 38), (160, 165, 170), (56, 108, 140))
_DOORS: tuple[Bgr, ...] = ((60, 40, 30), (36, 36, 90), (50, 66, 40), (30, 30, 32), (120, 124, 126))


@dataclass(frozen=True)
class House:
    """The front of a house, one plot wide, and its side wall, as high and of the same stuff."""

    front: Texture
    side: Texture


def houses(rng: np.random.Generator) -> tuple[House, ...]:
    """Terraces, shops and offices."""
    fronts = [(_terrace(rng, _BRICKS[index % len(_BRICKS)], 2 + index % 2), _BRICKS[index]) for index in range(5)]
    fronts += [(_terrace(rng, colour, 2 + index % 2), colour) for index, colour in enumerate(_PLASTERS[:3])]
    shops = (_BRICKS + _PLASTERS)[::2]
    fronts += [(_shop(rng, colour, 1 + index % 3), colour) for index, colour in enumerate(shops)]
    fronts += [(_office(rng, colour), colour) for colour in _PANELS]
    return tuple(House(front, _side_wall(rng, colour, front.height_m)) for front, colour in fronts)


def _side_wall(rng: np.random.Generator, colour: Bgr, height_m: float) -> Texture:
    """A wall with hardly a window."""
    drawing = _masonry(rng, tuple(0.86 * channel for channel in colour), height_m, colour in _BRICKS)
    if rng.random() < 0.6:
        _window(rng, drawing, rng.uniform(2, 6), 3.6, 0.8, 1.2)
    return drawing.texture()


def _masonry(rng: np.random.Generator, colour: Bgr, height_m: float, is_brick: bool) -> Drawing:
    """Bare bricks or plaster: darker towards the ground, stained."""
    drawing = Drawing(PLOT_M, height_m, _PPM, paint(colour, BUILDING))
    rows, columns = drawing.picture.shape[:2]
    shade = 1 + 0.07 * soft_noise(rng, (rows, columns), 60) + 0.04 * soft_noise(rng, (rows, columns), 9)
    if is_brick:
        courses = rng.normal(0, 0.09, (rows // 3 + 1, columns // 9 + 2)).astype(np.float32)
        bricks = np.repeat(np.repeat(courses, 3, axis=0), 9, axis=1)
        bricks[::3] = 0.10  # mortar
        shade += bricks[:rows, :columns]
    shade *= np.linspace(1.04, 0.84, rows, dtype=np.float32)[:, None]
    tinted = drawing.picture[..., :3] * shade[..., None]
    drawing.picture[..., :3] = np.clip(tinted, 0, 255)
    return drawing


def _window(
    rng: np.random.Generator, drawing: Drawing, x_m: float, y_m: float, width_m: float, height_m: float
) -> None:
    """A sash window: stone sill and lintel, white frame, dark glass that mirrors some sky."""
    left, right, top = x_m - width_m / 2, x_m + width_m / 2, y_m + height_m
    stone = paint((112, 120, 124), BUILDING, rng.uniform(0.7, 1.0))
    drawing.box(left - 0.1, y_m - 0.12, right + 0.1, y_m, stone)
    drawing.box(left - 0.08, top, right + 0.08, top + 0.16, stone)
    drawing.box(left, y_m, right, top, paint((136, 142, 142), BUILDING, rng.uniform(0.5, 1.1)))
    glass, mirror = rng.uniform(0.6, 1.3), rng.uniform(0.5, 1.6)
    middle = y_m + height_m / 2
    drawing.box(left + 0.07, y_m + 0.07, right - 0.07, middle - 0.03, paint((44, 40, 36), BUILDING, glass))
    drawing.box(left + 0.07, middle + 0.03, right - 0.07, top - 0.07, paint((72, 66, 58), BUILDING, mirror))
    if rng.random() < 0.6:
        drawing.box(x_m - 0.025, y_m, x_m + 0.025, top, paint((120, 126, 126), BUILDING))


def _storey_windows(
    rng: np.random.Generator, drawing: Drawing, floor_m: float, count: int, width_m: float, height_m: float
) -> None:
    for index in range(count):
        _window(rng, drawing, (index + 0.5) * PLOT_M / count, floor_m + 0.85, width_m, height_m)


def _eaves(drawing: Drawing) -> None:
    """Gutter, the shadow below it, and a drainpipe."""
    top = drawing.height_m
    drawing.box(0, top - 0.45, PLOT_M, top - 0.2, paint((40, 42, 46), BUILDING))
    drawing.box(0, top - 0.2, PLOT_M, top, paint((86, 90, 92), BUILDING))
    drawing.box(0.12, 0, 0.24, top - 0.2, paint((40, 40, 42), BUILDING))


def _terrace(rng: np.random.Generator, colour: Bgr, storeys: int) -> Texture:
    """A dwelling: doors and windows, none two alike."""
    drawing = _masonry(rng, colour, storeys * _STOREY_M + 0.4, colour in _BRICKS)
    columns = int(rng.integers(3, 5))
    width = rng.uniform(0.85, 1.15)
    for storey in range(storeys):
        _storey_windows(rng, drawing, storey * _STOREY_M, columns, width, 1.5 if storey < 2 else 1.15)
    for column in {int(rng.integers(0, columns)), columns - 1}:
        x = (column + 0.5) * PLOT_M / columns
        drawing.box(x - width, 0, x + width, 2.5, paint(colour, BUILDING, 0.82))
        drawing.box(x - 0.55, 0, x + 0.55, 2.3, paint((150, 155, 155), BUILDING))
        drawing.box(x - 0.45, 0, x + 0.45, 2.05, paint(_DOORS[int(rng.integers(len(_DOORS)))], BUILDING))
    _eaves(drawing)
    return drawing.texture()


def _shop(rng: np.random.Generator, colour: Bgr, storeys_above: int) -> Texture:
    """Shop windows under a painted board, dwellings above."""
    ground_m = 3.5
    drawing = _masonry(rng, colour, ground_m + storeys_above * _STOREY_M, colour in _BRICKS)
    for storey in range(storeys_above):
        _storey_windows(rng, drawing, ground_m + storey * _STOREY_M - 0.1, int(rng.integers(3, 5)), 1.0, 1.45)
    board = _FASCIAS[int(rng.integers(len(_FASCIAS)))]
    drawing.box(0, 0, PLOT_M, ground_m, paint(board, BUILDING, 0.75))
    drawing.box(0.2, 2.75, PLOT_M - 0.2, 3.35, paint(board, BUILDING))
    x = 1.0 + rng.uniform(0, 2)
    ink = paint((205, 210, 212) if sum(board) < 330 else (50, 40, 60), BUILDING)
    for _ in range(int(rng.integers(5, 10))):  # letters, as far as one can read them
        step = rng.uniform(0.2, 0.42)
        drawing.box(x, 2.9, x + 0.7 * step, 3.2, ink)
        x += step
    panes = int(rng.integers(3, 6))
    for pane in range(panes):
        left, right = 0.25 + pane * 8.5 / panes, 0.1 + (pane + 1) * 8.5 / panes
        glow = rng.uniform(0.6, 1.8)
        drawing.box(left, 0.55, right, 2.65, paint((46, 44, 42), BUILDING, glow))
        drawing.box(left, 1.7, right, 2.65, paint((62, 60, 56), BUILDING, glow))
        for _ in range(4):  # goods
            gx, gy = rng.uniform(left, right - 0.3), rng.uniform(0.6, 1.5)
            goods = paint(tuple(rng.uniform(30, 170, 3).tolist()), BUILDING)
            drawing.box(gx, gy, min(gx + rng.uniform(0.1, 0.5), right), gy + rng.uniform(0.1, 0.5), goods)
    door = 0.5 + rng.uniform(0, 7)
    drawing.box(door, 0, door + 1.0, 2.4, paint((34, 34, 36), BUILDING))
    _eaves(drawing)
    return drawing.texture()


def _office(rng: np.random.Generator, colour: Bgr) -> Texture:
    """Bands of glass and stone."""
    storeys = int(rng.integers(3, 5))
    drawing = _masonry(rng, colour, storeys * 3.1 + 0.6, colour in _BRICKS)
    panes = int(rng.integers(5, 8))
    for storey in range(storeys):
        floor = storey * 3.1
        for pane in range(panes):
            left = 0.1 + pane * (PLOT_M - 0.1) / panes
            right = left + (PLOT_M - 0.1) / panes - 0.14
            mirror = rng.uniform(0.5, 1.6)
            drawing.box(left, floor + 0.7, right, floor + 2.6, paint((70, 62, 54), BUILDING, mirror))
            drawing.box(left, floor + 1.6, right, floor + 2.6, paint((100, 92, 84), BUILDING, mirror))
    return drawing.texture()


def fences(rng: np.random.Generator) -> tuple[Texture, ...]:
    """Garden and park fences: two of iron, one of planks."""
    return (
        _railing(rng, 1.3, 0.13, (34, 36, 36), (58, 70, 66)),
        _railing(rng, 1.6, 0.16, (50, 58, 46), (50, 60, 56)),
        _planks(rng, 1.7),
    )


def guard_rail(rng: np.random.Generator) -> Texture:
    """The steel rail that keeps people off the road, 3 m of it."""
    return _railing(rng, 1.05, 0.11, (100, 104, 104), (62, 64, 64), width_m=3.0)


def _railing(
    rng: np.random.Generator, height_m: float, pitch_m: float, iron: Bgr, behind: Bgr, width_m: float = PLOT_M
) -> Texture:
    """Upright bars between two rails. What shows between them is painted, and part of the fence."""
    drawing = Drawing(width_m, height_m, _PPM, paint(behind, FENCE))
    rows, columns = drawing.picture.shape[:2]
    murk = drawing.picture[..., :3] * (1 + 0.25 * soft_noise(rng, (rows, columns), 7))[..., None]
    drawing.picture[..., :3] = np.clip(murk, 0, 255)
    for x in np.arange(0, width_m, pitch_m):
        drawing.box(x, 0, x + 0.03, height_m, paint(iron, FENCE, rng.uniform(0.8, 1.1)))
    for x in np.arange(0, width_m, 1.5):
        drawing.box(x, 0, x + 0.08, height_m, paint(iron, FENCE, 0.9))
    for y in (0.1, height_m - 0.08):
        drawing.box(0, y, width_m, y + 0.06, paint(iron, FENCE, 1.1))
    return drawing.texture()


def _planks(rng: np.random.Generator, height_m: float) -> Texture:
    drawing = Drawing(PLOT_M, height_m, _PPM, paint((62, 82, 100), FENCE))
    for x in np.arange(0, PLOT_M, 0.14):
        drawing.box(x, 0, x + 0.125, height_m, paint((62, 82, 100), FENCE, rng.uniform(0.7, 1.1)))
    for x in np.arange(0, PLOT_M, 1.8):
        drawing.box(x, 0, x + 0.1, height_m, paint((90, 96, 98), FENCE))
    return drawing.texture()


def hedge(rng: np.random.Generator) -> Texture:
    """A trimmed hedge, one plot long."""
    drawing = Drawing(PLOT_M, 1.4, _PPM, paint((40, 58, 52), TREE))
    rows, columns = drawing.picture.shape[:2]
    leaves = np.maximum(1 + 0.35 * rng.standard_normal((rows // 2 + 1, columns // 2 + 1)), 0.3)
    shade = np.repeat(np.repeat(leaves, 2, axis=0), 2, axis=1)[:rows, :columns]
    shade *= np.linspace(1.25, 0.7, rows, dtype=np.float32)[:, None]
    drawing.picture[..., :3] = np.clip(drawing.picture[..., :3] * shade[..., None], 0, 255)
    return drawing.texture()
