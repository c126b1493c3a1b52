"""Encoders of torchvision, cut into stages, and their ImageNet weights.

ResNet: arXiv 1512.03385; MobileNetV3: 1905.02244; RegNet: 2003.13678. ImageNet top-1 accuracy of the weights that
``load_imagenet`` gets from torchvision: resnet18 69.76, mobilenet_v3_large 75.27, regnet_x_400mf 74.86,
regnet_y_400mf 75.80 %.
"""

from __future__ import annotations

from functools import partial
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from edgeseg.errors import EdgesegError, UsageError


class WeightsError(EdgesegError):
    """Published weights cannot be fetched."""


class Encoder(nn.Module):
    """A torchvision classifier without its classifier, with random weights.

    Args:
        name: ``resnet18``, ``mobilenet_v3_large``, ``regnet_x_400mf`` or ``regnet_y_400mf``.
        dilated: keep stride 16 to the end, and dilate the last stage's convolutions in place of striding
            (ResNet and MobileNet).
    """

    def __init__(self, name: str, *, dilated: bool = False) -> None:
        super().__init__()
        self.name, self.dilated = name, dilated
        cut, self.channels = _CUTS[name]
        self.stages = nn.ModuleList(cut(_classifier(name, dilated)))

    def forward(self, x: Tensor) -> list[Tensor]:
        """[N, 3, H, W] to features at strides 4, 8, 16 and 32, finest first."""
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


def load_imagenet(network: nn.Module) -> None:
    """Give the network's torchvision encoder the newest ImageNet weights that torchvision has for it.

    They are fetched once, into torch's cache; a download that breaks off leaves nothing there.

    Raises:
        UsageError: the network has no encoder of torchvision.
        WeightsError: the weights can be neither fetched nor found in the cache, or the file there is damaged.
    """
    from torchvision.models import get_model

    encoder = getattr(network, "encoder", None)
    if not isinstance(encoder, Encoder):
        raise UsageError(
            f"There are no ImageNet weights for {type(network).__name__}",
            "choose a network on ResNet, MobileNet or RegNet, such as fpn-resnet18",
        )
    model = get_model(encoder.name)
    model.load_state_dict(_published_weights(encoder.name))
    cut, _ = _CUTS[encoder.name]
    encoder.stages.load_state_dict(nn.ModuleList(cut(model)).state_dict())


def _published_weights(name: str) -> dict[str, Tensor]:
    from torchvision.models import get_model_weights

    weights = get_model_weights(name).DEFAULT
    cached = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    try:
        return weights.get_state_dict(check_hash=True, weights_only=True)
    except (OSError, HTTPException, RuntimeError, EOFError, UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:100]
        if cached.exists():
            raise WeightsError(
                f"The ImageNet weights {cached} cannot be read ({reason})", "delete the file: it will be fetched again"
            ) from error
        raise WeightsError(
            f"The ImageNet weights of {name} cannot be fetched ({reason}); nothing of them is kept",
            f"connect once to {urlsplit(weights.url).netloc}, put {cached.name} into {cached.parent}, "
            "or leave --from out for random weights",
        ) from error


def _classifier(name: str, dilated: bool) -> Any:
    from torchvision.models import get_model

    if name == "mobilenet_v3_large":
        # With torchvision's own momentum of 0.01 the statistics lag behind the weights for thousands of steps.
        return get_model(name, dilated=dilated, norm_layer=partial(nn.BatchNorm2d, eps=0.001, momentum=0.1))
    # RegNet's constructor computes with tensors, which the meta device cannot.
    with torch.device("cpu"):
        model = get_model(name)
    if dilated:
        _dilate(model.layer4)
    return model.to(torch.get_default_device())


def _dilate(stage: nn.Module) -> None:
    # torchvision's constructor refuses dilation for the basic blocks of ResNet-18.
    for module in stage.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
            if module.kernel_size == (3, 3):
                module.dilation = module.padding = (2, 2)


def _resnet(model: Any) -> list[nn.Module]:
    stem = nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool)
    return [nn.Sequential(stem, model.layer1), model.layer2, model.layer3, model.layer4]


def _mobilenet(model: Any) -> list[nn.Module]:
    # Each stage ends before the next stride; the last holds the 1x1 convolution to 960 channels too.
    return [model.features[start:end] for start, end in ((0, 4), (4, 7), (7, 13), (13, 17))]


def _regnet(model: Any) -> list[nn.Module]:
    first, *others = model.trunk_output.children()
    return [nn.Sequential(model.stem, first), *others]


_CUTS = {
    "resnet18": (_resnet, (64, 128, 256, 512)),
    "mobilenet_v3_large": (_mobilenet, (24, 40, 112, 960)),
    "regnet_x_400mf": (_regnet, (32, 64, 160, 400)),
    "regnet_y_400mf": (_regnet, (48, 104, 208, 440)),
}
