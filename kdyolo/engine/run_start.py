"""Start of a run in this process: its options and folder, or the state of the run that is resumed; its device."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics.cfg import get_cfg, get_save_dir
from ultralytics.utils import DEFAULT_CFG_DICT

from kdyolo.checkpoints.loading import changed_tensors, checkpoint_arch
from kdyolo.engine.plan import RunPlan, new_work_dir, plan_run, resumed_plan
from kdyolo.engine.resume import ResumeState, resumed_settings, state_to_resume
from kdyolo.errors import ConfigError, RunError
from kdyolo.models.backbone import DistilledBackbone
from kdyolo.models.detector import resolve_description
from kdyolo.models.model_yaml import Yaml
from kdyolo.models.yaml_layouts import family_of
from kdyolo.runs.files import (
    ARGS_NAME,
    LAST_NAME,
    LOG_NAME,
    PICTURE_NAME,
    RECORD_NAME,
    RESULTS_NAME,
    STATE_NAME,
    WEIGHTS_FOLDER,
    weights_file,
)
from kdyolo.utils import distributed
from kdyolo.utils.atomic import write_atomic
from kdyolo.utils.system import cpu_threads

# What a run writes into its folder before its first epoch is saved.
EARLY = (ARGS_NAME, RECORD_NAME, RESULTS_NAME, PICTURE_NAME, LOG_NAME, "labels*.jpg", "*_batch*.jpg")


@dataclass(frozen=True)
class FormerContent:
    """What a run folder held before the run, of that which the run writes over.

    Attributes:
        folder: The run folder, there or not.
        files: File → bytes, of files that match :data:`EARLY`.
        saved: File in ``weights/`` → what tells it from a later one of its name.
        had_weights: Whether there was a ``weights/``.
        is_log: Whether it was the log alone, as a detached run that failed early leaves it.
    """

    folder: Path
    files: Mapping[Path, bytes] = field(repr=False)
    saved: Mapping[Path, tuple[int, ...]]
    had_weights: bool
    is_log: bool

    @classmethod
    def of(cls, folder: Path) -> FormerContent:
        """What a folder holds now."""
        files = {path: path.read_bytes() for path in _early_files(folder)}
        names = {path.name for path in folder.iterdir()}
        return cls(folder, files, _saved_files(folder), WEIGHTS_FOLDER in names, names == {LOG_NAME})

    def put_back(self, keep_log: bool) -> None:
        """Bring the files back, and remove those that were not there."""
        for path in _early_files(self.folder):
            if path not in self.files and not (keep_log and path.name == LOG_NAME):
                path.unlink()
        for path, content in self.files.items():
            if not (keep_log and path.name == LOG_NAME) and (not path.exists() or path.read_bytes() != content):
                write_atomic(path, content)
        weights = self.folder / WEIGHTS_FOLDER
        if weights.is_dir() and not self.had_weights:
            shutil.rmtree(weights)


@dataclass
class RunStart:
    """What a trainer begins with, found and checked before Ultralytics' own trainer touches anything.

    Attributes:
        plan: Plan of the run.
        overrides: Settings for Ultralytics that differ from its defaults.
        state: State of the run to resume, until it is applied; None for a new run.
        device: This process's device, if it is one of several; else None.
        created: The run folder, if this run made it, so that it goes should the run fail early.
        former: What the run folder held, if it was there before, so that it comes back then. None: it is new.
    """

    plan: RunPlan
    overrides: dict[str, Any]
    state: ResumeState | None = None
    device: torch.device | None = None
    created: Path | None = None
    former: FormerContent | None = None

    @property
    def threads(self) -> int | None:
        """Threads to compute with on a CPU; a resumed run has as many as before, because sums are rounded accordingly.

        None: as many as Ultralytics takes.
        """
        return (self.state and self.state.threads) or cpu_threads()

    @property
    def continues_log(self) -> bool:
        """Whether the log goes on behind what is in it."""
        return self.state is not None or (self.former is not None and self.former.is_log)

    def note_folder(self, folder: Path) -> None:
        """Remember a folder that Ultralytics has numbered, which is always a new one."""
        if not (self.state or self.overrides.get("save_dir") or self.former):
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

    def has_saved(self, folder: Path) -> bool:
        """Whether the run has something worth keeping in its folder: a checkpoint, or a state to resume from."""
        return self.state is not None or _saved_files(folder) != (self.former.saved if self.former else {})

    def discard(self, keep_log: bool = False) -> None:
        """Leave everything as it was before the run: remove its folder, or what it has written to one that was there.

        Args:
            keep_log: Leave the log where it is, because it is the only place where an error can be read.
        """
        if not distributed.is_rank_zero():
            return
        if self.former is not None:
            self.former.put_back(keep_log)
        elif self.created is not None and self.created.exists():
            if keep_log and (self.created / LOG_NAME).is_file():
                _empty(self.created, but=LOG_NAME)
            else:
                shutil.rmtree(self.created)


def _early_files(folder: Path) -> list[Path]:
    return [path for pattern in EARLY for path in sorted(folder.glob(pattern)) if path.is_file()]


def _saved_files(folder: Path) -> dict[Path, tuple[int, ...]]:
    """Checkpoint and state that a run can go on from, each with what changes when it is written anew."""
    files = (weights_file(folder, name) for name in (LAST_NAME, STATE_NAME))
    found = {path: path.stat() for path in files if path.is_file()}
    return {path: (of.st_ino, of.st_size, of.st_mtime_ns) for path, of in found.items() if of.st_size}


def _empty(folder: Path, but: str) -> None:
    """Remove everything in a folder but one file."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != but:
            path.unlink()


@contextmanager
def batchnorm_explained(args: Any) -> Iterator[None]:
    """Say what to change where a run ends because BatchNorm gets one value per channel.

    Args:
        args: Ultralytics' settings.

    Raises:
        ConfigError: In place of a ``ValueError``.
    """
    try:
        yield
    except ValueError as e:
        if "value per channel" not in str(e):  # Ultralytics foresees some of these cases, and PyTorch finds the rest
            raise
        raise ConfigError(
            f"batch={args.batch} at imgsz={args.imgsz} gives BatchNorm one value per channel, which cannot train it: "
            "some batch is a single image whose deepest features are one pixel. Expected batches of two images or more "
            "(the last one of an epoch, too: it holds what is left), or a larger imgsz."
        ) from e


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
        plan = resumed_plan(*resumed_settings(given, state), state.yaml)
        start = RunStart(plan, dict(plan.overrides), state, device)
        start.overrides["save_dir"] = distributed.broadcast(start.overrides["save_dir"])
        return start
    plan = plan or plan_run(given)
    start = RunStart(plan, dict(plan.overrides), device=device)
    if device is not None:  # one folder for all ranks
        start.overrides["save_dir"] = distributed.run_on_rank_zero(_numbered_dir, start.overrides)
    start.created = distributed.run_on_rank_zero(new_work_dir, start.overrides)
    if distributed.is_rank_zero() and (start.overrides.get("save_dir") or start.overrides.get("exist_ok")):
        folder = Path(_numbered_dir(start.overrides))
        start.former = FormerContent.of(folder) if folder.is_dir() else None
    return start


def _numbered_dir(overrides: dict[str, Any]) -> str:
    """The run folder as Ultralytics would name it."""
    return str(get_save_dir(get_cfg(DEFAULT_CFG_DICT, overrides)))
