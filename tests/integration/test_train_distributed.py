"""Training in two processes, which must come to what one process comes to with the same batch."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("tensorboard", reason="needs the extra 'train'")

from edgeseg.dataset import DataSet  # noqa: E402
from edgeseg.errors import UsageError  # noqa: E402
from edgeseg_train import checkpoint as checkpoints  # noqa: E402
from edgeseg_train.config import TrainConfig  # noqa: E402
from edgeseg_train.distributed import Processes, joined_processes  # noqa: E402
from edgeseg_train.loop import Trainer  # noqa: E402

NARROW = """
import os, sys, time
from functools import partial
import torch
from edgeseg.dataset import DataSet
from edgeseg_train.config import TrainConfig
from edgeseg_train.distributed import joined_processes
from edgeseg_train.evaluate import evaluate_network
from edgeseg_train.loop import Trainer
from edgeseg_train.models import NETWORKS, Network, ddrnet
narrow = partial(ddrnet.DDRNet, width=4, head_width=8, pyramid_width=8)
NETWORKS["ddrnet-c4"] = Network(narrow, "", "")
"""

TWO_STEPS = (
    NARROW
    + """
with joined_processes("cpu") as processes:
    scores = evaluate_network(narrow(3), DataSet.from_yaml(sys.argv[1]), "val", (64, 96), processes)
    torch.set_default_dtype(torch.float64)
    config = TrainConfig(**eval(sys.argv[2]))
    trainer = Trainer(config, DataSet.from_yaml(config.data), processes=processes)
    torch.set_default_dtype(torch.float32)
    losses = [trainer._train_epoch(), trainer._train_epoch()]
    weights = trainer.network.state_dict()
    if processes.is_main:
        torch.save({"losses": losses, "weights": weights, "pixels": scores.pixels}, sys.argv[3])
"""
)

DYING = (
    NARROW
    + """
from edgeseg import cli
train_epoch = Trainer._train_epoch
def dying(self):
    if self.epoch == 1 and self.processes.rank == 1:
        while not (self.out / "last.pt").exists():
            time.sleep(0.05)
        os._exit(7)
    return train_epoch(self)
Trainer._train_epoch = dying
sys.exit(cli.main(sys.argv[1:]))
"""
)


@pytest.fixture
def torchrun(tmp_path):
    """Run a script in two processes: ``torchrun(script, *arguments) -> CompletedProcess``."""

    def run(script, *arguments):
        path = tmp_path / "script.py"
        path.write_text(script)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", path]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [*map(str, command), *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=300
        )

    return run


def test_two_processes_come_to_what_one_comes_to(torchrun, train, tiny_dataset, tmp_path):
    """In float64: in float32 even another order of the images moves the gradient of so small a network by 4 %.

    With batch normalisation, two batches a step, an auxiliary head, a loss over regions, and pixels without label.
    """
    values = {
        "data": str(tiny_dataset), "out": str(tmp_path / "run"), "model": "ddrnet-c4", "imgsz": (64, 96),
        "batch": 4, "accumulate": 2, "workers": 0, "device": "cpu", "amp": "off", "scale_min": 1.0, "scale_max": 1.0,
        "loss": "weighted-ce + dice",
    }  # fmt: skip
    done = torchrun(TWO_STEPS, tiny_dataset, values, tmp_path / "two.pt")
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    two = torch.load(tmp_path / "two.pt", weights_only=True)
    torch.set_default_dtype(torch.float64)
    try:
        one = Trainer(TrainConfig(**values), DataSet.from_yaml(tiny_dataset))
    finally:
        torch.set_default_dtype(torch.float32)
    assert one.steps_per_epoch == 1
    assert two["losses"] == pytest.approx([one._train_epoch(), one._train_epoch()], rel=1e-6)
    for name, weight in one.network.state_dict().items():
        torch.testing.assert_close(two["weights"][name], weight, rtol=0, atol=1e-5)

    labelled = sum((mask != 255).sum() for _, _, mask in DataSet.from_yaml(tiny_dataset).pairs("val"))
    assert two["pixels"] == labelled


def test_a_process_that_dies_ends_the_run_and_one_process_goes_on(torchrun, train, tiny_dataset, tmp_path, capsys):
    out = tmp_path / "run"
    flags = ["--data", tiny_dataset, "--out", out, "--model", "ddrnet-c4", "--imgsz", 64, 96, "--epochs", 2,
             "--batch", 2, "--workers", 0, "--device", "cpu", "--amp", "off"]  # fmt: skip
    done = torchrun(DYING, "train", *flags)
    assert done.returncode != 0
    assert done.stdout.count("network   ddrnet-c4") == 1, done.stderr
    # What torchrun itself says in the end has a traceback of its own.
    assert "Traceback" not in done.stderr.partition("torch/distributed/elastic")[0].rpartition("\n")[0]
    assert {path.name for path in out.iterdir()} >= {"best.pt", "last.pt", "config.json", "history.jsonl"}
    assert checkpoints.load(out / "last.pt")["epoch"] == 1
    assert train("--epochs", 2, "--resume") == 0
    assert "resumed after epoch 1 of 2" in capsys.readouterr().out


def test_a_batch_that_does_not_divide_is_refused(train, tiny_dataset):
    config = TrainConfig(
        data=str(tiny_dataset), out="", model="ddrnet-c4", imgsz=(64, 96), batch=4, device="cpu", workers=0
    )
    with pytest.raises(UsageError, match=r"4 images does not divide among 3 processes. Mend: give --batch a multiple"):
        Trainer(config, DataSet.from_yaml(tiny_dataset), processes=Processes(torch.device("cpu"), 0, 3))


def test_others_that_cannot_be_reached_are_an_error_in_words(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with (
        pytest.raises(UsageError, match=r"Cannot join the 2 processes .* start with torchrun"),
        joined_processes("cpu"),
    ):
        pass
