"""Gradients in bfloat16 with channels last in memory: those of float32, in every kind of convolution."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from torch import nn  # noqa: E402

from edgeseg_train.layout import to_channels_last  # noqa: E402

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("groups", "dilation", "stride"), [(64, 2, 1), (64, 4, 1), (32, 2, 1), (64, 1, 1), (64, 1, 2), (1, 2, 1), (1, 1, 2)]
)
def test_outputs_and_gradients_are_those_of_float32(groups, dilation, stride):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(64, 64, 3, stride, dilation, dilation, groups, bias=False))
    images = torch.randn(4, 64, 23, 30).to(memory_format=torch.channels_last)
    found = {}
    for autocast in (False, True):
        network = to_channels_last(copy.deepcopy(plain), CPU)
        x = images.clone(memory_format=torch.preserve_format).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = network(x)
        torch.manual_seed(1)
        y.backward(torch.randn(y.shape).to(y.dtype))
        found[autocast] = [y.detach().float(), x.grad, network[0].weight.grad]
    for expected, got in zip(found[False], found[True], strict=True):
        assert (got - expected).abs().max() < 0.02 * expected.abs().max()


def test_a_network_is_the_same_but_for_the_order_of_its_values():
    network = nn.Sequential(nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8), nn.Conv2d(8, 4, 3))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    to_channels_last(network, CPU)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network[1].weight.is_contiguous(memory_format=torch.channels_last)
    assert not network[1].weight.is_contiguous()
