"""Plan of a distillation: options, teacher, taps, student and images, each checked before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from kdyolo.checkpoints.input_norm import InputNorm
from kdyolo.distillation.images import ImageSplit, split_images
from kdyolo.distillation.options import CACHE_PRECISIONS, HEAD_NAMES, LOSS_NAMES, RESIZES, DistillOptions
from kdyolo.distillation.proof.labelled_objects import LabelledObjects, objects_beside
from kdyolo.distillation.student import Student, build_student_backbone
from kdyolo.distillation.taps import parse_taps
from kdyolo.distillation.teachers.choice import check_teacher, open_teacher, teacher_file
from kdyolo.distillation.teachers.projected_teacher import ProjectedTeacher
from kdyolo.distillation.teachers.protocol import Teacher
from kdyolo.errors import DatasetError, Mistakes, collect_mistakes
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
_TELLING = (
    "model",
    "backbone",
    "key_map",
    "taps",
    "val_images",
    "batch",
    "held_out",
)  # what other mistakes follow from
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
        ConfigError: Several mistakes, all that were found.
        KDYOLOError: A single mistake, of its own kind.
    """
    with collect_mistakes() as mistakes:
        known, split, taught, learner = _parts(images, teacher, options, mistakes)
    assert split is not None  # else there were mistakes
    assert taught is not None
    assert learner is not None
    (found, taps), (student, idle) = taught, learner
    backbone = student.backbone
    for number in idle:  # then all that is left gets gradients, which DistributedDataParallel counts on
        backbone.layers[number].requires_grad_(False)
    filled = set(range(len(backbone.layers))) if known.backbone else set[int]()
    kept = tuple(n for n in idle if n in filled - {int(name.partition(".")[0]) for name in backbone.left_out})
    untrained = tuple(n for n in idle if n not in kept)
    data = tuple(str(path) for path in _listed(images))
    text = str(teacher) if isinstance(teacher, (str, Path)) else found.name
    objects = objects_beside(split.held_out, known.imgsz, known.resize)
    return DistillPlan(known, data, text, found, taps, student, untrained, kept, split, objects)


def check_beside_others(
    images: str | Path | Sequence[str | Path],
    teacher: str | Path | Teacher | None,
    options: Mapping[str, Any],
    complete: bool = True,
) -> None:
    """Look for mistakes where there are some already: nothing is fetched for it, and no image is opened.

    Args:
        images: See :func:`plan_distillation`; none: not known.
        teacher: See :func:`plan_distillation`; None: not known.
        options: Fields of :class:`DistillOptions`, right or wrong.
        complete: Whether a student that is not named is missing, and not only unknown.

    Raises:
        ConfigError: Several mistakes, all that were found.
        KDYOLOError: A single mistake, of its own kind.
    """
    with collect_mistakes() as mistakes:
        known = complete or options.get("model") or options.get("backbone")
        _parts(images, teacher, options if known else {**options, "model": "yolov8n"}, mistakes, quickly=True)


def _parts(
    images: str | Path | Sequence[str | Path],
    teacher: str | Path | Teacher | None,
    options: Mapping[str, Any],
    mistakes: Mistakes,
    quickly: bool = False,
) -> tuple[
    DistillOptions,
    ImageSplit | None,
    tuple[Teacher, dict[str, int]] | None,
    tuple[Student, tuple[int, ...]] | None,
]:
    """Options, images, teacher and student, each None where it is wrong; the slow ones last, and only if all is right.

    Args:
        images: Folders, lists of images or images.
        teacher: The teacher.
        options: Options that were given.
        mistakes: Where mistakes are noted.
        quickly: Whether there are mistakes already, beside which nothing slow is done.
    """
    known = mistakes.result(lambda: check_options(options)) or _usable(options)
    named = not isinstance(teacher, (str, Path)) or mistakes.result(lambda: check_teacher(str(teacher))) is not None
    places, val = _listed(images), _listed(known.val_images or ())
    there = mistakes.result(lambda: _check_there(images=places, val_images=val))
    hurried = quickly or bool(mistakes)
    taught = None
    if teacher is not None and named and not (hurried and isinstance(teacher, str) and not teacher_file(teacher)):
        taught = mistakes.result(lambda: _taught(teacher, known))
    learner = mistakes.result(lambda: _student(known, taught))
    hurried = quickly or bool(mistakes)
    split = None
    if places and there:
        paths, held_out = ([Path(path).expanduser() for path in group] for group in (places, val))
        split = mistakes.result(
            lambda: split_images(paths, known.held_out, known.seed, known.batch, held_out, opened=not hurried)
        )
    return known, split, taught, learner


