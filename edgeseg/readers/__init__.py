"""Well-known data sets as they are published, read as pairs of an image and a class map: a table, one file each.

``edgeseg data convert`` turns what a reader gives into the folder form of ``edgeseg.dataset``. A reader is a
module of this package, named in ``READERS``, with

- ``CLASSES``: names of the class lists one can choose from, the first by default; empty where there is one list;
- ``LAYOUT``: the files it expects under the root, for the message when they are not there;
- ``read(root, classes) -> LabelledSet``.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import DataError, UsageError, nearest

READERS = {
    "ade20k": "ADE20K scene parsing (ADEChallengeData2016)",
    "camvid": "CamVid with its original colour-coded masks",
    "cityscapes": "Cityscapes, fine annotations",
    "coco-panoptic": "COCO panoptic annotations",
    "coco-stuff": "COCO-Stuff pixel maps",
    "colors": "any folder with a data.yaml whose masks hold the colours of its palette",
    "voc": "Pascal VOC segmentation",
}
"""Name and one line of help; each lives in ``edgeseg.readers.NAME``, with ``_`` for ``-``."""


@dataclass(frozen=True)
class LabelledImage:
    """An image of a data set with its labels.

    Attributes:
        split: name of its split.
        name: what its files shall be called, without suffix; unique in its split.
        image_path: the image; whether it is there has not been looked at, nor for the labels.
        label_path: the file that holds its labels.
        read_classmap: gives the class map, uint8 [H, W]; raises DataError, naming the file, where the labels are
            missing, broken or of no known class.
    """

    split: str
    name: str
    image_path: Path
    label_path: Path
    read_classmap: Callable[[], NDArray[np.uint8]]


@dataclass(frozen=True)
class LabelledSet:
    """A data set as a reader found it.

    Attributes:
        classes: class names by id.
        palette: RGB by class id.
        ignore_id: id of pixels without a class, or None.
        images: of all splits.
        notes: name, paper and licence note, for ``data.yaml`` and model cards.
    """

    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ignore_id: int | None
    images: tuple[LabelledImage, ...]
    notes: str


def read_format(name: str, root: str | os.PathLike[str], classes: str | None = None) -> LabelledSet:
    """List a data set in one of the formats of ``READERS``.

    Args:
        name: of the format.
        root: the folder it was unpacked into.
        classes: one of the format's class lists; None for the first.

    Raises:
        UsageError: there is no such format or class list.
        DataError: the files the format is made of are not there, or an index file is broken.
    """
    if name not in READERS:
        raise UsageError(f"There is no format '{name}'", nearest(name, READERS))
    reader = importlib.import_module(f"edgeseg.readers.{name.replace('-', '_')}")
    if classes is not None and classes not in reader.CLASSES:
        known = f"use one of {', '.join(reader.CLASSES)}" if reader.CLASSES else "leave the choice out, it has one list"
        raise UsageError(f"The format '{name}' has no class list '{classes}'", known)
    found: LabelledSet = reader.read(Path(root), classes or next(iter(reader.CLASSES), ""))
    if not found.images:
        raise DataError(
            f"{root} holds no labelled images of the format '{name}'", f"give the folder that holds {reader.LAYOUT}"
        )
    return found
