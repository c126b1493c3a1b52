from __future__ import annotations

import json

import numpy as np
import pytest

from edgeseg.errors import DataError
from edgeseg.metrics import ConfusionMatrix

ABC = ("a", "b", "c")


def counted(truth, prediction, classes=ABC, ignore_id=255) -> ConfusionMatrix:
    matrix = ConfusionMatrix(classes, ignore_id)
    matrix.update(np.array(truth, np.uint8), np.array(prediction, np.uint8))
    return matrix


def test_counts_by_hand() -> None:
    matrix = counted([[0, 0, 1], [1, 1, 2]], [[0, 1, 1], [1, 0, 0]])
    # rows: truth; columns: prediction, the last one for predictions of no class
    assert matrix.matrix.tolist() == [[1, 1, 0, 0], [1, 2, 0, 0], [1, 0, 0, 0]]
    scores = matrix.scores()
    # a: TP 1, FP 2, FN 1; b: TP 2, FP 1, FN 1; c: TP 0, FP 0, FN 1
    assert scores.iou == pytest.approx({"a": 1 / 4, "b": 2 / 4, "c": 0})
    assert scores.dice_by_class == pytest.approx({"a": 2 / 5, "b": 4 / 6, "c": 0})
    assert scores.miou == pytest.approx((1 / 4 + 2 / 4 + 0) / 3)
    assert scores.dice == pytest.approx((2 / 5 + 4 / 6 + 0) / 3)
    assert scores.pixel_accuracy == pytest.approx(3 / 6)
    assert scores.pixels == 6


def test_pixels_are_ignored_by_truth_alone() -> None:
    scores = counted([[0, 255, 1, 1]], [[0, 0, 1, 255]]).scores()
    assert scores.pixels == 3
    # The ignored pixel is no false positive of a; the prediction 255 is a miss of b.
    assert scores.iou["a"] == 1
    assert scores.iou["b"] == pytest.approx(1 / 2)
    assert scores.pixel_accuracy == pytest.approx(2 / 3)


def test_predictions_of_no_class_count_as_wrong_even_where_nothing_is_ignored() -> None:
    scores = counted([[0, 0, 0, 0]], [[255, 3, 200, 0]], ignore_id=None).scores()
    assert scores.pixel_accuracy == pytest.approx(1 / 4)
    assert scores.iou == {"a": pytest.approx(1 / 4), "b": None, "c": None}


def test_negative_predictions_count_as_wrong() -> None:
    matrix = ConfusionMatrix(ABC, None)
    matrix.update(np.array([[1, 1]]), np.array([[-1, 1]], np.int32))
    assert matrix.matrix.tolist() == [[0, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]]


def test_a_class_counts_where_it_is_in_truth_or_prediction() -> None:
    scores = counted([[0, 0]], [[0, 1]]).scores()
    # b was only predicted: it counts with 0. c is in neither and is left out of the means.
    assert scores.iou == {"a": pytest.approx(1 / 2), "b": 0.0, "c": None}
    assert scores.miou == pytest.approx(1 / 4)
    assert scores.dice == pytest.approx((2 / 3 + 0) / 2)


def test_an_ignore_id_may_be_a_class() -> None:
    scores = counted([[0, 1, 1]], [[1, 1, 0]], ignore_id=0).scores()
    assert scores.pixels == 2
    assert scores.iou == {"a": 0.0, "b": pytest.approx(1 / 2), "c": None}


def test_updates_add_up_and_agree_with_counting_pixel_by_pixel() -> None:
    rng = np.random.default_rng(0)
    whole = ConfusionMatrix(ABC, 255)
    expected = np.zeros((3, 4), np.int64)
    for _ in range(3):
        truth = rng.choice([0, 1, 2, 255], (7, 5)).astype(np.uint8)
        prediction = rng.choice([0, 1, 2, 9, 255], (7, 5)).astype(np.uint8)
        whole.update(truth, prediction)
        for t, p in zip(truth.flat, prediction.flat):
            if t != 255:
                expected[t, min(p, 3)] += 1
    assert whole.matrix.tolist() == expected.tolist()


def test_arguments_are_left_alone_and_views_are_welcome() -> None:
    truth, prediction = np.zeros((4, 6), np.uint8), np.full((4, 6), 255, np.uint8)
    truth.flags.writeable = prediction.flags.writeable = False
    matrix = ConfusionMatrix(ABC, None)
    matrix.update(truth[::2, ::-1], prediction[::2, ::3].repeat(3, axis=1))
    assert matrix.matrix.sum() == 12


def test_what_cannot_be_scored() -> None:
    matrix = ConfusionMatrix(ABC, 255)
    with pytest.raises(DataError, match="no labelled pixel"):
        matrix.scores()
    with pytest.raises(DataError, match="shape"):
        matrix.update(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8))
    with pytest.raises(DataError, match="class id 7, there are 3"):
        matrix.update(np.full((1, 1), 7, np.uint8), np.zeros((1, 1), np.uint8))
    with pytest.raises(DataError, match="class id -1"):
        matrix.update(np.full((1, 1), -1), np.zeros((1, 1), np.uint8))
    with pytest.raises(DataError, match="class id 255"):
        counted([[255]], [[0]], ignore_id=None)
    matrix.update(np.full((2, 2), 255, np.uint8), np.zeros((2, 2), np.uint8))
    with pytest.raises(DataError, match="no labelled pixel"):
        matrix.scores()


def test_scores_as_json_and_as_a_table() -> None:
    scores = counted([[0, 0]], [[0, 1]]).scores()
    figures = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
    assert set(figures) == {"miou", "iou", "dice", "dice_by_class", "pixel_accuracy", "pixels"}
    lines = scores.table().splitlines()
    assert [line.split()[0] for line in lines] == ["class", "a", "b", "c", "mean", "pixel"]
    assert lines[3].split() == ["c", "absent"]
    assert lines[1].split() == ["a", "50.00", "66.67"]
