"""Training in several processes, on one machine or many, as ``torchrun`` starts them.

Every process takes its share of each batch, and a step comes to the same as in one process: gradients are averaged,
batch normalisation takes its statistics over the whole batch, evaluation adds up the confusion matrices.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from edgeseg.errors import UsageError
from edgeseg_train.device import device_named
from edgeseg_train.process_sum import sum_over_processes
from edgeseg_train.synced_norm import synchronise_normalisation

TIMEOUT = timedelta(minutes=15)
"""How long a process waits for the others before it gives up: one machine may read its data later than another."""

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """The processes that train one network; alone by default.

    Attributes:
        device: where this one computes.
        rank: which one this is, from 0.
        count: how many there are.
    """

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this one writes files and talks to the user."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """Those items that are this process's work."""
        return list(items[self.rank :: self.count])

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes, on their devices; all must ask for it."""
        return sum_over_processes(values.to(self.device))

    def parallel(self, network: nn.Module) -> nn.Module:
        """The network to call in training: its gradients become the mean over all processes.

        The weights are still those of ``network``, whose batch normalisation is synchronised in place.
        """
        if self.count == 1:
            return network
        synchronise_normalisation(network, self.device)
        ids = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(network, device_ids=ids)


def without_averaging(network: nn.Module, wanted: bool) -> AbstractContextManager[None]:
    """Where ``wanted``, gradients made in this block stay in this process until those of the next block join them."""
    return network.no_sync() if wanted and isinstance(network, DistributedDataParallel) else nullcontext()


@contextmanager
def joined_processes(device: str) -> Iterator[Processes]:
    """Join the processes that ``torchrun`` started; outside it there is this one alone. All but one keep quiet.

    Args:
        device: "auto", "cpu" or "cuda"; each process of a machine takes the GPU of its number there.

    Raises:
        UsageError: there is no such device, or the others cannot be reached.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = device_named(device)
    if count == 1:
        yield Processes(chosen)
        return
    if chosen.type == "cuda":
        if chosen.index is not None:
            raise UsageError(f"All {count} processes would train on '{device}'", "give --device cuda")
        chosen = device_named(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
        torch.cuda.set_device(chosen)
    try:
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=TIMEOUT)
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:120]
        raise UsageError(f"Cannot join the {count} processes of this run ({reason})", "start with torchrun") from error
    processes = Processes(chosen, dist.get_rank(), count)
    try:
        with nullcontext() if processes.is_main else redirect_stdout(None):
            yield processes
    finally:
        dist.destroy_process_group()
