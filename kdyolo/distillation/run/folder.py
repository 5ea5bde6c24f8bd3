"""Folder of a distillation run: made or taken up, described, cleared up after an early end, and finished."""

from __future__ import annotations

import logging
import platform
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from itertools import count
from pathlib import Path

import torch
import yaml

from kdyolo._version import __version__
from kdyolo.distillation.plan import DistillPlan
from kdyolo.distillation.run.backbone_file import BACKBONE_NAME, backbone_metadata, write_backbone
from kdyolo.distillation.run.state import DistillState
from kdyolo.distillation.taps import taps_text
from kdyolo.distillation.teachers.licences import licence_notice
from kdyolo.errors import ConfigError, RunError
from kdyolo.runs.files import (
    ARGS_NAME,
    BEST_NAME,
    CARD_NAME,
    FEATURES_NAME,
    LAST_NAME,
    LOG_NAME,
    PICTURE_NAME,
    RECORD_NAME,
    RESULTS_NAME,
    STATE_NAME,
    WEIGHTS_FOLDER,
    is_run,
    resumable,
    weights_file,
)
from kdyolo.runs.history import read_run
from kdyolo.runs.log_capture import RunLog
from kdyolo.runs.model_card import is_non_commercial
from kdyolo.runs.pid_file import owning_folder
from kdyolo.runs.run_record import RunRecord
from kdyolo.utils.atomic import write_atomic
from kdyolo.utils.tables import markdown_row, markdown_text
from kdyolo.utils.text import number_and_noun, plural, shell_word

LOGGER = logging.getLogger("ultralytics")
RUNS = Path("runs", "distill")
_LEAST_FREE = 4  # times the student's size that must be free on the disk: two checkpoints and the state


def new_folder(plan: DistillPlan) -> tuple[Path, bool]:
    """Choose and make the folder of a new run; whether it is new, so that it goes should the run fail early.

    Raises:
        ConfigError: The folder that was asked for holds something.
        RunError: There is no space for the run's checkpoints.
    """
    options = plan.options
    if options.work_dir:
        folder = Path(options.work_dir).expanduser()
    else:
        name = f"{plan.teacher.name.partition('.')[0].partition(' ')[0]}-{plan.student.backbone.arch.name}"
        folder = next(p for n in count(1) if not (p := RUNS / (name if n == 1 else f"{name}-{n}")).exists())
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not options.exist_ok:
        raise ConfigError(f"{folder} holds something already. Choose another --work-dir, or allow it with --exist-ok.")
    if folder.exists() and (not folder.is_dir() or (is_run(folder) and read_run(folder).args.get("task") != "distill")):
        raise ConfigError(
            f"{folder}: a file, or a run of something else than a distillation. Choose another --work-dir."
        )
    created = not folder.exists()
    place = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    needed = _LEAST_FREE * sum(p.numel() * 4 for p in plan.student.parameters())
    if (free := shutil.disk_usage(place).free) < needed:
        raise RunError(f"{folder}: {free / 1e9:.2f} GB free, the run's checkpoints need {needed / 1e9:.2f} GB. "
                       "Free space or choose another --work-dir.")  # fmt: skip
    (folder / WEIGHTS_FOLDER).mkdir(parents=True, exist_ok=True)
    return folder, created


def clear(folder: Path) -> None:
    """Remove what an earlier run left in a folder that is this process's own by now."""
    for name in (RESULTS_NAME, BACKBONE_NAME, CARD_NAME, PICTURE_NAME, FEATURES_NAME):
        (folder / name).unlink(missing_ok=True)
    for name in (STATE_NAME, BEST_NAME, LAST_NAME):
        weights_file(folder, name).unlink(missing_ok=True)
    weights_file(folder, STATE_NAME).touch()  # empty until an epoch is saved: by this an early end is known


def describe(plan: DistillPlan, folder: Path) -> None:
    """Write what a run is known by and how it came about: ``args.yaml`` and ``kdyolo.yaml``."""
    options = plan.options
    args = {"task": "distill", "data": ", ".join(plan.data), "teacher": plan.teacher_text, **options.to_dict()}
    write_atomic(folder / ARGS_NAME, yaml.safe_dump(args, sort_keys=False, allow_unicode=True))
    packages = ("ultralytics", "torch", "torchvision")
    RunRecord(
        versions={"kdyolo": __version__, "python": platform.python_version(), **{p: version(p) for p in packages}},
        command=shlex.join(sys.argv),
        git_commit=None,
        settings={**options.to_dict(), "task": "distill", **backbone_metadata(plan, 0), **options.how_read()},
        asked={},
        started_from=options.backbone,
        backbone=None,
        schedule={"epochs": options.epochs},
        recipe={"name": "distill", "values": {}},
        data=", ".join(plan.data),
        seed=options.seed,
        cpu_threads=torch.get_num_threads(),
        model=plan.student.backbone.arch.yaml_name,
        batch=options.batch,
    ).write(folder)


