"""Provenance of a detector: versions and commit, the record of its run and of its checkpoints, the announced plan."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
import ultralytics
from torch import nn
from ultralytics.utils import LOGGER
from ultralytics.utils.git import GitRepo

from kdyolo._version import __version__
from kdyolo.checkpoints.load_report import LoadReport
from kdyolo.engine.options.recipes import load_recipe
from kdyolo.engine.options.train_options import TrainOptions
from kdyolo.engine.start.detector_teacher import SETTING, DetectorTeacher
from kdyolo.models.backbone import DistilledBackbone
from kdyolo.models.freeze_schedule import NEVER, PARTS, FreezeSchedule
from kdyolo.models.model_yaml import Yaml
from kdyolo.runs.run_record import RunRecord
from kdyolo.utils.text import plural

_PLAIN = (bool, int, float, str, list, dict, type(None))


class DistilledModel(Protocol):
    """Model of any task with a distilled backbone.

    Attributes:
        yaml: Resolved description of the model.
    """

    yaml: Yaml

    @property
    def backbone(self) -> DistilledBackbone:
        """The distilled backbone."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """All parameters of the model."""


def versions() -> dict[str, str]:
    """Versions of everything that shapes a result."""
    return {
        "kdyolo": __version__,
        "ultralytics": ultralytics.__version__,
        "torch": str(torch.__version__),  # a str subclass, which restricted loading would refuse
        "python": platform.python_version(),
    }


def git_commit() -> str | None:
    """Commit of the repository around the current folder, if there is one."""
    commit = GitRepo(Path.cwd()).commit
    return str(commit) if commit else None


def announce(
    model: DistilledModel,
    schedule: FreezeSchedule,
    report: LoadReport | None,
    started_from: str | None,
    *,
    resumed: bool,
    patience: int,
) -> None:
    """Log what training starts from, and the plan.

    Args:
        model: Model that will train.
        schedule: Freeze schedule of the run.
        report: Report on the injected backbone checkpoint; None without one.
        started_from: Weights of a whole detector that the run starts from; None without any.
        resumed: Whether an interrupted run continues.
        patience: Epochs without improvement until the run stops; 0 for never.
    """
    if started_from is not None:
        LOGGER.info(f"detector: {model.yaml['yaml_file']} · started from {started_from}")
    if report is not None:
        LOGGER.info(report.table())
    elif started_from is None and not resumed:
        LOGGER.info(f"backbone: {model.backbone.arch.name} · random initialisation")
        if schedule.ever_frozen:
            LOGGER.warning("the frozen backbone is random: its features carry no knowledge.")
    parameters = {
        part: sum(p.numel() for layer in layers for p in layer.parameters())
        for part, layers in model.backbone.parts.items()
    }
    LOGGER.info(schedule.describe(parameters, sum(p.numel() for p in model.parameters())))
    late = [part for part, epochs in schedule.unfreeze_epochs.items() if schedule.epochs <= epochs < NEVER]
    if late:
        lasts = max(schedule.unfreeze_epochs[part] for part in late)
        LOGGER.warning(
            f"{'the backbone' if len(late) == len(PARTS) else ', '.join(late)} never thaws: freezing lasts "
            f"{plural(int(lasts), 'epoch')}, the run {plural(schedule.epochs, 'epoch')}. If that is meant, freeze all."
        )
    if schedule.frozen_epochs and patience:
        LOGGER.info(f"      patience={patience} counts unfrozen epochs only")


def provenance(
    backbone: DistilledBackbone,
    settings: TrainOptions,
    schedule: FreezeSchedule,
    report: LoadReport | None,
    teacher: DetectorTeacher | None,
    seed: int,
) -> dict[str, Any]:
    """Plain data that travels inside every checkpoint, in the model YAML's own dictionary, under ``kd``.

    Args:
        backbone: Backbone of the model, filled.
        settings: kdyolo's own options.
        schedule: Freeze schedule of the run.
        report: Report on the injected backbone checkpoint; None without one.
        teacher: Detector that the run also learns from; None without one.
        seed: Seed of the run.
    """
    return {
        "bn_eps": backbone.bn_eps,
        "settings": settings.to_dict(),
        "source": Path(report.path).name if report else None,
        "source_kind": report.kind if report else None,
        "sha256": report.sha256 if report else None,
        "injected": f"{report.matched}/{report.total}" if report else None,
        "left_out": list(backbone.left_out),
        "missing": list(report.missing) if report else [],
        "input_norm": report.input_norm if report else None,
        SETTING: {**teacher.to_dict(), "path": Path(teacher.path).name} if teacher else None,
        "schedule": _plain_schedule(schedule),
        "recipe": _plain_recipe(settings.recipe),
        "versions": versions(),
        "git_commit": git_commit(),
        "seed": seed,
    }


def run_record(
    settings: TrainOptions,
    schedule: FreezeSchedule,
    report: LoadReport | None,
    started_from: str | None,
    teacher: DetectorTeacher | None,
    asked: Mapping[str, Any],
    args: Any,
    model_yaml: str,
    batch: int,
) -> RunRecord:
    """The record of a run that starts in this process, now.

    Args:
        settings: kdyolo's own options.
        schedule: Freeze schedule of the run.
        report: Report on the injected backbone checkpoint; None without one.
        started_from: Weights of a whole detector that the run starts from; None without any.
        teacher: Detector that the run also learns from; None without one.
        asked: Ultralytics' settings as they were given.
        args: The same once complete, of which data set and seed are recorded.
        model_yaml: Model YAML.
        batch: Images to a batch on all ranks together.
    """
    return RunRecord(
        versions=versions(),
        command=shlex.join(sys.argv),
        git_commit=git_commit(),
        settings=settings.to_dict(),
        asked={key: value if isinstance(value, _PLAIN) else str(value) for key, value in asked.items()},
        started_from=started_from,
        backbone=report.to_dict() if report else None,
        schedule=_plain_schedule(schedule),
        recipe=_plain_recipe(settings.recipe),
        data=str(args.data),
        seed=args.seed,
        cpu_threads=torch.get_num_threads(),
        model=model_yaml,
        batch=batch,
        distill_model=teacher.to_dict() if teacher else None,
    )


def _plain_schedule(schedule: FreezeSchedule) -> dict[str, Any]:
    """All values of a schedule, and its thaws, whose epochs are counted from 1."""
    return {**asdict(schedule), "thaws": {e + 1: list(parts) for e, parts in schedule.unfreezes.items()}}


def _plain_recipe(name: str) -> dict[str, Any]:
    return {"name": name, "values": load_recipe(name)}
