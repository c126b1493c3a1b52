"""How a training run can end early."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from edgeseg.errors import EdgesegError


class TrainingDivergedError(EdgesegError):
    """The loss or its gradient became NaN or infinite."""

    exit_code = 1


class TrainingStoppedError(EdgesegError):
    """The machine could not go on: memory ran out, or a loader process died."""

    exit_code = 1


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
        if "DataLoader worker" not in str(error):
            raise
        raise TrainingStoppedError(
            f"A loader process died ({str(error).splitlines()[-1][:120]})",
            "continue with --resume --workers 0, or give the machine or container more (shared) memory",
        ) from error
