"""The training loop, one page: step, average, evaluate, save."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from edgeseg.dataset import DataSet
from edgeseg.files import write_text
from edgeseg.metrics import Scores
from edgeseg_train import checkpoint as checkpoints
from edgeseg_train import losses, run_state
from edgeseg_train.batches import Step, load_batches, seed_everything, steps_of_epoch, training_split
from edgeseg_train.board import Board
from edgeseg_train.config import TrainConfig
from edgeseg_train.data import check_split
from edgeseg_train.deploy import IMAGENET_MEAN, IMAGENET_STD
from edgeseg_train.device import device_named
from edgeseg_train.distill import Teacher, distillation_loss
from edgeseg_train.distributed import Processes, without_averaging
from edgeseg_train.errors import diverged, machine_errors
from edgeseg_train.evaluate import evaluate_network
from edgeseg_train.history import EpochRecord
from edgeseg_train.initial import InitialWeights, load_initial
from edgeseg_train.layout import to_channels_last
from edgeseg_train.memory import keep_freed_memory
from edgeseg_train.models import build
from edgeseg_train.optimize import build_average, build_optimizer, learning_rate_factor, set_learning_rate
from edgeseg_train.pictures import sample_picture
from edgeseg_train.quantize import simulate_int8

TINY = 1e-12
"""Stands for the labelled pixels of a step that has none; its gradient is 0."""

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16, "off": torch.float32}


class Trainer:
    """One run: its network, optimiser, weight average, and where it stands.

    Both splits are read once here, so that a broken file stops the run before it starts.

    Args:
        config: the run.
        data: the data set that ``config.data`` names.
        resume: continue from ``last.pt`` in the run's folder; ``config.init_from`` is not read again.
        processes: those that train together; this one alone where None.

    Raises:
        UsageError: there is no such device, the training split has a single image, the batch does not divide among
            the processes, or ``last.pt`` was made with another configuration or another data set; says what differs.
        ModelError: ``last.pt``, the checkpoint to start from or the teacher is missing or cannot be read.
        DataError: a split is missing or empty, a file is not what it should be (named), or the teacher knows other
            classes.
    """

    def __init__(
        self, config: TrainConfig, data: DataSet, *, resume: bool = False, processes: Processes | None = None
    ) -> None:
        self.config, self.data, self.out = config, data, Path(config.out)
        self.processes = processes or Processes(device_named(config.device))
        self.device = self.processes.device
        if self.device.type == "cpu":
            keep_freed_memory()
        data.samples(config.val_split)  # a misspelt name must not show only after the training split is read
        seed_everything(config.seed)
        network = build(config.model, len(data.classes))
        self.initial: InitialWeights | None = None
        if config.init_from and not resume:
            self.initial = load_initial(network, config.model, data.classes, config.init_from)
        self.teacher = Teacher(config.teacher, data, self.device) if config.teacher else None
        self.split = training_split(config, data, self.processes.count)
        if config.val_split != config.train_split:
            check_split(data, config.val_split)
        self.network = to_channels_last(network, self.device)
        self.parallel = self.processes.parallel(self.network)
        if config.qat:
            simulate_int8(self.network)
        self.average = build_average(self.network, config.ema_decay)
        self.step = self.epoch = self.saved_epoch = self.evaluations_since_best = 0
        self.best_miou = -1.0
        steps = self._steps()
        self.steps_per_epoch = len(steps)
        self.images_per_epoch = sum(len(batch) for step in steps for batch in step)
        self.build_optimizer(frozenset(self.initial.kept) if self.initial else frozenset())
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.amp == "fp16")
        self.criterion = losses.build(
            config.loss, self.split.ignore_id, self.split.pixel_counts, aux_weight=config.aux_weight
        ).to(self.device)
        self.mean = torch.tensor(IMAGENET_MEAN, device=self.device).view(1, 3, 1, 1) * 255
        self.std = torch.tensor(IMAGENET_STD, device=self.device).view(1, 3, 1, 1) * 255
        if resume:
            run_state.restore(self, self.out / "last.pt")

    def build_optimizer(self, kept: frozenset[str]) -> None:
        """A new optimiser; the parameters named in ``kept`` get their own learning rate."""
        self.kept = kept
        config = self.config
        self.optimizer = build_optimizer(self.network, config.lr, config.weight_decay, kept, config.encoder_lr)
        self._set_learning_rate()

    @property
    def stopped_early(self) -> bool:
        """Whether the last ``config.early_stop`` evaluations brought no better mIoU."""
        return 0 < self.config.early_stop <= self.evaluations_since_best

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        return self.epoch >= self.config.epochs or self.stopped_early

    def run(self) -> float:
        """Train from where the run stands to its end; the best val mIoU (0 to 1) of the averaged weights.

        Raises:
            TrainingDivergedError: the loss or its gradient is no longer finite; the last good checkpoint stays.
            TrainingStoppedError: memory ran out, a loader process died, or another process of the run ended.
            SinkError: a checkpoint or the events cannot be written; the last good checkpoint stays.
        """
        epochs, is_main = self.config.epochs, self.processes.is_main
        every = self.config.eval_every or max(1, epochs // 30)
        if is_main:
            write_text(self.out / "config.json", self.config.save_text())
        with (
            machine_errors(),
            Board(self.out, self.epoch) if is_main else nullcontext() as board,
            tqdm(total=epochs, initial=self.epoch, unit="epoch", desc=self.config.model, disable=not is_main) as bar,
        ):
            while not self.finished:
                began = time.perf_counter()
                loss = self._train_epoch()
                images_per_s = self.images_per_epoch / (time.perf_counter() - began)
                self.epoch += 1
                due = self.epoch % every == 0 or self.epoch == epochs
                scores, picture = self._evaluate() if due else (None, None)
                is_best = scores is not None and self._is_best(scores)
                if board:
                    record = EpochRecord.now(
                        epoch=self.epoch, loss=loss, lr=self.optimizer.param_groups[0]["lr"],
                        images_per_s=images_per_s, device=self.device, scores=scores,
                    )  # fmt: skip
                    board.add(record, picture)
                    self._save(scores, is_best)
                self.saved_epoch = self.epoch
                bar.set_postfix(loss=f"{loss:.3f}", best_miou=f"{100 * max(self.best_miou, 0):.1f}%", refresh=False)
                bar.update()
        return self.best_miou

    def _steps(self) -> list[Step]:
        config = self.config
        return steps_of_epoch(len(self.split), config.batch, config.accumulate, seed=config.seed, epoch=self.epoch)

    def _train_epoch(self) -> float:
        """Its mean loss."""
        steps = self._steps()
        # Everything random in an epoch follows from (seed, epoch), so a resumed run repeats it.
        seed_everything(hash((self.config.seed, self.epoch)) & 0x7FFFFFFF)
        self.network.train()
        self.split.epoch = self.epoch
        shares = [self.processes.share(batch) for step in steps for batch in step]
        batches = load_batches(self.split, shares, self.config.workers, pin_memory=self.device.type == "cuda")
        hidden = None if self.processes.is_main else True
        total = 0.0
        for step in tqdm(steps, f"epoch {self.epoch + 1}", unit="step", leave=False, disable=hidden):
            total += self.train_step(step, batches)
        return total / len(steps)

    def train_step(self, step: Step, batches: Iterator[tuple[Tensor, Tensor]]) -> float:
        """One step of the optimiser. Every labelled pixel counts alike, whatever its batch and process.

        Args:
            step: which images it takes; names them where the step fails.
            batches: gives as many batches as ``step`` has: uint8 [N, 3, H, W], RGB, and int64 [N, H, W].

        Returns:
            The loss before the step, a mean over its labelled pixels.

        Raises:
            TrainingDivergedError: the loss or its gradient is not finite; names the images.
        """
        self.optimizer.zero_grad(set_to_none=True)
        parts = torch.stack([self._backward(*next(batches), is_last=batch is step[-1]) for batch in step])
        batch_losses, shares = (self.processes.total(parts) / self.processes.count).T
        norm = self._update_weights(shares.sum())
        finite = batch_losses.isfinite().tolist()
        # An infinite gradient would show in the next step's loss only, which after the last step never comes. In fp16
        # one now and then is how the scaler finds its scale, and it leaves such a step out.
        if all(finite) and not (norm.isfinite() or self.scaler.get_scale() > 1):
            finite = [False] * len(step)
        if not all(finite):
            broken = [
                self.split.samples[i] for batch, good in zip(step, finite, strict=True) if not good for i in batch
            ]
            place = f"epoch {self.epoch + 1}, step {(self.step - 1) % self.steps_per_epoch + 1}"
            raise diverged(place, [sample.image_path for sample in broken], self.config, resumable=self.epoch > 0)
        return float(batch_losses.sum() / shares.sum().clamp(min=TINY))

    def _backward(self, images: Tensor, labels: Tensor, is_last: bool) -> Tensor:
        """Add a batch's gradient; its loss times the share of its pixels that are labelled, and that share, [2]."""
        images = images.to(self.device, memory_format=torch.channels_last, non_blocking=True)
        labels = labels.to(self.device, non_blocking=True)
        labelled = labels != self.split.ignore_id
        images = (images - self.mean) / self.std
        with without_averaging(self.parallel, not is_last):
            with torch.autocast(self.device.type, AUTOCAST[self.config.amp], enabled=self.config.amp != "off"):
                outputs = self.parallel(images)
                taught = self.teacher.logits(images) if self.teacher else None
            loss = self.criterion(outputs, labels)
            if taught is not None:
                student = outputs if isinstance(outputs, Tensor) else outputs.logits
                loss = loss + self.config.distill_weight * distillation_loss(student, taught, labelled)
            share = labelled.float().mean()
            self.scaler.scale(loss * share).backward()
        return torch.stack([loss.detach() * share, share])

    def _update_weights(self, labelled: Tensor) -> Tensor:
        """One step with the gradient divided by ``labelled``; the norm it then had."""
        self.scaler.unscale_(self.optimizer)
        for parameter in self.network.parameters():
            if parameter.grad is not None:
                parameter.grad /= labelled.clamp(min=TINY)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.config.grad_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        self._set_learning_rate()
        self.average.update_parameters(self.network)
        return norm

    def _set_learning_rate(self) -> None:
        config, total = self.config, self.steps_per_epoch * self.config.epochs
        set_learning_rate(self.optimizer, learning_rate_factor(self.step, total, config.warmup, config.schedule))

    def _evaluate(self) -> tuple[Scores, NDArray[np.uint8] | None]:
        network, split, imgsz = copy.deepcopy(self.average.module).eval(), self.config.val_split, self.config.imgsz
        scores = evaluate_network(network, self.data, split, imgsz, self.processes)
        is_main = self.processes.is_main
        return scores, sample_picture(network, self.data, split, imgsz, self.device) if is_main else None

    def _is_best(self, scores: Scores) -> bool:
        if scores.miou > self.best_miou:
            self.best_miou, self.evaluations_since_best = scores.miou, 0
            return True
        self.evaluations_since_best += 1
        return False

    def _save(self, scores: Scores | None, is_best: bool) -> None:
        facts = run_state.facts_of(self, scores)
        if is_best:
            checkpoints.save(facts, self.out / "best.pt")
        checkpoints.save({**facts, "state": run_state.state_of(self)}, self.out / "last.pt")
