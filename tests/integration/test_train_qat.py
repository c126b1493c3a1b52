"""`edgeseg train --qat`: INT8's rounding in the forward pass, and plain weights in the checkpoint."""

from __future__ import annotations

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("tensorboard", reason="needs the extra 'train'")

from torch import nn  # noqa: E402

from edgeseg_train import checkpoint as checkpoints  # noqa: E402
from edgeseg_train import loop  # noqa: E402
from edgeseg_train.quantize import QuantizedConv2d, simulate_int8, without_limits  # noqa: E402
from edgeseg_train.recipes import config_from_values  # noqa: E402


def conv_with(weights, limit):
    """A 1x1 convolution of one input channel, in simulated INT8."""
    conv = nn.Conv2d(1, len(weights), 1, bias=False)
    conv.weight.data = torch.tensor(weights).view(-1, 1, 1, 1)
    simulate_int8(nn.Sequential(conv))
    conv.input_limit.fill_(limit)
    return conv.eval()


def test_input_and_weights_are_rounded_to_the_codes_of_a_symmetric_8_bit_integer():
    x = torch.linspace(-1.5, 1.5, 301).view(1, 1, 1, -1)
    y = conv_with([0.5, -2.0], limit=1.27)(x)
    codes = np.clip(np.rint(np.float32(x.flatten().numpy()) / np.float32(0.01)), -127, 127)
    # Each channel has its own scale, so its one weight is exactly its largest code.
    np.testing.assert_allclose(y[0, 0, 0].detach().numpy(), 0.5 * 0.01 * codes, atol=1e-6)
    np.testing.assert_allclose(y[0, 1, 0].detach().numpy(), -2.0 * 0.01 * codes, atol=1e-6)


def test_gradients_pass_within_the_codes_and_stop_beyond_them():
    x = torch.tensor([0.3, 5.0]).view(1, 1, 1, 2).requires_grad_()
    conv_with([1.0], limit=1.0)(x).sum().backward()
    torch.testing.assert_close(x.grad.flatten(), torch.tensor([1.0, 0.0]))


def test_the_limit_follows_the_input_in_training_alone():
    conv = conv_with([1.0], limit=0.0)
    conv.train()(torch.full((1, 1, 2, 2), -3.0))
    assert conv.input_limit.item() == 3.0
    conv(torch.full((1, 1, 2, 2), 13.0))
    assert conv.input_limit.item() == pytest.approx(3.1)
    conv.eval()(torch.full((1, 1, 2, 2), 1000.0))
    assert conv.input_limit.item() == pytest.approx(3.1)


def test_normalisation_keeps_its_statistics_whoever_asks_for_training():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    plain = copy.deepcopy(network.state_dict())
    simulate_int8(network)
    network.train()(torch.randn(2, 3, 5, 5))
    assert network[0].training
    assert not network[1].training
    state = without_limits(network.state_dict())
    assert state.keys() == plain.keys()
    assert all(torch.equal(value, plain[name]) for name, value in state.items())


def test_a_run_writes_weights_that_fit_the_plain_network(train, narrow, tmp_path):
    assert train("--qat", "--from", narrow, "--ema-decay", 0) == 0
    before, saved = checkpoints.load(narrow), checkpoints.load(tmp_path / "run/best.pt")
    assert saved["config"]["qat"] is True
    assert saved["weights"].keys() == before["weights"].keys()
    network = checkpoints.network_from_checkpoint(saved)
    assert not torch.equal(network.head[2].weight, before["weights"]["head.2.weight"])
    statistics = [name for name in before["weights"] if "running" in name]
    assert statistics
    assert all(torch.equal(saved["weights"][name], before["weights"][name]) for name in statistics)


def test_the_network_is_scored_with_the_rounding(train, narrow, monkeypatch):
    seen = []

    def scored(network, *_):
        seen.append([m.input_limit.item() for m in network.modules() if isinstance(m, QuantizedConv2d)])
        return original(network, *_)

    original = loop.evaluate_network
    monkeypatch.setattr(loop, "evaluate_network", scored)
    assert train("--qat", "--from", narrow, "--epochs", 1) == 0
    assert len(seen[0]) > 20
    assert min(seen[0]) > 0


def test_resume_is_bit_equal(train, narrow, tmp_path, monkeypatch):
    flags = ("--qat", "--from", narrow, "--lr", 1e-3)
    assert train(*flags, out=tmp_path / "straight") == 0
    original = loop.Trainer._train_epoch

    def interrupted(trainer):
        if trainer.epoch == 1:
            raise KeyboardInterrupt
        return original(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "_train_epoch", interrupted)
        assert train(*flags) == 130
    assert train(*flags, "--resume") == 0
    a, b = (torch.load(tmp_path / run / "last.pt", weights_only=True) for run in ("straight", "run"))
    for part in ("network", "average"):
        assert any(name.endswith("input_limit") for name in a["state"][part])
        for name, value in a["state"][part].items():
            assert torch.equal(value, b["state"][part][name]), name


@pytest.mark.parametrize("source", [[], ["--from", "imagenet"]])
def test_it_needs_a_trained_network(train, source, tmp_path, capsys):
    assert train("--qat", *source) == 2
    assert "add --from best.pt" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_alone_it_means_the_short_schedule_and_other_values_win(narrow, tmp_path):
    given = {"data": "data.yaml", "out": str(tmp_path), "init_from": str(narrow), "qat": True}
    config = config_from_values(given)
    assert (config.model, config.recipe, config.epochs, config.lr) == ("ddrnet-c4", "qat", 15, 1e-4)
    assert config_from_values({**given, "lr": 1e-3}).lr == 1e-3
    assert config_from_values({**given, "recipe": "finetune"}).qat
