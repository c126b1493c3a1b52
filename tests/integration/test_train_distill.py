"""Learning from a larger network besides the masks."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("tensorboard", reason="needs the extra 'train'")

from edgeseg.dataset import DataSet  # noqa: E402
from edgeseg.errors import DataError, ModelError, UsageError  # noqa: E402
from edgeseg_train import checkpoint as checkpoints  # noqa: E402
from edgeseg_train import models  # noqa: E402
from edgeseg_train.config import TrainConfig  # noqa: E402
from edgeseg_train.deploy import IMAGENET_MEAN, IMAGENET_STD  # noqa: E402
from edgeseg_train.distill import TEMPERATURE, Teacher, distillation_loss  # noqa: E402
from edgeseg_train.loop import Trainer  # noqa: E402


@pytest.fixture
def save_teacher(train, tmp_path):
    """Save a checkpoint of random weights: ``save_teacher(seed, **facts) -> path``."""

    def save(seed=0, classes=("red", "green", "blue"), mean=IMAGENET_MEAN):
        path = tmp_path / "teacher.pt"
        torch.manual_seed(seed)
        network = models.build("ddrnet-c4", len(classes))
        checkpoints.save(
            {"model": "ddrnet-c4", "weights": network.state_dict(), "classes": list(classes),
             "mean": list(mean), "std": list(IMAGENET_STD)},
            path,
        )  # fmt: skip
        return path

    return save


def config_for(tiny_dataset, out, **fields):
    values = {"model": "ddrnet-c4", "imgsz": (64, 96), "batch": 4, "workers": 0, "device": "cpu", "amp": "off"}
    return TrainConfig(data=str(tiny_dataset), out=str(out), **{**values, **fields})


def test_loss_is_zero_for_the_teachers_own_logits_and_that_of_a_plain_loop_otherwise():
    generator = torch.Generator().manual_seed(0)
    teacher, student = (torch.randn(2, 4, 3, 5, generator=generator) for _ in range(2))
    labelled = torch.rand(2, 6, 10, generator=generator) > 0.3
    assert float(distillation_loss(teacher, teacher, labelled)) == pytest.approx(0, abs=1e-6)

    at_logits = torch.nn.functional.interpolate(labelled[:, None].float(), (3, 5), mode="nearest-exact")[:, 0] > 0
    divergences = []
    for n, y, x in at_logits.nonzero().tolist():
        p, q = ((logits[n, :, y, x] / TEMPERATURE).softmax(0) for logits in (teacher, student))
        divergences.append(float((p * (p / q).log()).sum()))
    expected = TEMPERATURE**2 * sum(divergences) / len(divergences)
    assert float(distillation_loss(student, teacher, labelled)) == pytest.approx(expected, rel=1e-4)
    assert float(distillation_loss(student, teacher, torch.zeros_like(labelled))) == 0


@pytest.mark.parametrize("teacher_hw", [(3, 5), (6, 10), (12, 20)])
def test_strides_may_differ(teacher_hw):
    """A class that the teacher sees everywhere is taught everywhere, whichever of the two is finer."""
    teacher = torch.zeros(1, 3, *teacher_hw)
    teacher[:, 1] = 5
    student = torch.zeros(1, 3, 6, 10, requires_grad=True)
    distillation_loss(student, teacher, torch.ones(1, 48, 80, dtype=torch.bool)).backward()
    assert (student.grad[:, 1] < 0).all()
    assert (student.grad[:, [0, 2]] > 0).all()


def test_a_student_comes_closer_to_its_teacher(tiny_dataset, save_teacher, tmp_path):
    """With a mask that knows nothing: all that is learnt comes from the teacher."""
    config = config_for(tiny_dataset, tmp_path / "run", teacher=str(save_teacher(5)), distill_weight=10, lr=0.01)
    trainer = Trainer(config, DataSet.from_yaml(tiny_dataset))
    weights = {name: weight.clone() for name, weight in trainer.teacher._network.state_dict().items()}
    trainer.criterion.forward = lambda outputs, labels: outputs.logits.sum() * 0
    losses = [trainer._train_epoch() for _ in range(15)]
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(weight, weights[name]) for name, weight in trainer.teacher._network.state_dict().items())


def test_resume_repeats_it_with_the_same_teacher_alone(tiny_dataset, save_teacher, tmp_path, monkeypatch):
    data, teacher = DataSet.from_yaml(tiny_dataset), save_teacher(5)
    straight, broken = (
        config_for(tiny_dataset, tmp_path / name, teacher=str(teacher), epochs=2, amp="bf16") for name in "ab"
    )
    trainer = Trainer(straight, data)
    trainer.run()
    stopped = Trainer(broken, data)
    epochs = iter(range(1))
    train_epoch = stopped._train_epoch
    monkeypatch.setattr(stopped, "_train_epoch", lambda: (next(epochs), train_epoch())[1])
    with pytest.raises(StopIteration):
        stopped.run()
    resumed = Trainer(broken, data, resume=True)
    resumed.run()
    for name, weight in trainer.average.state_dict().items():
        assert torch.equal(weight, resumed.average.state_dict()[name])

    save_teacher(6)
    with pytest.raises(UsageError, match="is another file than before"):
        Trainer(broken, data, resume=True)


def test_a_teacher_of_other_classes_is_refused(tiny_dataset, save_teacher):
    data, cpu = DataSet.from_yaml(tiny_dataset), torch.device("cpu")
    with pytest.raises(DataError, match=r"Class 1 is 'green' in .*data.yaml and 'blue' in .*teacher.pt"):
        Teacher(str(save_teacher(classes=("red", "blue", "green"))), data, cpu)
    with pytest.raises(DataError, match=r"has 3 classes, .* has 2"):
        Teacher(str(save_teacher(classes=("red", "green"))), data, cpu)
    with pytest.raises(ModelError, match="normalises images in another way"):
        Teacher(str(save_teacher(mean=(0.5, 0.5, 0.5))), data, cpu)


def test_no_teacher_there_is_one_line(train, capsys, tmp_path):
    assert train("--teacher", tmp_path / "none.pt") == 2
    assert "There is no checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
