"""Plan of a distillation: options, teacher, taps, student and images, each checked before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from kdyolo.distillation.images import ImageSplit, split_images
from kdyolo.distillation.options import CACHE_PRECISIONS, HEAD_NAMES, LOSS_NAMES, RESIZES, DistillOptions
from kdyolo.distillation.proof.labelled_objects import LabelledObjects, objects_beside
from kdyolo.distillation.student import Student, build_student_backbone
from kdyolo.distillation.taps import parse_taps
from kdyolo.distillation.teachers.choice import open_teacher
from kdyolo.distillation.teachers.projected_teacher import ProjectedTeacher
from kdyolo.distillation.teachers.protocol import Teacher
from kdyolo.errors import ConfigError, collect_mistakes
from kdyolo.runs.lifecycle.options import wrong_kinds
from kdyolo.utils.text import did_you_mean, quoted

_DEEPEST = 32  # stride of the student's deepest level, of which its images must be a multiple
_LARGEST = 1 << 16  # pixels of a side, beyond which no memory holds an image
_MOST_WORKERS = 256  # more than any machine loads images with
_SHARES = ("crop", "flip", "colour", "mixup", "warmup")
_NOT_KEPT = ("crop", "colour", "mixup")  # views that no cache can hold
_CHOICES = (
    ("loss", LOSS_NAMES),
    ("head", HEAD_NAMES),
    ("resize", RESIZES),
    ("cache_precision", CACHE_PRECISIONS),
)
_COUNTS = ("epochs", "batch", "accumulate", "imgsz")


@dataclass(frozen=True, eq=False)
class DistillPlan:
    """Everything that a distillation needs, read once and found to fit together.

    Attributes:
        options: The options.
        data: Where the images come from, as it was given.
        teacher_text: The teacher as it was given; of an object its name.
        teacher: The teacher, with its weights.
        taps: Level → index of the teacher's map.
        student: The student, on the CPU.
        untrained: Numbers of the student's layers that no tap reaches, and no checkpoint has filled.
        kept: Numbers of those that no tap reaches, and that stay as the checkpoint has them.
        split: Images to learn from and images held out.
        objects: Labelled objects on the held-out images; None where no labels lie beside them.
    """

    options: DistillOptions
    data: tuple[str, ...]
    teacher_text: str
    teacher: Teacher
    taps: dict[str, int]
    student: Student
    untrained: tuple[int, ...]
    kept: tuple[int, ...]
    split: ImageSplit
    objects: LabelledObjects | None


def plan_distillation(
    images: str | Path | Sequence[str | Path], teacher: str | Path | Teacher, options: Mapping[str, Any]
) -> DistillPlan:
    """Read and check everything that a distillation needs; nothing is written.

    Args:
        images: Folders, lists of images (``.txt``) or images.
        teacher: The teacher; see :func:`kdyolo.distillation.teachers.choice.open_teacher`.
        options: Fields of :class:`DistillOptions` that differ from their defaults.

    Raises:
        KDYOLOError: Something is not what it should be.
    """
    import torch

    known = check_options(options)
    paths = [images] if isinstance(images, (str, Path)) else list(images)
    val = [Path(known.val_images).expanduser()] if known.val_images else []
    split = split_images([Path(p).expanduser() for p in paths], known.held_out, known.seed, known.batch, val)
    found = open_teacher(teacher, known.teacher_size or known.imgsz)
    taps = parse_taps(known.taps, found)
    if known.cache_pca:
        found = ProjectedTeacher(found, taps.values(), known.cache_pca)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(known.seed)
        backbone = build_student_backbone(known.model, known.backbone, taps)
        student = Student(backbone, {level: found.maps[i].channels for level, i in taps.items()}, known.head)
        idle = student.untrained_layers()
        for number in idle:  # then all that is left gets gradients, which DistributedDataParallel counts on
            backbone.layers[number].requires_grad_(False)
    filled = set(range(len(backbone.layers))) if known.backbone else set[int]()
    kept = tuple(n for n in idle if n in filled - {int(name.partition(".")[0]) for name in backbone.left_out})
    untrained = tuple(n for n in idle if n not in kept)
    text = str(teacher) if isinstance(teacher, (str, Path)) else found.name
    objects = objects_beside(split.held_out, known.imgsz, known.resize)
    return DistillPlan(known, tuple(map(str, paths)), text, found, taps, student, untrained, kept, split, objects)


def check_options(given: Mapping[str, Any]) -> DistillOptions:
    """Options of a distillation, checked on their own.

    Raises:
        ConfigError: Every mistake in them.
    """
    names = [field.name for field in fields(DistillOptions)]
    unknown = [name for name in given if name not in names]
    if unknown:
        raise ConfigError([f"unknown option {quoted(name)}.{did_you_mean(name, names)}" for name in unknown])
    elsewhere = ("device",)  # read where the process finds its place
    given = {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
    wrong = wrong_kinds({k: v for k, v in given.items() if k not in elsewhere}, DistillOptions)
    options = DistillOptions(**{name: value for name, value in given.items() if name not in wrong})
    if options.cache:
        options = replace(options, **{name: given.get(name, 0.0) for name in _NOT_KEPT if name not in wrong})
    with collect_mistakes() as mistakes:
        mistakes.add(*wrong.values(), *_out_of_range(options))
        for name, choices in _CHOICES:
            if (value := getattr(options, name)) not in choices:
                mistakes.add(f"{name}: expected one of {', '.join(choices)}, found {quoted(value)}.")
        if options.cache and (drawn := [name for name in _NOT_KEPT if getattr(options, name)]):
            mistakes.add(f"cache and {', '.join(drawn)} exclude each other: a cache holds whole images and mirrored "
                         "ones. Leave the cache out, or what it cannot hold.")  # fmt: skip
        if options.cache_pca and not options.cache:
            mistakes.add("cache_pca is about a cache, but no cache is given.")
    return options


def _out_of_range(options: DistillOptions) -> Iterator[str]:
    """Sentences about numbers that are too small, too large or no multiple."""
    for name in _COUNTS:
        if getattr(options, name) < 1:
            yield f"{name}: expected a whole number of at least 1, found {quoted(getattr(options, name))}."
    for name in _SHARES:
        if not 0 <= getattr(options, name) <= 1:
            yield f"{name}: expected a share from 0 to 1, found {quoted(getattr(options, name))}."
    for name in ("workers", "seed", "weight_decay", "clip", "cache_pca"):
        if getattr(options, name) < 0:
            yield f"{name}: expected a number of at least 0, found {quoted(getattr(options, name))}."
    for name in ("imgsz", "teacher_size"):
        if (getattr(options, name) or 0) > _LARGEST:
            yield f"{name}: expected at most {_LARGEST:,} pixels, found {quoted(getattr(options, name))}."
    if options.workers > _MOST_WORKERS:
        yield f"workers: expected at most {_MOST_WORKERS} processes, found {quoted(options.workers)}."
    if options.teacher_size is not None and options.teacher_size < 1:
        yield f"teacher_size: expected a number of pixels of at least 1, found {quoted(options.teacher_size)}."
    if options.imgsz % _DEEPEST:
        yield f"imgsz: expected a multiple of {_DEEPEST}, the stride of P5; found {options.imgsz}."
    if options.lr <= 0:
        yield f"lr: expected a number above 0, found {options.lr}."
    if options.held_out <= 0:
        yield f"held_out: expected a share or a number above 0, found {options.held_out}."
