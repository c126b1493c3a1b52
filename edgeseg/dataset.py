"""Data sets described by a ``data.yaml``: one description for training, evaluation, calibration and bench.

::

    path: .                  # optional; folders are relative to it, and it to this file
    train: train             # any number of splits of any names; a folder with images/ and masks/,
    val: [val, more_val]     # or a list of such folders
    ignore: 255              # id of pixels without a class, or null
    names: [road, car]       # class names by id (a mapping from id to name works as well)
    palette: [[128, 64, 128], [64, 0, 128]]   # optional; RGB by id
    notes: for research use  # optional; copied into the model card

Images are ``images/NAME.jpg`` (or .png, .bmp, .webp, .tif), masks ``masks/NAME.png``: one channel or a palette,
pixel = class id.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeseg.card import ModelCard, default_palette
from edgeseg.errors import DataError, MissingDependencyError, nearest
from edgeseg.images import IMAGE_SUFFIXES, read_image, read_mask

_KEYS = frozenset({"path", "ignore", "names", "palette", "notes"})
_GUIDE = "compare it with the example in docs/reference/data-yaml.md"


@dataclass(frozen=True)
class Sample:
    """An image file and its mask file."""

    image_path: Path
    mask_path: Path


@dataclass(frozen=True)
class DataSet:
    """A labelled data set on disk.

    Attributes:
        classes: class names by id.
        ignore_id: id of pixels without a class, or None.
        palette: RGB by class id.
        splits: folders by split name.
        path: the ``data.yaml``.
        notes: free text, such as the licence.
    """

    classes: tuple[str, ...]
    ignore_id: int | None
    palette: tuple[tuple[int, int, int], ...]
    splits: Mapping[str, tuple[Path, ...]]
    path: Path
    notes: str = ""

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str]) -> DataSet:
        """Read a ``data.yaml``; nothing but plain values is ever constructed from it.

        Raises:
            DataError: the file is missing, is not YAML, or lacks or misstates a key.
        """
        path = Path(path)
        raw = _yaml_mapping(path)
        classes = _classes(raw, path)
        colors = _palette(raw, classes, path)
        ignore = raw.get("ignore", 255)
        if ignore is not None and (type(ignore) is not int or not 0 <= ignore <= 255):
            raise DataError(f"{path}: 'ignore' is {ignore!r}, not an id from 0 to 255 or null", _GUIDE)
        root = raw.get("path", ".")
        if not isinstance(root, str):
            raise DataError(f"{path}: 'path' is {root!r}, not a folder", _GUIDE)
        splits = {
            str(key): tuple(path.parent / root / folder for folder in _folders(key, value, path))
            for key, value in raw.items()
            if key not in _KEYS
        }
        return cls(classes, ignore, colors, splits, path, str(raw.get("notes") or ""))

    def folders(self, split: str) -> tuple[Path, ...]:
        """The folders of a split.

        Raises:
            DataError: no such split.
        """
        if split not in self.splits:
            raise DataError(f"{self.path} has no split '{split}'", nearest(split, self.splits))
        return self.splits[split]

    def samples(self, split: str) -> list[Sample]:
        """The pairs of a split, sorted by image path.

        Raises:
            DataError: no such split, a folder or a mask is missing, or the split is empty.
        """
        found = [sample for folder in self.folders(split) for sample in samples_in(folder)]
        for sample in found:
            if not sample.mask_path.is_file():
                raise missing_mask(sample)
        if not found:
            where = ", ".join(str(f / "images") for f in self.splits[split])
            raise DataError(f"The split '{split}' is empty: no image in {where}", "put images there")
        return found

    def read(self, sample: Sample) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The image (uint8 [H, W, 3], BGR) and its mask (uint8 [H, W], class ids).

        Raises:
            DataError: a file cannot be decoded, the sizes differ, or the mask holds an unknown id. Names it.
        """
        image = read_image(sample.image_path)
        mask = read_mask(sample.mask_path)
        check_same_size(image, mask, sample)
        self.check_ids(mask, str(sample.mask_path))
        return image, mask

    def check_ids(self, mask_hw: NDArray[np.uint8], origin: str) -> None:
        """Refuse ids that are neither a class nor the ignore id.

        Raises:
            DataError: naming ``origin`` and the ids.
        """
        counts = np.bincount(mask_hw.reshape(-1), minlength=256)
        ids = [int(i) for i in np.flatnonzero(counts) if i >= len(self.classes) and i != self.ignore_id]
        if ids:
            raise DataError(
                f"{origin} holds the class ids {', '.join(map(str, ids))}; "
                f"known are 0 to {len(self.classes) - 1}"
                + ("" if self.ignore_id is None else f" and {self.ignore_id} (ignore)"),
                "add the classes to 'names' in data.yaml, or map those pixels to the 'ignore' id",
            )

    def pairs(self, split: str) -> Iterator[tuple[Sample, NDArray[np.uint8], NDArray[np.uint8]]]:
        """Every sample of a split with its image and mask, read one at a time."""
        for sample in self.samples(split):
            image, mask = self.read(sample)
            yield sample, image, mask

    def check_classes(self, card: ModelCard, model: str) -> None:
        """Refuse to score or train a model on classes that are not its own.

        Raises:
            DataError: the names or their order differ; says which.
        """
        check_same_classes(self.classes, card.classes, str(self.path), model)


