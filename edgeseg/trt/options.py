"""What a user decides about a build."""

from __future__ import annotations

from dataclasses import dataclass

from edgeseg.errors import ModelError, UsageError
from edgeseg.onnx_reader import OnnxInfo

Shape = tuple[int, ...]
Profile = tuple[Shape, Shape, Shape]
"""Least, usual and largest shape of an input."""

OPT_LEVEL = 3


@dataclass(frozen=True)
class BuildOptions:
    """How to build.

    Attributes:
        workspace_mb: memory in MiB that a layer may use while it runs.
        opt_level: 0 to 5: how long TensorRT looks for the fastest kernels.
        profile: least, usual and largest shape of the input; for graphs that leave it open.
    """

    workspace_mb: int = 1024
    opt_level: int = OPT_LEVEL
    profile: Profile | None = None


def check_profile(options: BuildOptions, info: OnnxInfo) -> None:
    """Refuse a profile that the model's input cannot have, and a missing one where it needs one.

    Raises:
        UsageError: names the input and its shape.
        ModelError: the model has several inputs.
    """
    if len(info.inputs) != 1:
        raise ModelError(f"{info.path} has {len(info.inputs)} inputs", "give a model with one image input")
    image = info.inputs[0]
    shown = "x".join(str(axis if axis is not None else "?") for axis in image.shape)
    is_open = any(not isinstance(axis, int) for axis in image.shape)
    if options.profile is None:
        if is_open:
            raise UsageError(
                f"The input '{image.name}' of {info.path} leaves its shape open ({shown})",
                "give --profile MIN,OPT,MAX, such as 1x3x256x512,1x3x512x1024,1x3x1024x2048",
            )
        return
    least, usual, largest = options.profile
    fits = len({len(image.shape), *map(len, options.profile)}) == 1 and all(
        low <= mid <= high and (not isinstance(axis, int) or low == mid == high == axis)
        for axis, low, mid, high in zip(image.shape, least, usual, largest)
    )
    if not fits:
        raise UsageError(
            f"{profile_text(options.profile)} does not fit the input '{image.name}' of {info.path} ({shown})",
            "give three shapes of as many axes, none smaller than the one before, and fixed axes as they are",
        )


def profile_text(profile: Profile) -> str:
    """The profile as ``--profile`` takes it: "1x3x256x256,1x3x512x512,1x3x512x1024"."""
    return ",".join("x".join(map(str, shape)) for shape in profile)


def profile_from_text(text: str) -> Profile:
    """The profile that ``--profile`` gives.

    Raises:
        ValueError: it is not three shapes of numbers from 1 on.
    """
    least, usual, largest = (tuple(map(int, shape.lower().split("x"))) for shape in text.split(","))
    if min(*least, *usual, *largest) < 1:
        raise ValueError("an axis is shorter than 1")
    return least, usual, largest
