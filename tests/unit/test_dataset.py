from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from edgeseg.card import ModelCard, default_palette
from edgeseg.dataset import DataSet, check_same_classes
from edgeseg.errors import DataError
from edgeseg.images import pixel_kind, read_image, read_mask

RNG = np.random.default_rng(0)


def encoded(suffix: str, picture: np.ndarray) -> bytes:
    import cv2

    return cv2.imencode(suffix, picture)[1].tobytes()


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return RNG.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def add_pair(folder: Path, name: str, size_hw: tuple[int, int] = (6, 8), suffix: str = ".png") -> None:
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    (folder / "images" / f"{name}{suffix}").write_bytes(encoded(suffix, noise(*size_hw, 3)))
    (folder / "masks" / f"{name}.png").write_bytes(encoded(".png", np.ones(size_hw, np.uint8)))


def yaml_at(folder: Path, text: str) -> Path:
    path = folder / "data.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    add_pair(tmp_path / "train", "b")
    add_pair(tmp_path / "train", "a", suffix=".jpg")
    add_pair(tmp_path / "val", "v")
    add_pair(tmp_path / "more", "m", suffix=".bmp")
    return tmp_path


# --- good forms ------------------------------------------------------------------------------------------------


def test_the_shortest_form(folder: Path) -> None:
    data = DataSet.from_yaml(yaml_at(folder, "names: [road, car]\ntrain: train\n"))
    assert data.classes == ("road", "car")
    assert (data.ignore_id, data.palette, data.notes) == (255, default_palette(2), "")
    assert [s.image_path.name for s in data.samples("train")] == ["a.jpg", "b.png"]
    assert data.samples("train")[0].mask_path == folder / "train" / "masks" / "a.png"


def test_every_key(folder: Path) -> None:
    text = """
    path: .
    val: [val, more]
    nothing: train
    ignore: null
    names: {1: car, 0: röad}
    palette: [[1, 2, 3], [4, 5, 6]]
    notes: for research
    """
    data = DataSet.from_yaml(str(yaml_at(folder, text)))
    assert data.classes == ("röad", "car")
    assert (data.ignore_id, data.palette, data.notes) == (None, ((1, 2, 3), (4, 5, 6)), "for research")
    assert [s.image_path.name for s in data.samples("val")] == ["v.png", "m.bmp"]
    assert set(data.splits) == {"val", "nothing"}
    assert len(list(data.pairs("val"))) == 2


