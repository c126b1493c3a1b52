"""The decoder, in both its forms, against the plain formula, written out here in float64 and independently of it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import edgeseg.decode
from edgeseg import decode_compiled
from edgeseg.decode import Decoder, classmap_from_logits, classmap_resized
from edgeseg.errors import ModelError

needs_compiled = pytest.mark.skipif(
    not decode_compiled.available(), reason="the decoder was not compiled: there was no C compiler at installation"
)


@pytest.fixture(params=["numpy", pytest.param("compiled", marks=needs_compiled)], autouse=True)
def form(request, monkeypatch):
    if request.param == "numpy":
        monkeypatch.setattr(decode_compiled, "available", lambda: False)
    edgeseg.decode._decoder.cache_clear()
    yield
    edgeseg.decode._decoder.cache_clear()


def weights(samples: int, size: int) -> np.ndarray:
    """Bilinear, half-pixel centres, edge clamp: float64 [size, samples]."""
    table = np.zeros((size, samples))
    for pixel in range(size):
        at = min(max((pixel + 0.5) * samples / size - 0.5, 0.0), samples - 1.0)
        low = int(np.floor(at))
        high = min(low + 1, samples - 1)
        table[pixel, low] += 1.0 - (at - low)
        table[pixel, high] += at - low
    return table


def upsampled(logits_chw: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    down = weights(logits_chw.shape[1], size_hw[0])
    across = weights(logits_chw.shape[2], size_hw[1])
    return down @ logits_chw.astype(np.float64) @ across.T


def check(logits_chw: np.ndarray, size_hw: tuple[int, int], tolerance: float = 1e-5) -> np.ndarray:
    """Decode, compare with the formula wherever two classes are not level, and return the mask."""
    mask, valid = Decoder(logits_chw.shape[1:], size_hw, len(logits_chw))(logits_chw)
    assert valid
    assert mask.dtype == np.uint8
    assert mask.shape == size_hw
    assert mask.flags.c_contiguous
    assert mask.max() < len(logits_chw)
    full = upsampled(logits_chw, size_hw)
    tolerance *= max(1.0, float(np.abs(full).max()))
    taken = np.take_along_axis(full, mask[None].astype(np.intp), axis=0)[0]
    assert (full.max(axis=0) - taken).max() <= tolerance
    if len(full) > 1:
        second, first = np.partition(full, -2, axis=0)[-2:]
        clear = first - second > tolerance
        np.testing.assert_array_equal(mask[clear], full.argmax(axis=0)[clear])
    return mask


def blocky(rng: np.random.Generator, classes: int, height: int, width: int) -> np.ndarray:
    """Logits like a network's on a street scene: a few regions with soft borders, float32 [C, h, w]."""
    labels = np.zeros((height, width), np.intp)
    for _ in range(8):
        y, x = rng.integers(0, height), rng.integers(0, width)
        labels[y : y + rng.integers(1, height + 1), x : x + rng.integers(1, width + 1)] = rng.integers(0, classes)
    hot = (labels == np.arange(classes)[:, None, None]).astype(np.float64)
    for axis in (1, 2):
        hot = hot + np.roll(hot, 1, axis) + np.roll(hot, -1, axis)
    return (hot + 0.2 * rng.standard_normal(hot.shape)).astype(np.float32)


SHAPES = [
    # logits, frame
    ((6, 8), (48, 64)),  # whole factors, even
    ((5, 7), (15, 21)),  # odd: some pixels lie exactly on a sample
    ((9, 12), (72, 200)),  # 16.67 across, as 45x60 -> 720x1280
    ((7, 5), (31, 47)),
    ((1, 9), (1, 40)),
    ((9, 1), (23, 3)),
    ((1, 1), (5, 6)),
    ((2, 2), (64, 64)),
    ((8, 8), (8, 24)),  # one axis unchanged
    ((8, 8), (8, 8)),
    ((20, 30), (21, 31)),
    ((20, 30), (10, 15)),  # down
    ((31, 29), (7, 11)),
    ((16, 9), (1, 1)),
    ((5, 40), (50, 13)),  # up one way, down the other
]


@pytest.mark.parametrize(("logits_hw", "size_hw"), SHAPES)
@pytest.mark.parametrize("classes", [2, 3, 19])
def test_equals_the_formula(logits_hw, size_hw, classes):
    rng = np.random.default_rng(classes)
    check(blocky(rng, classes, *logits_hw), size_hw)
    check(rng.standard_normal((classes, *logits_hw)).astype(np.float32), size_hw)


