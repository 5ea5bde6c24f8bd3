"""Distilling a backbone: plan, run folder and loop put together, as one call for Python and the command."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from typing_extensions import Unpack

from kdyolo.arguments import checked
from kdyolo.distillation.keywords import DistillKeywords
from kdyolo.distillation.plan import DistillPlan, plan_distillation
from kdyolo.distillation.run.dry_run import measured_steps
from kdyolo.distillation.run.folder import announce_distillation, at_work, clear, describe, finish, new_folder, state_of
from kdyolo.distillation.run.loggers import LoggedRun
from kdyolo.distillation.run.loop import DistillLoop, Place
from kdyolo.distillation.run.results_picture import SeldomWork, draw_distillation
from kdyolo.distillation.run.state import DistillState
from kdyolo.distillation.run.verdict import verdict
from kdyolo.distillation.taps import STRIDES
from kdyolo.distillation.teachers.protocol import Teacher, check_answer
from kdyolo.errors import ConfigError, RunError
from kdyolo.runs.files import FEATURES_NAME, PICTURE_NAME, RESULTS_NAME
from kdyolo.runs.lifecycle.devices import Machine, read_devices
from kdyolo.runs.results_csv import drop_rows_after, read_results
from kdyolo.utils import distributed
from kdyolo.utils.system import cpu_threads
from kdyolo.utils.tables import ShownInOneLine
from kdyolo.utils.text import quoted

if TYPE_CHECKING:
    import pandas as pd

LOGGER = logging.getLogger("ultralytics")
RESUME_MAY_CHANGE = ("device", "workers")
_ROWS_SHOWN = 20  # epochs in a notebook, the first and the last ones


@dataclass(frozen=True, repr=False)
class DistillResult(ShownInOneLine):
    """What a distillation left.

    Attributes:
        folder: The run folder.
        backbone: The file that ``--backbone`` takes, of the epoch with the lowest loss on the held-out images.
        columns: Column of ``results.csv`` → its values, one for each epoch.
        verdict: The verdict in words, with the numbers behind it.
    """

    folder: Path
    backbone: Path
    columns: Mapping[str, list[float]]
    verdict: str = ""

    def headline(self) -> str:
        """The backbone, and the verdict on it."""
        return f"{self.backbone}: {self.verdict}" if self.verdict else str(self.backbone)

    def facts(self) -> dict[str, str]:
        """The backbone's file, its length, and the verdict."""
        return {
            "backbone": str(self.backbone),
            "epochs": str(len(self.columns.get("epoch", ()))),
            "verdict": self.verdict,
        }

    def _repr_html_(self) -> str:
        return f"{super()._repr_html_()}{self.to_frame().to_html(index=False, max_rows=_ROWS_SHOWN)}"

    def to_frame(self) -> pd.DataFrame:
        """``results.csv`` as a data frame, a row for each epoch."""
        import pandas as pd

        frame: pd.DataFrame = pd.DataFrame(dict(self.columns))
        return frame


@checked
def distill(
    images: str | Path | Sequence[str | Path],
    *,
    teacher: str | Path | Teacher,
    model: str | None = None,
    **options: Unpack[DistillKeywords],
) -> DistillResult:
    """Distil a frozen teacher into a YOLO backbone, on images without labels.

    Args:
        images: Folders, lists of images (``.txt``) or images.
        teacher: Name in timm, ``NAME:FILE`` with local weights, a checkpoint of a YOLO, or an object with the protocol
            :class:`kdyolo.Teacher`.
        model: Student, e.g. ``"yolov8s"``.
        options: ``epochs``, ``imgsz``, ``batch``, ``taps``, ``work_dir``, … as ``kdyolo distill`` has them: see
            :class:`kdyolo.DistillKeywords`.

    Returns:
        The run folder, the backbone's file and the columns of ``results.csv``.

    Raises:
        KDYOLOError: Something is not what it should be; before anything is written, unless a disk fills up meanwhile.

    Examples:
        >>> from kdyolo import distill
        >>> result = distill("photos", teacher="ckpt.pth", model="yolov8n", epochs=1, imgsz=64, batch=4, device="cpu")
        >>> result.backbone.name
        'backbone.safetensors'
    """
    given: dict[str, Any] = {**options, **({"model": model} if model else {})}
    place = this_place(given.get("device"))
    if place.device.type == "cpu" and place.ranks == 1 and (threads := cpu_threads()):
        torch.set_num_threads(threads)
    return run(plan_distillation(images, teacher, given), place)


def resume(folder: str | Path, teacher: Teacher | None = None, **changes: Any) -> DistillResult:
    """Go on with an interrupted distillation, bit for bit as if it had not been interrupted (on a CPU).

    Args:
        folder: The run folder.
        teacher: The teacher, where it was an object; else it is opened again.
        changes: ``device`` and ``workers``, where they are others now.

    Raises:
        RunError: There is nothing to resume, or images or teacher have changed.
        ConfigError: Something else is to change.
    """
    if wrong := [name for name in changes if name not in RESUME_MAY_CHANGE]:
        raise ConfigError(f"--resume continues with the options of the run; {', '.join(wrong)} cannot change.")
    path = Path(folder)
    state = state_of(path)
    if missing := [place for place in state.data if not os.path.exists(os.path.expanduser(place))]:  # noqa: PTH110, PTH111
        raise RunError(f"{path} cannot be resumed: there is no {', '.join(missing)}. Put it back, or go to the folder "
                       "that the run was started in.")  # fmt: skip
    options = {**state.options, **changes, "work_dir": str(path)}
    place = this_place(options.get("device"))
    if place.device.type == "cpu":
        torch.set_num_threads(state.threads)
    return run(plan_distillation(state.data, teacher or state.teacher, options), place, state)


