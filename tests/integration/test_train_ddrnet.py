"""DDRNet against the published figures, on the meta device where nothing is computed; and the weight average."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from edgeseg_train.models import build  # noqa: E402
from edgeseg_train.optimize import build_average, build_optimizer, learning_rate_factor  # noqa: E402


def on_meta(name, classes):
    with torch.device("meta"):
        return build(name, classes).eval()


def giga_multiply_adds(name, classes, size_hw):
    network = on_meta(name, classes)
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, *size_hw, device="meta"))
    return counter.get_total_flops() / 2e9


@pytest.mark.parametrize(("name", "millions"), [("ddrnet-c16", 1.43), ("ddrnet-c32", 5.70), ("ddrnet-c64", 20.15)])
def test_parameters(name, millions):
    network = on_meta(name, 19)
    count = sum(p.numel() for p in network.parameters()) - sum(p.numel() for p in network.aux_head.parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.005)


def test_multiply_adds():
    assert giga_multiply_adds("ddrnet-c32", 11, (360, 480)) == pytest.approx(3.04, rel=0.005)
    assert giga_multiply_adds("ddrnet-c32", 19, (1024, 2048)) == pytest.approx(36.3, rel=0.005)


@pytest.mark.parametrize("name", ["ddrnet-c16", "ddrnet-c32", "ddrnet-c64"])
@pytest.mark.parametrize("size_hw", [(64, 64), (64, 96), (90, 122), (360, 480), (65, 127)])
def test_output_is_at_stride_8_for_any_size(name, size_hw):
    network = on_meta(name, 11)
    logits = network(torch.zeros(2, 3, *size_hw, device="meta"))
    assert logits.shape == (2, 11, -(-size_hw[0] // 8), -(-size_hw[1] // 8))
    assert network.stride == 8


def test_auxiliary_logits_only_while_training():
    network = on_meta("ddrnet-c16", 5)
    x = torch.zeros(2, 3, 90, 122, device="meta")
    assert isinstance(network(x), torch.Tensor)
    outputs = network.train()(x)
    assert outputs.logits.shape == outputs.auxiliary[0].shape == (2, 5, 12, 16)


def test_odd_sizes_are_computed():
    torch.manual_seed(0)
    network = build("ddrnet-c16", 3).eval()
    with torch.inference_mode():
        logits = network(torch.rand(1, 3, 90, 122))
    assert logits.shape == (1, 3, 12, 16)
    assert logits.isfinite().all()


def small_network():
    return torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.BatchNorm2d(1))


def test_the_average_follows_closely_at_first_and_slowly_later():
    network = small_network()
    average = build_average(network, 0.999)
    weight, averaged = network[0].weight, average.module[0].weight

    def share_after(update):
        """How far one update moves the average towards the weights."""
        average.n_averaged.fill_(update)
        with torch.no_grad():
            averaged.zero_()
            weight.fill_(1.0)
        average.update_parameters(network)
        return averaged.item()

    assert share_after(0) == 1  # the first is a copy: nothing of the random initial weights stays
    assert share_after(1) == pytest.approx(1 - 2 / 11)
    assert share_after(10) == pytest.approx(1 - 11 / 20)
    assert share_after(100_000) == pytest.approx(0.001, rel=1e-3)


def test_the_average_holds_statistics_and_copies_counters():
    network = small_network()
    average = build_average(network, 0.999)
    norm, averaged = network[1], average.module[1]
    for step in range(1, 4):
        norm.running_mean.fill_(float(step))
        norm.num_batches_tracked.fill_(10 * step)
        average.update_parameters(network)
        assert averaged.num_batches_tracked.dtype == torch.int64
        assert int(averaged.num_batches_tracked) == 10 * step
    assert 2 < float(averaged.running_mean) < 3
    assert int(average.n_averaged) == 3


@pytest.mark.parametrize("schedule", ["cosine", "poly"])
@pytest.mark.parametrize(("total", "warmup"), [(1, 0.03), (2, 0.5), (10, 0.0), (10, 1.0), (1000, 0.03)])
def test_the_learning_rate_rises_falls_and_ends_at_zero(schedule, total, warmup):
    rates = [learning_rate_factor(step, total, warmup, schedule) for step in range(total + 1)]
    peak = rates.index(max(rates))
    assert max(rates) == 1
    assert min(rates[:-1]) > 0
    assert rates[-1] == 0
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert learning_rate_factor(total + 5, total, warmup, schedule) == 0


def test_only_kernels_are_decayed():
    network = small_network()
    decayed, others = build_optimizer(network, 0.1, 0.02).param_groups
    assert [p.shape for p in decayed["params"]] == [network[0].weight.shape]
    assert len(others["params"]) == 3
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.02, 0.0)
