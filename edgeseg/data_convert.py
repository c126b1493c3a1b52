"""A data set as published, written as the folders and the ``data.yaml`` that edgeseg works with."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

from edgeseg.dataset import DataSet, Sample, check_same_size
from edgeseg.errors import DataError, MissingDependencyError
from edgeseg.files import PathLike, replacing_folder
from edgeseg.images import read_image
from edgeseg.parallel import mapped
from edgeseg.readers import LabelledImage, LabelledSet

_PROBLEMS_SHOWN = 3


def convert(source: LabelledSet, out: PathLike, *, link: bool = False) -> DataSet:
    """Write ``out/SPLIT/images``, ``out/SPLIT/masks`` and ``out/data.yaml``: all of it or nothing.

    Every image is decoded and every mask compared with it in size.

    Args:
        source: what a reader found.
        out: a folder that does not exist or is empty.
        link: make symbolic links to the images instead of copies.

    Raises:
        DataError: images or labels are missing, broken or do not belong together; names the first of them.
        SinkError: ``out`` is not empty or cannot be written.
    """
    _check_names(source)
    with replacing_folder(out) as temporary:
        for image in source.images:
            for kind in ("images", "masks"):
                (temporary / image.split / kind).mkdir(parents=True, exist_ok=True)
        results = mapped(lambda image: _write(image, temporary / image.split, link), source.images, "converting")
        problems = [problem for problem in results if problem is not None]
        if problems:
            raise _summary(problems, len(source.images))
        _write_yaml(source, temporary / "data.yaml")
        DataSet.from_yaml(temporary / "data.yaml")
    return DataSet.from_yaml(Path(out) / "data.yaml")


def _check_names(source: LabelledSet) -> None:
    counts = Counter((image.split, image.name) for image in source.images)
    (split, name), count = counts.most_common(1)[0]
    if count > 1:
        paths = [str(image.image_path) for image in source.images if (image.split, image.name) == (split, name)]
        raise DataError(
            f"{len(paths)} images of the split '{split}' are called '{name}': {paths[0]} and {paths[1]}",
            "keep one, or rename them with their labels",
        )


def _write(image: LabelledImage, folder: Path, link: bool) -> DataError | None:
    import cv2

    try:
        pixels, classmap = read_image(image.image_path), image.read_classmap()
        check_same_size(pixels, classmap, Sample(image.image_path, image.label_path))
    except DataError as problem:
        return problem
    target = folder / "images" / f"{image.name}{image.image_path.suffix}"
    if link:
        os.symlink(image.image_path.resolve(), target)
    else:
        shutil.copyfile(image.image_path, target)
    (folder / "masks" / f"{image.name}.png").write_bytes(cv2.imencode(".png", classmap)[1].tobytes())
    return None


def _summary(problems: list[DataError], count: int) -> DataError:
    shown = "; ".join(problem.problem for problem in problems[:_PROBLEMS_SHOWN])
    rest = f"; and {len(problems) - _PROBLEMS_SHOWN} more" if len(problems) > _PROBLEMS_SHOWN else ""
    return DataError(f"{len(problems)} of {count} images cannot be converted: {shown}{rest}", problems[0].mend)


def _write_yaml(source: LabelledSet, path: Path) -> None:
    try:
        import yaml
    except ImportError as error:
        raise MissingDependencyError("Writing data.yaml needs 'PyYAML'", "pip install pyyaml") from error
    splits = dict.fromkeys(image.split for image in source.images)
    content = {
        **{split: split for split in splits},
        "ignore": source.ignore_id,
        "names": list(source.classes),
        "palette": [list(color) for color in source.palette],
        "notes": source.notes,
    }
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)
    path.write_text(text, encoding="utf-8")
