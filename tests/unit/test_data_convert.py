"""``edgeseg data convert``: from a format to folders that the rest of edgeseg reads, whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from edgeseg import cli
from edgeseg.dataset import DataSet
from edgeseg.errors import SinkError
from edgeseg.files import replacing_folder

NAMES = ("2007_000032", "2007_000033", "2007_000039", "2007_000042", "2007_000061")


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """Four train images and one of val, of different sizes."""
    import cv2

    root = tmp_path / "VOC2012"
    lists = root / "ImageSets" / "Segmentation"
    for folder in (lists, root / "JPEGImages", root / "SegmentationClass"):
        folder.mkdir(parents=True)
    (lists / "train.txt").write_text("\n".join(NAMES[:4]), encoding="utf-8")
    (lists / "val.txt").write_text(NAMES[4], encoding="utf-8")
    for i, name in enumerate(NAMES):
        cv2.imwrite(str(root / "JPEGImages" / f"{name}.jpg"), np.full((4, 5 + i, 3), 40 * i, np.uint8))
        mask = np.full((4, 5 + i), i, np.uint8)
        mask[0] = 255
        cv2.imwrite(str(root / "SegmentationClass" / f"{name}.png"), mask)
    return root


def convert(root: Path, out: Path, *more: str) -> int:
    return cli.main(["data", "convert", "--format", "voc", "--from", str(root), "--out", str(out), *more])


def rest_of(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("link", [False, True])
def test_what_is_made_can_be_read(voc: Path, tmp_path: Path, capsys, link: bool) -> None:
    out = tmp_path / "new" / "voc"
    assert convert(voc, out, *(["--link"] if link else [])) == 0
    data = DataSet.from_yaml(out / "data.yaml")
    assert (len(data.classes), data.ignore_id, data.palette[1]) == (21, 255, (128, 0, 0))
    assert data.notes.startswith("Pascal VOC")
    pairs = list(data.pairs("train"))
    assert [sample.image_path.name for sample, _, _ in pairs] == [f"{name}.jpg" for name in NAMES[:4]]
    for i, (sample, image, mask) in enumerate(pairs):
        assert image.shape == (4, 5 + i, 3)
        assert set(mask[0]) == {255}
        assert set(mask[1:].flat) == {i}
        assert sample.image_path.read_bytes() == (voc / "JPEGImages" / sample.image_path.name).read_bytes()
        assert sample.image_path.is_symlink() == link
    assert [sample.image_path.stem for sample in data.samples("val")] == [NAMES[4]]
    printed = capsys.readouterr().out
    assert "4 pairs" in printed
    assert f"next: edgeseg data check {out / 'data.yaml'}" in printed
    assert rest_of(tmp_path / "new") == {"voc"}


def test_links_still_lead_there_when_the_root_was_relative(voc: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(voc.parent)
    assert convert(Path(voc.name), Path("deep/er/out"), "--link") == 0
    assert len(list(DataSet.from_yaml(tmp_path / "deep/er/out/data.yaml").pairs("train"))) == 4


def test_everything_that_is_wrong_is_counted_and_nothing_is_left(voc: Path, tmp_path: Path, capsys) -> None:
    import cv2

    cut = voc / "SegmentationClass" / f"{NAMES[0]}.png"
    cut.write_bytes(cut.read_bytes()[:-9])
    (voc / "SegmentationClass" / f"{NAMES[1]}.png").unlink()
    (voc / "JPEGImages" / f"{NAMES[2]}.jpg").unlink()
    cv2.imwrite(str(voc / "SegmentationClass" / f"{NAMES[4]}.png"), np.zeros((3, 3), np.uint8))
    out = tmp_path / "out"
    assert convert(voc, out) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: 4 of 5 images cannot be converted:")
    for name in NAMES[:3]:
        assert name in error
    assert "and 1 more" in error
    assert error.count("\n") == 1
    assert rest_of(tmp_path) == {"VOC2012"}


def test_a_folder_that_holds_something_is_left_alone(voc: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert convert(voc, out) == 0
    before = sorted(out.rglob("*"))
    shutil.rmtree(voc / "JPEGImages")
    assert convert(voc, out) == 2
    assert "exists and is no empty folder" in capsys.readouterr().err
    assert sorted(out.rglob("*")) == before


def test_two_images_of_one_name_are_refused(voc: Path, tmp_path: Path, capsys) -> None:
    (voc / "ImageSets" / "Segmentation" / "val.txt").write_text(f"{NAMES[4]} {NAMES[4]}", encoding="utf-8")
    assert convert(voc, tmp_path / "out") == 2
    assert f"2 images of the split 'val' are called '{NAMES[4]}'" in capsys.readouterr().err


def test_the_classes_of_camvid_can_be_chosen(tmp_path: Path) -> None:
    import cv2

    cv2.imwrite(str(tmp_path / "0006R0_f00930.png"), np.zeros((2, 2, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "0006R0_f00930_L.png"), np.full((2, 2, 3), (128, 64, 128), np.uint8))
    for choice, count in (("11", 11), ("32", 32)):
        out = tmp_path.parent / f"{tmp_path.name}-{choice}"
        flags = ["--format", "camvid", "--from", str(tmp_path), "--out", str(out), "--classes", choice]
        assert cli.main(["data", "convert", *flags]) == 0
        data = DataSet.from_yaml(out / "data.yaml")
        _, _, mask = next(data.pairs("train"))
        assert len(data.classes) == count
        assert data.classes[mask[0, 0]].lower() == "road"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--format", "vocc"], "did you mean 'voc'"),
        (["--classes", "20"], "has no class list '20'"),
        (["--from", "nowhere"], "no labelled images of the format 'voc'"),
        (["--from", ""], "is empty"),
    ],
)
def test_wrong_flags(voc: Path, tmp_path: Path, capsys, flags: list[str], said: str) -> None:
    assert convert(voc, tmp_path / "out", *flags) == 2
    assert said in capsys.readouterr().err
    assert rest_of(tmp_path) == {"VOC2012"}


# --- the folder that appears at once ---------------------------------------------------------------------------


def test_a_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b"
    with replacing_folder(target) as temporary:
        (temporary / "x").write_text("1", encoding="utf-8")
        assert not target.exists()
    assert rest_of(target) == {"x"}
    assert rest_of(tmp_path / "a") == {"b"}


def test_a_folder_that_failed_leaves_nothing(tmp_path: Path) -> None:
    def fail(error: BaseException) -> None:
        with replacing_folder(tmp_path / "b") as temporary:
            (temporary / "x").write_text("1", encoding="utf-8")
            raise error

    with pytest.raises(KeyboardInterrupt):
        fail(KeyboardInterrupt())
    with pytest.raises(SinkError, match="No space left"):
        fail(OSError(28, "No space left on device"))
    assert rest_of(tmp_path) == set()
    (tmp_path / "b").write_text("a file", encoding="utf-8")
    with pytest.raises(SinkError, match="is no empty folder"):
        fail(KeyboardInterrupt())