@pytest.mark.parametrize("seed", range(60))
def test_equals_the_formula_at_random_shapes(seed):
    rng = np.random.default_rng(seed)
    height, width, frame_height, frame_width = (int(v) for v in rng.integers(1, [14, 14, 90, 90]))
    classes = int(rng.integers(1, 24))
    logits_chw = rng.standard_normal((classes, height, width)) * 10.0 ** rng.integers(-2, 3)
    if seed % 2:
        logits_chw = blocky(rng, classes, height, width)
    check(logits_chw.astype(np.float32), (frame_height, frame_width))


@pytest.mark.parametrize("pixels", [1, 300])
def test_batches_join_without_a_seam(monkeypatch, pixels):
    monkeypatch.setattr(edgeseg.decode, "_BATCH_PIXELS", pixels)
    rng = np.random.default_rng(1)
    check(rng.standard_normal((5, 6, 7)).astype(np.float32), (40, 50))


@pytest.mark.parametrize("limit", [1, 10**9])
def test_pruning_changes_nothing(monkeypatch, limit):
    rng = np.random.default_rng(2)
    logits_chw = rng.standard_normal((12, 9, 11)).astype(np.float32)
    expected = check(logits_chw, (45, 62))
    monkeypatch.setattr(edgeseg.decode, "_MIN_PIXELS_TO_PRUNE", limit)
    np.testing.assert_array_equal(check(logits_chw, (45, 62)), expected)


def test_a_class_that_wins_no_corner_can_win_inside():
    logits_chw = np.zeros((3, 2, 2), np.float32)
    logits_chw[0] = [[1.0, -1.0], [1.0, -1.0]]
    logits_chw[2] = [[-1.0, 1.0], [-1.0, 1.0]]
    logits_chw[1] = 0.5
    assert set(np.unique(check(logits_chw, (32, 32)))) == {0, 1, 2}


def test_cells_whose_corners_agree_hold_one_class():
    rng = np.random.default_rng(3)
    logits_chw = blocky(rng, 6, 12, 16)
    mask = check(logits_chw, (96, 128))
    low = logits_chw.argmax(axis=0)
    agreed = 0
    for y in range(11):
        for x in range(15):
            corners = low[y : y + 2, x : x + 2]
            if corners.min() == corners.max():
                agreed += 1
                assert (mask[8 * y + 4 : 8 * y + 12, 8 * x + 4 : 8 * x + 12] == corners[0, 0]).all()
    assert agreed > 50


