"""Plan of a training: its options, what its detector starts from, and its data set, each read and checked once.

:func:`plan_run` makes a plan before a run touches anything. The command, ``KDYOLO.train``, the dry run and studies each
make one and hand it to the trainer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from ultralytics.utils import DEFAULT_CFG_DICT

from kdyolo.data.dataset_yaml import check_for_ultralytics
from kdyolo.engine.options.train_options import TrainOptions
from kdyolo.engine.options.validation import split_options
from kdyolo.engine.start.detector_start import DetectorStart, is_yaml, read_backbone, read_start
from kdyolo.engine.start.detector_teacher import SETTING, DetectorTeacher, read_teacher
from kdyolo.errors import ConfigError, KDYOLOError, Mistakes, ModelError, collect_mistakes
from kdyolo.models.freeze_schedule import FreezeSchedule
from kdyolo.models.model_yaml import Yaml
from kdyolo.models.yaml_layouts import describe_detector
from kdyolo.runs.files import LOG_NAME
from kdyolo.runs.lifecycle.devices import Machine, read_devices
from kdyolo.runs.pid_file import refuse_running
from kdyolo.utils import distributed
from kdyolo.utils.text import shell_word

T = TypeVar("T")


@dataclass(frozen=True)
class RunPlan:
    """What a training is to do, checked before it touches anything; made once and handed on.

    Attributes:
        options: kdyolo's options, the recipe's values included.
        overrides: Settings for Ultralytics that were asked for, the recipe's values and the model included.
        start: What the detector starts from.
        schedule: What is frozen when.
        data: The data set's description as Ultralytics checked it. None for a resumed run, whose trainer checks it.
        teacher: The detector that it also learns from, read; None without ``distill_model``.
    """

    options: TrainOptions
    overrides: Mapping[str, Any]
    start: DetectorStart
    schedule: FreezeSchedule
    data: Mapping[str, Any] | None = field(default=None, repr=False)
    teacher: DetectorTeacher | None = None

    def data_of(self, data: Any) -> dict[str, Any] | None:
        """A copy of the checked description, if ``data`` is still the data set that was planned with; else None."""
        return deepcopy(dict(self.data)) if self.data is not None and data == self.overrides.get("data") else None

    def in_folder(self, folder: Path) -> RunPlan:
        """The same plan for a run in another folder, which is to be that run's alone."""
        options = replace(self.options, work_dir=str(folder))
        return replace(self, options=options, overrides={**self.overrides, "save_dir": str(folder.resolve())})

    def on_first_device(self) -> tuple[RunPlan, int]:
        """The same plan for this process alone, with one device; and the number of devices that the run is to have."""
        found = read_devices(self.overrides.get("device"), Machine.here(), {})
        if found.processes == 1:
            return self, 1
        first = found.text.partition(",")[0]
        return replace(self, overrides={**self.overrides, "device": first}), found.processes


def plan_run(overrides: Mapping[str, Any], *, start: DetectorStart | None = None) -> RunPlan:
    """Check what ``train`` was given, read what the run starts from, and make the plan of the run.

    Args:
        overrides: Keywords as given to ``train``: kdyolo's and Ultralytics' keys together, ``model`` among them or not.
        start: A start that has been read already; used if the options ask for no other. One from weights in memory
            is always used.

    Raises:
        ConfigError: A mistake in the options; or a work dir that is in use; or no data set; or several mistakes of
            whatever kind, all that were found.
        CheckpointError: The backbone checkpoint cannot be read, or does not fill the backbone.
        ModelError: The model YAML cannot be found or resolved.
        DatasetError: The data set cannot be used.
    """
    try:
        return _plan(overrides, start)
    except KDYOLOError as first:
        if start is None and not distributed.is_distributed():
            _raise_if_several(overrides, first)
        raise


def _raise_if_several(overrides: Mapping[str, Any], first: KDYOLOError) -> None:
    """Look for more mistakes beside the first one.

    Raises:
        ConfigError: All mistakes, if there are several.
    """
    try:
        plan_with_every_mistake(overrides)
    except ConfigError as e:
        if len(e.mistakes) > 1:
            raise e from first
    except KDYOLOError:  # a single one, which is the first
        return


def _plan(overrides: Mapping[str, Any], start: DetectorStart | None) -> RunPlan:
    """The plan; stops at the first kind of mistake."""
    options, rest = split_options(overrides)
    if not distributed.is_distributed():  # of several ranks, the first looks when it knows the folder
        new_work_dir(rest)
        read_devices(rest.get("device"), Machine.here(), {})
    model = rest.get("model")
    if start is not None and start.in_memory is not None:
        start = start.combined(options, rest)
    elif start is None or not start.serves(options, model):
        start = read_start(options, model)
    data = check_data(rest.get("data"), rest.get("split"), options.run_download)
    return make_plan(options, rest, start, data, planned_teacher(rest, start))


def plan_with_every_mistake(overrides: Mapping[str, Any]) -> RunPlan:
    """The same plan, after looking for every mistake in data set, options, work dir, checkpoint and model.

    Args:
        overrides: What ``train`` would get.

    Raises:
        ConfigError: All mistakes, of whatever kind, in one error.
        KDYOLOError: The only mistake, of its own kind.
    """
    start = teacher = None
    with collect_mistakes() as mistakes:
        data = mistakes.result(lambda: check_data(overrides.get("data"), overrides.get("split")))
        if split := mistakes.result(lambda: split_options(overrides)):
            options, rest = split
            mistakes.result(lambda: new_work_dir(rest))
            mistakes.result(lambda: read_devices(rest.get("device"), Machine.here(), {}))
            model = rest.get("model")
            checkpoint = mistakes.result(lambda: read_backbone(options))
            if checkpoint or not options.backbone:
                start = mistakes.result(lambda: read_start(options, model, checkpoint))
            elif model and is_yaml(model):
                mistakes.result(lambda: describe_detector(model))
            teacher = mistakes.result(lambda: planned_teacher(rest, start))
        else:
            _check_beside_wrong_options(overrides, mistakes)
    assert split is not None  # else there were mistakes, as in the next line
    assert start is not None
    return make_plan(*split, start, data, teacher)


