"""Forms of a run's files: of which kind the values are that the rest relies on; others may stand beside them.

Nothing is required that files of older versions, or of plain Ultralytics, may lack.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct, field

MOST_EPOCHS = 1_000_000  # of a run; more is a damaged file, and would be counted one by one

Epochs = Annotated[int, Meta(ge=0, le=MOST_EPOCHS)]
Count = Annotated[int, Meta(ge=0, le=1 << 62)]
Metric = Annotated[float, Meta(ge=-1, le=1)]  # −1: nothing to measure it on
Pid = Annotated[int, Meta(ge=1, le=(1 << 31) - 1)]
Seconds = Annotated[float, Meta(ge=-1e12, le=1e12)]  # from the start of the machine, which containers may not see
Name = Annotated[str, Meta(max_length=4096)]  # of a file, as long as systems allow


class ArgsForm(Struct):
    """``args.yaml``, Ultralytics' settings."""

    epochs: Epochs | Annotated[float, Meta(ge=0, le=MOST_EPOCHS)] | None = None
    patience: Annotated[int, Meta(ge=0)] | Annotated[float, Meta(ge=0)] | None = None
    time: Annotated[float, Meta(ge=0, le=1e9)] | None = None
    data: Name | None = None
    split: Name | None = None


class BackboneForm(Struct):
    """What ``kdyolo.yaml`` says of the checkpoint that went in."""

    path: Name | None = None
    sha256: Name | None = None
    matched: Count | None = None
    total: Count | None = None
    values: Count | None = None
    bn_eps: float | None = None
    teacher: Name | None = None
    teacher_licence: Name | None = None
    left_out: list[Name] | None = None


class ScheduleForm(Struct):
    """The freeze schedule in ``kdyolo.yaml``; the schedule checks its own values."""

    epochs: Epochs | None = None
    freeze_epochs: Epochs | Name | None = None
    unfreeze_stages: Name | None = None
    backbone_lr: float | None = None
    unfreezes: dict[Epochs, list[Name]] | None = field(default=None, name="thaws")


class RecipeForm(Struct):
    """The recipe in ``kdyolo.yaml``."""

    name: Name | None = None
    values: dict[str, Any] | None = None


class TeacherForm(Struct):
    """What ``kdyolo.yaml`` says of the detector that the run also learned from."""

    path: Name | None = None
    sha256: Name | None = None
    classes: Count | None = None


class RecordForm(Struct):
    """``kdyolo.yaml``, how the run came about."""

    versions: dict[str, Any] | None = None
    command: str | None = None
    git_commit: Name | None = None
    settings: dict[str, Any] | None = None
    asked: dict[str, Any] | None = None
    started_from: Name | None = None
    backbone: BackboneForm | None = None
    schedule: ScheduleForm | None = None
    recipe: RecipeForm | None = None
    data: Name | None = None
    seed: int | None = None
    cpu_threads: Count | None = None
    model: Name | None = None
    batch: Count | None = None
    distill_model: TeacherForm | None = None


class ClassScoreForm(Struct):
    """One class in ``coco_metrics.json``."""

    category_id: int
    name: Name
    objects: Count
    ap: Metric


class ScoresForm(Struct):
    """``coco_metrics.json``, the official metrics of ``best.pt``."""

    AP: Metric
    AP50: Metric | None = None
    AP75: Metric | None = None
    AP_small: Metric | None = None
    AP_medium: Metric | None = None
    AP_large: Metric | None = None
    AR1: Metric | None = None
    AR10: Metric | None = None
    AR100: Metric | None = None
    AR_small: Metric | None = None
    AR_medium: Metric | None = None
    AR_large: Metric | None = None
    images: Count | None = None
    objects: Count | None = None
    evaluator: Name | None = None
    annotations: Name | None = None
    per_class: list[ClassScoreForm] | None = None


class ProcessForm(Struct):
    """``process.json``: the process that works in a folder."""

    pid: Pid
    host: Annotated[str, Meta(min_length=1, max_length=255)]
    started: Seconds
    launcher: tuple[Pid, Seconds] | None = None


class StateForm(Struct):
    """``weights/resume.pt``, what a run continues from; tensors are compared with the model that takes them."""

    epoch: Epochs
    yaml: dict[str, Any]
    settings: dict[str, Any]
    args: dict[str, Any]
    model: dict[str, Any]
    ema: dict[str, Any]
    updates: Count
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    best_fitness: float | None
    stopper: dict[str, float]
    last_step: Annotated[int, Meta(ge=-(1 << 62), le=1 << 62)]
    gradients: dict[str, Any]
    frozen_tensors: dict[str, Any]
    mosaic_buffer: list[Count]
    threads: Annotated[int, Meta(ge=1, le=1 << 20)] | None = None
    stop: bool = False
    ranks: Count | None = None
    images: Count | None = None
    batches: Count | None = None
    train_images: Count | None = None


class DistillStateForm(Struct):
    """``weights/resume.pt`` of a distillation; tensors are compared with the student that takes them."""

    epoch: Annotated[int, Meta(ge=1, le=MOST_EPOCHS)]
    options: dict[str, Any]
    data: list[Name]
    teacher: Name
    teacher_digest: Name
    student: dict[str, Any]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    statistics: dict[str, tuple[Any, Any]]
    floors: dict[str, float]
    best: float
    images: Count
    threads: Annotated[int, Meta(ge=1, le=1 << 20)]
    ranks: Count
    projection: Name = ""
    images_digest: Name = ""


class StudyForm(Struct):
    """``study.yaml`` in the folder of a study, as far as runs that are there already are concerned."""

    name: str | int | float | None = None
    arms: dict[Any, Any] | None = None
    baseline: str | int | float | None = None
