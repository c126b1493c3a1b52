from __future__ import annotations

import csv
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sink_inputs import fill, result

from edgeseg.errors import SinkError
from edgeseg.frame import State
from edgeseg.io.sinks import JsonLinesSink, MaskSink

# --- masks -----------------------------------------------------------------------------------------------------


def test_masks_are_class_ids_of_one_channel(tmp_path: Path) -> None:
    import cv2

    results = [result(0, (5, 7)), result(1, (1, 1)), result(7, (3, 4097), "street.001.jpg")]
    results[1].mask[:] = 255
    with MaskSink(tmp_path / "a" / "b") as sink:
        for one in results:
            sink.write(one)
    sink.close()
    names = ["000000.png", "000001.png", "street.001.png"]
    assert sorted(os.listdir(tmp_path / "a" / "b")) == [*names, "timestamps.csv"]
    for one, name in zip(results, names):
        mask = cv2.imread(str(tmp_path / "a" / "b" / name), cv2.IMREAD_UNCHANGED)
        assert mask.dtype == np.uint8
        assert np.array_equal(mask, one.mask)


def test_two_images_of_one_name_keep_both_masks(tmp_path: Path) -> None:
    with MaskSink(tmp_path) as sink:
        for i, name in enumerate(["1.jpg", "2.jpg", "1.png", "1.bmp"]):
            sink.write(result(i, (4, 4), name))
    assert sorted(os.listdir(tmp_path)) == ["1.png", "1_000002.png", "1_000003.png", "2.png", "timestamps.csv"]
    with MaskSink(tmp_path) as sink:
        sink.write(result(0, (9, 9), "1.jpg"))
    assert len(os.listdir(tmp_path)) == 5, "another run replaces its own masks"


def test_no_mask_no_folder(tmp_path: Path) -> None:
    MaskSink(tmp_path / "new").close()
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "x"):
        with pytest.raises(SinkError) as caught:
            MaskSink(folder)
        assert caught.value.exit_code == 2


def test_a_full_disk_keeps_the_masks_that_fitted(small_disk) -> None:
    import cv2

    folder = small_disk(64 << 10)
    sink = MaskSink(folder)
    written = fill(sink, "No space left on device")
    sink.close()
    assert sorted(os.listdir(folder)) == [*(f"{i:06d}.png" for i in range(written)), "timestamps.csv"]
    assert all(cv2.imread(str(p), cv2.IMREAD_UNCHANGED).shape == (120, 160) for p in folder.glob("*.png"))


def test_every_mask_has_its_times(tmp_path: Path) -> None:
    now = time.monotonic()
    with MaskSink(tmp_path) as sink:
        sink.write(result(0, pts_s=0.0, captured_at=now))
        sink.write(result(7, pts_s=0.28, captured_at=now + 0.25))
        sink.write(result(8, name="a.jpg", captured_at=now + 0.5))
    with open(tmp_path / "timestamps.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == ["000000.png", "000007.png", "a.png"]
    assert [(row["frame"], row["pts_s"]) for row in rows] == [("0", "0.0"), ("7", "0.28"), ("8", "")]
    assert [float(row["captured_at_s"]) - now for row in rows] == pytest.approx([0, 0.25, 0.5], abs=1e-5)
    unix = [float(row["captured_unix_s"]) for row in rows]
    assert unix[1] - unix[0] == pytest.approx(0.25, abs=0.01)
    assert unix[0] == pytest.approx(time.time(), abs=5)


def test_a_clock_that_is_set_back_does_not_change_ages(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 0.0)
    one = result()
    with JsonLinesSink(tmp_path / "x.jsonl") as sink:
        sink.write(one)
    assert json.loads((tmp_path / "x.jsonl").read_text())["age_ms"] == pytest.approx(one.age_ms, abs=0.001)


def test_an_overlay_says_so_when_it_is_not_live_or_not_valid() -> None:
    one = result(size_hw=(96, 128))
    plain = one.overlay()
    for other in (replace(one, state=State.STALLED), replace(one, valid=False)):
        picture = other.overlay()
        assert picture.shape == plain.shape
        assert not np.array_equal(picture[:12], plain[:12])
        assert np.array_equal(picture[12:], plain[12:])
    assert replace(result(size_hw=(1, 1)), valid=False).overlay().shape == (1, 1, 3)


# --- lines -----------------------------------------------------------------------------------------------------


def test_a_line_for_every_result(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.jsonl"
    one = result(3, (4, 10), pts_s=0.1)
    one.mask[:] = 1
    one.mask[0, :4] = 0
    invalid = replace(result(4), valid=False)
    invalid.mask[:] = 255
    with JsonLinesSink(path) as sink:
        assert not path.exists()
        sink.write(one)
        assert path.read_text().endswith("}\n"), "each line reaches the file at once"
        sink.write(invalid)
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert first["area"] == {"a": 0.1, "b": 0.9}
    assert (first["frame"], first["pts_s"], first["state"], first["valid"]) == (3, 0.1, "live", True)
    assert first["timing_ms"] == {"infer": 1.25}
    assert first["age_ms"] == pytest.approx(one.age_ms, abs=0.001)
    assert (second["area"], second["valid"]) == ({}, False)


def test_lines_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SinkError) as caught:
        JsonLinesSink(tmp_path / "file" / "x.jsonl")
    assert caught.value.exit_code == 2
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    sink = JsonLinesSink("/dev/full")
    with pytest.raises(SinkError, match="No space left"):
        sink.write(result())
    with pytest.raises(SinkError, match="No space left"):
        sink.close()
