"""Dry run and doctor: every mistake in a planned run, a real batch measured, and what the run will take.

They are what ``kdyolo train … --dry-run`` and ``kdyolo doctor`` do.
"""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from math import ceil
from pathlib import Path
from typing import Any

import psutil
import torch
from ultralytics.utils import LOGGER, callbacks
from ultralytics.utils.plotting import plot_images
from ultralytics.utils.torch_utils import get_cpu_info

from kdyolo.arguments import checked
from kdyolo.data.empty_splits import crowd_warnings, refuse_unlabelled
from kdyolo.engine.early_ends import small_images_explained
from kdyolo.engine.memory.fitting_batch import (
    does_not_fit,
    fitting_batch,
    gradient_buckets,
    loss_of,
    refuse_autobatch,
)
from kdyolo.engine.options.train_options import TrainOptions
from kdyolo.engine.provenance import versions
from kdyolo.engine.start.detector_start import read_backbone, read_start
from kdyolo.engine.start.plan import RunPlan, check_data, plan_with_every_mistake
from kdyolo.engine.trainer import KDTrainer
from kdyolo.errors import RunError, collect_mistakes
from kdyolo.models.yaml_layouts import describe_detector
from kdyolo.utils.progress import details
from kdyolo.utils.tables import ShownInOneLine
from kdyolo.utils.text import format_duration, number_and_noun, plural

STEPS = 2  # timed ones in each phase, after one to warm up
PICTURE = "labels.jpg"


@dataclass(frozen=True, repr=False)
class PhaseCost(ShownInOneLine):
    """What one step takes while the same parts train.

    Attributes:
        name: Parts that are frozen in the phase, e.g. ``"backbone frozen"``.
        epochs: Number of epochs of this phase in the run.
        seconds: Seconds of one step: forward, loss and backward of one batch.
        memory: Peak of memory in bytes in this phase: allocated on a GPU, or resident in the process.
    """

    name: str
    epochs: int
    seconds: float
    memory: int

    def headline(self) -> str:
        """The phase, its length, and what a step of it takes."""
        step = f"{self.seconds:.3g} s and {self.memory / 2**30:.1f} GiB a step"
        return f"{self.name}, {plural(self.epochs, 'epoch')}, {step}"

    def facts(self) -> dict[str, str]:
        """The phase, its length, and what a step of it takes."""
        return {
            "phase": self.name,
            "epochs": str(self.epochs),
            "seconds per step": f"{self.seconds:.3g}",
            "memory, GiB": f"{self.memory / 2**30:.1f}",
        }


@dataclass(frozen=True)
class RunCost:
    """What a run would take.

    Attributes:
        phases: What a step takes in each phase of the schedule.
        steps: Number of steps in an epoch.
        batch: Images to a batch on all devices together: as asked for, as AutoBatch chose, or less where that does not
            fit.
    """

    phases: list[PhaseCost]
    steps: int
    batch: int

    @property
    def seconds(self) -> float:
        """Seconds of the whole run; evaluation, optimizer steps and waiting for images are not counted."""
        return sum(phase.epochs * self.steps * phase.seconds for phase in self.phases)


def environment() -> str:
    """Versions, processor, GPUs and free space, a line each."""
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(Path.cwd())
    lines = [
        " · ".join(f"{name} {version}" for name, version in versions().items()) + f" · {platform.platform(terse=True)}",
        f"CPU     {get_cpu_info()}, {plural(os.cpu_count() or 1, 'core')}",
        f"memory  {memory.available / 2**30:.0f} of {memory.total / 2**30:.0f} GiB free",
        f"disk    {disk.free / 2**30:.0f} GiB free in {Path.cwd()}",
    ]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            name = torch.cuda.get_device_name(index)
            lines.append(f"GPU {index}   {name}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free")
    else:
        lines.append("GPU     none that PyTorch can use")
    return "\n".join(lines)


