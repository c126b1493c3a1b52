"""The run's TensorBoard events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from torch.utils.tensorboard.writer import SummaryWriter

from edgeseg.errors import SinkError


class Board:
    """Curves and pictures by epoch, in a folder that TensorBoard reads. A context manager.

    Args:
        folder: made where missing.
        epoch: the last finished one; events of later epochs, from a run that was interrupted, are dropped.

    Raises:
        SinkError: the folder cannot be written or the disk is full; so do all methods.
    """

    def __init__(self, folder: Path, epoch: int) -> None:
        self.folder = folder
        with self._disk_errors():
            self._writer = SummaryWriter(str(folder), purge_step=epoch + 1)

    def curves(self, values: Mapping[str, float], epoch: int) -> None:
        """Add a point to each curve."""
        with self._disk_errors():
            for name, value in values.items():
                self._writer.add_scalar(name, value, epoch)

    def picture(self, name: str, image: NDArray[np.uint8], epoch: int) -> None:
        """Add a picture, uint8 [H, W, 3] in RGB."""
        with self._disk_errors():
            self._writer.add_image(name, image, epoch, dataformats="HWC")

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