@contextmanager
def at_work(folder: Path, created: bool, resumed: bool) -> Iterator[RunLog]:
    """Work in a folder: named there, logged, and cleared up where the run ends before anything is saved.

    Yields:
        The run's log.

    Raises:
        RunError: A file cannot be written, or another process works there.
        KeyboardInterrupt: The run was interrupted; how to go on has been said.
    """
    log = RunLog()
    try:
        with owning_folder(folder):
            log.open(folder / LOG_NAME, append=resumed)
            with log.capture():
                try:
                    yield log
                except KeyboardInterrupt:
                    LOGGER.info(how_to_go_on(folder))
                    raise
                except OSError as e:
                    raise RunError(f"a file cannot be read or written: {e}. Mend this (free space, permissions, what "
                                   f"is missing), then go on. {how_to_go_on(folder)}") from e  # fmt: skip
    except BaseException:
        log.close()
        if created and not resumable(folder) and not log.alone:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def how_to_go_on(folder: Path) -> str:
    """What to tell a person whose run was interrupted."""
    if resumable(folder):
        return f"Interrupted. Resume with: kdyolo distill --resume {shell_word(folder)}"
    return "Interrupted before the first epoch was saved: nothing is kept, the same command starts anew."


def announce_distillation(plan: DistillPlan) -> None:
    """Say what learns what from whom, and what a person should know before it starts."""
    teacher, options = plan.teacher, plan.options
    LOGGER.info(f"teacher: {teacher.name} at {teacher.size} px · {getattr(teacher, 'report', 'own module')}")
    tell = LOGGER.warning if is_non_commercial(teacher.licence) else LOGGER.info
    tell(licence_notice(teacher.name, teacher.licence))
    LOGGER.info(f"student: {plan.student.backbone.arch.name} at {options.imgsz} px · "
                f"{taps_text(plan.taps, teacher)}")  # fmt: skip
    LOGGER.info(plan.split.summary())
    if plan.objects:
        LOGGER.info(
            f"labels: {plural(len(plan.objects.classes), 'object')} of "
            f"{number_and_noun(len(plan.objects.class_names), 'class{|es}')} on the held-out images, told "
            "apart by their neighbours after each epoch; nothing is learned from labels"
        )
    for path, why in plan.split.unreadable.items():
        LOGGER.warning(f"left out: {path}: {why}")
    if plan.kept:
        LOGGER.warning(
            f"no tap reaches layers {', '.join(map(str, plan.kept))} of the student: they stay as "
            f"{options.backbone} has them, while the layers before them change."
        )
    if plan.untrained:
        LOGGER.warning(
            f"no tap reaches layers {', '.join(map(str, plan.untrained))} of the student: they stay as they are, and "
            "the file marks them as untrained."
        )


def finish(plan: DistillPlan, folder: Path, verdict: str) -> Path:
    """Write the backbone and the model card of a run whose epochs are over; then nothing is left to resume."""
    best = weights_file(folder, BEST_NAME)
    if not best.is_file():
        best = weights_file(folder, LAST_NAME)
    backbone = write_backbone(best, folder / BACKBONE_NAME)
    epoch = int(torch.load(best, map_location="cpu", weights_only=True)["meta"]["epoch"])
    write_card(plan, folder, epoch, verdict)
    weights_file(folder, STATE_NAME).unlink(missing_ok=True)
    LOGGER.info(f"backbone: {backbone} (epoch {epoch}), for --backbone of kdyolo train")
    return backbone


def write_card(plan: DistillPlan, folder: Path, epoch: int, verdict: str) -> None:
    """Write the model card of a distilled backbone."""
    metadata = backbone_metadata(plan, epoch)
    rows = [markdown_row((markdown_text(key), markdown_text(str(value)))) for key, value in metadata.items()]
    text = [
        f"# {markdown_text(folder.resolve().name)}",
        f"{metadata['arch']} distilled from {markdown_text(plan.teacher.name)}: "
        f"a backbone for `kdyolo train --backbone {BACKBONE_NAME}`. It takes RGB images in 0–1.",
        "\n".join(["| | |", "|---|---|", *rows]),
        f"## What it learned\n\n{markdown_text(verdict)}",
        "## Licence",
        markdown_text(licence_notice(plan.teacher.name, plan.teacher.licence).removeprefix("licence: ")),
        f"All of it stands in `{RECORD_NAME}` and in the metadata of `{BACKBONE_NAME}`.",
    ]
    write_atomic(folder / CARD_NAME, "\n\n".join(text) + "\n")


def state_of(folder: Path) -> DistillState:
    """The state that an interrupted run continues from.

    Raises:
        RunError: There is none, or it is damaged.
    """
    return DistillState.load(weights_file(folder, STATE_NAME))
