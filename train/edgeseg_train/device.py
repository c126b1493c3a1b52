"""Where torch computes."""

from __future__ import annotations

import torch

from edgeseg.doctor import Host, probe_cpu
from edgeseg.errors import UsageError


def device_named(name: str) -> torch.device:
    """The device "auto" (CUDA where torch finds it), "cpu", "cuda" or "cuda:N".

    Raises:
        UsageError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"There is no device '{name}'", "give cpu, cuda or cuda:0") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"edgeseg does not run on the device '{name}'", "give cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"There is no CUDA device '{name}' that torch can use", "give --device cpu")
    return device


def name_of(device: torch.device) -> str:
    """What the GPU, or without one the CPU, calls itself."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return next(finding.detail for finding in probe_cpu(Host()) if finding.name == "model")
