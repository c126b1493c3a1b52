"""Checkpoints: plain tensors and plain values, loaded with ``weights_only=True``, written at once or not at all.

``last.pt`` holds everything to resume; ``best.pt`` holds the averaged weights and the facts export needs.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from torch import nn

from edgeseg.errors import ModelError
from edgeseg.files import replacing
from edgeseg_train.models import build

SCHEMA = 1
Checkpoint = dict[str, Any]


def save(checkpoint: Checkpoint, path: str | os.PathLike[str]) -> None:
    """Write a checkpoint; the old one stays until the new one is whole.

    Raises:
        SinkError: the disk is full or the folder cannot be written.
    """
    with replacing(path) as temporary:
        try:
            torch.save({"schema": SCHEMA, **checkpoint}, temporary)
        except RuntimeError as error:  # torch's zip writer reports a full disk as a RuntimeError
            raise OSError(_first_line(error)) from error


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint; nothing in it is executed.

    Raises:
        ModelError: missing, damaged, not a checkpoint of edgeseg, or of another schema.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"There is no checkpoint {path}", "give the path of a best.pt or last.pt")
    try:
        with ZipFile(path) as archive:  # torch itself reads on over flipped bits
            if archive.testzip():
                raise BadZipFile("its checksums differ")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of any kind: a file of another format is read as instructions gone astray
        raise ModelError(
            f"{path} is not a checkpoint, or is damaged ({_first_line(error)})",
            "give a best.pt or last.pt written by 'edgeseg train'",
        ) from error
    if not isinstance(checkpoint, dict) or not {"schema", "model", "weights", "classes"} <= set(checkpoint):
        raise ModelError(f"{path} was not written by 'edgeseg train'", "give its best.pt or last.pt")
    if checkpoint["schema"] != SCHEMA:
        raise ModelError(
            f"{path} has schema {checkpoint['schema']}, this edgeseg reads {SCHEMA}", "train again, or update"
        )
    return checkpoint


def network_from_checkpoint(checkpoint: Checkpoint) -> nn.Module:
    """The network with its averaged weights, in evaluation mode.

    Raises:
        ModelError: the weights do not fit the network that the checkpoint names.
    """
    network = build(checkpoint["model"], len(checkpoint["classes"]))
    try:
        network.load_state_dict(checkpoint["weights"])
    except RuntimeError as error:
        raise ModelError(
            f"The checkpoint's weights do not fit {checkpoint['model']}", "train again with this version"
        ) from error
    return network.eval()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
