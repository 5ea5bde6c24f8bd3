"""What a run leaves beside its weights: ``train.log`` (all that was printed), ``kdyolo.yaml`` (how it came about)."""

from __future__ import annotations

import platform
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import ultralytics
import yaml
from ultralytics.utils import LOGGER
from ultralytics.utils.git import GitRepo
from ultralytics.utils.torch_utils import unwrap_model

from kdyolo._version import __version__
from kdyolo.engine.options.recipes import load_recipe
from kdyolo.runs.files import RECORD_NAME

if TYPE_CHECKING:
    from kdyolo.engine.trainer import KDTrainer
    from kdyolo.models.detector import KDDetectionModel

_PLAIN = (bool, int, float, str, list, dict, type(None))


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


def announce(trainer: KDTrainer) -> None:
    """Log what training starts from, and the plan."""
    model: KDDetectionModel = unwrap_model(trainer.model)
    if trainer.started_from is not None:
        LOGGER.info(f"detector: {model.yaml['yaml_file']} · started from {trainer.started_from}")
    if trainer.report is not None:
        LOGGER.info(trainer.report.table())
    elif trainer.started_from is None and not trainer.resume:
        LOGGER.info(f"backbone: {model.backbone.arch.name} · random initialisation")
        if trainer.schedule.ever_frozen:
            LOGGER.warning("the frozen backbone is random: its features carry no knowledge.")
    parameters = {
        part: sum(p.numel() for layer in layers for p in layer.parameters())
        for part, layers in model.backbone.parts.items()
    }
    LOGGER.info(trainer.schedule.describe(parameters, sum(p.numel() for p in model.parameters())))
    if trainer.schedule.frozen_epochs and trainer.args.patience:
        LOGGER.info(f"      patience={trainer.args.patience} counts unfrozen epochs only")


def provenance(trainer: KDTrainer, model: KDDetectionModel) -> dict[str, Any]:
    """Plain data that travels inside every checkpoint, in the model YAML's own dictionary."""
    report = trainer.report
    return {
        "bn_eps": model.backbone.bn_eps,
        "settings": trainer.settings.to_dict(),
        "source": Path(report.path).name if report else None,
        "source_kind": report.kind if report else None,
        "sha256": report.sha256 if report else None,
        "injected": f"{report.matched}/{report.total}" if report else None,
        "left_out": list(model.backbone.left_out),
        "missing": list(report.missing) if report else [],
        "input_norm": report.input_norm if report else None,
        **_plan(trainer),
        "versions": versions(),
        "git_commit": git_commit(),
        "seed": trainer.args.seed,
    }


def _plan(trainer: KDTrainer) -> dict[str, Any]:
    """Schedule and recipe, with all their values; epochs are counted from 1."""
    schedule, recipe = trainer.schedule, trainer.settings.recipe
    return {
        "schedule": {**asdict(schedule), "thaws": {e + 1: list(parts) for e, parts in schedule.thaws.items()}},
        "recipe": {"name": recipe, "values": load_recipe(recipe)},
    }


def write_record(trainer: KDTrainer) -> Path:
    """Write ``kdyolo.yaml``: how this run came about, as plain data."""
    record = {
        "versions": versions(),
        "command": shlex.join(sys.argv),
        "git_commit": git_commit(),
        "settings": trainer.settings.to_dict(),
        "asked": {k: v if isinstance(v, _PLAIN) else str(v) for k, v in trainer.asked.items()},
        "started_from": trainer.started_from,
        "backbone": trainer.report.to_dict() if trainer.report else None,
        **_plan(trainer),
        "data": str(trainer.args.data),
        "seed": trainer.args.seed,
        "cpu_threads": torch.get_num_threads(),
        "model": unwrap_model(trainer.model).yaml["yaml_file"],
    }
    path: Path = trainer.save_dir / RECORD_NAME
    path.write_text(yaml.safe_dump(record, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path
