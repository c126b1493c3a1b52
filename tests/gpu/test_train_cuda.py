"""Training on a GPU: pytest -m gpu."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeseg import cli

torch = pytest.importorskip("torch", reason="training needs torch")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use"),
]


def test_trains_on_cuda_and_scores_the_same_on_the_cpu(tiny_dataset: Path, tmp_path: Path) -> None:
    out, scores = tmp_path / "run", tmp_path / "scores.json"
    words = ["train", "--data", str(tiny_dataset), "--model", "ddrnet-c16", "--imgsz", "64", "96", "--epochs", "2"]
    assert cli.main([*words, "--batch", "4", "--workers", "0", "--device", "cuda", "--out", str(out)]) == 0
    assert cli.main(["eval", "--model", str(out / "best.pt"), "--data", str(tiny_dataset), "--json", str(scores)]) == 0
    saved = torch.load(out / "best.pt", map_location="cpu", weights_only=True)["scores"]["miou"]
    assert json.loads(scores.read_text(encoding="utf-8"))["miou"] == pytest.approx(saved, abs=0.005)
