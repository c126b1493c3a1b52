"""A checkpoint for keeping: ``python -m edgeseg_train.slim best.pt small.pt``.

Weights become float16 and the training state is left out: a quarter of the memory of a ``last.pt``, half that of a
``best.pt``. It exports, evaluates and fine-tunes like any other. Of the paths in its configuration only the names stay.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from edgeseg.errors import EdgesegError, UsageError
from edgeseg_train import checkpoint as checkpoints

PATHS = ("data", "out", "init_from", "teacher")
"""Fields of the configuration that name files, whose folders are nobody's business elsewhere."""


def slim_from_checkpoint(checkpoint: checkpoints.Checkpoint) -> checkpoints.Checkpoint:
    """A copy with float16 weights and without training state.

    Raises:
        UsageError: a weight is beyond float16's range.
    """
    weights = {k: v.half() if v.dtype == torch.float32 else v for k, v in checkpoint["weights"].items()}
    for name, value in weights.items():
        if not torch.isfinite(value.float()).all():
            raise UsageError(f"The weight '{name}' does not fit float16", "keep the checkpoint as it is")
    kept = {k: v for k, v in checkpoint.items() if k not in ("state", "schema")}
    config = checkpoint.get("config", {})
    names = {k: Path(config[k]).name for k in PATHS if k in config}
    return {**kept, "weights": weights, "config": {**config, **names}}


def main(argv: list[str]) -> int:
    """Convert ``argv[0]`` to ``argv[1]``."""
    try:
        if len(argv) != 2:
            raise UsageError(f"{len(argv)} paths are given", "python -m edgeseg_train.slim best.pt small.pt")
        checkpoints.save(slim_from_checkpoint(checkpoints.load(argv[0])), argv[1])
    except EdgesegError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
