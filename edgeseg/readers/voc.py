"""Pascal VOC segmentation: ``JPEGImages`` with the palette PNGs of ``SegmentationClass``, 21 classes.

Everingham et al., "The Pascal Visual Object Classes Challenge: A Retrospective", IJCV 2015. Splits are the lists
train, val and test of ``ImageSets/Segmentation`` that are there; trainval is their sum.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from edgeseg.errors import DataError
from edgeseg.readers import LabelledImage, LabelledSet
from edgeseg.readers._labels import IGNORE_ID, classmap_from_ids, distinct_colors

CLASSES = ()
LAYOUT = "JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/{train,val}.txt: the folder VOC2012 in VOCdevkit"

_NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def read(root: Path, classes: str) -> LabelledSet:
    """See ``edgeseg.readers.read_format``.

    Raises:
        DataError: a list cannot be read.
    """
    class_from_id = {**{i: i for i in range(len(_NAMES))}, IGNORE_ID: IGNORE_ID}
    images = []
    for split in ("train", "val", "test"):
        for name in _names_in(root / "ImageSets" / "Segmentation" / f"{split}.txt"):
            label_path = root / "SegmentationClass" / f"{name}.png"
            read_classmap = partial(classmap_from_ids, label_path, class_from_id)
            images.append(LabelledImage(split, name, root / "JPEGImages" / f"{name}.jpg", label_path, read_classmap))
    return LabelledSet(
        classes=_NAMES,
        palette=distinct_colors(len(_NAMES)),
        ignore_id=IGNORE_ID,
        images=tuple(images),
        notes="Pascal VOC segmentation (Everingham et al., IJCV 2015), 21 classes; see its terms",
    )


def _names_in(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read {path} ({error})", "it is a text file with one image name a line") from error
