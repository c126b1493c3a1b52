"""What the two readers of COCO share: the annotation files and the folders around them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edgeseg.errors import DataError


def splits_in(root: Path, prefix: str) -> list[tuple[str, str, Path]]:
    """Split, its folder name and its annotation file: ("train", "train2017", .../PREFIX_train2017.json)."""
    files = sorted((root / "annotations").glob(f"{prefix}_*.json"))
    folders = [(path.stem[len(prefix) + 1 :], path) for path in files]
    return [(folder.rstrip("0123456789") or folder, folder, path) for folder, path in folders]


def folder_of(root: Path, name: str) -> Path:
    """The folder ``name``: in the root, or where the archives put it."""
    candidates = [root / parent / name for parent in (".", "images", "annotations")]
    return next((folder for folder in candidates if folder.is_dir()), candidates[0])


def load_json(path: Path) -> dict[str, Any]:
    """An annotation file.

    Raises:
        DataError: it cannot be read or is no JSON object.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"Cannot read {path} ({error})", "download it again; it may be cut off") from error
    if not isinstance(content, dict):
        raise broken(path, "it is no JSON object")
    return content


def broken(path: Path, what: object) -> DataError:
    """The error for an annotation file that lacks or misstates something."""
    return DataError(f"{path} is no COCO annotation file ({what})", "take the file as it was published")


def category_names(content: dict[str, Any], path: Path) -> dict[int, str]:
    """Category names by category id, in the order of the ids.

    Raises:
        DataError: there are none, or more than a class map can tell apart.
    """
    try:
        names = {int(category["id"]): str(category["name"]) for category in content["categories"]}
    except (KeyError, TypeError, ValueError) as error:
        raise broken(path, f"'categories': {error!r}") from error
    if not 1 <= len(names) <= 255:
        raise broken(path, f"{len(names)} categories")
    return dict(sorted(names.items()))


def class_from_category(category_ids: Iterable[int]) -> dict[int, int]:
    """Class ids from 0 on without gaps, by category id."""
    return {category_id: i for i, category_id in enumerate(sorted(category_ids))}
