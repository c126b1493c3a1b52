"""Augmentation: image and mask stay one, and every random choice follows from (seed, epoch, index)."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("torchvision", reason="needs the extra 'train'")

from torchvision.transforms import v2  # noqa: E402

from edgeseg.dataset import DataSet  # noqa: E402
from edgeseg_train.augment import RandomJpeg, RandomScaleCrop, augmented, training_transform  # noqa: E402
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


def test_masks_are_never_recoloured_and_images_are():
    image, mask = painted(*SIZE_HW)
    changed = 0
    for seed in range(30):
        x, y = augmented(training_transform(SIZE_HW, (0.6, 2.0), 0.4, IGNORE), image, mask, seed)
        same_x, same_y = augmented(geometry_only(), image, mask, seed)
        assert x.dtype == torch.uint8
        assert torch.equal(y, same_y)
        changed += not torch.equal(x, same_x)
    assert changed > 20


def test_strength_zero_leaves_the_colours():
    image, mask = torch.full((3, 64, 96), 200, dtype=torch.uint8), torch.zeros(64, 96, dtype=torch.uint8)
    for seed in range(20):
        x, _ = augmented(training_transform(SIZE_HW, (1.0, 1.0), 0.0, IGNORE), image, mask, seed)
        assert (x.int() - 200).abs().max() <= 2  # JPEG rounds


def test_jpeg_keeps_channels_and_loses_little():
    image, mask = painted(*SIZE_HW)
    smooth = torch.from_numpy(cv2.GaussianBlur(image.permute(1, 2, 0).numpy(), (0, 0), 5)).permute(2, 0, 1)
    x, y = augmented(RandomJpeg(95, 95), smooth, mask, 0)
    assert (x.int() - smooth.int()).abs().double().mean() < 3
    assert torch.equal(y, mask)


def test_seed_alone_decides(tiny_dataset):
    image, mask = painted(*SIZE_HW)
    transform = training_transform(SIZE_HW, (0.6, 2.0), 0.4, IGNORE)
    torch.manual_seed(1)
    first = augmented(transform, image, mask, 5)
    following = torch.rand(3)
    torch.manual_seed(2)
    second = augmented(transform, image, mask, 5)
    assert all(torch.equal(a, b) for a, b in zip(first, second))
    # The caller's random numbers are not touched.
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), following)


def test_samples_and_epochs_differ_and_repeat(tiny_dataset):
    def split(seed=0):
        transform = training_transform(SIZE_HW, (0.6, 2.0), 0.4, IGNORE)
        return TrainingSplit(DataSet.from_yaml(tiny_dataset), "train", transform, seed)

    def drawn(split, epoch, index):
        split.epoch = epoch
        image, mask = split[index]
        assert image.dtype == torch.uint8
        assert image.shape == (3, *SIZE_HW)
        assert mask.dtype == torch.int64
        return image

    one, two, other = split(), split(), split(seed=1)
    for index in range(len(one)):
        one._cache[index] = one._cache[0]
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
    split = TrainingSplit(DataSet.from_yaml(tiny_dataset), "train", geometry_only(), 0)
    assert split.pixel_counts[0] == 0
    assert (split.pixel_counts[1:] > 0).all()


def test_images_beyond_the_cache_are_read_again(tiny_dataset, monkeypatch):
    from edgeseg_train import data

    def split():
        return TrainingSplit(DataSet.from_yaml(tiny_dataset), "train", geometry_only(), 0)

    whole = split()
    monkeypatch.setattr(data, "CACHE_BYTES", 3 * 64 * 96 * 4)
    part = split()
    assert len(whole._cache) == 8
    assert len(part._cache) == 3
    for a, b in zip(whole, part):
        assert all(torch.equal(x, y) for x, y in zip(a, b))
