"""The training loop, one page: step, average, evaluate, save."""

from __future__ import annotations

import copy
import math
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from edgeseg.dataset import DataSet
from edgeseg.errors import ModelError, UsageError
from edgeseg.files import write_text
from edgeseg.metrics import Scores
from edgeseg_train import checkpoint as checkpoints
from edgeseg_train import losses
from edgeseg_train.board import Board
from edgeseg_train.config import TrainConfig
from edgeseg_train.data import TrainingSplit, check_split
from edgeseg_train.deploy import IMAGENET_MEAN, IMAGENET_STD
from edgeseg_train.device import device_named
from edgeseg_train.errors import TrainingDivergedError, machine_errors
from edgeseg_train.evaluate import evaluate_network
from edgeseg_train.history import EpochRecord
from edgeseg_train.initial import InitialWeights, load_initial
from edgeseg_train.models import build
from edgeseg_train.optimize import build_average, build_optimizer, learning_rate_factor
from edgeseg_train.pictures import sample_picture


class Trainer:
    """One run: its network, optimiser, weight average, and where it stands.

    Both splits are read once here, so that a broken file stops the run before it starts.

    Args:
        config: the run.
        data: the data set that ``config.data`` names.
        resume: continue from ``last.pt`` in the run's folder; ``config.init_from`` is not read again.

    Raises:
        UsageError: there is no such device, the training split has a single image, or ``last.pt`` was made with
            another configuration or another data set; says what differs.
        ModelError: ``last.pt`` or the checkpoint to start from is missing or cannot be read.
        DataError: a split is missing or empty, or a file is not what it should be (named).
    """

    def __init__(self, config: TrainConfig, data: DataSet, *, resume: bool = False) -> None:
        self.config, self.data, self.out = config, data, Path(config.out)
        self.device = device_named(config.device)
        data.samples(config.val_split)  # a misspelt name must not show only after the training split is read
        seed_everything(config.seed)
        network = build(config.model, len(data.classes))
        self.initial: InitialWeights | None = None
        if config.init_from and not resume:
            self.initial = load_initial(network, config.model, data.classes, config.init_from)
        self.split = _training_split(config, data)
        if config.val_split != config.train_split:
            check_split(data, config.val_split)
        self.network = network.to(self.device).to(memory_format=torch.channels_last)
        self.average = build_average(self.network, config.ema_decay)
        self.steps_per_epoch = max(1, len(self.split) // config.batch)
        self._build_optimizer(frozenset(self.initial.kept) if self.initial else frozenset())
        self.criterion = losses.build(
            config.loss, self.split.ignore_id, self.split.pixel_counts, aux_weight=config.aux_weight
        ).to(self.device)
        self.mean = torch.tensor(IMAGENET_MEAN, device=self.device).view(1, 3, 1, 1) * 255
        self.std = torch.tensor(IMAGENET_STD, device=self.device).view(1, 3, 1, 1) * 255
        self.epoch = self.saved_epoch = 0
        self.best_miou = -1.0
        if resume:
            self._resume()

    def _build_optimizer(self, kept: frozenset[str]) -> None:
        config, total = self.config, self.steps_per_epoch * self.config.epochs
        self.kept = kept
        self.optimizer = build_optimizer(self.network, config.lr, config.weight_decay, kept, config.encoder_lr)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: learning_rate_factor(step, total, config.warmup, config.schedule)
        )

    def run(self) -> float:
        """Train from where the run stands to its last epoch; the best val mIoU (0 to 1) of the averaged weights.

        Raises:
            TrainingDivergedError: the loss or its gradient is no longer finite; the last good checkpoint stays.
            TrainingStoppedError: memory ran out, or a loader process died.
            SinkError: a checkpoint or the events cannot be written; the last good checkpoint stays.
        """
        epochs = self.config.epochs
        every = self.config.eval_every or max(1, epochs // 30)
        write_text(self.out / "config.json", self.config.save_text())
        with (
            Board(self.out, self.epoch) as board,
            tqdm(total=epochs, initial=self.epoch, unit="epoch", desc=self.config.model) as bar,
        ):
            while self.epoch < epochs:
                began = time.perf_counter()
                loss = self._train_epoch()
                images = min(len(self.split), self.steps_per_epoch * self.config.batch)
                images_per_s = images / (time.perf_counter() - began)
                self.epoch += 1
                due = self.epoch % every == 0 or self.epoch == epochs
                scores, picture = self._evaluate() if due else (None, None)
                record = EpochRecord.now(
                    epoch=self.epoch, loss=loss, lr=self.optimizer.param_groups[0]["lr"],
                    images_per_s=images_per_s, device=self.device, scores=scores,
                )  # fmt: skip
                board.add(record, picture)
                self._save(scores)
                bar.set_postfix(loss=f"{loss:.3f}", best_miou=f"{100 * max(self.best_miou, 0):.1f}%", refresh=False)
                bar.update()
        return self.best_miou

    def _train_epoch(self) -> float:
        """Its mean loss."""
        self.network.train()
        total = 0.0
        title = f"epoch {self.epoch + 1}"
        with (
            machine_errors(),
            tqdm(self._batches(), title, self.steps_per_epoch, unit="step", leave=False, disable=None) as batches,
        ):
            for step, (images, labels) in enumerate(batches, 1):
                loss = self.train_step(images, labels)
                if not math.isfinite(loss):
                    raise TrainingDivergedError(
                        f"The loss is no longer finite in epoch {self.epoch + 1}, step {step}",
                        f"start again with a lower --lr (now {self.config.lr}) in another --out"
                        + (", or continue with --resume --amp off" if self.config.amp != "off" and self.epoch else ""),
                    )
                total += loss
        return total / self.steps_per_epoch

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        # Everything random in an epoch follows from (seed, epoch), so a resumed run repeats it.
        seed_everything(hash((self.config.seed, self.epoch)) & 0x7FFFFFFF)
        order = torch.Generator().manual_seed((self.config.seed << 20) + self.epoch)
        self.split.epoch = self.epoch
        workers = self.config.workers
        yield from DataLoader(
            self.split, self.config.batch, shuffle=True, drop_last=len(self.split) >= self.config.batch,
            num_workers=workers, generator=order,
            # Python 3.14 would no longer fork, and send each process a copy of all decoded images.
            multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        )  # fmt: skip

    def train_step(self, images: Tensor, labels: Tensor) -> float:
        """One optimiser step.

        Args:
            images: uint8 [N, 3, H, W], RGB.
            labels: int64 [N, H, W].

        Returns:
            The loss before the step; NaN where it or its gradient is not finite.
        """
        images = images.to(self.device, memory_format=torch.channels_last, non_blocking=True)
        labels = labels.to(self.device, non_blocking=True)
        images = (images - self.mean) / self.std
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.amp != "off"):
            outputs = self.network(images)
        loss = self.criterion(outputs, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.config.grad_clip)
        self.optimizer.step()
        self.scheduler.step()
        self.average.update_parameters(self.network)
        # A broken gradient would show in the next step's loss only, which after the last step never comes.
        return float(torch.where(norm.isfinite() & loss.isfinite(), loss.detach(), math.nan))

    def _evaluate(self) -> tuple[Scores, NDArray[np.uint8]]:
        split, imgsz = self.config.val_split, self.config.imgsz
        network = copy.deepcopy(self.average.module).eval()
        scores = evaluate_network(network, self.data, split, imgsz, self.device)
        return scores, sample_picture(network, self.data, split, imgsz, self.device)

    def _save(self, scores: Scores | None) -> None:
        facts = self._facts(scores)
        if scores is not None and scores.miou > self.best_miou:
            self.best_miou = scores.miou
            checkpoints.save(facts, self.out / "best.pt")
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "kept": sorted(self.kept),
            "best_miou": self.best_miou,
        }
        checkpoints.save({**facts, "state": state}, self.out / "last.pt")
        self.saved_epoch = self.epoch

    def _facts(self, scores: Scores | None) -> checkpoints.Checkpoint:
        return {
            "model": self.config.model,
            "weights": self.average.module.state_dict(),
            "classes": list(self.data.classes),
            "palette": [list(c) for c in self.data.palette],
            "ignore_id": self.data.ignore_id,
            "imgsz": list(self.config.imgsz),
            "mean": list(IMAGENET_MEAN),
            "std": list(IMAGENET_STD),
            "epoch": self.epoch,
            "config": {**vars(self.config), "imgsz": list(self.config.imgsz)},
            "dataset_notes": self.data.notes,
            "scores": None if scores is None else scores.to_dict(),
        }

    def _resume(self) -> None:
        path = self.out / "last.pt"
        saved = checkpoints.load(path)
        if "state" not in saved:
            raise ModelError(f"{path} holds no training state", "resume from a folder with a last.pt")
        try:
            different = self._differences(saved)
            if different:
                raise UsageError(
                    f"{path} belongs to another run ({', '.join(different)})", "give the same options, or another --out"
                )
            self._restore(saved)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ModelError(
                f"{path} lacks a part of its state ({error!r:.80})", "train again into another --out"
            ) from error

    def _differences(self, saved: checkpoints.Checkpoint) -> list[str]:
        now, before = vars(self.config), saved["config"]
        different = [f"{name} was {before.get(name)}, is {now[name]}" for name in self.config.differences(before)]
        if saved["classes"] != list(self.data.classes) or saved["ignore_id"] != self.data.ignore_id:
            different.append(f"{self.data.path} has other classes or another ignore id")
        steps = saved["state"]["scheduler"]["last_epoch"] // saved["epoch"]
        if not different and steps != self.steps_per_epoch:
            different.append(f"an epoch had {steps} steps, has {self.steps_per_epoch}: the training split changed")
        return different

    def _restore(self, saved: checkpoints.Checkpoint) -> None:
        state = saved["state"]
        self._build_optimizer(frozenset(state["kept"]))  # its groups must be those of the saved one
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.best_miou = state["best_miou"]
        self.epoch = self.saved_epoch = saved["epoch"]


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _training_split(config: TrainConfig, data: DataSet) -> TrainingSplit:
    split = TrainingSplit(data, config)
    if len(split) < 2:
        raise UsageError(
            f"The split '{config.train_split}' has one image, a step needs at least 2 (batch normalisation)",
            "add images to the split",
        )
    return split
