"""CamVid as published: photos and colour-coded masks ``NAME_L.png`` of 32 classes.

Brostow, Fauqueur, Cipolla: "Semantic object classes in video: a high-definition ground truth database", Pattern
Recognition Letters, 2009. The 11 classes are those of SegNet (Badrinarayanan, Kendall, Cipolla, PAMI 2017), and so
are the splits: 367 train, 101 val and 233 test images, told by the drive and the frame in the file name.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from edgeseg.errors import DataError
from edgeseg.images import IMAGE_SUFFIXES
from edgeseg.readers import LabelledImage, LabelledSet
from edgeseg.readers._labels import IGNORE_ID, classmap_from_colors

CLASSES = ("11", "32")
LAYOUT = "the photos and, in any folder, their masks NAME_L.png (701_StillsRaw_full.zip and LabeledApproved_full.zip)"

_COLORS = {
    "Animal": (64, 128, 64),
    "Archway": (192, 0, 128),
    "Bicyclist": (0, 128, 192),
    "Bridge": (0, 128, 64),
    "Building": (128, 0, 0),
    "Car": (64, 0, 128),
    "CartLuggagePram": (64, 0, 192),
    "Child": (192, 128, 64),
    "Column_Pole": (192, 192, 128),
    "Fence": (64, 64, 128),
    "LaneMkgsDriv": (128, 0, 192),
    "LaneMkgsNonDriv": (192, 0, 64),
    "Misc_Text": (128, 128, 64),
    "MotorcycleScooter": (192, 0, 192),
    "OtherMoving": (128, 64, 64),
    "ParkingBlock": (64, 192, 128),
    "Pedestrian": (64, 64, 0),
    "Road": (128, 64, 128),
    "RoadShoulder": (128, 128, 192),
    "Sidewalk": (0, 0, 192),
    "SignSymbol": (192, 128, 128),
    "Sky": (128, 128, 128),
    "SUVPickupTruck": (64, 128, 192),
    "TrafficCone": (0, 0, 64),
    "TrafficLight": (0, 64, 64),
    "Train": (192, 64, 128),
    "Tree": (128, 128, 0),
    "Truck_Bus": (192, 128, 192),
    "Tunnel": (64, 0, 64),
    "VegetationMisc": (192, 192, 0),
    "Void": (0, 0, 0),
    "Wall": (64, 192, 0),
}
_GROUPS = {
    "sky": ("Sky",),
    "building": ("Building", "Archway", "Bridge", "Tunnel", "Wall"),
    "pole": ("Column_Pole", "TrafficCone"),
    "road": ("Road", "LaneMkgsDriv", "LaneMkgsNonDriv"),
    "pavement": ("Sidewalk", "ParkingBlock", "RoadShoulder"),
    "tree": ("Tree", "VegetationMisc"),
    "sign": ("SignSymbol", "Misc_Text", "TrafficLight"),
    "fence": ("Fence",),
    "car": ("Car", "OtherMoving", "SUVPickupTruck", "Train", "Truck_Bus"),
    "pedestrian": ("Pedestrian", "Animal", "CartLuggagePram", "Child"),
    "bicyclist": ("Bicyclist", "MotorcycleScooter"),
}
_GROUP_COLORS = {"pavement": (60, 40, 222)}
"""The one colour in which the palette of the 11 classes differs from that of the group's first class."""


def read(root: Path, classes: str) -> LabelledSet:
    """See ``edgeseg.readers.read_format``; ``classes`` is "11" or "32".

    Raises:
        DataError: an image is of no drive of CamVid, so that its split is not known.
    """
    if classes == "32":
        names: tuple[str, ...] = tuple(_COLORS)
        palette = tuple(_COLORS.values())
        class_from_rgb = {color: i for i, color in enumerate(palette)}
        ignore_id = names.index("Void")
    else:
        names = tuple(_GROUPS)
        palette = tuple(_GROUP_COLORS.get(name, _COLORS[group[0]]) for name, group in _GROUPS.items())
        class_from_rgb = {_COLORS[label]: i for i, group in enumerate(_GROUPS.values()) for label in group}
        class_from_rgb[_COLORS["Void"]] = ignore_id = IGNORE_ID
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    label_paths = {path.stem[: -len("_L")]: path for path in files if path.stem.endswith("_L")}
    images = []
    for image_path in files if label_paths else ():
        name = image_path.stem
        if not name.endswith("_L"):
            label_path = label_paths.get(name, image_path.with_name(f"{name}_L.png"))
            read_classmap = partial(classmap_from_colors, label_path, class_from_rgb)
            images.append(LabelledImage(_split_of(image_path), name, image_path, label_path, read_classmap))
    return LabelledSet(
        classes=names,
        palette=palette,
        ignore_id=ignore_id,
        images=tuple(images),
        notes=f"CamVid (Brostow, Fauqueur, Cipolla: PRL 2009), {len(names)} classes, SegNet's splits; for research use",
    )


def _split_of(image_path: Path) -> str:
    drive, _, frame = image_path.stem.partition("_")
    number = re.fullmatch(r"f?(\d+)", frame)
    if number is None or drive not in ("0001TP", "0006R0", "0016E5", "Seq05VD"):
        raise DataError(
            f"{image_path} is no image of CamVid by its name",
            "give the folder of CamVid alone; for masks in colours of your own use --format colors",
        )
    if drive == "Seq05VD" or (drive == "0001TP" and int(number[1]) >= 8550):
        return "test"
    return "val" if drive == "0016E5" and 7959 <= int(number[1]) <= 8159 else "train"
