"""Sharding of an evaluation: its batches, in order and whole, are shared among the ranks.

Which images form a batch decides their padding and, in the last bits, what a network makes of them. The batches are
therefore those of one process, whatever the number of ranks, and each is computed by one rank. Each rank has a run of
consecutive ones, so that what the ranks found, joined by rank, is in the order of one process.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import distributed as dist
from torch.utils.data import Sampler
from ultralytics.data.build import InfiniteDataLoader

from kdyolo.engine.ranks.agreement import is_sharing


class EvaluationBatches(Sampler[list[int]]):
    """Indices of the images in each batch of an evaluation that one of several ranks computes.

    Args:
        images: Number of images.
        group: Images that are padded to one shape: those that Ultralytics' data set takes for a batch.
        batch: Images in a batch, at most; a batch lies within a group.
        rank: Which part: 0…ranks−1.
        ranks: Number of parts; they differ by one batch at most, and the last ones may be empty.

    Attributes:
        batches: Indices of the images in each batch of this rank.
    """

    def __init__(self, images: int, group: int, batch: int, rank: int = 0, ranks: int = 1) -> None:
        groups = [range(start, min(start + group, images)) for start in range(0, images, group)]
        batches = [list(each[start : start + batch]) for each in groups for start in range(0, len(each), batch)]
        share, rest = divmod(len(batches), ranks)
        first = rank * share + min(rank, rest)
        self.batches = batches[first : first + share + (rank < rest)]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)

    @property
    def images(self) -> int:
        """Number of images in these batches."""
        return sum(map(len, self.batches))


class EvaluationLoader(InfiniteDataLoader):  # type: ignore[misc]
    """Ultralytics' data loader for the images of an evaluation, with given batches.

    Args:
        loader: Ultralytics' loader of all images; its settings are taken over.
        batches: The batches of this loader.

    Attributes:
        batches: The batches of this loader.
        of_all_ranks: The loader of the batches of all ranks: this one if there are no others.
    """

    def __init__(self, loader: Any, batches: EvaluationBatches) -> None:
        workers = min(loader.num_workers, len(batches)) if len(batches) > 1 else 0  # as Ultralytics has it
        super().__init__(
            dataset=loader.dataset,
            batch_sampler=batches,
            num_workers=workers,
            prefetch_factor=loader.prefetch_factor if workers else None,
            pin_memory=loader.pin_memory,
            collate_fn=loader.collate_fn,
            worker_init_fn=loader.worker_init_fn,
            generator=loader.generator,
        )
        self.batches = batches
        self.of_all_ranks = self


def shard(loader: Any, batch: int) -> Any:
    """This rank's part of a loader; without other ranks, the loader with batches of at most that size.

    Args:
        loader: Ultralytics' loader of all images, in order. Its data set pads the images of one batch to one shape.
        batch: Images in a batch, at most.
    """
    images, group = len(loader.dataset), loader.dataset.batch_size
    everything = EvaluationBatches(images, group, batch)
    if not is_sharing():
        return loader if batch >= group else EvaluationLoader(loader, everything)
    mine = EvaluationBatches(images, group, batch, dist.get_rank(), dist.get_world_size())
    part = EvaluationLoader(loader, mine)
    part.of_all_ranks = EvaluationLoader(loader, everything)
    return part