def _check_beside_wrong_options(overrides: Mapping[str, Any], mistakes: Mistakes) -> None:
    """Look at what can be judged though the options are wrong: work dir, device, whether files are there."""
    place = {"save_dir": overrides.get("work_dir"), "exist_ok": overrides.get("exist_ok")}
    backbone, model = overrides.get("backbone"), overrides.get("model")
    with mistakes.gathered():
        new_work_dir(place)
    with mistakes.gathered():
        read_devices(overrides.get("device"), Machine.here(), {})
    with mistakes.gathered():
        if isinstance(backbone, (str, Path)) and not Path(backbone).exists():
            read_backbone(TrainOptions(backbone=str(backbone)))
    with mistakes.gathered():
        if model and is_yaml(model):
            describe_detector(model)


def planned_teacher(overrides: Mapping[str, Any], start: DetectorStart | None) -> DetectorTeacher | None:
    """The detector to learn from that Ultralytics' settings name, if they name one.

    Args:
        overrides: Settings for Ultralytics.
        start: What the detector starts from; None: it is not known.

    Raises:
        CheckpointError: The teacher cannot be read.
        ModelError: It does not fit the detector.
    """
    return read_teacher(path, start.description if start else None) if (path := overrides.get(SETTING)) else None


def make_plan(
    options: TrainOptions,
    overrides: Mapping[str, Any],
    start: DetectorStart,
    data: Mapping[str, Any] | None,
    teacher: DetectorTeacher | None = None,
) -> RunPlan:
    """The plan that follows from parts that have been checked.

    Args:
        options: kdyolo's options.
        overrides: Settings for Ultralytics; those that its ``YOLO.train`` adds may be missing.
        start: What the detector starts from.
        data: The data set's description, checked; None: the trainer checks it.
        teacher: The detector to learn from, if there is one.
    """
    if Path(start.model).exists() and not (is_yaml(start.model) or start.model.endswith(".pt") or options.trust):
        raise ModelError(f"{start.model}: expected a model YAML or a trained detector (.pt), found something else.")
    known = {"task": "detect", **overrides, "model": start.model, "mode": "train"}
    if teacher is not None:  # by its path, from wherever the run is resumed
        known[SETTING] = teacher.path
    known.setdefault("pretrained", True)
    epochs = known.get("epochs") or DEFAULT_CFG_DICT["epochs"]
    return RunPlan(options, known, start, options.schedule(epochs), data, teacher)


def resumed_plan(
    options: TrainOptions, overrides: Mapping[str, Any], description: Yaml, teacher: DetectorTeacher | None
) -> RunPlan:
    """The plan of a run that goes on, from what it has kept; its trainer knows the number of epochs and the data set.

    Args:
        options: kdyolo's options, as they were.
        overrides: Settings for Ultralytics that may change, and ``resume``.
        description: The model's resolved description, as it was.
        teacher: The detector that the run learns from, if there is one.
    """
    plan = make_plan(options, overrides, DetectorStart(options, str(overrides["resume"]), description), None)
    return replace(plan, teacher=teacher)  # its path is among the run's own settings


def new_work_dir(overrides: Mapping[str, Any]) -> Path | None:
    """The work dir if it is ours to create (and so to remove, should the run fail early).

    Raises:
        ConfigError: It is a file; or it holds more than the log of a run that failed early, and ``exist_ok`` is not
            set.
        RunError: It may be overwritten, but the run in it is going on.
    """
    if not overrides.get("save_dir"):
        return None
    path = Path(overrides["save_dir"])
    if not path.exists():
        return path
    if not path.is_dir():
        raise ConfigError(f"work dir {path}: expected a folder, found a file. Choose another.")
    if {p.name for p in path.iterdir()} - {LOG_NAME} and not overrides.get("exist_ok"):
        raise ConfigError(
            f"work dir {path} exists and is not empty. Choose another, resume it with --resume {shell_word(path)}, "
            "or overwrite it with --exist-ok."
        )
    refuse_running(path)
    return None


def check_data(data: Any, split: str | None = None, run_download: bool = False) -> dict[str, Any]:
    """Check a data set YAML, and refuse one that cannot be used. Nothing is fetched, and nothing in it is run.

    Args:
        data: Path or name of the YAML.
        split: Split that is evaluated. Default: Ultralytics' (``val``).
        run_download: Run what the YAML has under ``download`` if images are missing, after showing it.

    Returns:
        The data set's description with absolute paths, as Ultralytics' trainers take it.

    Raises:
        ConfigError: None is given.
        DatasetError: It cannot be read, or its images are not there, or no RGB images.
    """
    if not data:
        raise ConfigError("no data set. Expected data (--data) with a YAML such as the one 'kdyolo convert' printed.")
    alone = not distributed.is_distributed()  # several ranks would run it at the same time
    run_download = run_download and alone
    return check_for_ultralytics(data, split or DEFAULT_CFG_DICT["split"], run_download, channels=3)


def planned(
    trainer: Callable[..., T], start: DetectorStart | None, overrides: dict[str, Any], _callbacks: dict[str, Any] | None
) -> T:
    """A trainer with the plan that follows from Ultralytics' merged settings and a start that has been read."""
    return trainer(plan=plan_run(overrides, start=start), _callbacks=_callbacks)