def test_the_root_may_lie_elsewhere(folder: Path, tmp_path_factory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for root in (folder, Path("..") / folder.relative_to(tmp_path_factory.getbasetemp())):
        data = DataSet.from_yaml(yaml_at(elsewhere, f"path: {root}\nnames: [a, b]\nval: val\n"))
        assert len(data.samples("val")) == 1


def test_read_gives_the_image_and_its_ids(folder: Path) -> None:
    data = DataSet.from_yaml(yaml_at(folder, "names: [a, b]\nval: val\n"))
    image, mask = data.read(data.samples("val")[0])
    assert (image.shape, image.dtype) == ((6, 8, 3), np.uint8)
    assert mask.shape == (6, 8)
    assert set(mask.flat) == {1}


def test_names_may_be_numbers(tmp_path: Path) -> None:
    assert DataSet.from_yaml(yaml_at(tmp_path, "names: [1, 2.5, x]\n")).classes == ("1", "2.5", "x")


# --- errors of the description ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a mapping"),
        ("- a\n- b\n", "not a mapping"),
        ("names: [a\n", "not YAML"),
        ("names: !!python/object/apply:os.system ['true']\n", "not YAML"),
        ("names: [a]\nwhen: 2001-99-99\n", "not YAML"),
        ("train: train\n", "lacks 'names'"),
        ("names: road\n", "lacks 'names'"),
        ("names: []\n", "lacks 'names'"),
        ("names: {}\n", "lacks 'names'"),
        (f"names: [{', '.join(f'c{i}' for i in range(256))}]\n", "lacks 'names'"),
        ("names: {1: a, 2: b}\n", "ids in 'names' are not 0 to 1"),
        ("names: {0: a, x: b}\n", "ids in 'names'"),
        ("names: [yes, no]\n", "in quotes"),
        ("names: [a, null]\n", "in quotes"),
        ("names: [a, {b: c}]\n", "in quotes"),
        ("names: [a, b, a]\n", "'a' twice"),
        ("names: [a]\nignore: 256\n", "'ignore' is 256"),
        ("names: [a]\nignore: -1\n", "'ignore' is -1"),
        ("names: [a]\nignore: yes\n", "'ignore' is True"),
        ("names: [a]\nignore: none\n", "'ignore' is 'none'"),
        ("names: [a]\npalette: [[1, 2, 3], [4, 5, 6]]\n", "2 colours for 1 classes"),
        ("names: [a]\npalette: [[1, 2]]\n", "RGB triples"),
        ("names: [a]\npalette: 7\n", "RGB triples"),
        ("names: [a]\npalette: [[1, 2, 256]]\n", "outside 0 to 255"),
        ("names: [a]\npath: null\n", "'path' is None"),
        ("names: [a]\ntrain: null\n", "split 'train' is None"),
        ("names: [a]\ntrain: []\n", "split 'train' is []"),
        ("names: [a]\ntrain: [a, 3]\n", "split 'train'"),
        ("names: [a]\ningore: 0\n", "did you mean 'ignore'"),
    ],
)
def test_a_bad_description_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = yaml_at(tmp_path, text)
    with pytest.raises(DataError) as caught:
        DataSet.from_yaml(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_description_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none.yaml", tmp_path, tmp_path / "binary.yaml"):
        with pytest.raises(DataError, match="Cannot read"):
            DataSet.from_yaml(path)


# --- errors of the files ---------------------------------------------------------------------------------------


def test_splits_that_hold_nothing(folder: Path) -> None:
    (folder / "empty" / "images").mkdir(parents=True)
    data = DataSet.from_yaml(yaml_at(folder, "names: [a, b]\nval: val\nempty: empty\nnone: none\n"))
    with pytest.raises(DataError, match=r"no split 'vla'.*'val'"):
        data.samples("vla")
    with pytest.raises(DataError, match=r"'empty' is empty: no image in .*empty"):
        data.samples("empty")
    with pytest.raises(DataError, match="does not exist"):
        data.samples("none")


def test_an_image_without_a_mask_is_named(folder: Path) -> None:
    (folder / "val" / "masks" / "v.png").unlink()
    data = DataSet.from_yaml(yaml_at(folder, "names: [a, b]\nval: val\n"))
    with pytest.raises(DataError, match=r"v\.png has no mask"):
        data.samples("val")


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (encoded(".png", np.zeros((6, 9), np.uint8)), "is 9x6, its image v.png is 8x6"),
        (encoded(".png", np.full((6, 8), 2, np.uint8)), "holds the class ids 2; known are 0 to 1 and 255"),
        (encoded(".png", np.full((6, 8, 3), 1, np.uint8)), "edgeseg data convert --format colors"),
        (encoded(".png", np.full((6, 8, 4), 1, np.uint8)), "has 4 channels, not one: it holds colours"),
        (encoded(".png", np.full((6, 8), 1, np.uint16)), "is uint16, not of 8 bits"),
        (encoded(".png", noise(60, 80))[:200], "not an image that can be decoded"),
        (b"", "not an image that can be decoded"),
        (b"text", "not an image that can be decoded"),
    ],
    ids=["size", "id", "colours", "transparent", "16-bit", "cut", "empty", "text"],
)
def test_a_bad_mask_is_named(folder: Path, mask: bytes, said: str) -> None:
    path = folder / "val" / "masks" / "v.png"
    path.write_bytes(mask)
    data = DataSet.from_yaml(yaml_at(folder, "names: [a, b]\nval: val\n"))
    with pytest.raises(DataError) as caught:
        data.read(data.samples("val")[0])
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


GREY, PALETTE, GREY_ALPHA = 0, 3, 4


