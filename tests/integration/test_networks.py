"""Every network beside the plain DDRNets: its published size, its shapes, its gradients, and its export.

Parameters and multiply-adds are counted on the meta device, where nothing is computed.
"""

from __future__ import annotations

from functools import partial
from urllib.error import URLError

import numpy as np
import pytest

from edgeseg import cli, load
from edgeseg.errors import UsageError
from edgeseg.io.street import Street
from edgeseg.segmenter import Segmenter

torch = pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("torchvision", reason="needs the extra 'train'")

from edgeseg_train import losses  # noqa: E402
from edgeseg_train.backend import TorchBackend, card_for_network  # noqa: E402
from edgeseg_train.models import NETWORKS, Network, blocks, build, encoders, fcn, pidnet, segnet, unet  # noqa: E402
from edgeseg_train.models.outputs import TrainingOutputs  # noqa: E402
from edgeseg_train.models.size import size_of  # noqa: E402

OTHERS = [name for name in NETWORKS if name not in ("ddrnet-c16", "ddrnet-c32", "ddrnet-c64")]
STRIDES = {"unet": 1, "segnet": 1, "deeplabv3plus-resnet18": 4, "ddrnet-c16-s4": 4, "ddrnet-c32-s4": 4}
AUXILIARY = {"fast-scnn": 1, "pp-liteseg-t": 2, "pidnet-s": 1, "ddrnet-c16-s4": 1, "ddrnet-c32-s4": 1}
BOUNDARY = {"pidnet-s"}
CAMVID = (11, (360, 480))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def seeded(name, classes=4):
    """A network whose normalisations hold what training could have left: 0 and 1 would hide a wrong one."""
    torch.manual_seed(0)
    network = build(name, classes)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.7, 1.3)
            torch.nn.init.normal_(module.bias, 0, 0.2)
    return network


# PIDNet-S 7.6 M and 47.6 G as published; Fast-SCNN 1.14 M; PP-LiteSeg-T 8.03 M; LR-ASPP on MobileNetV3-Large 3.22 M;
# each with its multiply-adds at 1024x2048 and 360x480, from the tables of layers in the papers.
@pytest.mark.parametrize(
    ("name", "millions", "full", "camvid"),
    [
        ("pidnet-s", 7.6, 47.6, 3.95),
        ("fast-scnn", 1.14, 6.71, 0.56),
        ("pp-liteseg-t", 8.03, 45.7, 3.85),
        ("lraspp-mobilenetv3", 3.22, 15.8, 1.32),
    ],
)
def test_size_is_that_of_the_paper(name, millions, full, camvid):
    size = size_of(name, 19, (1024, 2048))
    assert size.parameters / 1e6 == pytest.approx(millions, rel=0.01)
    assert size.giga_macs == pytest.approx(full, rel=0.01)
    assert size_of(name, *CAMVID).giga_macs == pytest.approx(camvid, rel=0.01)


def test_segnet_of_full_width_has_the_published_parameters(monkeypatch):
    monkeypatch.setitem(NETWORKS, "full", Network(partial(segnet.SegNet, width=64), "", ""))
    assert size_of("full", *CAMVID).parameters / 1e6 == pytest.approx(29.5, rel=0.01)


# No paper tabulates these; the numbers are those counted here first, so that a change does not go unseen.
@pytest.mark.parametrize(
    ("name", "millions", "giga_macs"),
    [
        ("ddrnet-c16-s4", 1.434, 0.825),
        ("ddrnet-c32-s4", 5.716, 3.259),
        ("fpn-resnet18", 11.93, 7.38),
        ("fpn-mobilenetv3", 3.76, 1.73),
        ("fpn-regnetx400mf", 5.82, 2.46),
        ("fpn-regnety400mf", 4.64, 2.41),
        ("fcn-resnet18", 11.19, 6.38),
        ("unet", 7.24, 30.77),
        ("segnet", 7.37, 27.03),
        ("deeplabv3plus-resnet18", 12.34, 12.91),
    ],
)
def test_size_stays(name, millions, giga_macs):
    size = size_of(name, *CAMVID)
    assert size.parameters / 1e6 == pytest.approx(millions, rel=0.005)
    assert size.giga_macs == pytest.approx(giga_macs, rel=0.005)


@pytest.mark.parametrize("name", OTHERS)
def test_output_is_at_its_stride_for_any_size(name):
    with torch.device("meta"):
        network = build(name, 11).eval()
    assert network.stride == STRIDES.get(name, 8)
    for height, width in [(64, 64), (65, 127), (90, 122), (360, 480)]:
        logits = network(torch.zeros(2, 3, height, width, device="meta"))
        assert logits.shape == (2, 11, -(-height // network.stride), -(-width // network.stride))


@pytest.mark.parametrize("name", OTHERS)
def test_training_reaches_every_parameter(name):
    network = seeded(name).train()
    outputs = network(torch.randn(3, 3, 64, 96))
    outputs = outputs if isinstance(outputs, TrainingOutputs) else TrainingOutputs(outputs)
    assert len(outputs.auxiliary) == AUXILIARY.get(name, 0)
    stride = STRIDES.get(name, 8)
    assert outputs.logits.shape == (3, 4, 64 // stride, 96 // stride)
    assert {output.shape[:2] for output in outputs.auxiliary} <= {(3, 4)}
    heads = [outputs.logits, *outputs.auxiliary]
    if name in BOUNDARY:
        assert outputs.boundary.shape == (3, 1, 8, 12)
        heads.append(outputs.boundary)
    sum((output * torch.randn_like(output)).sum() for output in heads).backward()
    missed = [key for key, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert missed == []


@pytest.mark.parametrize("name", OTHERS)
def test_logits_do_not_depend_on_the_rest_of_the_batch(name):
    network = seeded(name).eval()
    images = torch.randn(2, 3, 65, 97)
    with torch.inference_mode():
        both, alone = network(images), network(images[1:])
    assert both.isfinite().all()
    torch.testing.assert_close(both[1:], alone, rtol=1e-3, atol=1e-4 * float(both.abs().max()))


ODD = ["pidnet-s", "ddrnet-c16-s4", "fast-scnn", "pp-liteseg-t", "fpn-regnetx400mf", "unet", "segnet"]


@pytest.mark.parametrize(
    ("name", "size_hw"), [*((name, (64, 96)) for name in OTHERS), *((name, (65, 99)) for name in ODD)]
)
def test_exported_network_gives_the_logits_of_torch(name, size_hw, tmp_path):
    pytest.importorskip("onnx", reason="needs the extra 'export'")
    pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
    from edgeseg_export import parity, to_onnx

    card = card_for_network(
        classes=("road", "sky", "car", "person"),
        palette=[(i, 50, 9) for i in range(4)],
        ignore_id=255,
        imgsz=size_hw,
    ).replace(name=name)
    network = seeded(name)
    path = tmp_path / "model.onnx"
    model = to_onnx.graph_from_network(network, card)
    to_onnx.write_model(model, path)
    kept = [m for key, m in network.named_modules() if isinstance(m, torch.nn.Conv2d) and not key.startswith("aux_")]
    # One more than the network's own brings the pixels to its mean and deviation.
    assert sum(node.op_type == "Conv" for node in model.graph.node) == len(kept) + 1
    frame, _ = Street(size_hw=size_hw, seed=5).render(3)
    with (
        Segmenter(TorchBackend(network, card, device="cpu"), card) as reference,
        load(path, "onnxruntime", threads=1) as exported,
    ):
        result = parity.compare(reference, {"onnxruntime": exported}, [frame])[0]
        scale = np.abs(reference.backend.infer({"image": frame[None]})["logits"]).max()
    assert result.max_difference <= 1e-4 * scale
    assert result.agreement > 0.998


@pytest.mark.parametrize(("side", "bins"), [(12, 6), (12, 3), (8, 1), (30, 2)])
def test_bins_are_those_of_adaptive_pooling_where_they_divide(side, bins):
    x = torch.randn(1, 2, side, side)
    expected = torch.nn.functional.adaptive_avg_pool2d(x, bins)
    torch.testing.assert_close(blocks.average_bins(x, bins), expected)


@pytest.mark.parametrize(("height", "width", "bins"), [(11, 15, 6), (2, 3, 6), (1, 1, 2), (7, 64, 3)])
def test_bins_cover_the_whole_map(height, width, bins):
    x = torch.randn(1, 1, height, width, requires_grad=True)
    pooled = blocks.average_bins(x, bins)
    assert pooled.shape == (1, 1, min(bins, height), min(bins, width))
    pooled.sum().backward()
    assert (x.grad > 0).all()


def test_segnet_puts_values_back_where_they_were_found():
    x = torch.randn(2, 3, 6, 8)
    pooled, indices = torch.nn.functional.max_pool2d(x, 2, return_indices=True)
    winner = x == segnet._doubled(pooled, x)
    expected = torch.nn.functional.max_unpool2d(pooled, indices, 2)
    assert torch.equal(segnet._doubled(pooled, winner) * winner, expected)


class Stub(torch.nn.Module):
    """A classifier of single pixels that gives its logits again as auxiliary ones, or alone where ``heads`` is 0."""

    def __init__(self, classes, heads):
        super().__init__()
        self.conv, self.heads = torch.nn.Conv2d(3, classes, 1), heads

    def forward(self, x):
        logits = self.conv(x)
        return TrainingOutputs(logits, (logits,) * self.heads) if self.heads else logits


@pytest.mark.parametrize("heads", [0, 1, 3])
def test_a_step_takes_any_number_of_auxiliary_logits(heads, tiny_dataset, tmp_path, monkeypatch):
    from edgeseg.dataset import DataSet
    from edgeseg_train.config import TrainConfig
    from edgeseg_train.loop import Trainer

    monkeypatch.setitem(NETWORKS, "stub", Network(partial(Stub, heads=heads), "", ""))
    config = TrainConfig(
        data=str(tiny_dataset), model="stub", out=str(tmp_path), imgsz=(64, 96), device="cpu", amp="off"
    )
    trainer = Trainer(config, DataSet.from_yaml(tiny_dataset))
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    labels = torch.randint(0, 3, (2, 64, 96))
    with torch.no_grad():
        logits = trainer.network.conv((images - trainer.mean) / trainer.std)
        torch.manual_seed(1)
        expected = trainer.criterion(logits, labels) * (1 + 0.4 * heads)
    torch.manual_seed(1)
    assert trainer.train_step([[0, 1]], iter([(images, labels)])) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("expression", ["ohem", "weighted-ce + 0.5*lovasz"])
def test_pidnet_learns_classes_and_boundaries(expression):
    torch.manual_seed(0)
    network = pidnet.PIDNet(3, width=8, head_width=16, pyramid_width=8).train()
    labels = torch.randint(0, 3, (4, 2, 2)).repeat_interleave(32, 1).repeat_interleave(32, 2)
    images = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1) * 4.0 - 2
    criterion = losses.build(expression, 255, labels.flatten().bincount(), aux_weight=0.4)
    optimizer = torch.optim.AdamW(network.parameters(), 5e-3)
    for _ in range(30):
        outputs = network(images)
        optimizer.zero_grad()
        criterion(outputs, labels).backward()
        optimizer.step()
    classes = losses.logits_at(outputs.logits, (64, 64), slice(None), slice(None)).argmax(1)
    assert (classes == labels).float().mean() > 0.95
    seen = losses.logits_at(outputs.boundary, (64, 64), slice(None), slice(None))[:, 0] > 0
    truth = losses.boundary_from_labels(labels, 255)
    assert seen[truth].float().mean() > 0.9
    assert seen[~truth].float().mean() < 0.3


@pytest.mark.parametrize("name", ["resnet18", "regnet_x_400mf"])
def test_imagenet_weights_reach_the_encoder(name, monkeypatch):
    from torchvision.models import get_model

    published = get_model(name).state_dict()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *a, **k: published)
    network = build({"resnet18": "deeplabv3plus-resnet18"}.get(name, "fpn-regnetx400mf"), 3)
    encoders.load_imagenet(network)
    loaded = [p for p in network.encoder.parameters() if p.ndim == 4]
    assert sum(v.ndim == 4 for v in published.values()) == len(loaded)
    assert all(any(torch.equal(p, v) for v in published.values() if v.shape == p.shape) for p in loaded)


def test_imagenet_weights_out_of_reach_are_named(monkeypatch):
    def offline(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(encoders.WeightsError, match="resnet18 cannot be fetched") as caught:
        encoders.load_imagenet(fcn.FCN(3))
    assert "random weights" in caught.value.mend


def test_network_without_imagenet_weights_is_named():
    with torch.device("meta"), pytest.raises(UsageError, match="no ImageNet weights for UNet"):
        encoders.load_imagenet(unet.UNet(3))


def test_list_of_models(capsys, monkeypatch):
    for name in OTHERS[1:]:
        monkeypatch.delitem(NETWORKS, name)
    assert cli.main(["train", "--list-models"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert "480x360" in head
    assert [line.split()[0] for line in lines] == list(NETWORKS)
    assert lines[1].split()[1:5] == ["5.70", "3.04", "arXiv", "2101.06085"]


def test_data_and_out_are_needed_for_training(capsys):
    assert cli.main(["train", "--epochs", "3"]) == 2
    assert "--data, --out" in capsys.readouterr().err
    assert cli.main(["train", "--data", "data.yaml"]) == 2
    assert "required: --out" in capsys.readouterr().err


@pytest.mark.parametrize("name", list(NETWORKS))
def test_normalisation_follows_the_weights_within_hundreds_of_steps(name):
    with torch.device("meta"):
        momenta = {m.momentum for m in build(name, 3).modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert momenta == {0.1}
