"""COCO-Stuff pixel maps: one PNG an image with category ids, as classes without gaps.

Caesar, Uijlings, Ferrari: "COCO-Stuff: Thing and stuff classes in context", CVPR 2018. Two publications of it:
"stuff" are the ``stuff_*_pixelmaps`` of the COCO challenge (91 kinds of stuff, and "other" for all things; 0 is
unlabelled), "things-and-stuff" are the ``stuffthingmaps`` (80 things and 91 kinds of stuff; a pixel is its category
id less 1, and 255 is unlabelled).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from edgeseg.errors import DataError
from edgeseg.readers import LabelledImage, LabelledSet
from edgeseg.readers._coco import category_names, class_from_category, folder_of, load_json
from edgeseg.readers._labels import IGNORE_ID, classmap_from_ids, distinct_colors

CLASSES = ("stuff", "things-and-stuff")
LAYOUT = (
    "the photos in {train,val}2017/ or images/{train,val}2017/, annotations/stuff_val2017.json for the names, and "
    "annotations/stuff_{train,val}2017_pixelmaps/; or, for --classes things-and-stuff, stuffthingmaps/{train,val}2017/ "
    "and annotations/instances_val2017.json"
)

_OTHER = "other"


def read(root: Path, classes: str) -> LabelledSet:
    """See ``edgeseg.readers.read_format``; ``classes`` is "stuff" or "things-and-stuff".

    Raises:
        DataError: an annotation file is missing or broken.
    """
    names = _names(root, "stuff")
    if classes == "things-and-stuff":
        names = {i: name for i, name in {**_names(root, "instances"), **names}.items() if name != _OTHER}
    class_ids = class_from_category(names)
    shift, unlabelled = (0, 0) if classes == "stuff" else (1, 255)
    class_from_pixel = {**{i - shift: class_id for i, class_id in class_ids.items()}, unlabelled: IGNORE_ID}
    images = []
    for split in ("train", "val"):
        folder = f"{split}2017"
        maps = f"stuff_{folder}_pixelmaps" if classes == "stuff" else f"stuffthingmaps/{folder}"
        image_folder = folder_of(root, folder)
        for label_path in sorted(folder_of(root, maps).glob("*.png")):
            image_path = image_folder / f"{label_path.stem}.jpg"
            read_classmap = partial(classmap_from_ids, label_path, class_from_pixel)
            images.append(LabelledImage(split, label_path.stem, image_path, label_path, read_classmap))
    return LabelledSet(
        classes=tuple(names[i] for i in class_ids),
        palette=distinct_colors(len(names) + 1)[1:],
        ignore_id=IGNORE_ID,
        images=tuple(images),
        notes=f"COCO-Stuff (Caesar, Uijlings, Ferrari: CVPR 2018), {classes}, {len(names)} classes; see its terms",
    )


def _names(root: Path, prefix: str) -> dict[int, str]:
    files = list((root / "annotations").glob(f"{prefix}_*.json"))
    if not files:
        raise DataError(f"{root} has no annotations/{prefix}_val2017.json, which names the classes", "add it")
    # All of them name the same categories, and that of train is a gigabyte.
    path = min(files, key=lambda file: file.stat().st_size)
    return category_names(load_json(path), path)
