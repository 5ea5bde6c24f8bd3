"""Filling a feature cache: what is missing is computed by the live teacher, and a sample of it all compared with it."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader

from kdyolo.distillation.feature_cache import SHARD, CacheKey, FeatureCache, ImageStamp, bytes_of_image
from kdyolo.distillation.targets import LiveTargets
from kdyolo.distillation.teachers.projected_teacher import ProjectedTeacher, explained_text, projection_of
from kdyolo.distillation.views import ViewOptions, Views, ViewSet, stack_views
from kdyolo.errors import RunError
from kdyolo.runs.process_control import raise_if_told_to_end
from kdyolo.utils import distributed
from kdyolo.utils.atomic import SUFFIX, write_tensors
from kdyolo.utils.plain_files import is_file
from kdyolo.utils.text import number_and_noun, plural

LOGGER = logging.getLogger("ultralytics")
_SAMPLE = 8  # images that are compared with the live teacher
_LEAST_COSINE = 0.99  # between kept and live features; int8 gives 0.9999
PROJECTION = "pca.safetensors"
_EXPLAINED = "explained"  # key of its metadata
_LOCK = "filling.lock"
_PAUSE = 0.5  # seconds between looks at it
_SPARE = 1.05  # of the space that features take, which must be free


@contextmanager
def filling_alone(folder: Path) -> Iterator[None]:
    """Let one run at a time fill a cache: a second one waits, and then finds there what it needs.

    What a run that was killed had half written is removed. Where there are no locks, all fill it at once, and some
    features are computed twice.

    Args:
        folder: Folder of the cache, made if it is not there.

    Raises:
        KeyboardInterrupt: This process has been told to end while it waited.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("a") as file:
        locked = _wait_for_lock(file, folder)
        for left in folder.glob(f".*{SUFFIX}") if locked else ():
            left.unlink(missing_ok=True)
        yield


def _wait_for_lock(file: TextIO, folder: Path) -> bool:
    """Wait for the lock of an open file, which ends with it; whether there is one."""
    try:
        import fcntl
    except ImportError:  # on Windows
        return False
    told = False
    while True:
        raise_if_told_to_end()
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not told:
                LOGGER.info(f"cache: another run fills {folder}, which is waited for")
            told = True
            time.sleep(_PAUSE)
        except OSError:  # a file system without locks
            return False
        else:
            return True


def settle_projection(folder: Path, teacher: ProjectedTeacher, batches: Callable[[], Iterable[Views]]) -> None:
    """Give a teacher the projection that a cache was made with, or measure it and keep it there; all ranks get one.

    Args:
        folder: Folder of the cache.
        teacher: The teacher, on its device.
        batches: Views to measure it on, whole images; asked for only if there is none, or a damaged one.
    """
    tensors, explained = distributed.run_on_rank_zero(_kept_or_measured, folder / PROJECTION, teacher, batches)
    teacher.take(tensors, explained)
    if distributed.is_rank_zero():
        LOGGER.info(f"cache: {explained_text(explained, teacher.components)}")


def _kept_or_measured(
    file: Path, teacher: ProjectedTeacher, batches: Callable[[], Iterable[Views]]
) -> tuple[dict[str, Tensor], dict[str, float]]:
    try:
        if not is_file(file):
            raise FileNotFoundError(file)
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
            teacher.take(tensors, json.loads(opened.metadata()[_EXPLAINED]))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError):
        if os.path.lexists(file):
            LOGGER.warning(f"cache: {file} is damaged; the projection is measured anew, and so are all features")
        teacher.measure((views.teacher, views.taught) for views in batches())
        file.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(file, teacher.tensors(), {_EXPLAINED: json.dumps(teacher.explained)}, shared=True)
    return teacher.tensors(), teacher.explained


def complete_cache(
    folder: Path,
    key: CacheKey,
    live: LiveTargets,
    files: Sequence[Path],
    batch: int,
    workers: int,
    ranks: tuple[int, int],
) -> FeatureCache:
    """Open a cache, compute what it lacks of some images, and compare a sample with the teacher.

    Args:
        folder: Folder of all caches.
        key: What the features are of.
        live: The teacher, on its device.
        files: The images.
        batch: Images to a forward pass.
        workers: Processes that load images.
        ranks: Number of this process, and of all that fill the cache together.

    Raises:
        RunError: There is no space, or the features are not the teacher's.
    """
    cache = FeatureCache(folder, key, projection_of(live.teacher))
    rank, count = ranks
    if not rank:
        for shard in cache.open():
            LOGGER.warning(f"cache: {shard} is damaged and is made anew")
    _meet(count)  # nobody reads before damaged shards are gone
    if rank:
        cache.open()
    missing = cache.missing(files)
    if not rank:
        _announce(cache, live, key, len(files), len(missing))
    shards = [missing[i : i + SHARD] for i in range(0, len(missing), SHARD)]
    for number, images in enumerate(shards):
        if number % count == rank:
            cache.write(images, _features(live, key, images, batch, workers))
            LOGGER.info(f"cache: {min((number + 1) * SHARD, len(missing)):,} of {plural(len(missing), 'image')}")
    _meet(count)
    if missing:
        cache.open()
    if not rank:
        _compare(cache, live, files)
    return cache


