"""Cityscapes: ``leftImg8bit`` photos with the label ids of ``gtFine``, as the 19 classes of its benchmark.

Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016. The test split is left
out: its labels are not published, the files hold placeholders.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from edgeseg.readers import LabelledImage, LabelledSet
from edgeseg.readers._labels import IGNORE_ID, classmap_from_ids

CLASSES = ()
LAYOUT = (
    "leftImg8bit/{train,val}/CITY/NAME_leftImg8bit.png and gtFine/{train,val}/CITY/NAME_gtFine_labelIds.png "
    "(leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip)"
)

_LABELS = (
    (7, "road", (128, 64, 128)),
    (8, "sidewalk", (244, 35, 232)),
    (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)),
    (13, "fence", (190, 153, 153)),
    (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)),
    (20, "traffic sign", (220, 220, 0)),
    (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)),
    (23, "sky", (70, 130, 180)),
    (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)),
    (26, "car", (0, 0, 142)),
    (27, "truck", (0, 0, 70)),
    (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)),
    (32, "motorcycle", (0, 0, 230)),
    (33, "bicycle", (119, 11, 32)),
)
"""Label id, name and colour of each class, in the order of the train ids."""
_NUM_LABEL_IDS = 34


def read(root: Path, classes: str) -> LabelledSet:
    """See ``edgeseg.readers.read_format``."""
    class_from_id = dict.fromkeys(range(_NUM_LABEL_IDS), IGNORE_ID)
    class_from_id.update({label_id: i for i, (label_id, _, _) in enumerate(_LABELS)})
    images = []
    for split in ("train", "val"):
        for image_path in sorted((root / "leftImg8bit" / split).glob("*/*_leftImg8bit.png")):
            name = image_path.stem[: -len("_leftImg8bit")]
            label_path = root / "gtFine" / split / image_path.parent.name / f"{name}_gtFine_labelIds.png"
            read_classmap = partial(classmap_from_ids, label_path, class_from_id)
            images.append(LabelledImage(split, name, image_path, label_path, read_classmap))
    return LabelledSet(
        classes=tuple(name for _, name, _ in _LABELS),
        palette=tuple(color for _, _, color in _LABELS),
        ignore_id=IGNORE_ID,
        images=tuple(images),
        notes="Cityscapes (Cordts et al., CVPR 2016), fine annotations, 19 classes; see its licence",
    )
