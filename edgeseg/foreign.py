"""Models that edgeseg did not export: what the file does not say is asked for, never guessed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Union

from edgeseg.card import COLOR_ORDERS, DTYPES, ModelCard, as_triple
from edgeseg.errors import ModelError, UsageError
from edgeseg.onnx_reader import OnnxInfo, TensorInfo


@dataclass(frozen=True)
class EngineInfo:
    """What an opened engine file says about itself, under the names of ``OnnxInfo``."""

    path: Path
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    producer: str


ModelInfo = Union[OnnxInfo, EngineInfo]


@dataclass(frozen=True)
class ModelFacts:
    """Facts a user gives beside a model file.

    Attributes:
        classes: class names by id, or None.
        mean, std: three values (or one for all) in 0..1, in ``color_order``, or None.
        color_order: "bgr" or "rgb" of the input, or None.
        imgsz: height and width in pixels, or None.
        output: name of the output to decode, or None.
    """

    classes: Sequence[str] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    color_order: str | None = None
    imgsz: tuple[int, int] | None = None
    output: str | None = None

    @property
    def given(self) -> bool:
        """True where any fact is given."""
        return any(value is not None for value in vars(self).values())


def card_for_foreign(info: ModelInfo, facts: ModelFacts) -> ModelCard:
    """A card for a model file without one, from its own input and output and the user's facts.

    Raises:
        ModelError: facts are missing (all are named, with their flags) or contradict the file.
    """
    if len(info.inputs) != 1:
        raise ModelError(f"{info.path} has {len(info.inputs)} inputs", "give a model with one image input")
    image = info.inputs[0]
    layout, file_hw = _layout(image, info)
    output = select_output(info, facts.output)
    uint8 = image.dtype == "uint8"
    missing = [
        flag
        for flag, absent in (
            ("its class names (--classes road,car,...)", facts.classes is None),
            ("its colour order (--color-order rgb or bgr)", facts.color_order is None),
            ("its normalisation (--mean 0.485 0.456 0.406)", facts.mean is None and not uint8),
            ("its normalisation (--std 0.229 0.224 0.225)", facts.std is None and not uint8),
            ("its input size (--imgsz HEIGHT WIDTH)", facts.imgsz is None and None in file_hw),
        )
        if absent
    ]
    if missing:
        raise ModelError(
            f"{info.path} has no model card, and running it needs {'; '.join(missing)}",
            "give these flags as the model was trained, or --card FILE.json",
        )
    assert facts.classes is not None
    assert facts.color_order is not None
    if uint8 and (facts.mean is not None or facts.std is not None):
        raise UsageError(
            f"{info.path} takes uint8 pixels, so --mean and --std would not be used",
            "leave them out: the graph normalises by itself",
        )
    if facts.color_order not in COLOR_ORDERS:
        raise UsageError(f"The colour order '{facts.color_order}' is unknown", "give rgb or bgr")
    mean, std = as_triple(facts.mean or [0.0]), as_triple(facts.std or [1.0])
    if max(*mean, *std) > 1.0:
        raise UsageError("--mean or --std is above 1", "give them for pixels in 0..1: divide by 255")
    size = tuple(given or own for given, own in zip(facts.imgsz or (None, None), file_hw))
    head = _head(output, len(facts.classes), info)
    try:
        return ModelCard(
            classes=tuple(facts.classes), input_size_hw=(int(size[0] or 0), int(size[1] or 0)),
            color_order=facts.color_order, input_dtype=image.dtype, input_layout=layout,
            mean=mean, std=std, head=head, name=info.path.stem,
            provenance={"made_by": info.producer, "card": "from flags"},
        )  # fmt: skip
    except ModelError as error:
        raise UsageError(
            error.problem.replace("The model card", "The card made from the flags", 1),
            "correct --classes, --mean, --std or --imgsz",
        ) from error


def select_output(info: ModelInfo, name: str | None) -> TensorInfo:
    """The output to decode: the named one, or the only one, or ours by its name.

    Raises:
        ModelError: there is no such output, or the choice is open.
    """
    by_name = {o.name: o for o in info.outputs}
    if name is not None:
        if name not in by_name:
            raise ModelError(f"{info.path} has no output '{name}'", f"use one of {', '.join(by_name)}")
        return by_name[name]
    if len(info.outputs) == 1:
        return info.outputs[0]
    own = [by_name[n] for n in ("mask", "logits") if n in by_name]
    if own:
        return own[0]
    raise ModelError(f"{info.path} has the outputs {', '.join(by_name)}", "say which holds the classes: --output NAME")


def _layout(image: TensorInfo, info: ModelInfo) -> tuple[str, tuple[int | None, int | None]]:
    if image.dtype not in DTYPES:
        raise ModelError(f"The input of {info.path} is {image.dtype}", f"give a model with {', '.join(DTYPES)}")
    shape = image.shape
    if len(shape) == 4 and shape[1] == 3 and shape[3] != 3:
        return "nchw", (_static(shape[2]), _static(shape[3]))
    if len(shape) == 4 and shape[3] == 3 and shape[1] != 3:
        return "nhwc", (_static(shape[1]), _static(shape[2]))
    raise ModelError(
        f"The input '{image.name}' of {info.path} has the shape {list(shape)}",
        "give a model whose input is [1, 3, H, W] or [1, H, W, 3]",
    )


def _head(output: TensorInfo, num_classes: int, info: ModelInfo) -> str:
    channels = _static(output.shape[1]) if len(output.shape) == 4 else None
    if output.dtype.startswith(("float", "bfloat")):
        if output.rank_known and len(output.shape) != 4:
            raise ModelError(
                f"The output '{output.name}' of {info.path} has the shape {list(output.shape)}",
                "give a model with logits [1, C, h, w] or class ids [1, H, W]; choose with --output",
            )
        if channels is not None and channels != num_classes:
            raise ModelError(
                f"{info.path} tells {channels} classes apart, --classes names {num_classes}",
                f"give {channels} names, in the order of training",
            )
        return "logits"
    leading = output.shape[:-2]
    one_map = not output.rank_known or (len(output.shape) >= 2 and all(_static(n) in (None, 1) for n in leading))
    if not output.dtype.startswith(("int", "uint", "bool")) or not one_map:
        raise ModelError(
            f"The output '{output.name}' of {info.path} is {output.dtype} {list(output.shape)}",
            "give a model with logits [1, C, h, w] or class ids [1, H, W]; choose with --output",
        )
    return "mask"


def _static(axis: int | str | None) -> int | None:
    return axis if isinstance(axis, int) and axis > 0 else None
