"""The runtime on 64-bit Arm, emulated: that it runs there, and finds what it finds here. Nothing about speed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

VARIABLE = "EDGESEG_AARCH64"
ROOT = Path(__file__).parents[2]
MODEL = "ddrnet-c16-camvid"
FRAMES = 3
TIMEOUT_S = 600  # an emulated frame takes seconds, on a busy machine a minute

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get(VARIABLE), reason=f"{VARIABLE} names no folder of tests/aarch64/prepare"),
    pytest.mark.skipif(not (ROOT / "edgeseg").is_dir(), reason="the tests run outside a checkout"),
]


def edgeseg(*arguments: str, emulated: bool = True) -> str:
    """Standard output of a command, there or here."""
    python = str(Path(os.environ[VARIABLE]).resolve() / "python") if emulated else sys.executable
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [python, "-m", "edgeseg", *arguments]
    run = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, env=environ, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_the_processor_is_an_arm() -> None:
    findings = json.loads(edgeseg("doctor", "--json"))["findings"]
    details = {finding["name"]: finding["detail"] for finding in findings}
    assert details["machine"].startswith("aarch64")
    assert "asimd" in details["features"]


def test_the_golden_frames_of_the_bundled_model() -> None:
    assert "passed" in edgeseg("verify", MODEL, "--backend", "onnxruntime", "--min-agreement", "0.9999")


# At the network's own size nothing is resized. OpenCV's bilinear resize rounds otherwise on Arm (KleidiCV): a third of
# its bytes differ by one level, which tips a few pixels on the borders between classes.
@pytest.mark.parametrize(("size", "least"), [("480x360", 0.999), ("1280x720", 0.995)])
def test_masks_are_those_of_this_machine(tmp_path: Path, size: str, least: float) -> None:
    cv2 = pytest.importorskip("cv2")
    for name in ("arm", "here"):
        edgeseg(
            "run", "--model", MODEL, "--backend", "onnxruntime", "--source", f"synthetic://street?size={size}",
            "--max-frames", str(FRAMES), "--headless", "--save-masks", str(tmp_path / name), emulated=name == "arm",
        )  # fmt: skip
    paths = sorted((tmp_path / "arm").glob("*.png"))
    assert len(paths) == FRAMES
    for path in paths:
        arm, here = (cv2.imread(str(tmp_path / name / path.name), cv2.IMREAD_UNCHANGED) for name in ("arm", "here"))
        assert len(np.unique(here)) > 3
        assert np.mean(arm == here) >= least
