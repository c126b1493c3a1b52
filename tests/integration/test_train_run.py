"""`edgeseg train` from start to end: what it writes, and that it ends and resumes well whatever stops it."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("tensorboard", reason="needs the extra 'train'")

from edgeseg import cli  # noqa: E402
from edgeseg.dataset import DataSet  # noqa: E402
from edgeseg.errors import SinkError  # noqa: E402
from edgeseg_train import checkpoint as checkpoints  # noqa: E402
from edgeseg_train import loop, losses  # noqa: E402
from edgeseg_train.batches import steps_of_epoch  # noqa: E402
from edgeseg_train.board import Board  # noqa: E402
from edgeseg_train.config import TrainConfig  # noqa: E402
from edgeseg_train.errors import TrainingStoppedError, machine_errors  # noqa: E402
from edgeseg_train.history import EpochRecord  # noqa: E402
from edgeseg_train.loop import Trainer  # noqa: E402


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def epoch_losses(monkeypatch):
    """The mean loss of every epoch that any Trainer finishes from here on."""
    seen = []
    original = Trainer._train_epoch

    def recording(self):
        seen.append(original(self))
        return seen[-1]

    monkeypatch.setattr(Trainer, "_train_epoch", recording)
    return seen


def call_at(monkeypatch, owner, name, call, action):
    """Have ``action`` run in place of the call number ``call`` (from 1) of ``owner.name``; the others stay."""
    original, count = getattr(owner, name), 0

    def counting(*args, **kwargs):
        nonlocal count
        count += 1
        return action(original, *args, **kwargs) if count == call else original(*args, **kwargs)

    monkeypatch.setattr(owner, name, counting)


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def files_of(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.parent.name != "tensorboard"}


def curves_of(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def assert_equal_state(a, b):
    """Nested dictionaries and lists of tensors and plain values, bit for bit."""
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal_state(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            assert_equal_state(x, y)
    else:
        assert a == b


def assert_one_error_line(stderr):
    """The bar of the run shares stderr and ends without a line break where a run breaks off."""
    assert "Traceback" not in stderr
    assert stderr.count("error: ") == 1
    line = stderr[stderr.index("error: ") :]
    assert line.count("\n") == 1
    assert "Mend: " in line
    return line


def test_trains_and_writes_everything(train, out, tiny_dataset, epoch_losses, capsys):
    assert train("--epochs", 5, "--model", "ddrnet-c16", "--lr", 0.01, "--eval-every", 3) == 0
    assert files_of(out) == {"config.json", "history.jsonl", "last.pt", "best.pt", "report.html"}
    assert epoch_losses[-1] < 0.6 * epoch_losses[0]
    stdout = capsys.readouterr().out
    best = torch.load(out / "best.pt", weights_only=True)
    assert f"best val mIoU {100 * best['scores']['miou']:.2f} %: {out / 'best.pt'}" in stdout
    assert json.loads((out / "config.json").read_text())["epochs"] == 5

    last = torch.load(out / "last.pt", weights_only=True)
    assert last["epoch"] == 5
    assert all(group["lr"] == 0 for group in last["state"]["optimizer"]["param_groups"])

    curves = curves_of(out)
    assert [step for step, _ in curves["train/loss"]] == [1, 2, 3, 4, 5]
    np.testing.assert_allclose([value for _, value in curves["train/loss"]], epoch_losses, rtol=1e-6)
    assert curves["train/lr"][-1] == (5, 0.0)
    assert [step for step, _ in curves["val/miou"]] == [3, 5]
    assert max(value for _, value in curves["val/miou"]) == pytest.approx(best["scores"]["miou"])
    assert {"val_iou/red", "val_iou/green", "val_iou/blue", "val/pixel_accuracy"} <= curves.keys()

    # The checkpoint alone is enough: neither the data set nor the run's folder is needed.
    moved = out.parent / "moved.pt"
    shutil.move(out / "best.pt", moved)
    shutil.rmtree(out)
    shutil.rmtree(tiny_dataset.parent)
    network = checkpoints.network_from_checkpoint(checkpoints.load(moved))
    assert network(torch.zeros(1, 3, 64, 96)).shape == (1, 3, 8, 12)


def test_other_loss_and_schedule_and_bfloat16(tiny_dataset, out, train):
    code = cli.main(
        ["train", "--data", str(tiny_dataset), "--out", str(out), "--model", "ddrnet-c4", "--imgsz", "64", "96",
         "--epochs", "1", "--batch", "4", "--workers", "0", "--device", "cpu", "--loss", "ohem", "--schedule", "poly"]
    )  # fmt: skip
    assert code == 0
    assert checkpoints.load(out / "last.pt")["config"]["amp"] == "bf16"


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_resume_gives_the_numbers_of_a_straight_run_whatever_the_workers(
    train, out, tmp_path, monkeypatch, epoch_losses, capsys
):
    straight, copy = tmp_path / "straight", tmp_path / "copy"
    assert train("--epochs", 4, out=straight) == 0
    expected_losses = list(epoch_losses)

    with monkeypatch.context() as patch:
        call_at(patch, Trainer, "_train_epoch", 3, interrupt)
        assert train("--epochs", 4) == 130
    assert epoch_losses[4:] == expected_losses[:2]
    shutil.copytree(out, copy)

    for folder, workers in ((out, 0), (copy, 1)):
        epoch_losses.clear()
        assert train("--epochs", 4, "--resume", "--workers", workers, out=folder) == 0
        assert "resumed after epoch 2 of 4" in capsys.readouterr().out
        assert epoch_losses == expected_losses[2:]
        a, b = (torch.load(run / "last.pt", weights_only=True) for run in (straight, folder))
        assert_equal_state(a["weights"], b["weights"])
        assert_equal_state(a["state"], b["state"])
        assert a["scores"] == b["scores"]
        a, b = (torch.load(run / "best.pt", weights_only=True) for run in (straight, folder))
        assert_equal_state(a["weights"], b["weights"])
        assert [step for step, _ in curves_of(folder)["train/loss"]] == [1, 2, 3, 4]


def test_resuming_a_finished_run_does_nothing(train, out, capsys):
    assert train("--epochs", 1) == 0
    before = (out / "last.pt").read_bytes()
    assert train("--epochs", 1, "--resume") == 0
    assert "resumed after epoch 1 of 1" in capsys.readouterr().out
    assert (out / "last.pt").read_bytes() == before


def test_seed_decides_the_weights_and_the_order(tiny_dataset, train, monkeypatch):
    def first_step(seed):
        config = TrainConfig(
            data=str(tiny_dataset), out="", model="ddrnet-c4", imgsz=(64, 96), batch=8, seed=seed, device="cpu"
        )
        trainer = Trainer(config, DataSet.from_yaml(tiny_dataset))
        return trainer._steps()[0], next(trainer.network.parameters()).detach().clone()

    (order_a, weights_a), (order_b, weights_b), (order_c, weights_c) = map(first_step, (0, 0, 1))
    assert order_a == order_b != order_c
    assert torch.equal(weights_a, weights_b)
    assert not torch.equal(weights_a, weights_c)


def test_sigterm_in_an_epoch_keeps_the_last_one(train, out, monkeypatch, capsys):
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        # Four steps an epoch: in the second one.
        call_at(patch, Trainer, "train_step", 6, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        assert train("--epochs", 2) == 130
    assert signal.getsignal(signal.SIGTERM) == before
    captured = capsys.readouterr()
    assert "stopped, saved after epoch 1 of 2; continue with --resume" in captured.out
    assert "Traceback" not in captured.err
    assert files_of(out) == {"config.json", "history.jsonl", "last.pt", "best.pt"}
    assert checkpoints.load(out / "last.pt")["epoch"] == 1
    assert train("--epochs", 2, "--resume") == 0
    assert checkpoints.load(out / "last.pt")["epoch"] == 2


def test_ctrl_c_before_anything_is_saved_says_to_start_again(train, out, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        call_at(patch, Trainer, "train_step", 2, interrupt)
        assert train("--epochs", 1) == 130
    assert "start again with the same command" in capsys.readouterr().out
    assert files_of(out) == {"config.json"}
    assert train("--epochs", 1) == 0
    assert [step for step, _ in curves_of(out)["train/loss"]] == [1]


def test_ctrl_c_in_an_evaluation_names_the_epoch_that_is_saved(train, out, monkeypatch, capsys):
    call_at(monkeypatch, loop, "evaluate_network", 2, interrupt)
    assert train("--epochs", 2) == 130
    assert "saved after epoch 1 of 2" in capsys.readouterr().out
    assert checkpoints.load(out / "last.pt")["epoch"] == 1


def test_ctrl_c_while_saving_leaves_the_old_checkpoint(train, out, monkeypatch):
    def half(original, checkpoint, path):
        path.write_bytes(b"half a checkpoint")
        raise KeyboardInterrupt

    # Twice an epoch: best.pt and last.pt.
    call_at(monkeypatch, torch, "save", 4, half)
    monkeypatch.setattr(loop, "evaluate_network", rising_scores(loop.evaluate_network))
    assert train("--epochs", 2) == 130
    assert files_of(out) == {"config.json", "history.jsonl", "last.pt", "best.pt"}
    assert checkpoints.load(out / "last.pt")["epoch"] == 1


def rising_scores(original):
    """``evaluate_network`` with a mIoU that rises, so that each epoch writes best.pt."""
    count = 0

    def evaluate(*args):
        nonlocal count
        count += 1
        scores = original(*args)
        object.__setattr__(scores, "miou", count / 100)
        return scores

    return evaluate


def disk_full_limit(original, checkpoint, path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        original(checkpoint, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def disk_full_error(original, checkpoint, path):
    path.write_bytes(b"half a checkpoint")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("failure", [disk_full_limit, disk_full_error])
def test_full_disk_keeps_the_last_checkpoint(train, out, monkeypatch, capsys, failure):
    monkeypatch.setattr(loop, "evaluate_network", rising_scores(loop.evaluate_network))
    with monkeypatch.context() as patch:
        call_at(patch, torch, "save", 4, failure)
        assert train("--epochs", 2) == 1
    line = assert_one_error_line(capsys.readouterr().err)
    assert f"Cannot write {out / 'last.pt'}" in line
    assert files_of(out) == {"config.json", "history.jsonl", "last.pt", "best.pt"}
    assert checkpoints.load(out / "last.pt")["epoch"] == 1
    assert train("--epochs", 2, "--resume") == 0


def test_full_disk_under_the_events_is_an_error_in_words(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    record = EpochRecord.now(epoch=1, loss=1.0, lr=0.1, images_per_s=1.0, device=torch.device("cpu"), scores=None)
    with Board(tmp_path, 0) as board:
        monkeypatch.setattr(board._writer, "add_scalar", full)
        with pytest.raises(SinkError, match=r"No space left on device.*--resume"):
            board.add(record)


def test_nan_loss_stops_with_epoch_step_and_images_named(train, out, monkeypatch, capsys, tiny_dataset):
    def broken(original, *args):
        return original(*args) * float("nan")

    # Two kinds of logits a step, four steps an epoch: the main ones of the third step of the second epoch.
    call_at(monkeypatch, losses, "logits_at", 2 * (4 + 2) + 1, broken)
    assert train("--epochs", 2) == 1
    line = assert_one_error_line(capsys.readouterr().err)
    assert "epoch 2, step 3" in line
    [batch] = steps_of_epoch(8, 2, 1, seed=0, epoch=1)[2]
    first, second = (tiny_dataset.parent / f"train/images/{index}.png" for index in batch)
    assert f"step 3, on {first}, {second}. Mend" in line
    assert "lower --lr (now 0.001)" in line
    assert checkpoints.load(out / "last.pt")["epoch"] == 1


def test_broken_gradient_in_the_last_step_is_never_saved(train, out, monkeypatch, capsys):
    def broken(original, parameters, limit):
        parameters = list(parameters)
        parameters[0].grad[:] = float("inf")
        return original(parameters, limit)

    call_at(monkeypatch, torch.nn.utils, "clip_grad_norm_", 4, broken)
    assert train("--epochs", 1) == 1
    assert "epoch 1, step 4" in assert_one_error_line(capsys.readouterr().err)
    assert not (out / "last.pt").exists()


def test_batch_larger_than_the_split_trains_on_what_there_is(train, out):
    assert train("--epochs", 1, "--batch", 16) == 0
    assert checkpoints.load(out / "last.pt")["state"]["step"] == 1


@pytest.mark.parametrize(
    ("raised", "mend"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "smaller --batch"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. "), "--workers 0"),
    ],
)
def test_what_the_machine_reports_is_put_in_words(raised, mend):
    with pytest.raises(TrainingStoppedError, match=mend), machine_errors():
        raise raised


def test_other_runtime_errors_are_defects_and_stay():
    with pytest.raises(RuntimeError, match="shape"), machine_errors():
        raise RuntimeError("shape mismatch")
