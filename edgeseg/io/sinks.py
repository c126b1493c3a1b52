"""Where results go: what every sink promises, and those that write masks and figures."""

from __future__ import annotations

import json
import os
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import IO, Union

import numpy as np

from edgeseg.errors import SinkError
from edgeseg.files import check_writable, check_writable_folder, replacing
from edgeseg.io.base import Source
from edgeseg.report import Report
from edgeseg.segmentation import Segmentation

PathLike = Union[str, "os.PathLike[str]"]


class Sink(ABC):
    """Takes results one by one, always on the same thread. ``close`` finishes what it writes, also after an error.

    Attributes:
        name: for messages and reports.
        on_main_thread: it must be used on the thread that calls ``run``, as windows must.
        backlog: results of a live source that may wait for it; beyond them the oldest is dropped.
        paused: its user wants no results for now.
        dismissed: its user wants no more results.
        quit: its user wants the run to end.
    """

    name = "sink"
    on_main_thread = False
    backlog = 1
    paused = dismissed = quit = False

    def attach(self, source: Source, report: Report) -> None:  # noqa: B027 - most sinks show results alone
        """Called before the first result with where the results come from, and the figures of the run."""

    @abstractmethod
    def write(self, result: Segmentation) -> None:
        """Take one result.

        Raises:
            SinkError: it cannot be written.
        """

    def idle(self) -> None:  # noqa: B027 - most sinks have nothing to do then
        """Called about ten times a second while no result comes."""

    @abstractmethod
    def close(self) -> None:
        """Finish. Closing twice is allowed.

        Raises:
            SinkError: the file could not be finished.
        """

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class MaskSink(Sink):
    """Masks as single-channel 8-bit PNGs, pixel = class id, named by frame index or by the image's name.

    A second image of one name (``a/1.jpg`` and ``b/1.jpg``, or ``1.jpg`` and ``1.png``) adds its frame index.
    ``timestamps.csv`` beside them has the times of each.

    Args:
        folder: made with the first mask if missing.

    Raises:
        SinkError: the folder cannot be written.
    """

    name = "masks"
    backlog = 8

    def __init__(self, folder: PathLike) -> None:
        self._folder = Path(folder)
        self._names: set[str] = set()
        check_writable_folder(self._folder)
        self._times = LineFile(self._folder / "timestamps.csv")

    def write(self, result: Segmentation) -> None:
        """Write one PNG and its line."""
        number = f"{result.frame_index:06d}"
        stem = Path(result.frame.name).stem or number
        if stem in self._names:
            stem = f"{stem}_{number}"
        if result.frame.name:
            self._names.add(stem)
        png = png_from_mask(result)
        with replacing(self._folder / f"{stem}.png") as temporary:
            temporary.write_bytes(png)
        times = times_of(result)
        if self._times.is_new:
            self._times.add(",".join(["file", *times]))
        self._times.add(",".join([f"{stem}.png", *("" if t is None else str(t) for t in times.values())]))

    def close(self) -> None:
        """Close the list of times."""
        self._times.close()


class JsonLinesSink(Sink):
    """One JSON object a line for each result: its times, stages, state, and the share of the picture by class.

    Args:
        path: the file; replaced by the first result.

    Raises:
        SinkError: the path cannot be written.
    """

    name = "lines"
    backlog = 32

    def __init__(self, path: PathLike) -> None:
        check_writable(path)
        self._file = LineFile(Path(path))

    def write(self, result: Segmentation) -> None:
        """Write one line."""
        row = {
            **times_of(result),
            "name": result.frame.name,
            "state": result.state.value,
            "valid": result.valid,
            "timing_ms": {stage: round(value, 3) for stage, value in result.timing.items()},
            "area": areas_of(result),
        }
        self._file.add(json.dumps(row, allow_nan=False))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class LineFile:
    """A text file that grows by whole lines, each on the disk at once. It is made with the first."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    @property
    def is_new(self) -> bool:
        """True before the first line."""
        return self._file is None

    def add(self, line: str) -> None:
        """Add a line.

        Raises:
            SinkError: it cannot be written.
        """
        try:
            if self._file is None:
                make_folder(self._path.parent)
                self._file = open(self._path, "w", encoding="utf-8", buffering=1)  # noqa: SIM115 - until close
            self._file.write(line + "\n")
        except OSError as error:
            raise SinkError(f"Cannot write {self._path} ({error.strerror})", "free some space") from error

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._file is not None:
            try:
                self._file.close()
            except OSError as error:  # what could not be written before is tried once more
                raise SinkError(f"Cannot write {self._path} ({error.strerror})", "free some space") from error


def times_of(result: Segmentation) -> dict[str, float | int | None]:
    """When a result's frame was taken: index, seconds in its file, on the monotonic clock, since 1970, and its age."""
    since_s = time.monotonic() - result.captured_at
    pts_s = result.frame.pts_s
    return {
        "frame": result.frame_index,
        "pts_s": None if pts_s is None else round(pts_s, 6),
        "captured_at_s": round(result.captured_at, 6),
        "captured_unix_s": round(time.time() - since_s, 6),
        "age_ms": round(result.age_ms, 3),
    }


def areas_of(result: Segmentation) -> dict[str, float]:
    """Share of the picture, 0 to 1, of each class that is in it; empty for an invalid result."""
    if not result.valid:
        return {}
    import cv2

    counts = cv2.calcHist([result.mask], [0], None, [256], [0, 256]).ravel()
    return {name: round(float(n) / result.mask.size, 6) for name, n in zip(result.classes, counts) if n}


def png_from_mask(result: Segmentation) -> bytes:
    """The class map as a single-channel 8-bit PNG.

    Raises:
        SinkError: it cannot be encoded.
    """
    import cv2

    ok, png = cv2.imencode(".png", result.mask)
    if not ok:
        raise SinkError(f"The mask of frame {result.frame_index} cannot be encoded", "check the frame's size")
    return bytes(np.asarray(png))


def make_folder(folder: Path) -> None:
    """Make a folder and those above it.

    Raises:
        SinkError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SinkError(
            f"The folder {folder} cannot be made ({error.strerror})", "choose a folder you may write to"
        ) from error
