"""COCO panoptic annotations: a JSON file and PNGs whose colours are segment ids, as classes by category.

Kirillov et al., "Panoptic Segmentation", CVPR 2019. Classes are the categories of the annotation file in the order
of their ids, without gaps; pixels of no segment are ignored. Sets in the same format with other categories work too.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from edgeseg.errors import DataError
from edgeseg.readers import LabelledImage, LabelledSet
from edgeseg.readers._coco import broken, category_names, class_from_category, folder_of, load_json, splits_in
from edgeseg.readers._labels import IGNORE_ID, classmap_from_segments, distinct_colors

CLASSES = ()
LAYOUT = (
    "annotations/panoptic_train2017.json, the folder panoptic_train2017/ with its PNGs, and the photos in train2017/, "
    "each folder in the root, in images/ or in annotations/; val2017 likewise"
)


def read(root: Path, classes: str) -> LabelledSet:
    """See ``edgeseg.readers.read_format``.

    Raises:
        DataError: an annotation file is broken, or two have different categories.
    """
    names: dict[int, str] = {}
    images: list[LabelledImage] = []
    for split, folder, path in splits_in(root, "panoptic"):
        content = load_json(path)
        found = category_names(content, path)
        if names and found != names:
            raise DataError(f"The categories of {path} differ from those before", "convert the two sets on their own")
        names = found
        images += _images(root, split, folder, content, path)
    return LabelledSet(
        classes=tuple(names.values()),
        palette=distinct_colors(len(names) + 1)[1:],
        ignore_id=IGNORE_ID,
        images=tuple(images),
        notes=f"COCO panoptic (Kirillov et al., CVPR 2019), {len(names)} classes; see its terms",
    )


def _images(root: Path, split: str, folder: str, content: dict[str, Any], path: Path) -> Iterator[LabelledImage]:
    image_folder, label_folder = folder_of(root, folder), folder_of(root, f"panoptic_{folder}")
    class_ids = class_from_category(category_names(content, path))
    try:
        file_names = {image["id"]: image["file_name"] for image in content["images"]}
        for annotation in content["annotations"]:
            label_path = label_folder / annotation["file_name"]
            segments = {s["id"]: class_ids[s["category_id"]] for s in annotation["segments_info"]}
            read_classmap = partial(classmap_from_segments, label_path, {0: IGNORE_ID, **segments})
            image_path = image_folder / file_names[annotation["image_id"]]
            yield LabelledImage(split, label_path.stem, image_path, label_path, read_classmap)
    except (KeyError, TypeError) as error:
        raise broken(path, repr(error)) from error
