"""One step of training: accumulated batches, fp16 with its scaler, early stop, and the memory it takes."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("tensorboard", reason="needs the extra 'train'")

from edgeseg.dataset import DataSet  # noqa: E402
from edgeseg.metrics import Scores  # noqa: E402
from edgeseg_train import loop  # noqa: E402
from edgeseg_train.batches import steps_of_epoch  # noqa: E402
from edgeseg_train.config import TrainConfig  # noqa: E402
from edgeseg_train.errors import TrainingDivergedError  # noqa: E402
from edgeseg_train.loop import Trainer  # noqa: E402
from edgeseg_train.models import NETWORKS, Network  # noqa: E402


class Plain(torch.nn.Module):
    """Two convolutions without normalisation: an image's result depends on no other image."""

    stride = 1

    def __init__(self, num_classes):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(4, num_classes, 1)
        )

    def forward(self, x):
        return self.layers(x)


@pytest.fixture
def trainer(train, tiny_dataset, tmp_path, monkeypatch):
    """``trainer(**fields) -> Trainer`` of a network without normalisation on the tiny data set."""
    monkeypatch.setitem(NETWORKS, "plain", Network(Plain, "", ""))

    def make(resume=False, **fields):
        values = {"model": "plain", "imgsz": (64, 96), "batch": 4, "workers": 0, "device": "cpu", "amp": "off"}
        values["loss"] = "weighted-ce"
        config = TrainConfig(data=str(tiny_dataset), out=str(tmp_path / "run"), **{**values, **fields})
        return Trainer(config, DataSet.from_yaml(tiny_dataset), resume=resume)

    return make


def gradient_of(trainer, step, batches):
    """The gradient of one step before it is clipped, and the loss."""
    trainer.criterion.step = 1
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.utils, "clip_grad_norm_", lambda parameters, limit: seen.append(
            [p.grad.clone() for p in parameters]) or torch.tensor(1.0))  # fmt: skip
        loss = trainer.train_step(step, iter(batches))
    return seen[0], loss


