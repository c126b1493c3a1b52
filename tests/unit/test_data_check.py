"""``edgeseg data check``: counts that can be checked by hand, and every fault found in one go."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg import cli
from edgeseg.data_check import check
from edgeseg.data_sheet import contact_sheet
from edgeseg.dataset import DataSet

YAML = """
train: train
val: val
names: [road, car, rare, never]
palette: [[9, 9, 9], [0, 0, 200], [0, 200, 0], [200, 0, 0]]
"""


def add(folder: Path, name: str, mask: np.ndarray, image: np.ndarray | None = None) -> None:
    """A pair; without an image, grey noise of its own."""
    import cv2

    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    if image is None:
        image = np.random.default_rng(sum(name.encode())).integers(100, 120, (*mask.shape[:2], 3)).astype(np.uint8)
    cv2.imwrite(str(folder / "images" / f"{name}.png"), image)
    cv2.imwrite(str(folder / "masks" / f"{name}.png"), mask)


def mask_of(*counts: tuple[int, int]) -> np.ndarray:
    """A mask of 10 x 10 pixels with so many pixels of each id."""
    flat = np.concatenate([np.full(count, class_id, np.uint8) for class_id, count in counts])
    return flat.reshape(10, 10)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    add(root / "train", "a", mask_of((0, 90), (1, 10)))
    add(root / "train", "b", mask_of((0, 50), (1, 20), (2, 10), (255, 20)))
    add(root / "train", "wide", np.zeros((10, 20), np.uint8))
    add(root / "val", "v", mask_of((0, 100)))
    (root / "data.yaml").write_text(YAML, encoding="utf-8")
    return root


def run(folder: Path, *flags: str) -> tuple[int, dict[str, Any]]:
    report = folder.parent / "report.json"
    code = cli.main(["data", "check", str(folder / "data.yaml"), "--json", str(report), *flags])
    return code, json.loads(report.read_text(encoding="utf-8"))


def test_counts(folder: Path, capsys) -> None:
    code, report = run(folder)
    assert code == 0
    assert (report["problems"], report["warnings"]) == ([], [])
    train = report["splits"]["train"]
    assert (train["images"], train["sound"]) == (3, 3)
    assert train["sizes"] == {"10x10": 2, "20x10": 1}
    assert train["kinds"] == {"RGB": 3}
    assert train["ignored_share"] == 20 / 400
    assert [(row["name"], row["pixels"], row["images"]) for row in train["classes"]] == [
        ("road", 340, 3), ("car", 30, 2), ("rare", 10, 1), ("never", 0, 0),
    ]  # fmt: skip
    assert train["classes"][1]["share"] == 30 / 380
    assert train["absent"] == ["never"]
    assert report["splits"]["val"]["absent"] == ["car", "rare", "never"]
    printed = capsys.readouterr().out
    assert "never    car, rare, never" in printed
    assert printed.endswith("nothing is wrong\n")


def test_one_split_may_be_chosen(folder: Path) -> None:
    assert list(run(folder, "--split", "val")[1]["splits"]) == ["val"]


def test_a_class_that_is_the_ignore_id_is_not_counted(folder: Path) -> None:
    (folder / "data.yaml").write_text(YAML + "ignore: 0\n", encoding="utf-8")
    (folder / "train" / "images" / "b.png").unlink()
    code, report = run(folder)
    assert [row["name"] for row in report["splits"]["train"]["classes"]] == ["car", "rare", "never"]
    assert report["splits"]["train"]["ignored_share"] == 290 / 300
    assert code == 1
    assert [problem["problem"] for problem in report["problems"]] == ["In the split 'val' no pixel has a class"]
    assert report["warnings"] == [f"1 masks in {folder / 'train' / 'masks'} have no image, such as b.png"]


def test_a_single_class_that_is_ignored(folder: Path, capsys) -> None:
    (folder / "data.yaml").write_text("val: val\nnames: [void]\nignore: 0\n", encoding="utf-8")
    assert run(folder)[0] == 1
    assert "ignored  100.00 %" in capsys.readouterr().out


def test_every_fault_is_found_at_once(folder: Path, capsys) -> None:
    train = folder / "train"
    for name in "cdefgh":
        add(train, name, mask_of((0, 100)))
    (train / "masks" / "c.png").unlink()
    for cut in (train / "images" / "d.png", train / "masks" / "d.png"):
        cut.write_bytes(cut.read_bytes()[:-10])
    add(train, "e", np.zeros((3, 3), np.uint8), np.zeros((10, 10, 3), np.uint8))
    add(train, "f", mask_of((0, 98), (7, 1), (9, 1)))
    add(train, "g", np.zeros((10, 10, 3), np.uint8))
    (folder / "data.yaml").write_text(YAML.replace("val: val", "val: [val, gone]"), encoding="utf-8")
    code, report = run(folder)
    assert code == 1
    problems = [problem["problem"] for problem in report["problems"]]
    expected = [
        "c.png has no mask", "images/d.png is not an image", "masks/d.png is not an image", "e.png is 3x3, its image",
        "f.png holds the class ids 7, 9", "g.png has 3 channels", "gone/images does not exist",
    ]  # fmt: skip
    assert len(problems) == len(expected)
    for part, problem in zip(expected, problems):
        assert part in problem
    assert "edgeseg data convert" in report["problems"][5]["mend"]
    assert report["splits"]["train"]["images"] == 9
    assert report["splits"]["train"]["sound"] == 4
    assert "7 problems, 0 warnings" in capsys.readouterr().out


def test_many_faults_are_counted_on_the_terminal_and_listed_in_the_json(folder: Path, capsys) -> None:
    for i in range(52):
        add(folder / "val", f"{i}", mask_of((0, 100)))
    shutil.rmtree(folder / "val" / "masks")
    code, report = run(folder)
    assert code == 1
    assert len(report["problems"]) == 53
    printed = capsys.readouterr().out
    assert printed.count("problem: ") == 50
    assert "and 3 more problems: --json lists them all\n53 problems" in printed


def test_a_split_without_images(folder: Path) -> None:
    for path in (folder / "val" / "images").iterdir():
        path.unlink()
    code, report = run(folder)
    assert code == 1
    assert report["problems"][0]["problem"] == "The split 'val' holds no image"


def test_images_in_two_splits_are_a_leak(folder: Path) -> None:
    shutil.copy(folder / "train" / "images" / "a.png", folder / "val" / "images" / "renamed.png")
    shutil.copy(folder / "train" / "masks" / "a.png", folder / "val" / "masks" / "renamed.png")
    code, report = run(folder)
    assert code == 0
    (warning,) = report["warnings"]
    assert warning.startswith("1 images are in both 'train' and 'val', such as ")
    assert "a.png" in warning
    assert "renamed.png" in warning


def test_kinds_of_pixels_and_dark_images_of_16_bits(folder: Path) -> None:
    add(folder / "val", "thermal", mask_of((0, 100)), np.full((10, 10), 4095, np.uint16))
    add(folder / "val", "bright", mask_of((0, 100)), np.full((10, 10), 40000, np.uint16))
    add(folder / "val", "grey", mask_of((0, 100)), np.full((10, 10), 3, np.uint8))
    add(folder / "val", "clear", mask_of((0, 100)), np.full((10, 10, 4), 3, np.uint8))
    code, report = run(folder)
    assert code == 0
    assert report["splits"]["val"]["kinds"] == {"grey, 16-bit": 2, "RGBA": 1, "grey": 1, "RGB": 1}
    (warning,) = report["warnings"]
    assert "1 images of 16 bits" in warning
    assert "thermal.png" in warning


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--split", "vla"], "did you mean 'val'"),
        (["--sheet", "sheet.jpg"], "ends in .png"),
        (["--sheet", "/dev/null/x.png"], "cannot be made"),
    ],
)
def test_wrong_flags(folder: Path, capsys, flags: list[str], said: str) -> None:
    assert cli.main(["data", "check", str(folder / "data.yaml"), *flags]) == 2
    output = capsys.readouterr()
    assert output.err.startswith("error: ")
    assert said in output.err
    assert output.out == ""


def test_an_action_is_needed_and_named(capsys) -> None:
    assert cli.main(["data"]) == 2
    assert cli.main(["data", "chek"]) == 2
    assert "'check'" in capsys.readouterr().err
    assert cli.main(["data", "check", "none.yaml"]) == 2
    assert "Cannot read none.yaml" in capsys.readouterr().err


# --- the contact sheet -----------------------------------------------------------------------------------------


def test_the_sheet_shows_rare_classes_in_their_colours(folder: Path, capsys) -> None:
    import cv2

    for i in range(20):
        add(folder / "train", f"plain{i:02}", mask_of((0, 100)))
    sheet_path = folder.parent / "sheet.png"
    assert run(folder, "--sheet", str(sheet_path))[0] == 0
    assert f"contact sheet: {sheet_path}" in capsys.readouterr().out
    sheet = cv2.imread(str(sheet_path)).astype(int)
    assert sheet.shape[0] > 4 * 240  # four rows of three
    # The grey noise of 100 to 119 under half of the colour of "rare", which one image of 24 has.
    blended = np.abs(sheet - (55, 155, 55)).max(2) <= 6
    assert blended.sum() > 1000
    legend = (sheet[:, 3 * 330 :] == (0, 0, 200)).all(2)
    assert legend.sum() > 100


def test_the_sheet_has_room_for_many_classes_and_odd_shapes(tmp_path: Path) -> None:
    root = tmp_path / "set"
    mask = np.arange(150, dtype=np.uint8).reshape(3, 50)
    add(root / "train", "wide", mask)
    add(root / "train", "one", np.zeros((1, 1), np.uint8))
    (root / "data.yaml").write_text(
        f"train: train\nnames: [{', '.join(f'class number {i} with a long name' for i in range(150))}]\n",
        encoding="utf-8",
    )
    data = DataSet.from_yaml(root / "data.yaml")
    reports, _ = check(data, ["train"])
    sheet = contact_sheet(data, reports)
    assert sheet.dtype == np.uint8
    assert 250 < sheet.shape[0] < 600
    assert sheet.shape[1] > 990 + 4 * 200


def test_no_sheet_without_a_sound_pair(folder: Path, capsys) -> None:
    shutil.rmtree(folder / "val" / "masks")
    sheet_path = folder.parent / "sheet.png"
    assert run(folder, "--split", "val", "--sheet", str(sheet_path))[0] == 1
    assert "no contact sheet" in capsys.readouterr().out
    assert not sheet_path.exists()