def run(plan: DistillPlan, place: Place, state: DistillState | None = None) -> DistillResult:
    """Run a plan, from its beginning or from a state."""
    check_place(plan, place)
    if place.rank:
        folder = distributed.broadcast(Path())
        DistillLoop.of(plan, folder, place, state).train()
        return DistillResult(folder, folder, {})
    folder, created = (Path(str(plan.options.work_dir)), False) if state else new_folder(plan)
    distributed.broadcast(folder)
    with at_work(folder, created, resumed=state is not None) as log:
        announce_distillation(plan)
        if state is None:
            clear(folder)
            describe(plan, folder)
        else:
            drop_rows_after(folder / RESULTS_NAME, state.epoch)
        loop = DistillLoop.of(plan, folder, place, state)
        log.hand_over(folder, place.ranks > 1)
        train_and_tell(loop, resumed=state is not None)
        loop.proof.draw(folder / FEATURES_NAME)
        columns, _ = read_results(folder / RESULTS_NAME)
        said = verdict(columns)
        LOGGER.info(f"verdict: {said}")
        backbone = finish(plan, folder, said)
    return DistillResult(folder, backbone, columns, said)


def train_and_tell(loop: DistillLoop, resumed: bool) -> None:
    """Train to the end; loggers and the picture of ``results.csv`` keep up with it."""
    logged = LoggedRun(loop.folder, loop.options.to_dict(), loop.student, resumed)
    results = loop.folder / RESULTS_NAME
    picture = SeldomWork(lambda: draw_distillation(read_results(results)[0], loop.folder / PICTURE_NAME))

    def tell(row: Mapping[str, float]) -> None:
        logged.log_epoch(row)
        picture.offer(at_once=row["epoch"] == loop.options.epochs)

    finished = False
    logged.begin()
    try:
        loop.train(tell)
        finished = True
    finally:
        logged.end(finished)


def preview(
    images: str | Path | Sequence[str | Path], teacher: str | Path | Teacher, options: Mapping[str, Any]
) -> str:
    """Check everything, measure some steps, and say what a distillation will take; nothing is written or kept.

    Args:
        images: See :func:`distill`.
        teacher: See :func:`distill`.
        options: Fields of :class:`DistillOptions` that differ from their defaults.

    Returns:
        Lines for a person: images/s with and without the teacher, hours, and gigabytes.

    Raises:
        KDYOLOError: Something is not what it should be.
    """
    place = this_place(options.get("device"))
    plan = plan_distillation(images, teacher, options)
    check_place(plan, place)
    announce_distillation(plan)
    return measured_steps(DistillLoop(plan, Path(), place))


def check_place(plan: DistillPlan, place: Place) -> None:
    """Try what only shows where it is computed: the teacher's answer, the compiler, equal shares of each batch.

    Raises:
        ConfigError: One of them is not what it should be.
    """
    if plan.options.batch % place.ranks:
        raise ConfigError(f"batch: expected a multiple of {place.ranks}, the number of processes that share it; found "
                          f"{plan.options.batch}.")  # fmt: skip
    cells = plan.options.batch // place.ranks * (plan.options.imgsz // STRIDES["P5"]) ** 2
    if cells < 2 and "P5" in plan.taps:
        raise ConfigError("batch: one image with one cell at P5 is too little for BatchNorm's statistics. Give a "
                          "larger --batch or --imgsz.")  # fmt: skip
    check_answer(plan.teacher, plan.taps.values(), place.device)
    if plan.options.compile:
        try:
            torch.compile(lambda numbers: numbers + 1)(torch.zeros(8, device=place.device))
        except Exception as e:  # of the compiler's own kinds, which are not public
            reason = quoted((str(e).splitlines() or [""])[0])
            raise ConfigError(
                f"compile: PyTorch cannot compile here ({reason}). Install what is missing, such as the compiler g++, "
                "or leave out --compile."
            ) from e


def this_place(device: Any = None) -> Place:
    """Where this process computes: alone, or as one of those that torchrun started.

    Args:
        device: The setting in any form that Ultralytics takes; None: the first GPU, else the CPU.

    Raises:
        ConfigError: There is no such device, or it is several.
    """
    devices = read_devices(device, Machine.here(), os.environ)
    if devices.processes > 1 or devices.kind == "other":
        raise ConfigError(
            f"device: a distillation computes on the CPU or on GPUs, with a process for each; found {quoted(device)}. "
            "For several start that many: torchrun --nproc-per-node N -m kdyolo distill …"
        )
    found = torch.device(devices.here)
    if not distributed.is_distributed():
        return Place(found)
    distributed.init_process_group(found)
    return Place(found, torch.distributed.get_rank(), torch.distributed.get_world_size())
