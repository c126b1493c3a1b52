"""A real camera: EDGESEG_TEST_CAMERA=0 pytest -m camera."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from edgeseg import cli

CAMERA = os.environ.get("EDGESEG_TEST_CAMERA")

pytestmark = [
    pytest.mark.camera,
    pytest.mark.skipif(not CAMERA, reason="no camera: set EDGESEG_TEST_CAMERA to its number"),
]


def test_runs_live_and_counts_what_it_drops(tmp_path: Path) -> None:
    stats, video = tmp_path / "stats.json", tmp_path / "camera.mp4"
    words = ["run", "--camera", str(CAMERA), "--headless", "--max-frames", "20"]
    assert cli.main([*words, "--stats", str(stats), "--save", str(video)]) == 0
    figures = json.loads(stats.read_text(encoding="utf-8"))
    assert figures["frames"] == 20
    assert figures["dropped"] >= 0
    assert video.stat().st_size > 0
