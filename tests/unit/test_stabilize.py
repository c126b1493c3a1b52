from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from edgeseg.frame import Frame
from edgeseg.segmentation import Segmentation
from edgeseg.stabilize import Stabilizer

HEIGHT, WIDTH = 96, 128
TEXTURE = np.random.default_rng(0).integers(0, 256, (24, 64, 3), np.uint8).repeat(8, 0).repeat(8, 1)


def scene(index: int, step: int, **more: object) -> Segmentation:
    """A textured picture that moves ``step`` pixels left a frame, with an edge between two classes that moves along."""
    left = index * step
    image = np.ascontiguousarray(TEXTURE[:HEIGHT, left : left + WIDTH])
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:, max(0, 90 - left) :] = 1
    frame = Frame(image, index, time.monotonic() + index / 30, **more)
    return Segmentation(mask, ("a", "b"), ((0, 0, 0), (255, 255, 255)), frame, {})


def steadied(results: list[Segmentation]) -> list[Segmentation]:
    stabilizer = Stabilizer()
    out = [stabilizer(result) for result in results]
    assert out[0] is None
    return [*out[1:], stabilizer.finish()]


@pytest.mark.parametrize("step", [0, 4])
def test_a_class_that_is_there_for_one_frame_goes(step: int) -> None:
    results = [scene(i, step) for i in range(5)]
    clean = [result.mask.copy() for result in results]
    results[2].mask[40:56, 20:44] = 1
    out = steadied(results)
    assert [r.frame_index for r in out] == [0, 1, 2, 3, 4]
    assert (results[2].mask != clean[2]).sum() == 16 * 24, "results are not written to"
    assert (out[2].mask != clean[2]).mean() < 0.02
    for index in (0, 4):
        assert np.array_equal(out[index].mask, clean[index]), "without a neighbour on both sides it stays"


def test_edges_that_move_with_the_picture_are_not_held_back() -> None:
    results = [scene(i, 4) for i in range(6)]
    for one, result in zip(steadied(results), results):
        assert (one.mask != result.mask).mean() < 0.01, "an edge held for one frame would move 4 of 128 columns"


def test_a_change_that_lasts_is_not_delayed() -> None:
    results = [scene(i, 0) for i in range(6)]
    for result in results[3:]:
        result.mask[20:60, 20:60] = 1
    for one, result in zip(steadied(results), results):
        assert np.array_equal(one.mask, result.mask)


def test_results_are_as_old_as_they_are() -> None:
    stabilizer, first = Stabilizer(), replace(scene(0, 0), finished_at=time.monotonic() - 1)
    stabilizer(first)
    steady = stabilizer(scene(1, 0))
    assert steady.finished_at > first.finished_at + 0.9


@pytest.mark.parametrize("why", ["invalid", "gap", "pause in the file", "size"])
def test_neighbours_that_say_nothing_are_not_asked(why: str) -> None:
    results = [scene(i, 0) for i in range(5)]
    results[2].mask[40:56, 20:44] = 1
    expected = results[2].mask.copy()
    before = results[1]
    if why == "invalid":
        results[1] = replace(before, valid=False)
    elif why == "gap":
        results[1] = replace(before, frame=replace(before.frame, captured_at=before.captured_at - 1))
    elif why == "pause in the file":
        results = [replace(r, frame=replace(r.frame, pts_s=float(r.frame_index))) for r in results]
    else:
        image = np.zeros((64, 64, 3), np.uint8)
        results[1] = replace(before, mask=np.zeros((64, 64), np.uint8), frame=replace(before.frame, image=image))
    assert np.array_equal(steadied(results)[2].mask, expected)


def test_nothing_comes_of_nothing() -> None:
    assert Stabilizer().finish() is None


@pytest.mark.parametrize("size_hw", [(1, 1), (3, 400), (400, 3)])
def test_odd_sizes(size_hw: tuple[int, int]) -> None:
    results = [
        replace(scene(i, 0), mask=np.zeros(size_hw, np.uint8), frame=Frame(np.zeros((*size_hw, 3), np.uint8), i, 0.0))
        for i in range(3)
    ]
    assert [one.mask.shape for one in steadied(results)] == [size_hw] * 3
