"""What a data set holds, and everything that is wrong with it: ``edgeseg data check``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeseg.dataset import DataSet, Sample, check_same_size, missing_mask, samples_in
from edgeseg.errors import DataError
from edgeseg.files import sha256_of
from edgeseg.images import pixel_kind, read_image, read_mask
from edgeseg.parallel import mapped

DARK_BELOW = 32
"""A 16-bit image whose brightest pixel is below this share of 256 uses less than an eighth of its range."""

Value = TypeVar("Value")


@dataclass
class SplitReport:
    """What one split holds.

    Attributes:
        name: of the split.
        images: number of image files.
        sound: the pairs in which nothing is wrong.
        sizes: number of images by (width, height).
        kinds: number of images by the kind of their pixels, such as "RGB".
        pixels: int64 [256], pixels by class id, over all masks that can be read.
        images_with: int64 [256], masks that hold the id.
        best: by class id, the sound pair with most pixels of it.
        problems: everything that is wrong.
        warnings: what is suspicious.
    """

    name: str
    images: int = 0
    sound: list[Sample] = field(default_factory=list)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    images_with: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    best: dict[int, tuple[int, Sample]] = field(default_factory=dict)
    problems: list[DataError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def labelled_pixels(self, data: DataSet) -> NDArray[np.int64]:
        """Pixels by class: int64 [C]; 0 for a class that is the ignore id."""
        counts = self.pixels[: len(data.classes)].copy()
        if data.ignore_id is not None:
            counts[data.ignore_id : data.ignore_id + 1] = 0
        return counts

    def absent(self, data: DataSet) -> list[str]:
        """Names of the classes that never occur."""
        counts = self.labelled_pixels(data)
        return [name for i, name in enumerate(data.classes) if counts[i] == 0 and i != data.ignore_id]


def check(data: DataSet, splits: Sequence[str]) -> tuple[list[SplitReport], list[str]]:
    """Read every file of some splits once.

    Returns:
        A report for each split, and warnings about images that are in more than one of them.

    Raises:
        DataError: there is no such split. What is wrong with the files stands in the reports.
    """
    reports, seen = [], []
    for split in splits:
        report, digests = _check_split(data, split)
        reports.append(report)
        seen.append((split, digests))
    return reports, _leaks(seen)


@dataclass(frozen=True)
class _Finding:
    """What one pair holds; None for what cannot be read."""

    sample: Sample
    problems: list[DataError]
    size: tuple[int, int] | None
    kind: str | None
    digest: str | None
    dark: bool
    pixels: NDArray[np.int64] | None


def _check_split(data: DataSet, split: str) -> tuple[SplitReport, dict[str, Path]]:
    report, digests = SplitReport(split), {}
    samples: list[Sample] = []
    for folder in data.folders(split):
        found = _attempt(report.problems, partial(samples_in, folder)) or []
        samples += found
        report.warnings += _orphans(folder, found)
    if not samples and not report.problems:
        report.problems.append(DataError(f"The split '{split}' holds no image", "put images there"))
    dark = []
    for finding in mapped(partial(_examine, data), samples, split):
        _add(report, finding)
        if finding.digest is not None:
            digests[finding.digest] = finding.sample.image_path
        if finding.dark:
            dark.append(finding.sample.image_path)
    if dark:
        report.warnings.append(
            f"{len(dark)} images of 16 bits use less than an eighth of their range and are read nearly black, "
            f"such as {dark[0]}: scale them to the whole range or to 8 bits"
        )
    if report.sound and not report.labelled_pixels(data).any():
        report.problems.append(
            DataError(f"In the split '{split}' no pixel has a class", "check the masks and the 'ignore' id")
        )
    return report, digests


def _examine(data: DataSet, sample: Sample) -> _Finding:
    problems: list[DataError] = []
    image = _attempt(problems, partial(read_image, sample.image_path))
    mask = None
    if sample.mask_path.is_file():
        mask = _attempt(problems, partial(read_mask, sample.mask_path))
    else:
        problems.append(missing_mask(sample))
    if image is not None and mask is not None:
        _attempt(problems, partial(check_same_size, image, mask, sample))
    if mask is not None:
        _attempt(problems, partial(data.check_ids, mask, str(sample.mask_path)))
    kind = None if image is None else pixel_kind(sample.image_path)
    return _Finding(
        sample=sample,
        problems=problems,
        size=None if image is None else (image.shape[1], image.shape[0]),
        kind=kind,
        digest=None if image is None else sha256_of(sample.image_path),
        dark=image is not None and str(kind).endswith("16-bit") and int(image.max()) < DARK_BELOW,
        pixels=None if mask is None else np.bincount(mask.reshape(-1), minlength=256),
    )


def _add(report: SplitReport, finding: _Finding) -> None:
    report.images += 1
    report.problems += finding.problems
    if finding.size is not None and finding.kind is not None:
        report.sizes[finding.size] += 1
        report.kinds[finding.kind] += 1
    if finding.pixels is not None:
        report.pixels += finding.pixels
        report.images_with += finding.pixels > 0
    if not finding.problems and finding.pixels is not None:
        report.sound.append(finding.sample)
        for class_id in np.flatnonzero(finding.pixels).tolist():
            count = int(finding.pixels[class_id])
            if count > report.best.get(class_id, (0, finding.sample))[0]:
                report.best[class_id] = (count, finding.sample)


def _attempt(problems: list[DataError], action: Callable[[], Value]) -> Value | None:
    try:
        return action()
    except DataError as problem:
        problems.append(problem)
        return None


def _orphans(folder: Path, samples: Iterable[Sample]) -> list[str]:
    known = {sample.mask_path.name for sample in samples}
    orphans = sorted(path.name for path in (folder / "masks").glob("*.png") if path.name not in known)
    return [f"{len(orphans)} masks in {folder / 'masks'} have no image, such as {orphans[0]}"] if orphans else []


def _leaks(seen: Sequence[tuple[str, dict[str, Path]]]) -> list[str]:
    warnings = []
    for i, (first, digests) in enumerate(seen):
        for second, others in seen[i + 1 :]:
            common = [digest for digest in digests if digest in others]
            if common:
                warnings.append(
                    f"{len(common)} images are in both '{first}' and '{second}', such as {digests[common[0]]} and "
                    f"{others[common[0]]}: a score on one says too much after training on the other"
                )
    return warnings
