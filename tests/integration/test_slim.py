"""Checkpoints for keeping."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="checkpoints are torch's")

from edgeseg_train import checkpoint as checkpoints  # noqa: E402
from edgeseg_train import slim  # noqa: E402


def test_halves_the_weights_and_runs_the_same(checkpoint_path: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.pt"
    assert slim.main([str(checkpoint_path), str(small)]) == 0
    assert small.stat().st_size < 0.55 * checkpoint_path.stat().st_size
    image = torch.rand(1, 3, 64, 96)
    networks = [checkpoints.network_from_checkpoint(checkpoints.load(p)) for p in (checkpoint_path, small)]
    with torch.inference_mode():
        full, half = (n(image) for n in networks)
    assert half.dtype == torch.float32
    assert torch.allclose(full, half, atol=0.02 * float(full.abs().max()))


def test_leaves_the_training_state_out(checkpoint_path: Path) -> None:
    kept = slim.slim_from_checkpoint({**checkpoints.load(checkpoint_path), "state": {"optimizer": 1}})
    assert "state" not in kept
    assert {v.dtype for v in kept["weights"].values()} == {torch.float16, torch.int64}


def test_keeps_no_folder_of_the_machine(checkpoint_path: Path) -> None:
    config = {"data": "/home/me/camvid/data.yaml", "out": "runs/a", "init_from": "", "epochs": 3}
    kept = slim.slim_from_checkpoint({**checkpoints.load(checkpoint_path), "config": config})
    assert kept["config"] == {"data": "data.yaml", "out": "a", "init_from": "", "epochs": 3}


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert slim.main(["only-one.pt"]) == 2
    assert slim.main([str(tmp_path / "none.pt"), str(tmp_path / "out.pt")]) == 2
    assert capsys.readouterr().err.count("error:") == 2
    assert not (tmp_path / "out.pt").exists()