def _listed(paths: str | Path | Sequence[str | Path]) -> list[str | Path]:
    return [paths] if isinstance(paths, (str, Path)) else list(paths)


def _usable(options: Mapping[str, Any]) -> DistillOptions:
    """Those options by which other things can be judged though there are mistakes in them; of others the mildest."""
    mild = {"batch": 1, "held_out": 2.0, "val_images": None}
    right = {name: value for name, value in options.items() if name in _TELLING}
    right = {name: value for name, value in right.items() if not wrong_kinds({name: value}, DistillOptions)}
    return DistillOptions(**{**mild, **{name: value for name, value in right.items() if value not in (0, "")}})


def _check_there(**groups: Sequence[str | Path]) -> bool:
    """Refuse images that are not there.

    Args:
        **groups: Option → paths.

    Returns:
        True.

    Raises:
        DatasetError: Some are not there.
    """
    with collect_mistakes() as mistakes:
        for option, paths in groups.items():
            if missing := [str(path) for path in paths if not _is_there(path)]:
                with mistakes.gathered():
                    raise DatasetError(f"{option}: there is no {', '.join(missing)}.")
    return True


def _is_there(path: str | Path) -> bool:
    """Whether there is something of that name; a name that no system takes is none's."""
    try:
        return Path(path).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False


def _taught(teacher: str | Path | Teacher, options: DistillOptions) -> tuple[Teacher, dict[str, int]]:
    """The teacher, opened, and which of its maps teaches which level."""
    found = open_teacher(teacher, options.teacher_size or options.imgsz)
    taps = parse_taps(options.taps, found)
    return (ProjectedTeacher(found, taps.values(), options.cache_pca) if options.cache_pca else found), taps


def _student(
    options: DistillOptions, taught: tuple[Teacher, dict[str, int]] | None
) -> tuple[Student, tuple[int, ...]] | None:
    """The student and its untrained layers; None without a teacher, beside which its backbone is only looked at."""
    import torch

    teacher, taps = taught or (None, {})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        backbone = build_student_backbone(options.model, options.backbone, taps, **options.how_read())
        if teacher is None:
            return None
        student = Student(backbone, {level: teacher.maps[i].channels for level, i in taps.items()}, options.head)
        return student, student.untrained_layers()


def check_options(given: Mapping[str, Any]) -> DistillOptions:
    """Options of a distillation, checked on their own.

    Raises:
        ConfigError: Every mistake in them.
    """
    names = [field.name for field in fields(DistillOptions)]
    unknown = [f"unknown option {quoted(name)}.{did_you_mean(name, names)}" for name in given if name not in names]
    given = {name: value for name, value in given.items() if name in names}
    elsewhere = ("device",)  # read where the process finds its place
    given = {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
    wrong = wrong_kinds({k: v for k, v in given.items() if k not in elsewhere}, DistillOptions)
    options = DistillOptions(**{name: value for name, value in given.items() if name not in wrong})
    if options.cache:
        options = replace(options, **{name: given.get(name, 0.0) for name in _NOT_KEPT if name not in wrong})
    with collect_mistakes() as mistakes:
        mistakes.add(*unknown, *wrong.values(), *_out_of_range(options))
        for name, choices in _CHOICES:
            if (value := getattr(options, name)) not in choices:
                mistakes.add(f"{name}: expected one of {', '.join(choices)}, found {quoted(value)}.")
        if options.cache and (drawn := [name for name in _NOT_KEPT if getattr(options, name)]):
            mistakes.add(f"cache and {', '.join(drawn)} exclude each other: a cache holds whole images and mirrored "
                         "ones. Leave the cache out, or what it cannot hold.")  # fmt: skip
        if options.cache_pca and not options.cache:
            mistakes.add("cache_pca is about a cache, but no cache is given.")
        for name in (name for name, value in options.how_read().items() if value and not options.backbone):
            mistakes.add(f"{name} is about a backbone checkpoint, but no backbone is given.")
        mistakes.result(lambda: InputNorm.parse(options.input_norm or "0-1"))
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
