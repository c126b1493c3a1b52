"""The numbers of every epoch, in ``history.jsonl`` of a run's folder: one JSON object a line, one line an epoch."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import torch

import edgeseg
from edgeseg.errors import DataError
from edgeseg.files import write_text
from edgeseg.metrics import Scores
from edgeseg_train.device import name_of

FILE_NAME = "history.jsonl"


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """What one epoch came to.

    Attributes:
        epoch: counted from 1.
        loss: mean training loss, auxiliary heads included.
        lr: learning rate after the epoch's last step.
        images_per_s: training images a second, the reading of files included.
        finished_at: UTC, ISO 8601.
        machine: name of the GPU, or of the CPU where there was none.
        software: versions of edgeseg and torch.
        miou, pixel_accuracy: on the validation split, 0 to 1; None where the epoch was not evaluated.
        iou: by class name; None where the class is absent. Empty where the epoch was not evaluated.
    """

    epoch: int
    loss: float
    lr: float
    images_per_s: float
    finished_at: str
    machine: str
    software: str
    miou: float | None = None
    pixel_accuracy: float | None = None
    iou: dict[str, float | None] = dataclasses.field(default_factory=dict)

    @classmethod
    def now(
        cls, *, epoch: int, loss: float, lr: float, images_per_s: float, device: torch.device, scores: Scores | None
    ) -> EpochRecord:
        """The record of an epoch that ends now on ``device``; ``scores`` is None where it was not evaluated."""
        return cls(
            epoch=epoch, loss=loss, lr=lr, images_per_s=images_per_s,
            finished_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            machine=name_of(device), software=f"edgeseg {edgeseg.__version__}, torch {torch.__version__}",
            miou=None if scores is None else scores.miou,
            pixel_accuracy=None if scores is None else scores.pixel_accuracy,
            iou={} if scores is None else scores.iou,
        )  # fmt: skip


class History:
    """The records of a run, the file written anew with each: it is whole whenever the run is cut off.

    Args:
        folder: of the run.
        epoch: the last finished one; records of later epochs, from a run that was interrupted, are dropped.

    Raises:
        DataError: there is a history that cannot be read.
    """

    def __init__(self, folder: Path, epoch: int) -> None:
        self.path = folder / FILE_NAME
        self.records = [record for record in read_history(folder) if record.epoch <= epoch]

    def append(self, record: EpochRecord) -> None:
        """Add an epoch.

        Raises:
            SinkError: the file cannot be written; the old one stays.
        """
        self.records.append(record)
        write_text(self.path, "".join(json.dumps(vars(record)) + "\n" for record in self.records))


def read_history(folder: Path) -> list[EpochRecord]:
    """The records in a run's folder, none where there is no file. Lines that are no record are left out.

    Raises:
        DataError: the file cannot be read.
    """
    path = folder / FILE_NAME
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"Cannot read {path} ({error.strerror})", "make it readable, or move it away") from error
    records = []
    for line in text.splitlines():
        try:
            records.append(EpochRecord(**json.loads(line)))
        except (ValueError, TypeError):  # a machine that lost power can leave a part of a line, or zeros
            continue
    return records