def check_parts(data: str | None = None, backbone: str | None = None, model: str | None = None) -> str:
    """Check a data set and a backbone checkpoint, each on its own.

    Returns:
        What was found, a few lines each.

    Raises:
        KDYOLOError: All mistakes in one error; a single one as the kind that it is.
    """
    lines: list[str] = []
    with collect_mistakes() as mistakes:
        if data:
            with mistakes.gathered():
                content = check_data(data)
                refuse_unlabelled(content)
                classes = number_and_noun(content["nc"], "class{|es}")
                lines.append(f"data    {data}: {classes}, {content['train']}, {content['val']}")
                lines += [f"warning {warning}" for warning in crowd_warnings(content)]
        if backbone:
            checkpoint = mistakes.result(lambda: read_backbone(TrainOptions(backbone=backbone)))
            if checkpoint:
                with mistakes.gathered():
                    start = read_start(TrainOptions(backbone=backbone), model, checkpoint)
                    lines += [f"model   {start.model}", start.report.table() if start.report else ""]
            elif model:
                mistakes.result(lambda: describe_detector(model))
        elif model:
            mistakes.add("model is about a backbone, but none is given.")
    return "\n".join(lines)


@checked
def preflight(overrides: Mapping[str, Any], folder: str | Path = "preflight") -> list[PhaseCost]:
    """Check a run, print what it would do, and measure one batch. Nothing is trained, no run folder is made.

    Of several GPUs one is measured, with its share of the batch. Where the batch does not fit once everything trains,
    it is said which one does, and that one is measured.

    Args:
        overrides: What ``train`` would get: kdyolo's and Ultralytics' settings, ``model`` among them or not.
        folder: Where the picture of labels goes; made if need be.

    Returns:
        What a step takes in each phase of the schedule.

    Raises:
        ConfigError: Every mistake that would end the run later.
        RunError: Not even a single image fits into the device's memory.

    Examples:
        >>> from kdyolo import preflight
        >>> options = {"backbone": "ckpt.pth", "data": "datasets/coco/coco.yaml", "freeze_epochs": 50, "imgsz": 64}
        >>> len(preflight(options))
        2
    """
    LOGGER.info(environment())
    plan = plan_with_every_mistake(overrides)
    picture = Path(folder) / PICTURE
    phases = measure_run(plan, picture).phases
    LOGGER.info(f"labels of a batch are drawn in {picture}; nothing was trained")
    return phases


