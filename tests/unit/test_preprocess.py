from __future__ import annotations

import itertools

import numpy as np
import pytest

from edgeseg.card import ModelCard
from edgeseg.errors import UsageError
from edgeseg.preprocess import Preprocessor

HW = (12, 20)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def card_for(**facts) -> ModelCard:
    return ModelCard(classes=("a", "b"), input_size_hw=HW, **facts)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*HW, 3), np.uint8)


def test_a_frame_of_the_right_size_is_passed_on_without_a_copy(image) -> None:
    tensor = Preprocessor(card_for())(image)
    assert tensor.shape == (1, *HW, 3)
    assert np.shares_memory(tensor, image)


def test_a_cut_out_frame_becomes_contiguous(image) -> None:
    wide = np.concatenate([image, image], 1)
    tensor = Preprocessor(card_for())(wide[:, : HW[1]])
    assert tensor.flags.c_contiguous
    assert np.array_equal(tensor[0], image)


@pytest.mark.parametrize("size_hw", [(24, 40), (7, 9), (1, 1), (3, 401)])
def test_other_sizes_are_resized_bilinearly(size_hw) -> None:
    import cv2

    image = np.random.default_rng(1).integers(0, 256, (*size_hw, 3), np.uint8)
    tensor = Preprocessor(card_for())(image)
    assert np.array_equal(tensor[0], cv2.resize(image, HW[::-1], interpolation=cv2.INTER_LINEAR))


def test_half_size_is_the_mean_of_four_pixels() -> None:
    image = np.random.default_rng(2).integers(0, 256, (24, 40, 3), np.uint8)
    means = image.reshape(12, 2, 20, 2, 3).astype(float).mean((1, 3))
    assert np.abs(Preprocessor(card_for())(image)[0] - means).max() <= 1


@pytest.mark.parametrize(
    ("layout", "order", "dtype"),
    list(itertools.product(("nchw", "nhwc"), ("rgb", "bgr"), ("uint8", "float32", "float16"))),
)
@pytest.mark.parametrize("resized", [False, True])
def test_every_form_agrees_with_the_formula(image, layout, order, dtype, resized) -> None:
    import cv2

    card = card_for(input_layout=layout, color_order=order, input_dtype=dtype, mean=MEAN, std=STD)
    given = np.random.default_rng(3).integers(0, 256, (31, 17, 3), np.uint8) if resized else image
    small = cv2.resize(given, HW[::-1]) if resized else given
    expected = small[..., ::-1] if order == "rgb" else small
    if dtype != "uint8":
        expected = (expected / 255.0 - np.array(MEAN)) / np.array(STD)
    if layout == "nchw":
        expected = expected.transpose(2, 0, 1)
    tensor = Preprocessor(card)(given)
    assert tensor.dtype == np.dtype(dtype)
    assert tensor.shape == (1, *expected.shape)
    assert tensor.flags.c_contiguous
    tolerance = {"uint8": 0, "float32": 2e-6, "float16": 4e-3}[dtype]
    assert np.abs(tensor[0].astype(float) - expected).max() <= tolerance


def test_the_frame_is_never_written_to(image) -> None:
    image.flags.writeable = False
    for facts in ({}, {"color_order": "rgb"}, {"input_dtype": "float32", "input_layout": "nchw"}):
        Preprocessor(card_for(**facts))(image)


def test_the_tensor_is_reused_by_the_next_call() -> None:
    preprocess = Preprocessor(card_for(input_dtype="float32"))
    first = preprocess(np.zeros((50, 50, 3), np.uint8))
    second = preprocess(np.full((9, 9, 3), 255, np.uint8))
    assert np.shares_memory(first, second)
    assert np.allclose(second, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((12, 20), np.uint8),
        np.zeros((12, 20, 4), np.uint8),
        np.zeros((1, 12, 20, 3), np.uint8),
        np.zeros((12, 20, 3), np.float32),
        np.zeros((12, 20, 3), np.int8),
        np.zeros((0, 20, 3), np.uint8),
        None,
        [[1, 2, 3]],
    ],
    ids=["grey", "bgra", "batch", "float", "int8", "empty", "none", "list"],
)
def test_what_is_no_frame_is_refused(wrong) -> None:
    with pytest.raises(UsageError, match=r"A frame is .*uint8 \[H, W, 3\]"):
        Preprocessor(card_for())(wrong)