def png_of(kind: int, bits: int, rows: np.ndarray, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG of a kind that OpenCV does not write.

    ``rows`` (uint8 [H, N]) are the bytes of its rows, ``extra`` more chunks as (kind, data).
    """

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, row_bytes = rows.shape
    width = row_bytes * 8 // bits // (2 if kind == GREY_ALPHA else 1)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)),
        *extra,
        (b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


COLORS = bytes([0, 0, 0, 128, 0, 0, 0, 128, 0, 9, 8, 7])
PALETTE_CHUNKS = ((b"PLTE", COLORS), (b"tRNS", bytes([0, 255, 255, 10])))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", [GREY, PALETTE])
def test_masks_of_few_bits_and_with_a_palette_give_their_ids(tmp_path: Path, kind: int, bits: int) -> None:
    values = np.array([[0, 1, 1, 0, 1, 0, 0, 1]], np.uint8) * (3 if bits > 1 else 1)
    unpacked = np.unpackbits(values.reshape(-1, 1), axis=1)[:, 8 - bits :]
    rows = np.packbits(unpacked.reshape(1, -1), axis=1)
    (tmp_path / "m.png").write_bytes(png_of(kind, bits, rows, *(PALETTE_CHUNKS if kind == PALETTE else ())))
    assert read_mask(tmp_path / "m.png").tolist() == values.tolist()


def test_a_png_without_its_header_is_no_image(tmp_path: Path) -> None:
    whole = png_of(GREY, 8, np.zeros((1, 4), np.uint8))
    (tmp_path / "m.png").write_bytes(whole[:8] + whole[-12:])
    for read in (read_mask, read_image, pixel_kind):
        with pytest.raises(DataError, match="not an image"):
            read(tmp_path / "m.png")


def test_ids_are_checked_against_the_ignore_id_too(tmp_path: Path) -> None:
    data = DataSet.from_yaml(yaml_at(tmp_path, "names: [a]\nignore: null\n"))
    with pytest.raises(DataError, match=r"ids 3, 255; known are 0 to 0\. Mend"):
        data.check_ids(np.array([[0, 3, 255]], np.uint8), "here")


def test_other_classes_than_the_models(tmp_path: Path) -> None:
    data = DataSet.from_yaml(yaml_at(tmp_path, "names: [a, b]\n"))
    data.check_classes(ModelCard(classes=("a", "b"), input_size_hw=(4, 4)), "m.onnx")
    with pytest.raises(DataError, match=r"has 2 classes, m\.onnx has 1"):
        data.check_classes(ModelCard(classes=("a",), input_size_hw=(4, 4)), "m.onnx")
    with pytest.raises(DataError, match="Class 0 is 'a' in d and 'b' in m"):
        check_same_classes(("a", "b"), ["b", "a"], "d", "m")


# --- images ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".tif", ".ppm"])
def test_image_formats(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(encoded(suffix, noise(20, 30, 3)))
    image = read_image(path)
    assert (image.shape, image.dtype) == ((20, 30, 3), np.uint8)


@pytest.mark.parametrize(
    "picture", [noise(5, 7), noise(5, 7, dtype=np.uint16), noise(5, 7, 4), noise(5, 7, 3, dtype=np.uint16)],
    ids=["grey", "grey16", "rgba", "rgb16"],
)  # fmt: skip
def test_other_kinds_of_pixels_become_bgr_of_eight_bits(tmp_path: Path, picture: np.ndarray) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(encoded(".png", picture))
    image = read_image(path)
    assert (image.shape, image.dtype) == ((5, 7, 3), np.uint8)
    eight = (picture / 257).round() if picture.dtype == np.uint16 else picture
    expected = eight[..., None].repeat(3, 2) if eight.ndim == 2 else eight[..., :3]
    assert np.abs(image.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("content", "row", "kind"),
    [
        (png_of(PALETTE, 8, np.array([[0, 1, 2, 3]], np.uint8), *PALETTE_CHUNKS),
         [[0, 0, 0], [0, 0, 128], [0, 128, 0], [7, 8, 9]], "palette"),
        (png_of(GREY_ALPHA, 8, np.array([[10, 255, 20, 0]], np.uint8)), [[10] * 3, [20] * 3], "grey with alpha"),
        (png_of(GREY, 1, np.array([[0b10100000]], np.uint8)), [[255] * 3, [0] * 3, [255] * 3] + [[0] * 3] * 5, "grey"),
        (encoded(".png", np.array([[[1, 2, 3, 0]]], np.uint8)), [[1, 2, 3]], "RGBA"),
        (encoded(".png", np.array([[0, 256, 65535]], np.uint16)), [[0] * 3, [1] * 3, [255] * 3], "grey, 16-bit"),
        (encoded(".tif", np.array([[[256, 512, 65535]]], np.uint16)), [[1, 2, 255]], "RGB, 16-bit"),
        (encoded(".bmp", np.array([[7, 8]], np.uint8)), [[7] * 3, [8] * 3], "grey"),
        (encoded(".bmp", np.array([[[7, 8, 9]]], np.uint8)), [[7, 8, 9]], "RGB"),
    ],
    ids=["palette", "grey-alpha", "1-bit", "rgba", "grey16", "rgb16", "grey", "rgb"],
)  # fmt: skip
def test_every_kind_of_image_gives_its_colours(tmp_path: Path, content: bytes, row: list, kind: str) -> None:
    (tmp_path / "x").write_bytes(content)
    assert read_image(tmp_path / "x").tolist() == [row]
    assert pixel_kind(tmp_path / "x") == kind


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".tif", ".ppm"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_an_image_that_breaks_off_is_refused_and_named(tmp_path: Path, suffix: str, share: float) -> None:
    whole = encoded(suffix, noise(40, 60, 3))
    path = tmp_path / f"x{suffix}"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataError) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    assert "not an image that can be decoded" in str(caught.value)


def test_broken_png_and_jpeg_leave_standard_error_alone(tmp_path: Path, capfd) -> None:
    png, jpg = encoded(".png", noise(40, 60, 3)), encoded(".jpg", noise(40, 60, 3))
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 255
    for broken in (png[:1000], bytes(flipped), png[:8], jpg[:1000], jpg[:3], jpg[:-2]):
        (tmp_path / "x").write_bytes(broken)
        with pytest.raises(DataError):
            read_image(tmp_path / "x")
    assert capfd.readouterr().err == ""


def test_the_end_of_a_preview_is_not_the_end_of_the_picture(tmp_path: Path) -> None:
    preview, picture = encoded(".jpg", noise(8, 8, 3)), encoded(".jpg", noise(40, 60, 3))
    segment = b"\xff\xe1" + struct.pack(">H", len(preview) + 2) + preview
    whole = picture[:2] + segment + picture[2:]
    (tmp_path / "x.jpg").write_bytes(whole + b"trailing bytes")
    assert read_image(tmp_path / "x.jpg").shape == (40, 60, 3)
    (tmp_path / "x.jpg").write_bytes(whole[: len(whole) - 500])
    with pytest.raises(DataError):
        read_image(tmp_path / "x.jpg")


def test_images_that_are_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.png", tmp_path, tmp_path / "a\0b.png"):
        with pytest.raises(DataError, match="Cannot read"):
            read_image(path)