def measure_run(plan: RunPlan, picture: Path | None = None) -> RunCost:
    """Set a run up in a temporary folder, and measure a real batch in every phase of its schedule.

    Args:
        plan: Plan of the run; its work dir is left alone.
        picture: Where to draw the labels of a batch, if anywhere.
    """
    with tempfile.TemporaryDirectory(prefix="kdyolo-preflight-") as scratch:
        alone, ranks = plan.on_first_device()
        trainer = KDTrainer(plan=alone.in_folder(Path(scratch) / "run"))
        trainer.callbacks = callbacks.get_default_callbacks()  # no logger should hear of this
        try:
            asked = trainer.args.batch
            refuse_autobatch(asked, ranks)
            if ranks > 1:  # measured is one device's share
                trainer.batch_size = max(trainer.batch_size // ranks, 1)
            # What is drawn into the temporary folder goes with it, and no epoch is trained.
            with small_images_explained(trainer.args), details("Plotting labels to", "epoch "):
                trainer.set_up()
                LOGGER.info(_describe_data(trainer))
                for warning in crowd_warnings(trainer.data):
                    LOGGER.warning(warning)
                LOGGER.info(_settle_batch(trainer, ranks, asked))
                if picture:
                    picture.parent.mkdir(parents=True, exist_ok=True)
                    picture.unlink(missing_ok=True)
                phases = _measure(trainer, picture, ranks)
            rehearsal = RunCost(phases, ceil(len(trainer.train_loader) / ranks), trainer.batch_size * ranks)
        finally:
            trainer.log.close()
        LOGGER.info(_estimate(rehearsal))
    return rehearsal


def _settle_batch(trainer: KDTrainer, ranks: int, asked: float) -> str:
    """Which batch is measured, in words; a batch that does not fit is replaced by the largest that does.

    Raises:
        RunError: None fits.
    """
    lines = []
    if asked < 1:
        lines.append(f"batch   {trainer.batch_size}, which AutoBatch took for batch={asked}")
    share = trainer.batch_size
    if trainer.memory.may_run_out and (fitting := fitting_batch(trainer, ranks)) < share:
        advice = does_not_fit(trainer, fitting, ranks)
        if not fitting:
            raise RunError(advice)
        lines.append(f"{advice} What follows was measured with it.")
        trainer.batch_size = fitting
        trainer._build_train_pipeline()
    each = f", {trainer.batch_size} on each of {ranks} devices" if ranks > 1 else ""
    fits = ": fits once everything trains" if trainer.memory.may_run_out else ""
    lines.append(f"batch   {trainer.batch_size * ranks}{each}{fits}")
    return "\n".join(lines)


def _describe_data(trainer: KDTrainer) -> str:
    """Images, backgrounds and boxes of both splits, and classes without any box."""
    names = trainer.data["names"]
    lines = []
    for split, loader in (("train", trainer.train_loader), ("val", trainer.test_loader)):
        labels = loader.dataset.labels
        boxes = Counter(int(c) for label in labels for c in label["cls"].flatten())
        backgrounds = sum(not len(label["cls"]) for label in labels)
        empty = [names[c] for c in names if c not in boxes]
        lines.append(
            f"{split:<7} {len(labels):,} images, {backgrounds:,} of them without objects; {boxes.total():,} boxes; "
            f"{len(names) - len(empty)} of {len(names)} classes" + (f", none of {_some(empty)}" if empty else "")
        )
    return "\n".join(lines)


def _some(names: list[str], count: int = 5) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


def _measure(trainer: KDTrainer, picture: Path | None, ranks: int) -> list[PhaseCost]:
    """One real batch forward and backward in every phase of the schedule, and its labels drawn.

    What several devices exchange takes memory on each of them, of which the one that is measured has its part too.
    """
    schedule, phases = trainer.schedule, []
    starts = [0, *schedule.unfreezes]
    for start, end in zip(starts, [*starts[1:], trainer.epochs], strict=True):
        trainer.begin_epoch(start)  # which also starts the loader anew
        trainer.memory.reset()
        buckets = gradient_buckets(trainer.model.parameters()) if ranks > 1 else []
        batches = chain.from_iterable(iter(trainer.train_loader) for _ in range(STEPS + 1))
        seconds = []
        for step in range(STEPS + 1):
            batch = next(batches)
            if picture and start == step == 0:  # from a copy: Ultralytics exchanges its tensors for arrays
                plot_images(dict(batch), fname=picture, names=trainer.data["names"], max_subplots=16)
                _wait_for(picture)
            seconds.append(_step(trainer, batch))
        phases.append(
            PhaseCost(schedule.phase(start), end - start, statistics.median(seconds[1:]), trainer.memory.peak())
        )
        del buckets
    return phases


def _step(trainer: KDTrainer, batch: dict[str, Any]) -> float:
    """Seconds of one batch forward and backward; the optimizer does not step."""
    began = time.perf_counter()
    torch.autograd.backward(loss_of(trainer, trainer.preprocess_batch(batch)))
    trainer.memory.finish()
    trainer.optimizer.zero_grad(set_to_none=True)
    return time.perf_counter() - began


def _wait_for(path: Path, seconds: float = 20.0) -> None:
    """Ultralytics draws in a thread of its own."""
    until = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.05)


def _estimate(rehearsal: RunCost) -> str:
    """Steps, time and memory of each phase, and of the run."""
    steps = rehearsal.steps
    lines = [
        f"{phase.name:<16} {phase.epochs:>4} {'epoch' if phase.epochs == 1 else 'epochs'} × {plural(steps, 'step')} × "
        f"{phase.seconds:.3g} s = "
        f"{format_duration(phase.epochs * steps * phase.seconds)}, {phase.memory / 2**30:.1f} GiB"
        for phase in rehearsal.phases
    ]
    whole = format_duration(rehearsal.seconds)
    lines.append(f"about {whole} in all, evaluation, optimizer steps and waiting for images not counted")
    return "\n".join(lines)
