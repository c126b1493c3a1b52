"""Any data set in edgeseg's folders whose masks hold colours instead of class ids.

The colours are the ``palette`` of its ``data.yaml``; black is ignored unless a class has it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from edgeseg.dataset import DataSet
from edgeseg.errors import DataError
from edgeseg.readers import LabelledImage, LabelledSet
from edgeseg.readers._labels import classmap_from_colors

CLASSES = ()
LAYOUT = "a data.yaml with 'names' and 'palette', and the folders it names, with images/ and masks/ inside"

_BLACK = (0, 0, 0)


def read(root: Path, classes: str) -> LabelledSet:
    """See ``edgeseg.readers.read_format``.

    Raises:
        DataError: ``data.yaml`` or a folder is not as it should be, or two classes have one colour.
    """
    data = DataSet.from_yaml(root / "data.yaml")
    if len(set(data.palette)) < len(data.palette):
        raise DataError(f"{data.path}: two classes have the same colour", "give each its own in 'palette'")
    class_from_rgb = {color: i for i, color in enumerate(data.palette)}
    if data.ignore_id is not None:
        class_from_rgb.setdefault(_BLACK, data.ignore_id)
    images = tuple(
        LabelledImage(
            split,
            sample.image_path.stem,
            sample.image_path,
            sample.mask_path,
            partial(classmap_from_colors, sample.mask_path, class_from_rgb),
        )
        for split in data.splits
        for sample in data.samples(split)
    )
    return LabelledSet(data.classes, data.palette, data.ignore_id, images, data.notes)
