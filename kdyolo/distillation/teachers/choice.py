"""Choice of a teacher: a name of timm, ``NAME:FILE``, a checkpoint of a YOLO, or a module of one's own."""

from __future__ import annotations

from pathlib import Path

from kdyolo.distillation.teachers.protocol import Teacher
from kdyolo.distillation.teachers.timm_teacher import check_name, timm_teacher
from kdyolo.distillation.teachers.ultralytics_teacher import YoloTeacher
from kdyolo.errors import CheckpointError, ConfigError

_ATTRIBUTES = ("name", "digest", "licence", "size", "mean", "std", "maps")


def open_teacher(teacher: str | Path | Teacher, size: int) -> Teacher:
    """A teacher that is ready to be called.

    Args:
        teacher: Name in timm; ``NAME:FILE`` with local weights; a ``.pt``, ``.pth`` or ``.safetensors`` of a YOLO; or
            any object with the protocol, which keeps its own size.
        size: Side of the images that a named teacher will get, in pixels.

    Raises:
        ConfigError: There is no such teacher, or the object lacks something of the protocol.
        CheckpointError: The weights are not those of the teacher, or cannot be read.
    """
    if not isinstance(teacher, (str, Path)):
        if missing := [name for name in _ATTRIBUTES if not hasattr(teacher, name)]:
            raise ConfigError(f"teacher {type(teacher).__name__}: expected the Teacher protocol, it has no "
                              f"{', '.join(missing)}.")  # fmt: skip
        if not teacher.maps:
            raise ConfigError(f"teacher {teacher.name}: it gives no feature maps.")
        return teacher
    name, file = _name_and_file(str(teacher))
    if not name:
        return _yolo(Path(str(file)), size)
    return timm_teacher(name, file.expanduser() if file else None, size)


def _yolo(file: Path, size: int) -> Teacher:
    try:
        return YoloTeacher(file, size)
    except CheckpointError as e:
        if not file.is_file():
            raise
        raise CheckpointError(f"{e}\nWeights of a network of timm are given with its name: NAME:{file}.") from e


def check_teacher(teacher: str) -> bool:
    """Refuse a teacher that cannot be opened, as far as that shows without opening it or asking the network.

    Returns:
        True.

    Raises:
        ConfigError: The package timm is missing or knows no such network.
        CheckpointError: A file is not there.
    """
    name, file = _name_and_file(teacher)
    if name:
        check_name(name)
    if file and not file.expanduser().is_file():
        raise CheckpointError(f"teacher {teacher}: there is no {file}. Give the file of its weights.")
    return True


def teacher_file(teacher: str) -> Path | None:
    """The file of weights that a teacher's text names; None for a name alone."""
    return _name_and_file(teacher)[1]


def _name_and_file(text: str) -> tuple[str, Path | None]:
    """Name in timm and file of its weights; without a name, the file is a YOLO's."""
    if text.endswith((".pt", ".pth", ".safetensors")) and ":" not in text.rpartition("/")[2]:
        head, colon, _ = text.partition(":")
        if not colon or "/" in head:
            return "", Path(text)
    name, colon, file = text.partition(":")
    return name, Path(file) if colon else None