def test_accumulated_batches_come_to_one_large_batch(trainer):
    """Though they have different numbers of labelled pixels, and one has none."""
    images = torch.randint(256, (6, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(3, (6, 64, 96), generator=torch.Generator().manual_seed(1))
    labels[0, :50] = labels[1] = labels[4:] = 255
    whole, loss = gradient_of(trainer(), [[0, 1, 2, 3, 4, 5]], [(images, labels)])
    parts, parts_loss = gradient_of(
        trainer(), [[0, 1], [2, 3], [4, 5]], [(images[i : i + 2], labels[i : i + 2]) for i in (0, 2, 4)]
    )
    assert parts_loss == pytest.approx(loss, rel=1e-5)
    whole, parts = (torch.cat([g.flatten() for g in gradients]) for gradients in (whole, parts))
    assert (whole - parts).norm() < 1e-3 * whole.norm()


def test_a_step_without_a_label_changes_nothing_but_the_decay(trainer):
    images, labels = torch.zeros(4, 3, 64, 96, dtype=torch.uint8), torch.full((4, 64, 96), 255)
    gradient, loss = gradient_of(trainer(), [[0, 1, 2, 3]], [(images, labels)])
    assert loss == 0
    assert all(g.abs().max() == 0 for g in gradient)


def test_every_image_once_and_the_rest_in_the_last_step():
    steps = steps_of_epoch(23, 4, 2, seed=0, epoch=3)
    assert [[len(batch) for batch in step] for step in steps] == [[4, 4], [4, 4], [4]]
    images = [i for step in steps for batch in step for i in batch]
    assert len(set(images)) == 20
    assert set(images) <= set(range(23))
    assert steps_of_epoch(3, 4, 2, seed=0, epoch=3)[0][0] != [0, 1, 2, 3]
    assert [len(b) for b in steps_of_epoch(3, 4, 2, seed=0, epoch=3)[0]] == [3]


def test_the_schedule_counts_steps_not_batches(trainer):
    run = trainer(accumulate=2, epochs=3)
    rates = []
    for _ in range(3):
        rates.append(run.optimizer.param_groups[0]["lr"])
        run._train_epoch()
    assert run.step == 3
    assert rates == pytest.approx([0.001, 0.001, 0.0005])
    assert run.optimizer.param_groups[0]["lr"] == 0


def infinite_gradient_at(monkeypatch, steps):
    """Have the scaler see an infinite gradient in these steps, as fp16 gives one where the scale is too large."""
    original, count = torch.amp.GradScaler.unscale_, 0

    def unscale(self, optimizer):
        nonlocal count
        count += 1
        if count in steps:
            optimizer.param_groups[0]["params"][0].grad[:] = float("inf")
        return original(self, optimizer)

    monkeypatch.setattr(torch.amp.GradScaler, "unscale_", unscale)


def test_fp16_leaves_a_step_out_and_goes_on(trainer, monkeypatch):
    infinite_gradient_at(monkeypatch, {2})
    run = trainer(amp="fp16")
    before = run.scaler.get_scale()
    batches = loop.load_batches(run.split, [[0, 1, 2, 3]] * 3, 0, False)
    weights = []
    for _ in range(3):
        run.train_step([[0, 1, 2, 3]], batches)
        weights.append([p.clone() for p in run.network.parameters()])
    assert run.scaler.get_scale() == before / 2
    assert all(torch.equal(a, b) for a, b in zip(weights[0], weights[1]))
    assert not all(torch.equal(a, b) for a, b in zip(weights[1], weights[2]))
    assert run.step == 3


def test_fp16_gives_up_where_no_scale_is_small_enough(trainer, monkeypatch, tiny_dataset):
    infinite_gradient_at(monkeypatch, range(100))
    run = trainer(amp="fp16")
    batches = loop.load_batches(run.split, [[3, 1, 2, 0]] * 100, 0, False)
    for _ in range(15):  # from 2**16 to 2
        run.train_step([[3, 1, 2, 0]], batches)
    with pytest.raises(TrainingDivergedError, match=rf"on {tiny_dataset.parent}/train/images/3.png, .*1.png"):
        run.train_step([[3, 1, 2, 0]], batches)


def test_resume_repeats_accumulation_and_the_scaler(trainer, monkeypatch, tmp_path):
    infinite_gradient_at(monkeypatch, {1, 5})
    fields = {"amp": "fp16", "batch": 2, "accumulate": 3, "epochs": 4, "eval_every": 4}
    straight = trainer(**fields)
    straight.run()
    (tmp_path / "run" / "last.pt").unlink()

    infinite_gradient_at(monkeypatch, {1, 5})
    first = trainer(**fields)
    epochs = iter(range(2))
    train_epoch = first._train_epoch
    monkeypatch.setattr(first, "_train_epoch", lambda: (next(epochs), train_epoch())[1])
    with pytest.raises(StopIteration):
        first.run()
    second = trainer(resume=True, **fields)
    assert (second.epoch, second.step) == (2, 4)
    second.run()
    assert second.scaler.state_dict() == straight.scaler.state_dict()
    assert second.scaler.get_scale() == 2.0**14
    for name, weight in straight.average.state_dict().items():
        assert torch.equal(weight, second.average.state_dict()[name])


def scores_with(miou):
    return Scores(miou=miou, iou={}, dice=0, dice_by_class={}, pixel_accuracy=0, pixels=1)


def test_early_stop_counts_on_after_a_resume_and_says_that_it_is_finished(train, monkeypatch, capsys, tmp_path):
    mious = iter([0.2, 0.3, 0.3, 0.1, 0.25, 0.9])
    monkeypatch.setattr(loop, "evaluate_network", lambda *_: scores_with(next(mious)))
    flags = ("--epochs", 20, "--eval-every", 1, "--early-stop", 3, "--batch", 8)
    with monkeypatch.context() as patch:
        epochs = iter(range(4))
        train_epoch = Trainer._train_epoch

        def interrupted(self):
            if next(epochs) == 3:
                raise KeyboardInterrupt
            return train_epoch(self)

        patch.setattr(Trainer, "_train_epoch", interrupted)
        assert train(*flags) == 130
    capsys.readouterr()
    assert train(*flags, "--resume") == 0
    stdout = capsys.readouterr().out
    assert "resumed after epoch 3 of 20\n" in stdout
    assert "ended early, after epoch 5: 3 evaluations without a better mIoU" in stdout
    before = (tmp_path / "run" / "last.pt").read_bytes()
    assert train(*flags, "--resume") == 0
    assert "resumed after epoch 5 of 20, finished\n" in capsys.readouterr().out
    assert (tmp_path / "run" / "last.pt").read_bytes() == before


def test_memory_does_not_grow_with_the_steps(trainer):
    def resident_kib():
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

    run = trainer(batch=8, epochs=50)
    for _ in range(5):
        run._train_epoch()
    before = resident_kib()
    for _ in range(30):
        run._train_epoch()
    # A step holds more than 1 MiB of feature maps: what stayed of each would show.
    assert resident_kib() - before < 8 * 1024
