"""The images that ranges are measured on, and the ranges."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from edgeseg.card import ModelCard
from edgeseg.dataset import DataSet
from edgeseg.errors import DataError, ModelError, UsageError
from edgeseg.images import read_image
from edgeseg.preprocess import Preprocessor

onnx = pytest.importorskip("onnx", reason="needs the extra 'export'")
pytest.importorskip("onnxruntime", reason="needs the extra 'export'")

from edgeseg_export.calibration import CalibrationSet, choose_samples  # noqa: E402
from edgeseg_export.ranges import METHODS, Activations, Ranges  # noqa: E402

CARD = ModelCard(("red", "green", "blue"), (32, 48), input_dtype="float32", input_layout="nchw")


@pytest.fixture
def rare(tmp_path):
    """Twelve pictures; class 2 is in the last alone, class 3 in none, and all hold ignored pixels."""
    for name in ("images", "masks"):
        (tmp_path / "all" / name).mkdir(parents=True)
    import cv2

    for index in range(12):
        mask = np.zeros((20, 30), np.uint8)
        mask[:, 15:] = 1
        mask[:10, :15] = 2 if index == 11 else 0
        mask[15:] = 255
        cv2.imwrite(str(tmp_path / "all" / "images" / f"{index:02}.png"), np.full((20, 30, 3), index, np.uint8))
        cv2.imwrite(str(tmp_path / "all" / "masks" / f"{index:02}.png"), mask)
    path = tmp_path / "data.yaml"
    path.write_text("all: all\nignore: 255\nnames: [a, b, rare, never]\n", encoding="utf-8")
    return DataSet.from_yaml(path)


@pytest.mark.parametrize("seed", range(5))
def test_every_class_that_occurs_is_among_the_chosen(rare, seed):
    chosen = choose_samples(rare, "all", 3, seed)
    assert len(set(chosen)) == 3
    assert "11.png" in [sample.image_path.name for sample in chosen]


def test_choice_depends_on_the_seed_alone(rare):
    choices = [choose_samples(rare, "all", 4, seed) for seed in (0, 0, 1, 2, 3)]
    assert choices[0] == choices[1]
    assert any(other != choices[0] for other in choices[2:])
    assert choices[0] == sorted(choices[0], key=lambda sample: sample.image_path)


def test_few_pixels_do_not_count_as_a_class(rare):
    # 150 pixels of the rare class in one picture of twelve: with this bound no picture has a claim to be chosen.
    chosen = {tuple(choose_samples(rare, "all", 2, seed, min_pixels=151)) for seed in range(8)}
    assert any("11.png" not in [sample.image_path.name for sample in samples] for samples in chosen)


def test_a_small_split_is_taken_whole(rare):
    assert choose_samples(rare, "all", 12, 0) == choose_samples(rare, "all", 300, 0) == rare.samples("all")


def test_no_images_are_refused(rare):
    with pytest.raises(UsageError, match="0 calibration images"):
        choose_samples(rare, "all", 0, 0)
    with pytest.raises(UsageError, match="no calibration images"):
        CalibrationSet([], CARD)
    with pytest.raises(DataError, match="no split 'tests'"):
        choose_samples(rare, "tests", 3, 0)


def test_unknown_ids_in_a_mask_are_refused_by_name(rare):
    import cv2

    broken = rare.samples("all")[4].mask_path
    cv2.imwrite(str(broken), np.full((20, 30), 9, np.uint8))
    with pytest.raises(DataError, match=r"04\.png holds the class ids 9"):
        choose_samples(rare, "all", 3, 0)


def test_images_come_one_at_a_time_as_the_runtime_would_feed_them(rare):
    samples = rare.samples("all")[:3]
    calibration, preprocess = CalibrationSet(samples, CARD), Preprocessor(CARD)
    assert len(calibration) == 3
    tensors = [tensor.copy() for tensor in calibration]
    for sample, tensor in zip(samples, tensors, strict=True):
        assert tensor.dtype == np.float32
        np.testing.assert_array_equal(tensor, preprocess(read_image(sample.image_path)))
    assert [tensor.copy().mean() for tensor in calibration] == [tensor.mean() for tensor in tensors]


def test_hash_is_of_the_bytes_in_their_order(rare):
    samples = rare.samples("all")[:2]
    data = b"".join(sample.image_path.read_bytes() for sample in samples)
    assert CalibrationSet(samples, CARD).content_hash == hashlib.sha256(data).hexdigest()
    assert CalibrationSet(samples[::-1], CARD).content_hash != hashlib.sha256(data).hexdigest()


def test_a_missing_or_damaged_image_is_named(rare):
    samples = rare.samples("all")[:3]
    samples[1].image_path.unlink()
    calibration = CalibrationSet(samples, CARD)
    with pytest.raises(DataError, match=r"01\.png"):
        list(calibration)
    with pytest.raises(DataError, match=r"01\.png"):
        _ = calibration.content_hash
    samples[1].image_path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"01\.png"):
        list(CalibrationSet(samples, CARD))


def scaling_model(factor: float):
    """One 1x1 convolution that multiplies every channel of [1, 3, 32, 48] by ``factor``, and a Relu."""
    helper = onnx.helper
    weight = (np.eye(3, dtype=np.float32) * factor)[:, :, None, None]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "weight"], ["scaled"], "conv"),
         helper.make_node("Relu", ["scaled"], ["logits"], "relu")],
        "scaling",
        [helper.make_tensor_value_info("image", 1, [1, 3, 32, 48])],
        [helper.make_tensor_value_info("logits", 1, [1, 3, 32, 48])],
        [onnx.numpy_helper.from_array(weight, "weight")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class Tensors(list):
    """Stands where a CalibrationSet stands: tensors to iterate over, any number of times."""


@pytest.fixture(scope="module")
def normal():
    """Ranges of normal noise of deviation 2, shifted by 1, with one value far out, by method."""
    rng = np.random.default_rng(0)
    tensors = Tensors(rng.normal(1.0, 2.0, (1, 3, 32, 48)).astype(np.float32) for _ in range(10))
    tensors[7][0, 0, 0, 0] = 20.0
    activations = Activations(scaling_model(0.5), ["image", "scaled", "logits"], tensors)
    return tensors, {method: activations.ranges(method) for method in METHODS}


def test_minmax_holds_every_value(normal):
    tensors, ranges = normal
    low, high = min(t.min() for t in tensors), max(t.max() for t in tensors)
    assert ranges["minmax"].images == 10
    assert ranges["minmax"].unsigned["image"] == pytest.approx((low, high))
    assert ranges["minmax"].unsigned["scaled"] == pytest.approx((low / 2, high / 2))
    assert ranges["minmax"].unsigned["logits"] == pytest.approx((0, high / 2))
    assert ranges["minmax"].symmetric["image"] == pytest.approx(20)


def test_percentile_keeps_its_share(normal):
    tensors, ranges = normal
    values = np.stack(tensors)
    low, high = ranges["percentile"].unsigned["image"]
    assert np.mean((values >= low) & (values <= high)) == pytest.approx(0.9999, abs=5e-5)
    assert np.mean(values < low) == pytest.approx(5e-5, abs=5e-5)


def test_mse_finds_the_range_of_least_error(normal):
    tensors, ranges = normal
    values = np.stack(tensors)
    limits = ranges["minmax"].unsigned["image"]

    def error(low, high):
        scale = (high - low) / 255
        zero = np.rint(-low / scale)
        return np.mean((values - (np.clip(np.rint(values / scale) + zero, 0, 255) - zero) * scale) ** 2)

    shrinks = np.linspace(0.1, 1, 10)
    least = min(error(limits[0] * a, limits[1] * b) for a in shrinks for b in shrinks)
    assert error(*ranges["mse"].unsigned["image"]) <= 1.02 * least
    assert error(*ranges["mse"].unsigned["image"]) < 0.9 * error(*limits)


def test_every_method_but_minmax_cuts_off_what_lies_far_out(normal):
    _, ranges = normal
    for method in ("entropy", "percentile", "mse"):
        low, high = ranges[method].unsigned["image"]
        assert low < -4, method
        assert 5 < high < 19, method
        assert 5 < ranges[method].symmetric["image"] < 19, method
        assert ranges[method].unsigned["logits"][0] == 0, method


def test_ranges_survive_json(normal):
    _, ranges = normal
    for found in ranges.values():
        assert Ranges.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_an_activation_that_is_always_zero_has_an_empty_range():
    tensors = Tensors([np.full((1, 3, 32, 48), -1, np.float32)])
    activations = Activations(scaling_model(1.0), ["logits"], tensors)
    for method in METHODS:
        assert activations.ranges(method).unsigned["logits"] == (0, 0)
        assert activations.ranges(method).symmetric["logits"] == 0


def test_an_infinite_activation_is_named():
    tensors = Tensors([np.full((1, 3, 32, 48), 1e30, np.float32)])
    with pytest.raises(ModelError, match="'scaled' is NaN or infinite"):
        Activations(scaling_model(1e30), ["scaled"], tensors)


def test_an_unknown_method_is_refused(normal):
    tensors, _ = normal
    with pytest.raises(UsageError, match=r"no calibration method 'minmac'.*did you mean 'minmax'"):
        Activations(scaling_model(1.0), ["image"], tensors).ranges("minmac")
