"""What a run tells of itself while it goes: its history, and TensorBoard events."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from torch.utils.tensorboard.writer import SummaryWriter

from edgeseg.errors import SinkError
from edgeseg_train.history import EpochRecord, History


class Board:
    """Numbers and pictures by epoch, in ``history.jsonl`` and the folder ``tensorboard``. A context manager.

    Args:
        folder: of the run; made where missing.
        epoch: the last finished one; what is there of later epochs, from a run that was interrupted, is dropped.

    Raises:
        SinkError: the folder cannot be written or the disk is full; so do all methods.
        DataError: there is a history that cannot be read.
    """

    def __init__(self, folder: Path, epoch: int) -> None:
        self.folder = folder
        self._history = History(folder, epoch)
        with self._disk_errors():
            self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=epoch + 1)

    def add(self, record: EpochRecord, picture: NDArray[np.uint8] | None = None) -> None:
        """Add an epoch, and where it has one its picture: uint8 [H, W, 3] in RGB."""
        self._history.append(record)
        curves = {
            "train/loss": record.loss,
            "train/lr": record.lr,
            "train/images_per_s": record.images_per_s,
            "val/miou": record.miou,
            "val/pixel_accuracy": record.pixel_accuracy,
            **{f"val_iou/{name}": iou for name, iou in record.iou.items()},
        }
        with self._disk_errors():
            for name, value in curves.items():
                if value is not None:
                    self._writer.add_scalar(name, value, record.epoch)
            if picture is not None:
                self._writer.add_image("val/image, truth, prediction, errors", picture, record.epoch, dataformats="HWC")

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SinkError(
                f"Cannot write to {self.folder} ({error.strerror or error})",
                "free some space or make the folder writable, then --resume",
            ) from error

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._disk_errors():
            self._writer.close()
