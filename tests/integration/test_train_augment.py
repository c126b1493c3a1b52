"""Augmentation: image and mask stay one, and every random choice follows from (seed, epoch, index)."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("torchvision", reason="needs the extra 'train'")

from torchvision import tv_tensors  # noqa: E402
from torchvision.transforms import v2  # noqa: E402

from edgeseg.dataset import DataSet  # noqa: E402
from edgeseg_train.augment import (  # noqa: E402
    RandomJpeg,
    RandomLight,
    RandomNoise,
    RandomScaleCrop,
    appearance,
    drawn_from,
    mixed,
    pasted,
)
from edgeseg_train.config import TrainConfig  # noqa: E402
from edgeseg_train.data import TrainingSplit  # noqa: E402

SIZE_HW = (64, 96)
IGNORE = 255
# Apart in every channel and from the black of the padding; given in RGB as the transform sees them.
COLORS = np.array([(250, 60, 120), (60, 250, 180), (130, 140, 250)], np.uint8)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def painted(height, width, seed=0):
    """An image [3, H, W] whose colour says the class, and its mask [H, W]: three blobs a few pixels wide."""
    rng = np.random.default_rng(seed)
    mask = cv2.resize(rng.integers(0, 3, (4, 5), np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    return torch.from_numpy(COLORS[mask]).permute(2, 0, 1).contiguous(), torch.from_numpy(mask)


def augmented(transform, image, mask, seed):
    with drawn_from(seed):
        image, mask = transform(tv_tensors.Image(image), tv_tensors.Mask(mask))
    return image.as_subclass(torch.Tensor), mask.as_subclass(torch.Tensor)


def training_split(data_yaml, **fields):
    config = TrainConfig(data=str(data_yaml), out="", imgsz=SIZE_HW, **fields)
    return TrainingSplit(DataSet.from_yaml(data_yaml), config)


def geometry_only(scale_range=(0.6, 2.0)):
    return v2.Compose([RandomScaleCrop(SIZE_HW, scale_range, IGNORE), v2.RandomHorizontalFlip()])


@pytest.mark.parametrize("size_hw", [(64, 96), (40, 50), (300, 200), (33, 250), (721, 1279)])
def test_image_and_mask_stay_aligned(size_hw):
    image, mask = painted(*size_hw)
    # The colours of two classes run into each other over one pixel of the original.
    enlarged = max(SIZE_HW[0] / size_hw[0], SIZE_HW[1] / size_hw[1]) > 1
    margin = 5 if enlarged else 3
    kernel = np.ones((2 * margin + 1, 2 * margin + 1), np.uint8)
    padded = 0
    for seed in range(25):
        x, y = augmented(geometry_only(), image, mask, seed)
        assert x.shape == (3, *SIZE_HW)
        assert y.shape == SIZE_HW
        assert x.dtype == y.dtype == torch.uint8
        pixels, ids = x.permute(1, 2, 0).numpy(), y.numpy()
        assert set(np.unique(ids)) <= {0, 1, 2, IGNORE}  # none between two classes
        # Away from borders between classes, which may lie just outside the window, both say the same.
        inside = np.zeros(SIZE_HW, bool)
        window = (slice(margin, -margin), slice(margin, -margin))
        inside[window] = (cv2.erode(ids, kernel) == cv2.dilate(ids, kernel))[window]
        expected = np.concatenate([COLORS, np.zeros((253, 3), np.uint8)])
        assert inside.mean() > 0.1
        # One step of the 256 is the rounding of interpolation in uint8.
        np.testing.assert_allclose(pixels[inside], expected[ids[inside]].astype(float), atol=1, rtol=0)
        # Padding is ignored and nothing else is: no colour of a class is near black.
        np.testing.assert_array_equal(ids == IGNORE, pixels.max(-1) == 0)
        padded += (ids == IGNORE).any()
    assert 0 < padded < 25


def test_borders_of_mask_and_image_coincide():
    """On average over scales: a shift of half a pixel would teach the network borders in the wrong place."""
    shifts = []
    for seed in range(60):
        top = 20 + seed % 23
        mask = torch.zeros(64, 96, dtype=torch.uint8)
        mask[top:] = 1
        image = mask.mul(255)[None].repeat(3, 1, 1)
        x, y = augmented(RandomScaleCrop(SIZE_HW, (1.05, 1.95), IGNORE), image, mask, seed)
        rows, ids = x[0, :, 48].double() / 255, y[:, 48].double()
        if 0 < ids.sum() < SIZE_HW[0]:
            shifts.append(float(rows.sum() - ids.sum()))
    assert len(shifts) > 30
    assert abs(np.mean(shifts)) < 0.1


def test_scale_range_is_reached_and_padding_falls_anywhere():
    image, mask = torch.full((3, 64, 96), 200, dtype=torch.uint8), torch.zeros(64, 96, dtype=torch.uint8)
    shares, corners = [], set()
    for seed in range(80):
        _, y = augmented(RandomScaleCrop(SIZE_HW, (0.5, 1.0), IGNORE), image, mask, seed)
        shares.append(float((y != IGNORE).double().mean()) ** 0.5)
        corners |= {corner for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)) if y[corner] == IGNORE}
    assert min(shares) < 0.53
    assert max(shares) > 0.97
    # Drawn evenly in the logarithm, so that halving is as likely as doubling.
    assert np.median(shares) == pytest.approx(0.5**0.5, abs=0.07)
    assert len(corners) == 4


def test_flip_is_of_both_and_half_of_the_time():
    image, mask = painted(*SIZE_HW)
    flips = 0
    for seed in range(60):
        x, y = augmented(v2.RandomHorizontalFlip(), image, mask, seed)
        flipped = torch.equal(y, mask.flip(1))
        assert torch.equal(x, image.flip(2) if flipped else image)
        flips += flipped
    assert 18 < flips < 42


def test_appearance_changes_images_and_never_masks():
    image, mask = painted(*SIZE_HW)
    changed = 0
    for seed in range(30):
        x, y = augmented(appearance(0.4, 0.05), image, mask, seed)
        assert x.dtype == torch.uint8
        assert torch.equal(y, mask)
        changed += not torch.equal(x, image)
    assert changed > 20


def test_strength_zero_leaves_the_colours():
    image, mask = torch.full((3, 64, 96), 200, dtype=torch.uint8), torch.zeros(64, 96, dtype=torch.uint8)
    for seed in range(20):
        x, _ = augmented(appearance(0.0, 0.0), image, mask, seed)
        assert (x.int() - 200).abs().max() <= 2  # JPEG rounds


def test_light_changes_channels_apart_and_keeps_the_order_of_brightness():
    ramp = torch.arange(256, dtype=torch.uint8).repeat(3, 4, 1)
    mask = torch.zeros(4, 256, dtype=torch.uint8)
    means = []
    for seed in range(40):
        x, _ = augmented(RandomLight(0.4), ramp, mask, seed)
        assert (x[:, :, 1:].int() >= x[:, :, :-1].int()).all()
        means.append(x.double().mean((1, 2)))
    means = torch.stack(means)
    assert means.min() < 110 < 145 < means.max()
    assert (means.max(1).values - means.min(1).values).mean() > 10
    assert (means.mean(0) - 127.5).abs().max() < 12


def test_noise_has_the_strength_asked_for():
    grey, mask = torch.full((3, 64, 96), 128, dtype=torch.uint8), torch.zeros(64, 96, dtype=torch.uint8)
    deviations = [augmented(RandomNoise(0.1), grey, mask, seed)[0].double().sub(128).std() for seed in range(40)]
    assert max(deviations) == pytest.approx(25.5, abs=2)
    assert min(deviations) < 3


def test_pasted_pixels_bring_their_ids():
    (image, mask), (other_image, other_mask) = painted(*SIZE_HW, seed=1), painted(*SIZE_HW, seed=2)
    image = image // 2  # to tell the two apart
    x, y = pasted(image, mask, other_image, other_mask, [1, 2])
    over = other_mask > 0
    assert 0 < over.sum() < over.numel()
    assert torch.equal(y, torch.where(over, other_mask, mask))
    assert torch.equal(x[:, over], other_image[:, over])
    assert torch.equal(x[:, ~over], image[:, ~over])


def test_cutmix_takes_one_rectangle_of_both():
    image, mask = torch.zeros(3, *SIZE_HW, dtype=torch.uint8), torch.zeros(SIZE_HW, dtype=torch.uint8)
    shares = []
    for seed in range(60):
        with drawn_from(seed):
            x, y = mixed(image, mask, image + 200, mask + 1)
        rows, columns = torch.nonzero(y, as_tuple=True)
        height, width = (int(axis.max() - axis.min()) + 1 for axis in (rows, columns))
        assert y.sum() == height * width
        assert torch.equal(x, y[None].mul(200).expand(3, -1, -1))
        shares.append(height * width / y.numel())
    assert not mask.any()
    # The share of the area is drawn evenly.
    assert np.mean(shares) == pytest.approx(0.5, abs=0.1)


def test_jpeg_keeps_channels_and_loses_little():
    image, mask = painted(*SIZE_HW)
    smooth = torch.from_numpy(cv2.GaussianBlur(image.permute(1, 2, 0).numpy(), (0, 0), 5)).permute(2, 0, 1)
    x, y = augmented(RandomJpeg(95, 95), smooth, mask, 0)
    assert (x.int() - smooth.int()).abs().double().mean() < 3
    assert torch.equal(y, mask)


def test_seed_alone_decides():
    image, mask = painted(*SIZE_HW)
    torch.manual_seed(1)
    first = augmented(appearance(0.4, 0.05), image, mask, 5)
    following = torch.rand(3)
    torch.manual_seed(2)
    second = augmented(appearance(0.4, 0.05), image, mask, 5)
    assert all(torch.equal(a, b) for a, b in zip(first, second))
    # The caller's random numbers are not touched.
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), following)


@pytest.fixture
def one_rare_class(tmp_path):
    """Eight images of class 0 or 1; in two of them a spot of class 2."""
    for folder in ("images", "masks"):
        (tmp_path / "train" / folder).mkdir(parents=True)
    for i in range(8):
        mask = np.full((64, 96), i % 2, np.uint8)
        if i < 2:
            mask[4:8, 80 : 84 + i] = 2
        cv2.imwrite(str(tmp_path / "train" / "images" / f"{i}.png"), np.repeat(mask[:, :, None], 3, 2) * 100)
        cv2.imwrite(str(tmp_path / "train" / "masks" / f"{i}.png"), mask)
    path = tmp_path / "data.yaml"
    path.write_text("train: train\nval: train\nnames: [left, right, spot]\n")
    return path


def share_with_spot(split):
    hits = 0
    for epoch in range(12):
        split.epoch = epoch
        hits += sum(bool((mask == 2).any()) for _, mask in split)
    return hits / 96


def test_balanced_crops_show_the_rare_class(one_rare_class):
    scales = {"scale_min": 1.5, "scale_max": 2.0}
    split = training_split(one_rare_class, balance=0.5, **scales)
    assert split.rare == [2]
    without = share_with_spot(training_split(one_rare_class, **scales))
    assert without < 0.2
    assert 0.4 < share_with_spot(split) < 0.7
    assert share_with_spot(training_split(one_rare_class, balance=1.0, **scales)) == 1.0


def test_pasted_images_show_the_rare_class(one_rare_class):
    scales = {"scale_min": 1.0, "scale_max": 1.0}
    assert share_with_spot(training_split(one_rare_class, **scales)) == 0.25
    assert share_with_spot(training_split(one_rare_class, paste=1.0, **scales)) == 1.0
    split = training_split(one_rare_class, paste=1.0, color=0.0, **scales)
    for image, mask in split:
        # What is pasted stays what it looks like; JPEG and blur move a few values.
        agrees = ((image[0].float() / 100).round() == mask).float().mean()
        assert agrees > 0.98


def test_cutmix_mixes_images(one_rare_class):
    both = [set(mask.unique().tolist()) >= {0, 1} for _, mask in training_split(one_rare_class, cutmix=1.0)]
    none = [set(mask.unique().tolist()) >= {0, 1} for _, mask in training_split(one_rare_class)]
    assert any(both)
    assert not any(none)


def test_a_set_without_rare_classes_takes_all_options(one_rare_class):
    for path in one_rare_class.parent.rglob("masks/*.png"):
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(path), np.where(mask == 2, 255, mask).astype(np.uint8))
    split = training_split(one_rare_class, balance=1.0, paste=1.0)
    assert split.rare == []
    assert split[0][0].shape == (3, *SIZE_HW)


def test_samples_and_epochs_differ_and_repeat(tiny_dataset):
    def split(seed=0):
        return training_split(tiny_dataset, seed=seed)

    def drawn(split, epoch, index):
        split.epoch = epoch
        image, mask = split[index]
        assert image.dtype == torch.uint8
        assert image.shape == (3, *SIZE_HW)
        assert mask.dtype == torch.int64
        return image

    one, two, other = split(), split(), split(seed=1)
    for index in range(len(one)):
        one._cache[index] = one._cache[0]  # of one image, so that only the augmentation differs
    images = [drawn(one, epoch, index) for epoch in range(3) for index in range(4)]
    assert all(not torch.equal(a, b) for i, a in enumerate(images) for b in images[:i])
    assert torch.equal(drawn(two, 2, 0), images[8])
    assert torch.equal(drawn(two, 0, 0), images[0])
    assert not torch.equal(drawn(other, 0, 0), images[0])


def test_ignored_pixels_of_a_named_class_carry_no_weight(tiny_dataset):
    text = tiny_dataset.read_text().replace("ignore: 255", "ignore: 0")
    for path in tiny_dataset.parent.rglob("masks/*.png"):
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(path), np.where(mask == 255, 0, mask).astype(np.uint8))
    tiny_dataset.write_text(text)
    split = training_split(tiny_dataset)
    assert split.pixel_counts[0] == 0
    assert (split.pixel_counts[1:] > 0).all()


def test_images_beyond_the_cache_are_read_again(tiny_dataset, monkeypatch):
    from edgeseg_train import data

    def split():
        return training_split(tiny_dataset)

    whole = split()
    monkeypatch.setattr(data, "CACHE_BYTES", 3 * 64 * 96 * 4)
    part = split()
    assert len(whole._cache) == 8
    assert len(part._cache) == 3
    for a, b in zip(whole, part):
        assert all(torch.equal(x, y) for x, y in zip(a, b))
