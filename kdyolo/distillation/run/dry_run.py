"""Dry run of a distillation: some steps measured, with the teacher and without, and what the whole run will take."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from kdyolo.distillation.feature_cache import CacheKey
from kdyolo.distillation.run.cache_filling import needed_bytes
from kdyolo.distillation.run.loop import DistillLoop
from kdyolo.runs.files import STATE_NAME
from kdyolo.utils.text import format_duration, number_and_noun, plural

_STEPS = 3  # measured, after one that is not


def measured_steps(loop: DistillLoop) -> str:
    """Measure steps of a loop, whose student is spoilt by them, and put into words what the run will take."""
    options, device = loop.options, loop.place.device
    views = next(iter(loop.measured_batches()))
    loop.live.measure([views])
    targets = loop.source(views)
    loop.model.train()

    def learn() -> None:
        loop.level_losses(views, targets).mean().backward()  # type: ignore[no-untyped-call]
        loop.optimizer.step()
        loop.optimizer.zero_grad(set_to_none=True)

    alone = _seconds(learn, device)
    teacher = _seconds(lambda: loop.source(views), device)
    began = time.perf_counter()
    next(iter(loop.measured_batches()))
    loading = (time.perf_counter() - began) / max(options.workers, 1)
    step = max(alone + teacher + (loading if not options.workers else 0), loading)
    hours = step * loop.batches * options.epochs
    tensors: list[Tensor] = list(loop.student.state_dict().values())
    disk = sum(t.numel() * t.element_size() for t in tensors) * 5  # three checkpoints, and the optimizer's two moments
    lines = [
        f"speed     {options.batch / step:.1f} images/s with the teacher, {options.batch / alone:.1f} without "
        f"(a batch: teacher {teacher:.3f} s, student {alone:.3f} s, loading {loading:.3f} s)",
        f"length    {plural(options.epochs, 'epoch')} of {number_and_noun(loop.batches, 'batch{|es}')}: about "
        f"{format_duration(hours)}",
        f"disk      about {disk / 1e9:.2f} GB, with {STATE_NAME} until the run ends",
    ]
    if options.cache:
        key = CacheKey.of(loop.plan.teacher, loop.plan.taps.values(), options.resize, options.cache_precision)
        images = len(loop.train_set) + len(loop.held_out)
        size = needed_bytes(loop.live, key, images) / 1e9
        held = f"{size:.2f} GB in {key.precision} for {plural(images, 'image')}"
        lines.append(f"cache     {held}; then no teacher is waited for")
    if device.type == "cuda":
        lines.append(f"memory    {torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB of the GPU")
    return "\n".join([*lines, "dry run: nothing was written"])


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Mean duration of some work, once it is warm."""
    work()
    began = 0.0
    for number in range(_STEPS + 1):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if not number:
            began = time.perf_counter()
        if number < _STEPS:
            work()
    return (time.perf_counter() - began) / _STEPS
