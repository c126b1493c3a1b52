"""How a training run can end early."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed

from edgeseg.errors import EdgesegError
from edgeseg_train.config import TrainConfig


class TrainingDivergedError(EdgesegError):
    """The loss or its gradient became NaN or infinite."""

    exit_code = 1


class TrainingStoppedError(EdgesegError):
    """The machine could not go on: memory ran out, or a loader process or another process of the run died."""

    exit_code = 1


def diverged(place: str, images: Sequence[Path], config: TrainConfig, *, resumable: bool) -> TrainingDivergedError:
    """The error for a step whose loss or gradient is NaN or infinite.

    Args:
        place: epoch and step.
        images: what the step was made on; the first eight are named.
        config: the run.
        resumable: whether an epoch of it is saved.
    """
    names = ", ".join(str(path) for path in images[:8]) + (f" and {len(images) - 8} more" if len(images) > 8 else "")
    mend = f"look at these images and their masks, and start again with a lower --lr (now {config.lr}) in another --out"
    if config.amp != "off" and resumable:
        mend += ", or continue with --resume --amp off"
    return TrainingDivergedError(f"The loss is no longer finite in {place}, on {names}", mend)


@contextmanager
def machine_errors() -> Iterator[None]:
    """Say in words what torch reports about memory and loader processes.

    Raises:
        TrainingStoppedError: in place of torch's own error.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise TrainingStoppedError(
            "The GPU has too little memory for this run", "start again with a smaller --batch, --imgsz or --model"
        ) from error
    except RuntimeError as error:
        if "DataLoader worker" in str(error):
            raise TrainingStoppedError(
                f"A loader process died ({str(error).splitlines()[-1][:120]})",
                "continue with --resume --workers 0, or give the machine or container more (shared) memory",
            ) from error
        if torch.distributed.is_initialized() and _is_of_communication(error):
            raise TrainingStoppedError(
                f"Another process of this run ended or does not answer ({str(error).splitlines()[0][:120]})",
                "see what it says, then continue with --resume",
            ) from error
        raise


def _is_of_communication(error: RuntimeError) -> bool:
    # The CPU's backend raises plain errors that begin with a path in its own source code.
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)
