"""What goes into a network and comes out of it: names, dtypes and shapes, and whether they are what a card says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.card import ModelCard
from edgeseg.errors import BackendError, ModelError


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype and shape of an input or output; None stands for an axis of any length."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]


def network_input_shape(card: ModelCard) -> tuple[int, int, int, int]:
    """[1, H, W, 3] or [1, 3, H, W], as the card's layout says."""
    height, width = card.input_size_hw
    return (1, height, width, 3) if card.input_layout == "nhwc" else (1, 3, height, width)


def check_inputs(specs: Sequence[TensorSpec], card: ModelCard, model: str) -> None:
    """Refuse a model that has not one input, or one that is not what the card says.

    Raises:
        ModelError: the number, the dtype or the shape differs.
    """
    if len(specs) != 1:
        raise ModelError(f"{model} has {len(specs)} inputs", "give a model with one image input")
    check_input(specs[0], card, model)


def check_input(spec: TensorSpec, card: ModelCard, model: str) -> None:
    """Refuse a model whose input is not what the card says.

    Raises:
        ModelError: dtype or shape differ.
    """
    wanted = network_input_shape(card)
    fits = len(spec.shape) == 4 and all(a is None or a == b for a, b in zip(spec.shape, wanted))
    if not fits or spec.dtype != np.dtype(card.input_dtype):
        shape = list(spec.shape)
        raise ModelError(
            f"The input '{spec.name}' of {model} is {spec.dtype} {shape}, "
            f"the card says {card.input_dtype} {list(wanted)}",
            "correct --imgsz, --card or the flags, or export the model again at that size",
        )


def check_logits(shape: Sequence[int | None], card: ModelCard) -> None:
    """Refuse an output that is not the logits of one frame for a card's classes.

    Raises:
        ModelError: the shape is not [1, C, h, w].
    """
    if len(shape) != 4 or shape[0] != 1 or shape[1] != card.num_classes:
        raise ModelError(
            f"The model gave {list(shape)}, logits for {card.num_classes} classes are [1, {card.num_classes}, h, w]",
            "correct --classes, --output or the card",
        )


def check_class_map(dtype: np.dtype[Any], shape: Sequence[int | None]) -> None:
    """Refuse an output that is not the class map of one frame.

    Raises:
        ModelError: it is not integers of the shape [h, w], with axes of one before them or not.
    """
    one_map = len(shape) >= 2 and 0 not in shape and all(n == 1 for n in shape[:-2])
    if not one_map or dtype.kind not in "iub":
        raise ModelError(
            f"The model gave {dtype} {list(shape)}, a class map is integers [1, h, w]",
            "correct --output or the card",
        )


def foreign_class(class_id: int, card: ModelCard) -> ModelError:
    """The error for a class map with an id that is none of the card's."""
    return ModelError(
        f"The model gave class {class_id}, its card names {card.num_classes} classes",
        "correct --classes or the card",
    )


def check_feed(feed: Mapping[str, NDArray[Any]], specs: Sequence[TensorSpec]) -> None:
    """Refuse arrays that are not what an engine's inputs are: engines differ in what they convert or overlook.

    Raises:
        BackendError: a name, dtype or shape differs; says what was given.
    """
    if feed.keys() == {spec.name for spec in specs} and all(_fits(feed[spec.name], spec) for spec in specs):
        return
    given = ", ".join(
        f"{name}: {value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else f"{name}: {type(value)}"
        for name, value in feed.items()
    )
    wanted = ", ".join(f"{s.name}: {s.dtype} {['any' if a is None else a for a in s.shape]}" for s in specs)
    raise BackendError(f"The engine was fed {given or 'nothing'}", f"feed {wanted}")


def _fits(array: object, spec: TensorSpec) -> bool:
    return (
        isinstance(array, np.ndarray)
        and array.dtype == spec.dtype
        and array.ndim == len(spec.shape)
        and all(wanted is None or wanted == own for wanted, own in zip(spec.shape, array.shape))
    )
