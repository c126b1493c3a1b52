"""`edgeseg train --from`: which weights are kept, which are not, and how fast each learn."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("tensorboard", reason="needs the extra 'train'")

from edgeseg.errors import UsageError  # noqa: E402
from edgeseg_train import checkpoint as checkpoints  # noqa: E402
from edgeseg_train.initial import load_initial  # noqa: E402
from edgeseg_train.loop import Trainer  # noqa: E402
from edgeseg_train.models import NETWORKS, build  # noqa: E402
from edgeseg_train.models.encoders import Encoder, WeightsError, load_imagenet  # noqa: E402
from edgeseg_train.optimize import build_optimizer  # noqa: E402
from edgeseg_train.recipes import config_from_values  # noqa: E402

BUNDLED = Path(__file__).parents[2] / "train/checkpoints/ddrnet-c32-camvid.pt"

CLASSES = ["road", "sky", "car", "person"]
"""Those of the fixture ``checkpoint_path``."""

CLASSIFIERS = ("head.5", "aux_head.5")


@pytest.fixture
def weights(checkpoint_path):
    return checkpoints.load(checkpoint_path)["weights"]


def started(checkpoint, classes, model="ddrnet-c16"):
    network = build(model, len(classes))
    return network, load_initial(network, model, classes, str(checkpoint))


def test_the_same_classes_keep_every_weight(checkpoint_path, weights):
    network, initial = started(checkpoint_path, CLASSES)
    state = network.state_dict()
    assert all(torch.equal(state[name], value) for name, value in weights.items())
    assert set(initial.kept) == set(weights)
    assert initial.text().splitlines()[1:] == ["re-initialised: nothing"]


def test_other_classes_keep_all_but_the_classifiers_and_in_them_the_classes_of_the_same_name(checkpoint_path, weights):
    torch.manual_seed(1)
    random = {name: value.clone() for name, value in build("ddrnet-c16", 5).state_dict().items()}
    torch.manual_seed(1)
    network, initial = started(checkpoint_path, ["tram", "car", "road", "drone", "rail"])
    for name, value in network.state_dict().items():
        if name.rpartition(".")[0] not in CLASSIFIERS:
            assert torch.equal(value, weights[name]), name
            continue
        assert name not in initial.kept
        assert torch.equal(value[1], weights[name][CLASSES.index("car")])
        assert torch.equal(value[2], weights[name][CLASSES.index("road")])
        assert torch.equal(value[[0, 3, 4]], random[name][[0, 3, 4]])
    kept, new, rows = initial.text().splitlines()
    assert kept == f"from {checkpoint_path}: kept 112 of 114 layers"
    assert new == "re-initialised: head.5, aux_head.5"
    assert rows == "but in head.5, aux_head.5 kept the rows of 2 of 5 classes: car, road; new: tram, drone, rail"


def test_the_same_number_of_other_classes_is_another_list(checkpoint_path, weights):
    """Every shape fits, and yet row 0 must not become another class."""
    network, initial = started(checkpoint_path, ["sky", "road", "car", "tram"])
    assert torch.equal(network.head[5].weight[:2], weights["head.5.weight"][[1, 0]])
    assert not torch.equal(network.head[5].weight[3], weights["head.5.weight"][3])
    assert initial.carried == ["sky", "road", "car"]

    _, initial = started(checkpoint_path, ["a", "b", "c", "d"])
    assert initial.text().splitlines()[1:] == ["re-initialised: head.5, aux_head.5"]


@pytest.mark.parametrize("name", list(NETWORKS))
def test_in_every_network_the_classes_are_the_first_axis_of_the_classifiers(name):
    """What copying rows of classes relies on."""
    with torch.device("meta"):
        three, four = (build(name, count).state_dict() for count in (3, 4))
    dependent = [n for n in three if three[n].shape != four[n].shape]
    assert dependent
    for n in dependent:
        assert three[n].shape == (3, *four[n].shape[1:]), n
        assert four[n].shape[0] == 4, n


@pytest.mark.skipif(not BUNDLED.is_file(), reason="the bundled checkpoint is in the repository alone")
def test_the_bundled_checkpoint_in_half_precision_starts_its_sibling_with_another_head():
    bundled = checkpoints.load(BUNDLED)
    network, initial = started(BUNDLED, bundled["classes"], "ddrnet-c32")
    state = network.state_dict()
    assert all(value.dtype in (torch.float32, torch.int64) for value in state.values())
    assert set(initial.new) == {name for name in state if name.startswith("head.")}
    assert all(torch.equal(state[name], bundled["weights"][name].to(state[name].dtype)) for name in initial.kept)
    assert initial.text().splitlines()[1] == "re-initialised: head"


def test_another_network_is_refused(checkpoint_path):
    with pytest.raises(
        UsageError, match=r"holds a ddrnet-c16, of whose weights too few fit unet \(0% of it\)"
    ) as caught:
        started(checkpoint_path, CLASSES, "unet")
    assert "--model ddrnet-c16" in caught.value.mend


def test_kept_weights_learn_at_their_share_of_the_rate():
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.Conv2d(1, 1, 1))
    optimizer = build_optimizer(network, 0.1, 0.02, kept={"0.weight", "0.bias"}, kept_lr=0.25)
    rates = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    expected = {"0.weight": (0.025, 0.02), "0.bias": (0.025, 0.0), "1.weight": (0.1, 0.02), "1.bias": (0.1, 0.0)}
    assert {name: rates[id(p)] for name, p in network.named_parameters()} == expected


def test_frozen_weights_stay_and_new_ones_learn(train, narrow, tmp_path, tiny_dataset, capsys):
    tiny_dataset.write_text(tiny_dataset.read_text().replace("green", "lime"))
    capsys.readouterr()
    assert train("--epochs", 1, "--from", narrow, "--encoder-lr", 0, "--ema-decay", 0) == 0
    stdout = capsys.readouterr().out
    assert f"from {narrow}: kept" in stdout
    assert "re-initialised: head.5, aux_head.5" in stdout
    assert "2 of 3 classes: red, blue; new: lime" in stdout
    before, last = checkpoints.load(narrow)["weights"], checkpoints.load(tmp_path / "run/last.pt")
    for name, value in checkpoints.network_from_checkpoint(last).named_parameters():
        if name.rpartition(".")[0] in CLASSIFIERS:
            assert not torch.equal(value, before[name]), name
        else:
            assert torch.equal(value, before[name]), name


def test_resume_is_bit_equal_and_does_without_the_file(train, narrow, tmp_path, tiny_dataset, monkeypatch, capsys):
    tiny_dataset.write_text(tiny_dataset.read_text().replace("green", "lime"))
    flags = ("--epochs", 2, "--from", narrow, "--encoder-lr", 0.3)
    straight, out = tmp_path / "straight", tmp_path / "run"
    assert train(*flags, out=straight) == 0

    original = Trainer._train_epoch

    def interrupted(trainer):
        if trainer.epoch == 1:
            raise KeyboardInterrupt
        return original(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_epoch", interrupted)
        assert train(*flags) == 130
    narrow.unlink()
    capsys.readouterr()
    assert train(*flags, "--resume") == 0
    assert "resumed after epoch 1 of 2" in capsys.readouterr().out
    a, b = (torch.load(run / "last.pt", weights_only=True) for run in (straight, out))
    assert a["weights"].keys() == b["weights"].keys()
    assert all(torch.equal(a["weights"][name], b["weights"][name]) for name in a["weights"])
    assert {group["initial_lr"] for group in b["state"]["optimizer"]["param_groups"]} == {1e-3, 3e-4}


class Small(torch.nn.Module):
    """The smallest thing with an encoder of torchvision."""

    def __init__(self):
        super().__init__()
        self.encoder = Encoder("resnet18")


@pytest.fixture
def published(tmp_path, monkeypatch):
    """torchvision's own loader, with weights that lie in a folder in place of its server: their file, and the cache."""
    from torchvision.models import ResNet18_Weights, get_model

    plain, state = tmp_path / "weights", get_model("resnet18").state_dict()
    torch.save(state, plain)
    path = plain.with_name(f"resnet18-{hashlib.sha256(plain.read_bytes()).hexdigest()[:8]}.pth")
    plain.rename(path)
    monkeypatch.setattr(ResNet18_Weights.DEFAULT.value, "url", path.as_uri())
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return path, tmp_path / "torch/hub/checkpoints"


