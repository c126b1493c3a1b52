"""``synthetic://street``: the same frame from the same arguments, labels that fit the picture, a readable URI."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from edgeseg.errors import UsageError
from edgeseg.io.street import CLASSES, IGNORE_ID, PALETTE, Street, StreetOptions, street_from_uri

SKY, BUILDING, ROAD = CLASSES.index("sky"), CLASSES.index("building"), CLASSES.index("road")


@pytest.fixture(scope="module")
def street() -> Street:
    return Street(size_hw=(180, 240), seed=1)


@pytest.fixture(scope="module")
def clean_street() -> Street:
    """Without noise and blur: every pixel has the colour it was painted with."""
    return Street(size_hw=(180, 240), seed=1, noise=0)


def test_shapes_and_types(street: Street) -> None:
    image, mask = street.render(0)
    assert image.shape == (180, 240, 3)
    assert image.dtype == np.uint8
    assert mask.shape == (180, 240)
    assert mask.dtype == np.uint8
    assert mask.max() < len(CLASSES)


def test_classes_and_palette_are_camvids() -> None:
    assert len(CLASSES) == len(PALETTE) == IGNORE_ID == 11
    assert PALETTE[ROAD] == (128, 64, 128)


def test_frame_does_not_depend_on_order_or_instance(street: Street) -> None:
    image, mask = street.render(37)
    for index in (500, 3, 38):
        street.render(index)
    again_image, again_mask = street.render(37)
    other_image, other_mask = Street(size_hw=(180, 240), seed=1).render(37)
    for each in (again_image, other_image):
        np.testing.assert_array_equal(each, image)
    for each in (again_mask, other_mask):
        np.testing.assert_array_equal(each, mask)


def test_frame_is_the_same_in_another_process_and_importing_loads_no_cv2(street: Street) -> None:
    code = (
        "import hashlib, sys; from edgeseg.io.street import Street; assert 'cv2' not in sys.modules;"
        "image, mask = Street(size_hw=(180, 240), seed=1).render(61);"
        "print(hashlib.sha256(image.tobytes() + mask.tobytes()).hexdigest())"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONHASHSEED": "77"}
    child = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert child.returncode == 0, child.stderr
    image, mask = street.render(61)
    assert child.stdout.strip() == hashlib.sha256(image.tobytes() + mask.tobytes()).hexdigest()


def test_frames_belong_to_the_caller(street: Street) -> None:
    image, mask = street.render(5)
    kept = image.copy(), mask.copy()
    street.render(6)
    np.testing.assert_array_equal(image, kept[0])
    np.testing.assert_array_equal(mask, kept[1])
    image[:], mask[:] = 0, 0
    np.testing.assert_array_equal(street.render(5)[0], kept[0])


def test_rate_only_samples_time(street: Street) -> None:
    image, mask = Street(size_hw=(180, 240), seed=1, rate_hz=15.0).render(10)
    at_30_hz = street.render(20)
    np.testing.assert_array_equal(image, at_30_hz[0])
    np.testing.assert_array_equal(mask, at_30_hz[1])


def test_seeds_are_different_streets(street: Street) -> None:
    other = Street(size_hw=(180, 240), seed=2).render(0)[1]
    assert np.mean(other != street.render(0)[1]) > 0.1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_class_appears_within_five_seconds(seed: int) -> None:
    street = Street(size_hw=(180, 240), seed=seed)
    for start in (0, 3000, 77_777):
        masks = np.stack([street.render(index)[1] for index in range(start, start + 150, 25)])
        share = np.bincount(masks.ravel(), minlength=len(CLASSES)) / masks.size
        assert (share > 0).all(), dict(zip(CLASSES, share, strict=True))
        assert share[[SKY, BUILDING, ROAD]].min() > 0.05


def test_things_are_where_a_camera_on_a_road_sees_them(street: Street) -> None:
    for index in range(0, 900, 150):
        mask = street.render(index)[1]
        assert (mask[160:, 100:140] == ROAD).mean() > 0.5
        assert not (mask[130:] == SKY).any()
        assert not (mask[:80] == ROAD).any()


def test_colours_follow_the_mask(clean_street: Street) -> None:
    image, mask = clean_street.render(120)
    brightness = image.mean(axis=2)
    assert brightness[mask == SKY].mean() > brightness[mask == ROAD].mean() + 80
    road = image[mask == ROAD].astype(float)
    assert np.ptp(road.mean(axis=0)) < 15  # asphalt is grey


def test_mask_edges_are_picture_edges(clean_street: Street) -> None:
    """Sky is bright, houses are dark: the step in brightness is at the mask's edge, not a pixel beside it."""
    image, mask = clean_street.render(240)
    brightness = image.mean(axis=2)
    sky_above_house = (mask[:-1] == SKY) & (mask[1:] == BUILDING)
    rows, columns = np.nonzero(sky_above_house[2:-2])
    assert rows.size > 20

    def step(shift: int) -> float:
        at = rows + 2 + shift
        return float(np.abs(brightness[at, columns] - brightness[at + 1, columns]).mean())

    assert step(0) > 60
    assert step(0) > 4 * max(step(-1), step(-2))
    assert step(0) > 2 * max(step(1), step(2))


