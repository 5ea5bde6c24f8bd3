"""Several processes in one run: process group, values for all ranks, wrapping a model whose frozen part changes.

Rank, world size and run folder come from the process group, on one node or many, never from the device string. All
ranks evaluate; rank 0 alone prints, scores and saves. What only it knows is broadcast, so no rank waits for a file that
another node holds.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from inspect import signature
from typing import Any, TypeVar

import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from ultralytics.utils import RANK

T = TypeVar("T")

# Rank 0 scores, plots and saves while the others wait, so this is as long as that may take, not how long a death goes
# unnoticed: a lost peer breaks gloo's connections at once, and torchrun ends the ranks of a node together.
TIMEOUT = timedelta(hours=3)
# PyTorch 2.13 has renamed it, and warns of the old name on every rank.
_PARAMETERS = signature(DistributedDataParallel).parameters
_SYNC_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _PARAMETERS else "broadcast_buffers"


def is_distributed() -> bool:
    """Whether this process is one of several of a run, started by torchrun or by kdyolo's own launcher."""
    return bool(RANK != -1)


def is_rank_zero() -> bool:
    """Whether this process prints, scores and saves."""
    return RANK in {-1, 0}


def init_process_group(device: torch.device) -> None:
    """Join the process group, before anything else asks for ranks.

    Args:
        device: This process's device, on which everything happens that names no other.
    """
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo", timeout=TIMEOUT)


def shared_evenly(batch: int, ranks: int) -> int:
    """Images in a batch of all ranks together, which share the setting evenly and leave the rest of it out.

    Args:
        batch: Images that were asked for.
        ranks: Number of ranks; 0 or 1 for one.
    """
    count = max(ranks, 1)
    return batch // count * count


def broadcast(value: T) -> T:
    """Rank 0's value, on every rank."""
    if not is_distributed():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def run_on_rank_zero(function: Callable[..., T], *arguments: Any) -> T:
    """What a function returns on rank 0, on every rank; and if it raises there, its error on every rank."""
    result: Any = None
    error: Exception | None = None
    if is_rank_zero():
        try:
            result = function(*arguments)
        except Exception as e:  # raised again below, on all ranks
            error = e
    result, error = broadcast((result, error))
    if error is not None:
        raise error
    return result  # type: ignore[no-any-return]


def from_all_ranks(value: T) -> list[T]:
    """Every rank's value, in the order of the ranks, on every rank."""
    if not is_distributed():
        return [value]
    box: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(box, value)
    return box


def wrap_ddp(model: nn.Module, device: torch.device, all_trains: bool) -> DistributedDataParallel:
    """Wrap a model for what trains now; a model that is wrapped already is unwrapped first.

    DistributedDataParallel reduces the gradients of those parameters that require them *when it is built*. After a thaw
    the old wrapper would leave the thawed part's gradients to each rank, without an error, and the ranks would drift.

    Args:
        model: The model.
        device: Device of this rank.
        all_trains: Whether every parameter that requires gradients gets one in each step, which a compiled model asks
            for; else those that get none are looked for each time.
    """
    own_statistics: dict[str, Any] = {_SYNC_BUFFERS: False}  # of BatchNorms, each rank's own, as in Ultralytics
    again = isinstance(model, DistributedDataParallel)
    return DistributedDataParallel(
        model.module if again else model,
        device_ids=[device.index] if device.type == "cuda" else None,
        find_unused_parameters=not all_trains,
        init_sync=not again,
        **own_statistics,
    )