def test_imagenet_weights_are_fetched_once_and_kept(published):
    path, cache = published
    network = build("fcn-resnet18", 3)
    initial = load_initial(network, "fcn-resnet18", ["a", "b", "c"], "imagenet")
    conv1 = torch.load(path, weights_only=True)["conv1.weight"]
    assert torch.equal(network.encoder.stages[0][0][0].weight, conv1)
    assert os.listdir(cache) == [path.name]
    assert {name.partition(".")[0] for name in initial.kept} == {"encoder"}
    assert "encoder" not in {name.partition(".")[0] for name in initial.new}
    first, second = initial.text().splitlines()
    assert first.startswith("from imagenet: kept 40 of ")
    assert second.startswith("re-initialised: ")
    assert "encoder" not in second

    path.unlink()
    load_initial(build("fcn-resnet18", 3), "fcn-resnet18", ["a", "b", "c"], "imagenet")


def test_interrupted_download_leaves_nothing(published):
    path, cache = published
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(WeightsError, match=r"resnet18 cannot be fetched \(invalid hash value.*nothing of them is kept"):
        load_imagenet(Small())
    assert os.listdir(cache) == []


@pytest.mark.parametrize("share", [0, 0.3, 0.99])
def test_damaged_file_in_the_cache_is_named(published, share):
    path, cache = published
    cache.mkdir(parents=True)
    (cache / path.name).write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(WeightsError, match=f"{cache / path.name} cannot be read") as caught:
        load_imagenet(Small())
    assert "delete the file" in caught.value.mend


def test_network_and_size_are_those_of_the_checkpoint_unless_given(checkpoint_path):
    saved = checkpoints.load(checkpoint_path)
    values = {"data": "d", "out": "o", "init_from": str(checkpoint_path), "recipe": "finetune"}
    config = config_from_values(values)
    assert config.model == saved["model"] == "ddrnet-c16"
    assert config.imgsz == tuple(saved["imgsz"]) != (360, 480)
    config = config_from_values(values | {"model": "ddrnet-c16-s4", "imgsz": (360, 480)})
    assert (config.model, config.imgsz) == ("ddrnet-c16-s4", (360, 480))
