"""Start of a run in this process: its options and folder, or the state of the run that is resumed; its device."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics.cfg import get_cfg, get_save_dir
from ultralytics.utils import DEFAULT_CFG_DICT

from kdyolo.checkpoints.loading import changed_tensors, checkpoint_arch
from kdyolo.checkpoints.safe_load import read_detector
from kdyolo.engine.plan import RunPlan, new_work_dir, plan_run, resumed_plan
from kdyolo.engine.resume import ResumeState, resumed_settings, state_to_resume
from kdyolo.errors import RunError
from kdyolo.models.backbone import DistilledBackbone
from kdyolo.models.detector import resolve_description
from kdyolo.models.model_yaml import Yaml
from kdyolo.models.yaml_layouts import family_of
from kdyolo.runs.files import BEST_NAME, LOG_NAME
from kdyolo.utils import distributed
from kdyolo.utils.system import cpu_threads


@dataclass
class RunStart:
    """What a trainer begins with, found and checked before Ultralytics' own trainer touches anything.

    Attributes:
        plan: Plan of the run.
        overrides: Settings for Ultralytics that differ from its defaults.
        state: State of the run to resume, until it is applied; None for a new run.
        device: This process's device, if it is one of several; else None.
        created: The run folder, if this run made it, so that it goes should set-up fail.
    """

    plan: RunPlan
    overrides: dict[str, Any]
    state: ResumeState | None = None
    device: torch.device | None = None
    created: Path | None = None

    @property
    def threads(self) -> int | None:
        """Threads to compute with on a CPU; a resumed run has as many as before, because sums are rounded accordingly.

        None: as many as Ultralytics takes.
        """
        return (self.state and self.state.threads) or cpu_threads()

    def note_folder(self, folder: Path, may_exist: bool) -> None:
        """Remember a folder that Ultralytics has numbered, which is always a new one."""
        if not (self.state or self.overrides.get("save_dir") or may_exist):
            self.created = folder

    def planned_data(self, args: Any) -> dict[str, Any] | None:
        """The data set's description as it was checked for the plan; None if ``args`` name another data set."""
        if planned := self.plan.data_of(args.data):
            args.data = planned.get("yaml_file", args.data)
            if args.single_cls:
                planned.update(names={0: "item"}, nc=1)
        return planned

    def description(self, cfg: str | Yaml | None, weights: nn.Module | None) -> Yaml:
        """The resolved description of a model: the planned one, or that of one which the plan does not know.

        Args:
            cfg: What Ultralytics' trainer gives: a YAML's name, or the description inside a checkpoint.
            weights: Model to start from; None without one.
        """
        if planned := self.plan.start.description_for(cfg, weights):
            return planned
        checkpoint = self.plan.start.checkpoint
        arch = checkpoint_arch(checkpoint, family_of(cfg)) if checkpoint else None
        return resolve_description(cfg, weights, arch, checkpoint.bn_eps if checkpoint else None)

    def check_injected(self, backbones: Mapping[str, DistilledBackbone]) -> None:
        """Compare backbones that are about to train with the file that they come from, bit for bit.

        Args:
            backbones: What a backbone is of → the backbone.

        Raises:
            RunError: A tensor differs.
        """
        checkpoint = self.plan.start.checkpoint
        if checkpoint is None:
            return
        for what, backbone in backbones.items():
            if names := changed_tensors(backbone, checkpoint.tensors):
                raise RunError(
                    f"after set-up, {len(names)} backbone tensors of the {what} differ from those in "
                    f"{checkpoint.path.name}, e.g. {names[0]}. This is a bug: please report it with {LOG_NAME}."
                )

    def discard(self) -> None:
        """Remove the run folder, if this run made it."""
        if distributed.is_rank_zero() and self.created is not None and self.created.exists():
            shutil.rmtree(self.created)


def start_run(overrides: Mapping[str, Any], plan: RunPlan | None = None) -> RunStart:
    """Join the other processes of the run, and find what it starts or resumes from.

    Args:
        overrides: Keywords as given to ``train``: kdyolo's and Ultralytics' keys together.
        plan: Plan of the run, which the overrides then say nothing about. Default: made from the overrides.

    Raises:
        KDYOLOError: Options, checkpoint, model or data are not what they should be, or the run cannot be resumed.
    """
    given = plan.overrides if plan else overrides
    device = distributed.init_process_group(given.get("device")) if distributed.is_distributed() else None
    if given.get("resume"):
        state = distributed.run_on_rank_zero(state_to_resume, Path(str(given["resume"])))
        distributed.run_on_rank_zero(_check_kept, Path(str(given["resume"])), state)
        plan = resumed_plan(*resumed_settings(given, state), state.yaml)
        start = RunStart(plan, dict(plan.overrides), state, device)
        start.overrides["save_dir"] = distributed.broadcast(start.overrides["save_dir"])
        return start
    plan = plan or plan_run(given)
    start = RunStart(plan, dict(plan.overrides), device=device)
    if device is not None:  # one folder for all ranks
        start.overrides["save_dir"] = distributed.run_on_rank_zero(_numbered_dir, start.overrides)
    start.created = distributed.run_on_rank_zero(new_work_dir, start.overrides)
    return start


def _numbered_dir(overrides: dict[str, Any]) -> str:
    """The run folder as Ultralytics would name it."""
    return str(get_save_dir(get_cfg(DEFAULT_CFG_DICT, overrides)))


def _check_kept(last: Path, state: ResumeState) -> None:
    """Look through what a run has kept and Ultralytics opens completely, though this machine need not have written it.

    Raises:
        CheckpointError: A checkpoint holds more than stock layers, tensors and plain data.
        RunError: The settings name a checkpoint to distil from, which no run of kdyolo's does.
    """
    if state.args.get("distill_model"):
        raise RunError(
            f"{last} cannot be resumed: its settings name a distill_model, which kdyolo does not train with."
        )
    for path in (last, last.with_name(BEST_NAME)):
        if path.exists():
            read_detector(path)