def test_every_label_keeps_to_its_own_paint(clean_street: Street) -> None:
    """Brighter light changes pictures, never masks; and no pixel is left unpainted."""
    bright = Street(size_hw=(180, 240), seed=1, noise=0, light=1.5)
    image, mask = clean_street.render(60)
    lit_image, lit_mask = bright.render(60)
    np.testing.assert_array_equal(lit_mask, mask)
    assert lit_image.mean() > image.mean() + 20
    assert (image.max(axis=2) > 0).all()


def test_noise_is_as_strong_as_asked() -> None:
    def flat_sky_deviation(noise: float) -> float:
        image, mask = Street(size_hw=(180, 240), seed=1, noise=noise, light=0.5).render(0)
        change = np.diff(image.mean(axis=2), axis=1)
        sky = mask == SKY
        return float(change[sky[:, 1:] & sky[:, :-1]].std()) / 2**0.5

    assert flat_sky_deviation(6.0) == pytest.approx(6.0 * (1 + 0.25 / 3) ** 0.5, rel=0.15)


def test_it_moves_a_little_from_frame_to_frame(street: Street) -> None:
    masks = [street.render(index)[1] for index in range(200, 220)]
    changed = [np.mean(one != next_one) for one, next_one in zip(masks, masks[1:])]
    assert min(changed) > 0.001
    assert max(changed) < 0.15
    assert np.mean(masks[0] != masks[-1]) > max(changed)


def test_far_frames(street: Street) -> None:
    for index in (1_000_000, 123_456_789):
        image, mask = street.render(index)
        assert (mask == ROAD).mean() > 0.1
        assert image.std() > 20


@pytest.mark.parametrize("size_hw", [(1, 1), (2, 1), (45, 60), (97, 131), (300, 20), (20, 300)])
def test_odd_sizes(size_hw: tuple[int, int]) -> None:
    street = Street(size_hw=size_hw, seed=3)
    for index in (0, 100):
        image, mask = street.render(index)
        assert image.shape == (*size_hw, 3)
        assert mask.shape == size_hw
        assert mask.max() < len(CLASSES)


@pytest.mark.parametrize(
    ("uri", "options"),
    [
        ("synthetic://street", StreetOptions((720, 1280), 30.0, 0, None, False)),
        ("synthetic://street?", StreetOptions()),
        (
            "synthetic://street?size=480x360&rate=12.5&seed=7&frames=300&live=1",
            StreetOptions((360, 480), 12.5, 7, 300, True),
        ),
        ("synthetic://street?width=131&height=97", StreetOptions(size_hw=(97, 131))),
        ("synthetic://street?width=640", StreetOptions(size_hw=(720, 640))),
        ("synthetic://street?size=8192X1&live=0", StreetOptions(size_hw=(1, 8192))),
    ],
)
def test_uri(uri: str, options: StreetOptions) -> None:
    assert street_from_uri(uri) == options


@pytest.mark.parametrize(
    ("uri", "word"),
    [
        ("file://street", "synthetic"),
        ("synthetic://stret", "street"),
        ("synthetic://street/two", "street"),
        ("synthetic://", "street"),
        ("synthetic://street?sise=3x4", "did you mean 'size'"),
        ("synthetic://street?size=1280", "WIDTHxHEIGHT"),
        ("synthetic://street?size=1280x", "height"),
        ("synthetic://street?size=12.5x4", "width"),
        ("synthetic://street?size=0x4", "8192"),
        ("synthetic://street?size=4x8193", "8192"),
        ("synthetic://street?size=4x4&width=4", "size"),
        ("synthetic://street?width=-4", "width"),
        ("synthetic://street?rate=0", "rate"),
        ("synthetic://street?rate=-3", "rate"),
        ("synthetic://street?rate=nan", "rate"),
        ("synthetic://street?rate=inf", "rate"),
        ("synthetic://street?rate=fast", "fast"),
        ("synthetic://street?seed=-1", "seed"),
        ("synthetic://street?seed=", "seed"),
        ("synthetic://street?seed=1&seed=2", "twice"),
        ("synthetic://street?frames=0", "frames"),
        ("synthetic://street?frames=1_000", "frames"),
        ("synthetic://street?live=yes", "live"),
    ],
)
def test_bad_uri(uri: str, word: str) -> None:
    with pytest.raises(UsageError, match=r"Mend: .") as caught:
        street_from_uri(uri)
    assert word in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [{"size_hw": (0, 4)}, {"rate_hz": 0.0}, {"rate_hz": float("nan")}, {"seed": -1}, {"noise": -1.0}, {"light": 0.0}],
)
def test_bad_arguments(arguments: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Street(**arguments)  # type: ignore[arg-type]