def check_same_size(image_hwc: NDArray[np.uint8], mask_hw: NDArray[np.uint8], sample: Sample) -> None:
    """Refuse a mask of another size than its image.

    Raises:
        DataError: naming the mask and both sizes.
    """
    if image_hwc.shape[:2] != mask_hw.shape:
        raise DataError(
            f"{sample.mask_path} is {mask_hw.shape[1]}x{mask_hw.shape[0]}, "
            f"its image {sample.image_path.name} is {image_hwc.shape[1]}x{image_hwc.shape[0]}",
            "make the mask the size of its image (nearest-neighbour, never interpolated)",
        )


def check_same_classes(data: Sequence[str], model: Sequence[str], data_name: str, model_name: str) -> None:
    """Refuse two class lists that differ in names or order.

    Raises:
        DataError: naming the first difference.
    """
    if tuple(data) == tuple(model):
        return
    if len(data) != len(model):
        what = f"{data_name} has {len(data)} classes, {model_name} has {len(model)}"
    else:
        i = next(i for i, (a, b) in enumerate(zip(data, model)) if a != b)
        what = f"Class {i} is '{data[i]}' in {data_name} and '{model[i]}' in {model_name}"
    raise DataError(what, "use the data set the model was trained for, or give its classes in the same order")


def samples_in(folder: Path) -> list[Sample]:
    """The images of one folder of a split, sorted, each with the mask it should have, there or not.

    Raises:
        DataError: there is no folder ``images``, or it cannot be read.
    """
    images = folder / "images"
    try:
        names = sorted(path for path in images.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(
            f"The folder {images} does not exist", "a split is a folder with images/ and masks/ inside"
        ) from error
    except OSError as error:
        raise DataError(f"Cannot read {images} ({error.strerror})", "check its permissions") from error
    return [Sample(path, folder / "masks" / f"{path.stem}.png") for path in names]


def missing_mask(sample: Sample) -> DataError:
    """The error for an image whose mask is not there."""
    return DataError(
        f"The image {sample.image_path} has no mask {sample.mask_path}", "add the mask or remove the image"
    )


def _yaml_mapping(path: Path) -> dict[Any, Any]:
    try:
        import yaml
    except ImportError as error:
        raise MissingDependencyError("Reading data.yaml needs 'PyYAML'", "pip install pyyaml") from error
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise DataError(f"Cannot read {path} ({reason})", "give the path of a data.yaml") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        first = (str(error).splitlines() or ["nothing in it can be read"])[0]
        raise DataError(f"{path} is not YAML ({first})", _GUIDE) from error
    if not isinstance(raw, dict):
        raise DataError(f"{path} is not a mapping of keys to values", _GUIDE)
    return raw


def _classes(raw: Mapping[Any, Any], path: Path) -> tuple[str, ...]:
    names = raw.get("names")
    if isinstance(names, dict):
        if set(names) != set(range(len(names))):
            raise DataError(f"{path}: the ids in 'names' are not 0 to {len(names) - 1}", _GUIDE)
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not 1 <= len(names) <= 255:
        raise DataError(f"{path} lacks 'names', a list of 1 to 255 class names", _GUIDE)
    for name in names:
        # YAML reads yes, no, on and off without quotes as truth values.
        if isinstance(name, bool) or not isinstance(name, (str, int, float)):
            raise DataError(f"{path}: 'names' holds {name!r}, which is no name", "put it in quotes")
    classes = tuple(str(name) for name in names)
    twice = [name for i, name in enumerate(classes) if name in classes[:i]]
    if twice:
        raise DataError(f"{path}: 'names' holds '{twice[0]}' twice", "give every class its own name")
    return classes


def _palette(raw: Mapping[Any, Any], classes: Sequence[str], path: Path) -> tuple[tuple[int, int, int], ...]:
    palette = raw.get("palette")
    if palette is None:
        return default_palette(len(classes))
    try:
        colors = tuple((int(r), int(g), int(b)) for r, g, b in palette)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: 'palette' is not a list of RGB triples ({error})", _GUIDE) from error
    if len(colors) != len(classes):
        raise DataError(f"{path}: {len(colors)} colours for {len(classes)} classes", _GUIDE)
    if not all(0 <= value <= 255 for color in colors for value in color):
        raise DataError(f"{path}: 'palette' has a value outside 0 to 255", _GUIDE)
    return colors


def _folders(split: object, value: object, path: Path) -> list[str]:
    given = value if isinstance(value, list) else [value]
    folders = [folder for folder in given if isinstance(folder, str)]
    if not folders or len(folders) < len(given):
        raise DataError(
            f"{path}: the split '{split}' is {value!r}, not a folder or a list of folders",
            f"give folders; or, if it is no split, {nearest(str(split), _KEYS)}",
        )
    return folders
