"""The training loop, one page: step, average, evaluate, save."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader
from torch.utils.tensorboard.writer import SummaryWriter
from tqdm import tqdm

from edgeseg.dataset import DataSet
from edgeseg.errors import EdgesegError, ModelError, UsageError
from edgeseg.files import write_text
from edgeseg.metrics import Scores
from edgeseg_train import checkpoint as checkpoints
from edgeseg_train import losses
from edgeseg_train.augment import training_transform
from edgeseg_train.config import TrainConfig
from edgeseg_train.data import TrainingSplit
from edgeseg_train.deploy import IMAGENET_MEAN, IMAGENET_STD
from edgeseg_train.evaluate import evaluate_network
from edgeseg_train.models import build
from edgeseg_train.pictures import sample_picture


class TrainingDivergedError(EdgesegError):
    """The loss became NaN or infinite."""

    exit_code = 1


class Trainer:
    """One run: its network, optimiser, weight average, and where it stands.

    Args:
        config: the run.
        data: the data set that ``config.data`` names.
    """

    def __init__(self, config: TrainConfig, data: DataSet) -> None:
        self.config, self.data = config, data
        self.out = Path(config.out)
        self.device = _device(config.device)
        seed_everything(config.seed)
        transform = training_transform(
            config.imgsz, (config.scale_min, config.scale_max), config.color,
            255 if data.ignore_id is None else data.ignore_id,
        )  # fmt: skip
        self.split = TrainingSplit(data, config.train_split, transform, config.seed)
        data.samples(config.val_split)  # a misspelt split must fail now, not after the first epoch
        self.network = build(config.model, len(data.classes)).to(self.device, memory_format=torch.channels_last)
        self.average = AveragedModel(self.network, avg_fn=_ramped_average(config.ema_decay), use_buffers=True)
        self.optimizer = torch.optim.AdamW(_parameter_groups(self.network, config.weight_decay), lr=config.lr)
        self.steps_per_epoch = max(1, len(self.split) // config.batch)
        total = self.steps_per_epoch * config.epochs
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: learning_rate_factor(step, total, config.warmup, config.schedule)
        )
        self.criterion = losses.build(config.loss, self.split.ignore_id, self.split.pixel_counts).to(self.device)
        self.mean = torch.tensor(IMAGENET_MEAN, device=self.device).view(1, 3, 1, 1) * 255
        self.std = torch.tensor(IMAGENET_STD, device=self.device).view(1, 3, 1, 1) * 255
        self.epoch = 0
        self.best_miou = -1.0

    def run(self) -> float:
        """Train from where the run stands to its last epoch; the best val mIoU (0 to 1) of the averaged weights.

        Raises:
            TrainingDivergedError: the loss is no longer finite.
            SinkError: a checkpoint cannot be written; the last good one stays.
        """
        config = self.config
        every = config.eval_every or max(1, config.epochs // 30)
        write_text(self.out / "config.json", config.save_text())
        with (
            closing(SummaryWriter(str(self.out / "tensorboard"), purge_step=self.epoch)) as board,
            tqdm(total=config.epochs, initial=self.epoch, unit="epoch", desc=config.model) as bar,
        ):
            while self.epoch < config.epochs:
                loss = self._train_epoch()
                self.epoch += 1
                board.add_scalar("train/loss", loss, self.epoch)
                board.add_scalar("train/lr", self.optimizer.param_groups[0]["lr"], self.epoch)
                scores = None
                if self.epoch % every == 0 or self.epoch == config.epochs:
                    scores = self._evaluate(board)
                self._save(scores)
                bar.set_postfix(loss=f"{loss:.3f}", best_miou=f"{100 * max(self.best_miou, 0):.1f}")
                bar.update()
        return self.best_miou

    def _train_epoch(self) -> float:
        total = 0.0
        self.network.train()
        for step, (images, labels) in enumerate(self._batches()):
            loss = self.train_step(images, labels)
            if not math.isfinite(loss):
                raise TrainingDivergedError(
                    f"The loss is {loss} in epoch {self.epoch + 1}, step {step + 1}",
                    f"lower --lr (now {self.config.lr}), then --resume from the last epoch's checkpoint",
                )
            total += loss
        return total / self.steps_per_epoch

    def train_step(self, images: Tensor, labels: Tensor) -> float:
        """One optimiser step on uint8 RGB images [N, 3, H, W] and int64 labels [N, H, W]; its loss."""
        images = images.to(self.device, memory_format=torch.channels_last, non_blocking=True)
        labels = labels.to(self.device, non_blocking=True)
        images = (images - self.mean) / self.std
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.amp):
            main, auxiliary = self.network(images)
        loss = losses.dense_loss(self.criterion, main, labels)
        loss = loss + self.config.aux_weight * losses.dense_loss(self.criterion, auxiliary, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.config.grad_clip)
        self.optimizer.step()
        self.scheduler.step()
        self.average.update_parameters(self.network)
        return float(loss.detach())

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        # Everything random in an epoch follows from (seed, epoch), so a resumed run repeats it.
        seed_everything(hash((self.config.seed, self.epoch)) & 0x7FFFFFFF)
        self.split.epoch = self.epoch
        yield from DataLoader(
            self.split, self.config.batch, shuffle=True, drop_last=len(self.split) >= self.config.batch,
            num_workers=self.config.workers, generator=torch.Generator().manual_seed(self.epoch),
        )  # fmt: skip

    def _evaluate(self, board: SummaryWriter) -> Scores:
        network = copy.deepcopy(self.average.module).eval()
        scores = evaluate_network(network, self.data, self.config.val_split, self.config.imgsz, self.device)
        board.add_scalar("val/miou", scores.miou, self.epoch)
        board.add_scalar("val/pixel_accuracy", scores.pixel_accuracy, self.epoch)
        for name, iou in scores.iou.items():
            if iou is not None:
                board.add_scalar(f"val_iou/{name}", iou, self.epoch)
        picture = sample_picture(network, self.data, self.config.val_split, self.config.imgsz, self.device)
        board.add_image("val/image, truth, prediction", picture, self.epoch, dataformats="HWC")
        return scores

    def _facts(self, scores: Scores | None) -> dict[str, Any]:
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
            "best_miou": self.best_miou,
        }
        checkpoints.save({**facts, "state": state}, self.out / "last.pt")

    def resume(self) -> None:
        """Continue from ``last.pt`` in the run's folder.

        Raises:
            ModelError: there is none, or it cannot be read.
            UsageError: it was made with another configuration; names the fields.
        """
        path = self.out / "last.pt"
        saved = checkpoints.load(path)
        if "state" not in saved:
            raise ModelError(f"{path} holds no training state", "resume from a folder with a last.pt")
        different = self.config.differences(saved["config"])
        if different:
            now = vars(self.config)
            detail = ", ".join(f"{k} was {saved['config'].get(k)}, is {now[k]}" for k in different)
            raise UsageError(f"{path} belongs to another run ({detail})", "give the same options, or another --out")
        state = saved["state"]
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.best_miou, self.epoch = state["best_miou"], saved["epoch"]


def learning_rate_factor(step: int, total: int, warmup: float, schedule: str) -> float:
    """Share of the top learning rate at a step: a linear rise, then cosine or poly (0.9) down to zero."""
    rise = max(1, round(total * warmup))
    if step < rise:
        return (step + 1) / rise
    done = min(1.0, (step - rise) / max(1, total - rise))
    return 0.5 * (1 + math.cos(math.pi * done)) if schedule == "cosine" else (1 - done) ** 0.9


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _ramped_average(decay: float) -> Any:
    # A fixed decay would carry the random initial weights through most of a short run.
    def average(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        if not averaged.is_floating_point():  # counters of batch normalisation
            return current
        n = int(count)
        return torch.lerp(current, averaged, min(decay, (1 + n) / (10 + n)))

    return average


def _parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    kernels = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    return [
        {"params": kernels, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError("There is no CUDA device that torch can use", "give --device cpu")
    return torch.device(name)
