"""Start of a run in this process: its options and folder, or the state of the run that is resumed; its device."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics.cfg import get_cfg, get_save_dir
from ultralytics.utils import DEFAULT_CFG_DICT
from ultralytics.utils.torch_utils import unset_deterministic

from kdyolo.checkpoints.loading import changed_tensors, checkpoint_arch
from kdyolo.checkpoints.safe_load import read_detector
from kdyolo.engine.ranks.launcher import train_on_ranks
from kdyolo.engine.resume import ResumeState, resumed_settings, state_to_resume
from kdyolo.engine.start.detector_teacher import teacher_of_run
from kdyolo.engine.start.plan import RunPlan, new_work_dir, plan_run, resumed_plan
from kdyolo.errors import KDYOLOError, RunError
from kdyolo.models.backbone import DistilledBackbone
from kdyolo.models.detector import resolve_description
from kdyolo.models.model_yaml import Yaml
from kdyolo.models.yaml_layouts import family_of
from kdyolo.runs.contents.former_content import FormerContent, empty_folder, saved_files
from kdyolo.runs.detach import output_file
from kdyolo.runs.files import BEST_NAME, LOG_NAME
from kdyolo.runs.lifecycle.devices import Devices, Machine, read_devices
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
        devices: Devices of the run, as this process reads the setting.
        created: The run folder, if this run made it, so that it goes should the run fail early.
        former: What the run folder held, if it was there before, so that it comes back then. None: it is new.
    """

    plan: RunPlan
    overrides: dict[str, Any]
    state: ResumeState | None = None
    device: torch.device | None = None
    devices: Devices = field(default_factory=lambda: Devices("cpu", "cpu"))
    created: Path | None = None
    former: FormerContent | None = None

    @property
    def threads(self) -> int | None:
        """Threads to compute with on a CPU; a resumed run has as many as before, because sums are rounded accordingly.

        None: as many as Ultralytics takes.
        """
        return (self.state and self.state.threads) or cpu_threads()

    @property
    def elsewhere(self) -> bool:
        """Whether other processes train, one for each device, and this one only starts them."""
        return self.devices.processes > 1

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

    def train_on_ranks(self, trainer: Any) -> None:
        """Leave a training to processes of their own, one for each device, and wait for its end.

        Args:
            trainer: Trainer of this process, which then is no more than the place of the results.

        Raises:
            KDYOLOError: The run failed; see :func:`kdyolo.engine.ranks.launcher.train_on_ranks`.
        """
        try:
            begin = self._of_ranks(trainer.save_dir)
            model = trainer.model if isinstance(trainer.model, nn.Module) else None
            train_on_ranks(self.devices.processes, type(trainer), trainer.callbacks, model, **begin)
        except KDYOLOError as e:
            log = trainer.save_dir / LOG_NAME
            if output_file() and log.is_file():  # detached: nobody looks at what this process prints
                with log.open("a", encoding="utf-8") as file:
                    file.write(f"Error: {e}\n")
            raise
        finally:
            trainer.log.close()
            unset_deterministic()

    def _of_ranks(self, folder: Path) -> dict[str, Any]:
        """What each rank's trainer begins with; what Ultralytics' trainer has written into ``folder`` is taken back."""
        where = {"device": self.devices.text}
        if self.state:  # the folder follows from the file that is resumed, which may have been moved
            given = {key: value for key, value in self.plan.overrides.items() if key != "save_dir"}
            return {"overrides": {**given, **where}}
        self.discard()
        return {"plan": replace(self.plan, overrides={**self.plan.overrides, **where, "save_dir": str(folder)})}

    def has_saved(self, folder: Path) -> bool:
        """Whether the run has something worth keeping in its folder: a checkpoint, or a state to resume from."""
        return self.state is not None or saved_files(folder) != (self.former.saved if self.former else {})

    def discard_set_up(self, folder: Path | None) -> None:
        """Leave nothing of a run whose trainer could not be made.

        Args:
            folder: The run folder, if Ultralytics had come as far as naming it.
        """
        if folder is not None:
            self.note_folder(folder)
        self.discard()

    def discard(self, keep_log: bool = False) -> None:
        """Leave everything as it was before the run: remove its folder, or what it has written to one that was there.

        Args:
            keep_log: Leave the log where it is, because it is the only place where an error can be read.
        """
        if not distributed.is_rank_zero():
            return
        _wait_for_pictures()
        if self.former is not None:
            self.former.put_back(keep_log)
        elif self.created is not None and self.created.exists():
            if keep_log and (self.created / LOG_NAME).is_file():
                empty_folder(self.created, but=LOG_NAME)
            else:
                shutil.rmtree(self.created)


def _wait_for_pictures() -> None:
    """Let the threads end in which Ultralytics draws batches: they would write into a folder that was put back."""
    for thread in threading.enumerate():
        if thread.name.endswith("(plot_images)"):  # Python calls a thread by its function
            thread.join()


def start_run(overrides: Mapping[str, Any], plan: RunPlan | None = None) -> RunStart:
    """Join the other processes of the run, and find what it starts or resumes from.

    Args:
        overrides: Keywords as given to ``train``: kdyolo's and Ultralytics' keys together.
        plan: Plan of the run, which the overrides then say nothing about. Default: made from the overrides.

    Raises:
        KDYOLOError: Options, checkpoint, model or data are not what they should be, or the run cannot be resumed.
    """
    given = plan.overrides if plan else overrides
    setting, state, device = given.get("device"), None, None
    if distributed.is_distributed():
        devices = read_devices(setting, Machine.here(), os.environ)
        device = torch.device(str(devices.mine))
        distributed.init_process_group(device)
    if given.get("resume"):
        last = Path(str(given["resume"]))
        state = distributed.run_on_rank_zero(state_to_resume, last)
        distributed.run_on_rank_zero(_check_kept, last)
        teacher = distributed.run_on_rank_zero(teacher_of_run, last, state.args, state.yaml)
        plan = resumed_plan(*resumed_settings(given, state), state.yaml, teacher)
    if device is None:
        setting = setting if setting is not None or state is None else state.args.get("device")
        devices = read_devices(setting, Machine.here(), os.environ)
    plan = plan or plan_run(given)
    start = RunStart(plan, dict(plan.overrides), state, device, devices)
    if setting is not None:
        # Of several devices each is another process's: this one must not take memory on the first.
        start.overrides["device"] = "cpu" if start.elsewhere else devices.text
    if state:
        start.overrides["save_dir"] = distributed.broadcast(start.overrides["save_dir"])
        return start
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


def _check_kept(last: Path) -> None:
    """Look through what a run has kept and Ultralytics opens completely, though this machine need not have written it.

    Raises:
        CheckpointError: A checkpoint holds more than stock layers, tensors and plain data.
    """
    for path in (last, last.with_name(BEST_NAME)):
        if path.exists():
            read_detector(path)
