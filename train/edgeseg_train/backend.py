"""A checkpoint as an inference engine: the reference that exported files are compared with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import edgeseg
from edgeseg.card import ModelCard
from edgeseg.errors import BackendError, ModelError, UsageError
from edgeseg.files import sha256_of
from edgeseg.tensors import TensorSpec, check_input
from edgeseg_train import checkpoint as checkpoints
from edgeseg_train.deploy import IMAGENET_MEAN, IMAGENET_STD, DeployModel
from edgeseg_train.device import device_named

MIN_SIDE, MAX_SIDE = 64, 8192
"""Smallest and largest height and width in pixels: the networks halve the image six times."""

_PATHS = frozenset({"data", "out"})
_TRAIN_AGAIN = "give a best.pt or last.pt written by this version's 'edgeseg train'"


class TorchBackend:
    """A PyTorch network in float32. See ``edgeseg.backends.Backend``.

    The input is ``image``, uint8 [1, H, W, 3] in BGR; the output is named as the card's head: ``logits``,
    float32 [1, C, h, w] at the network's own stride, or ``mask``, uint8 [1, H, W].

    Args:
        network: maps normalised RGB images [1, 3, H, W] to logits. It is moved to ``device`` and put into
            evaluation mode, in place.
        card: uint8 NHWC BGR input; its size, normalisation and head are those that run.
        device: "auto" (CUDA where torch finds it), "cpu", "cuda" or "cuda:N".
        threads: CPU threads for one inference; None leaves torch's own number.

    Raises:
        ModelError: the card describes another kind of input.
        UsageError: there is no such device.
    """

    name = "torch"

    def __init__(
        self,
        network: nn.Module,
        card: ModelCard,
        *,
        device: str | torch.device = "auto",
        threads: int | None = None,
    ) -> None:
        self.version = str(torch.__version__)
        self._device, self._threads = device_named(str(device)), threads
        self.device = "CUDA" if self._device.type == "cuda" else "CPU"
        self.inputs: tuple[TensorSpec, ...] = (TensorSpec("image", np.dtype(np.uint8), (1, *card.input_size_hw, 3)),)
        check_input(self.inputs[0], card, "a PyTorch network")
        if card.color_order != "bgr":
            raise ModelError("A PyTorch network takes frames in BGR order, its card says RGB", _TRAIN_AGAIN)
        stride = getattr(network, "stride", None)
        self.outputs: tuple[TensorSpec, ...] = (_output(card, stride if isinstance(stride, int) else None),)
        model = DeployModel(network, card.mean[::-1], card.std[::-1], card.head)
        # The layout of training, and 5 % faster than NCHW on a CPU.
        self._model: nn.Module | None = model.to(self._device).to(memory_format=torch.channels_last)

    def infer(self, feed: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Run once; see ``Backend.infer``."""
        if self._model is None:
            raise BackendError("The PyTorch network is closed", "load the model again")
        image = feed.get("image")
        shape = self.inputs[0].shape
        if len(feed) != 1 or image is None or image.shape != shape or image.dtype != np.uint8:
            given = ", ".join(f"{name}: {value.dtype} {list(value.shape)}" for name, value in feed.items())
            raise BackendError(f"PyTorch was fed {given or 'nothing'}", f"feed image: uint8 {list(shape)}")
        # torch warns about arrays it may not write to, such as frames mapped from a file.
        image = image if image.flags.writeable else image.copy()
        try:
            with torch.inference_mode(), _threads(self._threads), _exact_float32(self._device):
                output = self._model(torch.from_numpy(image).to(self._device)).cpu().contiguous().numpy()
        except RuntimeError as error:
            first = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise BackendError(f"PyTorch failed ({first})", "lower --imgsz, or give --device cpu") from error
        return {self.outputs[0].name: output}

    def close(self) -> None:
        """Let the network go."""
        self._model = None


def open_checkpoint(
    path: Path, *, imgsz: tuple[int, int] | None, threads: int | None, device: str = "auto"
) -> tuple[TorchBackend, ModelCard]:
    """A checkpoint's network with its averaged weights, ready to run, and its card.

    Args:
        path: a ``best.pt`` or ``last.pt``.
        imgsz: height and width of the network input in pixels; None takes those of training.
        threads: CPU threads for one inference; None leaves torch's own number.
        device: see ``TorchBackend``.

    Raises:
        ModelError: the checkpoint is missing, cut off, or lacks facts that running it needs.
        UsageError: ``imgsz`` is out of range, or there is no such device.
    """
    checkpoint = checkpoints.load(path)
    card = card_from_checkpoint(checkpoint, imgsz=imgsz, head="logits", sha256=sha256_of(path))
    network = checkpoints.network_from_checkpoint(checkpoint)
    return TorchBackend(network, card, device=device, threads=threads), card


