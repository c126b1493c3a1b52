"""The model card: every fact about a model that running it needs, carried inside the model file."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from edgeseg.errors import ModelError

SCHEMA = 1
METADATA_KEY = "edgeseg"
"""The key of the ONNX metadata entry that holds the card as JSON."""

COLOR_ORDERS = ("bgr", "rgb")
LAYOUTS = ("nhwc", "nchw")
DTYPES = ("uint8", "float32", "float16")
HEADS = ("logits", "mask")
RESIZES = ("stretch",)
MAX_SIDE = 16384
"""Largest height and width of a network input in pixels."""

# 20 distinct, readable colours (RGB) for models that bring none; repeated beyond that.
_DEFAULT_COLORS = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153),
    (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60),
    (255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32), (111, 74, 0),
)  # fmt: skip


def default_palette(num_classes: int) -> tuple[tuple[int, int, int], ...]:
    """RGB colours for ``num_classes`` classes, for a model that brings no palette."""
    return tuple(_DEFAULT_COLORS[i % len(_DEFAULT_COLORS)] for i in range(num_classes))


@dataclass(frozen=True)
class ModelCard:
    """Facts about one model file. Frozen; serialised as JSON under the ONNX metadata key ``edgeseg``.

    Attributes:
        classes: class names by id.
        input_size_hw: height and width of the network input in pixels.
        palette: one RGB colour by class id.
        ignore_id: id that labels use for "no class", or None.
        color_order: channel order of the input tensor, "bgr" (as frames arrive) or "rgb".
        input_dtype: "uint8" (normalisation is in the graph), "float32" or "float16" (the runtime applies it).
        input_layout: "nhwc" or "nchw".
        mean, std: in 0..1, in ``color_order``. ``x = (pixel / 255 - mean) / std``; with a uint8 input they
            are already folded into the graph and stand here for the record.
        resize: "stretch": bilinear to ``input_size_hw``, whatever the aspect ratio.
        head: "logits" (float [N, C, h, w] at any stride, decoded by the runtime) or "mask" (class ids).
        precision: "fp32", "fp16" or "int8": what the graph computes in.
        name: network and width, such as "ddrnet-c32".
        dataset: what it was trained and measured on: name, splits, licence note.
        metrics: by split: ``{"val": {"miou": 0.61, "backend": "onnxruntime"}}``.
        provenance: versions, commands and hashes of what made it.
        task: always "semantic-segmentation".
        schema: version of this record.

    Raises:
        ModelError: a value is missing, of the wrong type, or not one of those listed.
    """

    classes: tuple[str, ...]
    input_size_hw: tuple[int, int]
    palette: tuple[tuple[int, int, int], ...] = ()
    ignore_id: int | None = 255
    color_order: str = "bgr"
    input_dtype: str = "uint8"
    input_layout: str = "nhwc"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    resize: str = "stretch"
    head: str = "logits"
    precision: str = "fp32"
    name: str = ""
    dataset: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    task: str = "semantic-segmentation"
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        def to(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        try:
            if isinstance(self.classes, (str, Mapping)) or not all(isinstance(c, str) for c in self.classes):
                raise TypeError("classes is a list of names")
            to("classes", tuple(self.classes))
            height, width = self.input_size_hw
            to("input_size_hw", (_whole(height), _whole(width)))
            palette = tuple((_whole(r), _whole(g), _whole(b)) for r, g, b in self.palette)
            to("palette", palette or default_palette(len(self.classes)))
            to("mean", tuple(float(v) for v in self.mean))
            to("std", tuple(float(v) for v in self.std))
            to("ignore_id", None if self.ignore_id is None else _whole(self.ignore_id))
        except (TypeError, ValueError, OverflowError) as error:
            raise ModelError(f"The model card does not hold what it should ({error})", _MEND) from error
        self._check()

    def _check(self) -> None:
        def need(condition: bool, problem: str) -> None:
            if not condition:
                raise ModelError(f"The model card {problem}", _MEND)

        need(self.schema == SCHEMA, f"has schema {self.schema}, this edgeseg reads {SCHEMA}")
        need(self.task == "semantic-segmentation", f"is for the task '{self.task}'")
        need(1 <= len(self.classes) <= 255, f"names {len(self.classes)} classes, 1 to 255 fit a uint8 mask")
        # Scores are given by class name.
        twice = [c for i, c in enumerate(self.classes) if c in self.classes[:i]]
        need(not twice, f"names the class '{twice[0] if twice else ''}' twice")
        need(len(self.palette) == len(self.classes), "has not one colour for each class")
        need(all(0 <= v <= 255 for c in self.palette for v in c), "has a colour outside 0..255")
        need(self.ignore_id is None or 0 <= self.ignore_id <= 255, f"has the ignore id {self.ignore_id}, not 0 to 255")
        need(
            all(1 <= side <= MAX_SIDE for side in self.input_size_hw),
            f"has the input size {list(self.input_size_hw)}, each is 1 to {MAX_SIDE}",
        )
        need(len(self.mean) == 3 and len(self.std) == 3, "needs three values each in mean and std")
        need(all(isfinite(v) for v in (*self.mean, *self.std)), "has a mean or std that is not a number")
        need(all(s > 0 for s in self.std), "has a std of 0 or below")
        for key in ("precision", "name"):
            need(isinstance(getattr(self, key), str), f"has a '{key}' that is no text")
        for key in ("dataset", "metrics", "provenance"):
            need(isinstance(getattr(self, key), Mapping), f"has no mapping in {key}")
        for key, known in (
            ("color_order", COLOR_ORDERS), ("input_dtype", DTYPES), ("input_layout", LAYOUTS),
            ("head", HEADS), ("resize", RESIZES),
        ):  # fmt: skip
            need(getattr(self, key) in known, f"has {key} '{getattr(self, key)}', known are {', '.join(known)}")

    def replace(self, **changes: Any) -> ModelCard:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_json(self, indent: int | None = None) -> str:
        """The card as JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=indent)

    @classmethod
    def from_json(cls, text: str, origin: str = "the card") -> ModelCard:
        """A card from JSON text. Unknown keys are refused: they are misspellings or a newer schema.

        Raises:
            ModelError: not JSON, keys missing or unknown, or values out of range. Names ``origin``.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{origin} is not JSON ({error})", _MEND) from error
        if not isinstance(data, dict):
            raise ModelError(f"{origin} is not a JSON object", _MEND)
        names = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(data) - names)
        if unknown and data.get("schema", SCHEMA) == SCHEMA:
            raise ModelError(f"{origin} has unknown keys: {', '.join(unknown)}", _MEND)
        missing = sorted({"classes", "input_size_hw"} - set(data))
        if missing:
            raise ModelError(f"{origin} lacks {', '.join(missing)}", _MEND)
        return cls(**{k: v for k, v in data.items() if k in names})

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> ModelCard:
        """A card from a JSON file.

        Raises:
            ModelError: the file is missing, unreadable or not a card.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"Cannot read the card {path} ({error})", "give the path of a JSON file") from error
        return cls.from_json(text, origin=str(path))

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)


_MEND = "compare it with docs/reference/model-card.md, or export the model again"


def _whole(value: Any) -> int:
    # operator.index would refuse 360.0, which JSON writers produce; int would take 360.7 and "360".
    number = int(value)
    if isinstance(value, (str, bytes, bool)) or number != value:
        raise ValueError(f"{value!r} is not a whole number")
    return number


def as_triple(values: Sequence[float]) -> tuple[float, float, float]:
    """Three floats from a sequence of three, or of one that stands for all three."""
    if len(values) == 1:
        return (float(values[0]),) * 3
    a, b, c = values
    return (float(a), float(b), float(c))
