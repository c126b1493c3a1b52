"""The networks, by name.

Each maps RGB float images [N, 3, H, W] to class logits at its own stride, its attribute ``stride``; while training
it may give ``TrainingOutputs``, the logits and those of further heads. Parts whose names begin with ``aux_`` make
only those.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from edgeseg.errors import UsageError, nearest
from edgeseg_train.models.ddrnet import DDRNet
from edgeseg_train.models.deeplab import DeepLabV3Plus
from edgeseg_train.models.fast_scnn import FastSCNN
from edgeseg_train.models.fcn import FCN
from edgeseg_train.models.fpn import FPN
from edgeseg_train.models.lraspp import LRASPP
from edgeseg_train.models.pidnet import PIDNet
from edgeseg_train.models.pp_liteseg import PPLiteSeg
from edgeseg_train.models.segnet import SegNet
from edgeseg_train.models.unet import UNet


@dataclass(frozen=True)
class Network:
    """A network that can be trained.

    Attributes:
        builder: makes it for a number of classes.
        paper: where it was published.
        note: what it is, in a few words.
    """

    builder: Callable[[int], nn.Module]
    paper: str
    note: str


NETWORKS: dict[str, Network] = {
    "ddrnet-c16": Network(
        partial(DDRNet, width=16, head_width=32, pyramid_width=64), "arXiv 2101.06085", "half of DDRNet-23-slim"
    ),
    "ddrnet-c32": Network(partial(DDRNet, width=32, head_width=64), "arXiv 2101.06085", "DDRNet-23-slim"),
    "ddrnet-c64": Network(partial(DDRNet, width=64, head_width=128), "arXiv 2101.06085", "DDRNet-23"),
    "ddrnet-c16-s4": Network(
        partial(DDRNet, width=16, head_width=32, pyramid_width=64, stride=4), "arXiv 2101.06085", "c16, logits at 1/4"
    ),
    "ddrnet-c32-s4": Network(
        partial(DDRNet, width=32, head_width=64, stride=4), "arXiv 2101.06085", "c32, logits at 1/4"
    ),
    "pidnet-s": Network(PIDNet, "arXiv 2206.02066", "three branches, one for boundaries"),
    "fast-scnn": Network(FastSCNN, "arXiv 1902.04502", "smallest in compute; loses most in INT8"),
    "pp-liteseg-t": Network(PPLiteSeg, "arXiv 2204.02681", "on STDC1"),
    "lraspp-mobilenetv3": Network(LRASPP, "arXiv 1905.02244", "on MobileNetV3-Large"),
    "fpn-resnet18": Network(partial(FPN, encoder="resnet18"), "arXiv 1612.03144", "decoder of edgeseg"),
    "fpn-mobilenetv3": Network(partial(FPN, encoder="mobilenet_v3_large"), "arXiv 1612.03144", "decoder of edgeseg"),
    "fpn-regnetx400mf": Network(partial(FPN, encoder="regnet_x_400mf"), "arXiv 1612.03144", "decoder of edgeseg"),
    "fpn-regnety400mf": Network(partial(FPN, encoder="regnet_y_400mf"), "arXiv 1612.03144", "decoder of edgeseg"),
    "fcn-resnet18": Network(FCN, "arXiv 1411.4038", "FCN-8s on ResNet-18"),
    "unet": Network(UNet, "arXiv 1505.04597", "half width"),
    "segnet": Network(SegNet, "arXiv 1511.00561", "half width"),
    "deeplabv3plus-resnet18": Network(DeepLabV3Plus, "arXiv 1802.02611", "stride 16, separable"),
}


def build(name: str, num_classes: int) -> nn.Module:
    """A freshly initialised network.

    Raises:
        UsageError: no network has that name; suggests the nearest.
    """
    if name not in NETWORKS:
        raise UsageError(f"There is no network '{name}'", nearest(name, NETWORKS))
    return NETWORKS[name].builder(num_classes)