def card_from_checkpoint(
    checkpoint: checkpoints.Checkpoint,
    *,
    imgsz: tuple[int, int] | None,
    head: str,
    sha256: str | None = None,
) -> ModelCard:
    """The card of a checkpoint's network.

    The scores of training are kept only where they hold for what the card describes: they were measured with
    the logits head at the size of training.

    Args:
        checkpoint: as ``edgeseg_train.checkpoint.load`` gives it.
        imgsz: height and width of the network input in pixels; None takes those of training.
        head: "logits" or "mask".
        sha256: of the checkpoint file, for the provenance.

    Raises:
        ModelError: the checkpoint lacks facts, or holds others than it should.
        UsageError: ``imgsz`` is out of range.
    """
    try:
        trained_hw = (int(checkpoint["imgsz"][0]), int(checkpoint["imgsz"][1]))
        config = dict(checkpoint["config"])
        scores = checkpoint.get("scores") if head == "logits" and imgsz in (None, trained_hw) else None
        metrics = {} if scores is None else {
            str(config["val_split"]): {
                "miou": float(scores["miou"]),
                "pixel_accuracy": float(scores["pixel_accuracy"]),
                "backend": TorchBackend.name,
            }
        }  # fmt: skip
        card = card_for_network(
            classes=checkpoint["classes"], palette=checkpoint["palette"], ignore_id=checkpoint["ignore_id"],
            imgsz=imgsz or trained_hw, mean=checkpoint["mean"], std=checkpoint["std"], head=head,
        )  # fmt: skip
        return card.replace(
            name=str(checkpoint["model"]),
            dataset={
                "notes": str(checkpoint["dataset_notes"]),
                "train_split": str(config["train_split"]),
                "val_split": str(config["val_split"]),
            },
            metrics=metrics,
            provenance={
                "edgeseg": edgeseg.__version__,
                "torch": str(torch.__version__),
                **({} if sha256 is None else {"checkpoint_sha256": sha256}),
                "epoch": int(checkpoint["epoch"]),
                "config": {key: value for key, value in config.items() if key not in _PATHS},
            },
        )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ModelError(f"The checkpoint lacks a fact or misstates it ({error!r})", _TRAIN_AGAIN) from error


def card_for_network(
    *,
    classes: Sequence[str],
    palette: Sequence[tuple[int, int, int]],
    ignore_id: int | None,
    imgsz: tuple[int, int],
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    head: str = "logits",
) -> ModelCard:
    """The card of a network in memory, as ``TorchBackend`` takes it.

    Args:
        classes: class names by id.
        palette: RGB by id.
        ignore_id: id that labels use for "no class", or None.
        imgsz: height and width of the network input in pixels.
        mean, std: three values each in 0..1, in RGB; the card states them in its own order, BGR.
        head: "logits" or "mask".

    Raises:
        UsageError: ``imgsz`` is out of range.
        ModelError: another value is.
    """
    if not all(MIN_SIDE <= side <= MAX_SIDE for side in imgsz):
        raise UsageError(
            f"The input size is {imgsz[0]}x{imgsz[1]} (height x width), the network halves it six times",
            f"give --imgsz HEIGHT WIDTH with both from {MIN_SIDE} to {MAX_SIDE}",
        )
    red_mean, green_mean, blue_mean = mean
    red_std, green_std, blue_std = std
    return ModelCard(
        classes=tuple(classes), palette=tuple(palette), ignore_id=ignore_id, input_size_hw=imgsz,
        color_order="bgr", input_dtype="uint8", input_layout="nhwc",
        mean=(blue_mean, green_mean, red_mean), std=(blue_std, green_std, red_std),
        head=head, precision="fp32",
    )  # fmt: skip


def _output(card: ModelCard, stride: int | None) -> TensorSpec:
    height, width = card.input_size_hw
    if card.head == "mask":
        return TensorSpec("mask", np.dtype(np.uint8), (1, height, width))
    low_hw = (None, None) if stride is None else (-(-height // stride), -(-width // stride))
    return TensorSpec("logits", np.dtype(np.float32), (1, card.num_classes, *low_hw))


@contextmanager
def _threads(threads: int | None) -> Iterator[None]:
    """Torch's CPU threads, which are one number for the whole process, set for a block."""
    if threads is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _exact_float32(device: torch.device) -> Iterator[None]:
    """Convolutions without TF32, which has 10 bits of mantissa and would not be a float32 reference."""
    if device.type != "cuda":
        yield
        return
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield
