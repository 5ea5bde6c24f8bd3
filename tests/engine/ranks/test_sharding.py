"""Batches of an evaluation: whole, in order, each on one rank."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import distributed as dist
from torch.utils.data import Dataset

from kdyolo.engine.ranks import agreement, sharding
from kdyolo.engine.ranks.sharding import EvaluationBatches, EvaluationLoader, shard


class Images(Dataset):
    """Images that are their own number; six of them are padded to one shape."""

    batch_size = 6

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < self.count:
            raise IndexError
        return index


def loader_of(images: int) -> SimpleNamespace:
    """What is used of Ultralytics' loader."""
    settings = {"num_workers": 0, "prefetch_factor": None, "pin_memory": False, "worker_init_fn": None}
    return SimpleNamespace(dataset=Images(images), collate_fn=list, generator=None, **settings)


def be_rank(monkeypatch: pytest.MonkeyPatch, rank: int, ranks: int) -> None:
    for module in (agreement, sharding):
        monkeypatch.setattr(module, "is_sharing", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda: rank)
    monkeypatch.setattr(dist, "get_world_size", lambda: ranks)


@given(images=st.integers(0, 60), group=st.integers(1, 20), batch=st.integers(1, 20), ranks=st.integers(1, 9))
def test_ranks_together_have_the_batches_of_one_process(images, group, batch, ranks):
    alone = EvaluationBatches(images, group, batch).batches
    parts = [EvaluationBatches(images, group, batch, rank, ranks).batches for rank in range(ranks)]
    assert [b for part in parts for b in part] == alone
    assert [i for b in alone for i in b] == list(range(images))
    assert all(len(b) <= batch and b[0] // group == b[-1] // group for b in alone)
    sizes = [len(part) for part in parts]
    assert sizes == sorted(sizes, reverse=True)  # the first rank, which plots, always has some
    assert max(sizes) - min(sizes) <= 1


def test_the_loader_yields_its_part_each_time(monkeypatch):
    be_rank(monkeypatch, 1, 2)
    part = shard(loader_of(10), 4)
    assert [list(part), list(part)] == [[[6, 7, 8, 9]]] * 2
    assert (len(part), len(part.of_all_ranks)) == (1, 3)
    assert list(part.of_all_ranks) == [[0, 1, 2, 3], [4, 5], [6, 7, 8, 9]]


def test_a_rank_may_have_nothing_to_do(monkeypatch):
    be_rank(monkeypatch, 2, 3)
    part = shard(loader_of(7), 6)
    assert (list(part), len(part), len(part.of_all_ranks)) == ([], 0, 2)


def test_one_process_keeps_ultralytics_loader_unless_its_batches_are_too_large():
    loader = loader_of(10)
    assert shard(loader, 6) is loader
    smaller = shard(loader, 5)
    assert isinstance(smaller, EvaluationLoader)
    assert smaller.of_all_ranks is smaller
    assert list(smaller) == [[0, 1, 2, 3, 4], [5], [6, 7, 8, 9]]