@pytest.mark.parametrize("factor", [1, 3, 5])
@pytest.mark.parametrize("levels", [1, 2, 4])
def test_the_lowest_of_level_classes_wins_on_a_sample(factor, levels):
    """At odd whole factors every sample is a pixel, where the value is the logit itself."""
    rng = np.random.default_rng(levels)
    logits_chw = rng.integers(0, levels, (7, 9, 10)).astype(np.float32)
    mask = check(logits_chw, (9 * factor, 10 * factor))
    np.testing.assert_array_equal(mask[factor // 2 :: factor, factor // 2 :: factor], logits_chw.argmax(axis=0))


@pytest.mark.parametrize("size_hw", [(36, 40), (23, 31), (9, 21), (5, 6)])
def test_the_lowest_of_identical_classes_wins_everywhere(size_hw):
    rng = np.random.default_rng(4)
    logits_chw = rng.standard_normal((4, 9, 10)).astype(np.float32)
    doubled = np.concatenate([logits_chw, logits_chw])
    np.testing.assert_array_equal(check(doubled, size_hw), check(logits_chw, size_hw))


def test_a_constant_added_to_all_classes_changes_nothing():
    rng = np.random.default_rng(5)
    logits_chw = rng.integers(-8, 8, (6, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(check(logits_chw, (64, 64)), check(logits_chw + 1024, (64, 64)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("size_hw", [(40, 48), (5, 6), (3, 3)])
def test_one_value_that_is_not_finite_makes_the_mask_invalid(bad, dtype, size_hw):
    logits_chw = np.random.default_rng(6).standard_normal((3, 5, 6)).astype(dtype)
    logits_chw[1, 2, 3] = bad
    mask, valid = classmap_from_logits(logits_chw, size_hw)
    assert not valid
    assert mask.shape == size_hw
    assert (mask == 255).all()


def test_not_finite_is_invalid_with_one_class_and_when_all_are():
    assert not Decoder((2, 2), (4, 4), 1)(np.full((1, 2, 2), np.nan, np.float32))[1]
    assert not Decoder((2, 2), (4, 4), 3)(np.full((3, 2, 2), -np.inf, np.float32))[1]


def test_infinities_of_both_signs_do_not_cancel():
    logits_chw = np.zeros((2, 2, 2), np.float32)
    logits_chw[0, 0, 0], logits_chw[1, 1, 1] = np.inf, -np.inf
    assert not Decoder((2, 2), (4, 4), 2)(logits_chw)[1]


@pytest.mark.parametrize(("dtype", "top"), [(np.float32, 1e30), (np.float32, 3e38), (np.float64, 1.7e308)])
def test_huge_finite_logits_are_valid(dtype, top):
    small = np.random.default_rng(7).uniform(-1, 1, (5, 6, 7))
    small[:, 0, 0] = [-1, 1, -1, 1, 0]
    huge = (small * top).astype(dtype)
    np.testing.assert_array_equal(check(huge, (50, 60)), check((huge / top).astype(dtype), (50, 60)))


def test_a_masked_out_class_costs_no_precision():
    """Some models push classes down to -1e9; the others must still be told apart."""
    for size_hw in ((48, 64), (12, 16)):
        logits_chw = np.random.default_rng(8).standard_normal((4, 6, 8)).astype(np.float32)
        expected = check(logits_chw[1:], size_hw) + 1
        logits_chw[0] = -1e9
        mask, valid = classmap_from_logits(logits_chw, size_hw)
        assert valid
        np.testing.assert_array_equal(mask, expected)


def test_half_and_double_precision():
    logits_chw = blocky(np.random.default_rng(9), 6, 9, 11).astype(np.float16)
    mask = check(logits_chw, (50, 70))
    np.testing.assert_array_equal(mask, check(logits_chw.astype(np.float32), (50, 70)))
    # Differences that float32 does not hold.
    check(1.0 + 1e-9 * np.random.default_rng(10).standard_normal((3, 4, 5)), (29, 31), tolerance=1e-14)


def test_layouts_that_are_not_contiguous():
    logits_hwc = np.random.default_rng(11).standard_normal((9, 11, 6)).astype(np.float32)
    swapped = logits_hwc.transpose(2, 0, 1)
    assert not swapped.flags.c_contiguous
    expected = check(np.ascontiguousarray(swapped), (50, 70))
    np.testing.assert_array_equal(check(swapped, (50, 70)), expected)
    wide = np.repeat(np.ascontiguousarray(swapped), 2, axis=2)[:, :, ::2]
    np.testing.assert_array_equal(check(wide, (50, 70)), expected)
    np.testing.assert_array_equal(check(swapped[:, ::-1], (50, 70)), expected[::-1])
    np.testing.assert_array_equal(check(swapped.astype(">f4"), (50, 70)), expected)


def test_one_class_and_255_classes():
    rng = np.random.default_rng(12)
    assert (check(rng.standard_normal((1, 4, 5)).astype(np.float32), (9, 17)) == 0).all()
    check(rng.standard_normal((255, 6, 5)).astype(np.float32), (40, 33))
    last = np.zeros((255, 3, 3), np.float32)
    last[254] = 1.0
    assert (check(last, (20, 20)) == 254).all()
    assert (check(last, (3, 3)) == 254).all()


def test_class_ids_times_pixels_beyond_16_bits():
    """Offsets into the logits are wider than the ids they are made from."""
    logits_chw = np.random.default_rng(13).standard_normal((30, 60, 70)).astype(np.float32)
    check(logits_chw, (120, 150))
    check(logits_chw, (240, 280))


def test_logits_at_frame_size_are_a_plain_arg_max():
    logits_chw = np.random.default_rng(14).integers(0, 5, (7, 120, 150)).astype(np.float32)
    mask, valid = classmap_from_logits(logits_chw, (120, 150))
    assert valid
    np.testing.assert_array_equal(mask, logits_chw.argmax(axis=0))


def test_the_caller_keeps_the_mask_and_the_decoder_leaves_the_logits_alone():
    decoder = Decoder((5, 6), (40, 48), 4)
    rng = np.random.default_rng(15)
    logits_chw = rng.standard_normal((4, 5, 6)).astype(np.float32)
    logits_chw.setflags(write=False)
    first, _ = decoder(logits_chw)
    kept = first.copy()
    second, _ = decoder(rng.standard_normal((4, 5, 6)).astype(np.float32))
    assert not np.shares_memory(first, second)
    np.testing.assert_array_equal(first, kept)
    first[...] = 7
    np.testing.assert_array_equal(decoder(logits_chw)[0], kept)


def test_one_decoder_in_several_threads():
    decoder = Decoder((9, 12), (72, 100), 6)
    items = [np.random.default_rng(s).standard_normal((6, 9, 12)).astype(np.float32) for s in range(8)]
    expected = [decoder(item)[0] for item in items]
    with ThreadPoolExecutor(4) as pool:
        for mask, wanted in zip(pool.map(lambda item: decoder(item)[0], items * 5), expected * 5):
            np.testing.assert_array_equal(mask, wanted)


@pytest.mark.parametrize(
    "logits_chw",
    [
        np.zeros((3, 4, 5), np.float32),
        np.zeros((4, 5, 4), np.float32),
        np.zeros((4, 5), np.float32),
        np.zeros((1, 4, 4, 5), np.float32),
        np.zeros((4, 4, 5), np.int64),
    ],
)
def test_wrong_logits_are_refused(logits_chw):
    with pytest.raises(ModelError, match="Mend"):
        Decoder((4, 5), (8, 10), 4)(logits_chw)


@pytest.mark.parametrize(
    "arguments",
    [((4, 5), (8, 10), 0), ((4, 5), (8, 10), 256), ((0, 5), (8, 10), 4), ((4, 5), (8, 0), 4)],
)
def test_impossible_decoders_are_refused(arguments):
    with pytest.raises(ModelError):
        Decoder(*arguments)


@pytest.mark.parametrize("shape", [(4, 5), (1, 4, 4, 5), (0, 4, 5), (256, 4, 5), (3, 0, 5)])
def test_the_convenience_function_refuses_the_same(shape):
    with pytest.raises(ModelError):
        classmap_from_logits(np.zeros(shape, np.float32), (8, 10))


def test_resized_by_whole_factors_repeats_pixels():
    small = np.random.default_rng(16).integers(0, 256, (5, 7)).astype(np.uint8)
    large = classmap_resized(small, (15, 28))
    np.testing.assert_array_equal(large, np.kron(small, np.ones((3, 4), np.uint8)))
    np.testing.assert_array_equal(classmap_resized(large, (5, 7)), small)
    same = classmap_resized(small, (5, 7))
    assert not np.shares_memory(same, small)
    np.testing.assert_array_equal(same, small)


@pytest.mark.parametrize(("low", "size"), [((5, 7), (13, 11)), ((20, 9), (7, 30)), ((1, 4), (6, 1))])
def test_resized_takes_the_nearest_sample(low, size):
    small = np.random.default_rng(17).integers(0, 19, low)
    large = classmap_resized(small, size)
    assert large.dtype == np.uint8
    for y in range(size[0]):
        for x in range(size[1]):
            source = ((2 * y + 1) * low[0] // (2 * size[0]), (2 * x + 1) * low[1] // (2 * size[1]))
            assert large[y, x] == small[source]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64, np.bool_])
def test_resized_takes_any_integers(dtype):
    small = np.array([[0, 1], [1, 0]], dtype)
    np.testing.assert_array_equal(classmap_resized(small, (2, 2)), small.astype(np.uint8))


@pytest.mark.parametrize(
    ("mask", "size_hw"),
    [
        (np.zeros((1, 4, 4), np.uint8), (8, 8)),
        (np.zeros((4, 4), np.float32), (8, 8)),
        (np.full((4, 4), 256), (8, 8)),
        (np.full((4, 4), -1), (8, 8)),
        (np.zeros((4, 4), np.uint8), (0, 8)),
        (np.zeros((0, 4), np.uint8), (8, 8)),
    ],
)
def test_resized_refuses_what_is_no_class_map(mask, size_hw):
    with pytest.raises(ModelError):
        classmap_resized(mask, size_hw)