def needed_bytes(live: LiveTargets, key: CacheKey, images: int) -> int:
    """Bytes that so many images take in a cache, by one forward pass of an empty image."""
    empty = torch.zeros(1, 3, key.size, key.size, device=live.device)
    with torch.inference_mode():
        maps = live.maps_of(Views(empty, empty, torch.zeros(1, 4), torch.zeros(1, 4)))
    return images * bytes_of_image(list(maps.values()), key.precision)


def _announce(cache: FeatureCache, live: LiveTargets, key: CacheKey, images: int, missing: int) -> None:
    """Say what is there and what will be added.

    Raises:
        RunError: There is no space for it.
    """
    needed = needed_bytes(live, key, missing)
    place = next(parent for parent in (cache.folder.absolute(), *cache.folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(place).free
    LOGGER.info(
        f"cache: {cache.folder} has {images - missing:,} of {plural(images, 'image')}; "
        f"{number_and_noun(missing, '{is|are} added')}, "
        f"{needed / 1e9:.2f} GB in {key.precision}, {free / 1e9:.1f} GB are free"
    )
    if needed * _SPARE > free:
        raise RunError(
            f"{cache.folder}: the features of {plural(missing, 'image')} take {needed / 1e9:.2f} GB, {free / 1e9:.2f} "
            "GB are free. Free space, choose another --cache, or --cache-precision int8."
        )


def _features(live: LiveTargets, key: CacheKey, files: Sequence[Path], batch: int, workers: int) -> dict[str, Tensor]:
    """Features [N, 2, C, h, w] of images as they are and mirrored, on the CPU, map by map."""
    views = [list(_maps(live, key, files, batch, workers, mirrored)) for mirrored in (False, True)]
    return {
        name: torch.stack([torch.cat([maps[number] for maps in view]) for view in views], dim=1)
        for number, (name, _) in enumerate(key.maps)
    }


@torch.inference_mode()
def _maps(
    live: LiveTargets, key: CacheKey, files: Sequence[Path], batch: int, workers: int, mirrored: bool
) -> Iterator[list[Tensor]]:
    """Maps [B, C, h, w] of images, batch by batch, drawn exactly as training draws them."""
    options = ViewOptions(key.size, key.size, key.resize, flip=float(mirrored))
    loader = DataLoader(
        ViewSet(files, options, 0),
        batch_size=batch,
        collate_fn=stack_views,
        num_workers=workers,
        generator=torch.Generator().manual_seed(0),
    )
    for views in loader:
        yield [maps.float().cpu() for maps in live.maps_of(views.to(live.device)).values()]


def _compare(cache: FeatureCache, live: LiveTargets, files: Sequence[Path]) -> None:
    """Compare a sample with the live teacher.

    Raises:
        RunError: They differ.
    """
    order = np.random.default_rng(len(files)).permutation(len(files))[:_SAMPLE]
    sample = [files[i] for i in sorted(order)]
    worst: Mapping[str, float] = {}
    for mirrored in (False, True):
        fresh = [torch.cat(parts) for parts in zip(*_maps(live, cache.key, sample, _SAMPLE, 0, mirrored), strict=True)]
        kept = [cache.read(ImageStamp.of(file), mirrored) for file in sample]
        for number, (name, _) in enumerate(cache.key.maps):
            stacked = torch.stack([maps[number] for maps in kept]).float()
            cosine = float(functional.cosine_similarity(stacked, fresh[number], dim=1).mean())
            worst = {**worst, name: min(cosine, worst.get(name, 1.0))}
    shown = ", ".join(f"{name} {cosine:.4f}" for name, cosine in worst.items())
    LOGGER.info(f"cache: cosine to the live teacher on {plural(len(sample), 'image')}: {shown}")
    if any(math.isnan(cosine) for cosine in worst.values()):
        raise RunError(
            f"{cache.folder}: features beyond the range of fp16, which a cache has (cosine {shown}). Leave out "
            "--cache, or choose other --taps."
        )
    if min(worst.values()) < _LEAST_COSINE:
        raise RunError(
            f"{cache.folder}: its features are not those of the teacher (cosine {shown}; expected at least "
            f"{_LEAST_COSINE}). Remove this folder; it is filled anew."
        )


def _meet(count: int) -> None:
    if count > 1:
        distributed.broadcast(0)
