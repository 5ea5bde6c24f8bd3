"""Start of a run in this process: its options and folder, or the state of the run that is resumed; its device."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from ultralytics.cfg import get_cfg, get_save_dir
from ultralytics.utils import DEFAULT_CFG_DICT

from kdyolo.checkpoints.load_report import LoadReport
from kdyolo.checkpoints.reader import BackboneCheckpoint
from kdyolo.engine.options.train_options import TrainOptions
from kdyolo.engine.options.validation import split_options
from kdyolo.engine.plan import check_data, fitting_backbone, new_work_dir
from kdyolo.engine.resume import ResumeState, resumed_settings, state_to_resume
from kdyolo.utils import distributed
from kdyolo.utils.system import cpu_threads


@dataclass
class RunStart:
    """What a trainer begins with, found and checked before Ultralytics' own trainer touches anything.

    Attributes:
        settings: kdyolo's own options.
        overrides: Settings for Ultralytics that differ from its defaults.
        asked: The same as they were given; empty for a resumed run.
        checkpoint: The backbone checkpoint; None without one.
        report: Report on how it fits the model YAML; None without one of the two.
        state: State of the run to resume, until it is applied; None for a new run.
        device: This process's device, if it is one of several; else None.
        created: The run folder, if this run made it, so that it goes should set-up fail.
    """

    settings: TrainOptions
    overrides: dict[str, Any]
    asked: dict[str, Any] = field(default_factory=dict)
    checkpoint: BackboneCheckpoint | None = None
    report: LoadReport | None = None
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

    def discard(self) -> None:
        """Remove the run folder, if this run made it."""
        if distributed.is_rank_zero() and self.created is not None and self.created.exists():
            shutil.rmtree(self.created)


def start_run(overrides: dict[str, Any], checkpoint: BackboneCheckpoint | None = None) -> RunStart:
    """Join the other processes of the run, and find what it starts or resumes from.

    Args:
        overrides: Keywords as given to ``train``: kdyolo's and Ultralytics' keys together.
        checkpoint: What ``backbone`` names, where it has been read already.

    Raises:
        KDYOLOError: Options, checkpoint, model or data are not what they should be, or the run cannot be resumed.
    """
    device = distributed.init_process_group(overrides.get("device")) if distributed.is_distributed() else None
    if overrides.get("resume"):
        state = distributed.run_on_rank_zero(state_to_resume, Path(str(overrides["resume"])))
        settings, rest = resumed_settings(overrides, state)
        rest["save_dir"] = distributed.broadcast(rest["save_dir"])
        return RunStart(settings, rest, state=state, device=device)
    settings, rest = split_options(overrides)
    start = RunStart(settings, rest, asked=dict(rest), device=device)
    if device is not None:  # one folder for all ranks
        rest["save_dir"] = distributed.run_on_rank_zero(_numbered_dir, rest)
    start.created = distributed.run_on_rank_zero(new_work_dir, rest)
    start.checkpoint, start.report = fitting_backbone(settings, rest.get("model"), checkpoint)
    check_data(rest.get("data"))
    return start


def _numbered_dir(overrides: dict[str, Any]) -> str:
    """The run folder as Ultralytics would name it."""
    return str(get_save_dir(get_cfg(DEFAULT_CFG_DICT, overrides)))
