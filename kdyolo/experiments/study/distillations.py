"""Distillations of a study: what arms ask for under ``distill``, checked, each made once, kept, and resumed.

Arms that ask for the same get the same backbone: a distillation is known by what it is asked for, whoever asks.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from kdyolo.distillation.options import DistillOptions
from kdyolo.distillation.plan import check_options
from kdyolo.distillation.run.backbone_file import BACKBONE_NAME, backbone_tensors
from kdyolo.distillation.student import student_arch
from kdyolo.distillation.teachers.choice import check_teacher, teacher_file
from kdyolo.errors import ConfigError, KDYOLOError, collect_mistakes
from kdyolo.experiments.study.job import Job
from kdyolo.experiments.study.study_file import DISTILLED
from kdyolo.models.arch import Arch
from kdyolo.models.backbone import DistilledBackbone
from kdyolo.runs.files import STATE_NAME, weights_file
from kdyolo.runs.history import Run
from kdyolo.runs.lifecycle.options import declared
from kdyolo.utils.plain_files import is_file, is_folder
from kdyolo.utils.text import canonical, quoted

_PLACES = ("device", "workers", "work_dir", "exist_ok")  # where it is computed, not what
_FILES = ("val_images", "backbone", "cache", "key_map")


@dataclass(frozen=True)
class StudyDistillation(Job):
    """One distillation, of all seeds of the arms that ask for it or of one seed.

    Attributes:
        images: Folders, lists of images or images; absolute paths.
        teacher: The teacher, as the command takes it; a file by its absolute path.
        options: Options that differ from their defaults, by their Python names; the student among them.
        folder: Work dir, an absolute path.
    """

    images: tuple[str, ...]
    teacher: str
    options: Mapping[str, Any]
    folder: Path

    def __hash__(self) -> int:
        return hash(self.folder)

    @property
    def backbone(self) -> Path:
        """The backbone's file, there once the distillation is finished."""
        return self.folder / BACKBONE_NAME

    @property
    def epochs(self) -> int:
        """Number of epochs that it is to take."""
        return int(self.options.get("epochs", DistillOptions().epochs))

    def _is_finished(self, history: Run) -> bool:
        return is_file(self.backbone) and not is_file(weights_file(self.folder, STATE_NAME))

    def arguments(self, device: str) -> list[str]:
        """Arguments of the ``kdyolo`` command that starts it, or resumes it; of several devices it takes the first."""
        device = device.partition(",")[0]
        if self.state() == "resumable":
            return ["distill", "--resume", str(self.folder), "--device", device]
        words = [word for path in self.images for word in ("--images", path)]
        words += ["--teacher", self.teacher]
        declarations = declared(DistillOptions)
        for name, value in {**self.options, "device": device, "work_dir": self.folder}.items():
            flag = declarations[name].flags_of(name)[0]
            words += ([flag] if value else []) if declarations[name].kind == "flag" else [flag, str(value)]
        return ["distill", *words]


@dataclass(frozen=True)
class ArmDistillation:
    """What an arm asks for under ``distill``.

    Attributes:
        images: Folders, lists of images or images; absolute paths.
        teacher: The teacher; a file by its absolute path.
        options: Options that differ from their defaults.
        per_seed: Whether each seed of the arm gets a backbone of its own, distilled with that seed.
    """

    images: tuple[str, ...]
    teacher: str
    options: Mapping[str, Any]
    per_seed: bool

    @classmethod
    def read(cls, found: Mapping[str, Any]) -> ArmDistillation:
        """Check what stands under ``distill``, as far as that goes without opening images or weights.

        Raises:
            ConfigError: Every mistake in it.
        """
        given = {key: value for key, value in found.items() if key not in ("images", "teacher", "per_seed")}
        images, teacher, per_seed = found.get("images"), found.get("teacher"), found.get("per_seed", False)
        listed = images if isinstance(images, list) else [images]
        paths = [Path(path).expanduser() for path in listed if path and isinstance(path, str)]
        with collect_mistakes() as mistakes:
            if not any(listed):
                mistakes.add("distill: no images. Expected a folder, a list of images (.txt), or several.")
            elif len(paths) < len(listed):
                mistakes.add(f"distill: images: expected a folder, a list of images (.txt), or several; found "
                             f"{quoted(images)}.")  # fmt: skip
            if missing := [str(path) for path in paths if not (is_file(path) or is_folder(path))]:
                mistakes.add(f"distill: images: there is no {', '.join(missing)}.")
            if not isinstance(teacher, str):
                mistakes.add(f"distill: teacher: expected a name of timm, NAME:FILE or a YOLO's .pt, found "
                             f"{quoted(teacher)}.")  # fmt: skip
            if not isinstance(per_seed, bool):
                mistakes.add(f"distill: per_seed: expected true or false, found {quoted(per_seed)}.")
            elif per_seed and "seed" in given:
                mistakes.add("distill: per_seed and seed exclude each other: the first takes the study's seeds.")
            for check in (lambda: check_options(given), lambda: check_teacher(str(teacher)), lambda: _student(given)):
                try:
                    check()
                except KDYOLOError as e:
                    for mistake in e.mistakes if isinstance(e, ConfigError) else [str(e)]:
                        mistakes.add(f"distill: {mistake}")
        usual = DistillOptions().to_dict()
        given = {key: value for key, value in given.items() if value != usual[key]}  # said or not, it is the same
        absolute = {key: str(Path(given[key]).expanduser().resolve()) for key in _FILES if given.get(key)}
        file = teacher_file(str(teacher))
        named = str(teacher).removesuffix(str(file)) + str(file.expanduser().resolve()) if file else str(teacher)
        return cls(tuple(str(path.resolve()) for path in paths), named, {**given, **absolute}, per_seed)

    @property
    def arch(self) -> Arch | None:
        """The student that is asked for by name; None where it follows from the arm's detector."""
        return _student(self.options)

    def of(self, arch: Arch, seed: int, study: Path) -> StudyDistillation:
        """The distillation that a run of the arm needs.

        Args:
            arch: The student.
            seed: Seed of the run.
            study: Folder of the study.
        """
        model = arch.name if Arch.parse(arch.name) == arch else arch.yaml_name.removesuffix(".yaml")
        options = {**self.options, "model": model}
        what = {**options, "images": self.images, "teacher": self.teacher}
        digest = hashlib.sha256(canonical(what).encode()).hexdigest()[:8]
        teacher = re.sub(r"[^\w.+=-]+", "-", Path(self.teacher.partition(":")[0]).name.partition(".")[0])
        name = f"{teacher}-{model}-{digest}"
        if self.per_seed:
            name, options = f"{name}-seed{seed}", {**options, "seed": seed}
        return StudyDistillation(self.images, self.teacher, options, study / DISTILLED / name)

    def identity(self) -> dict[str, Any]:
        """What makes it differ from another one."""
        same = {"images": self.images, "teacher": self.teacher, "per_seed": self.per_seed}
        whole = replace(DistillOptions(), **dict(self.options)).to_dict()
        return {**same, **{key: value for key, value in whole.items() if key not in _PLACES}}


@contextmanager
def random_stand_in(student: Arch | None) -> Iterator[Path | None]:
    """A file of a random backbone, to time steps with before the real one is distilled.

    Args:
        student: The backbone; None for an arm that distils nothing.

    Yields:
        The file, which is gone afterwards; None without a student.
    """
    if student is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        backbone = DistilledBackbone(student.name, student.max_channels)
        metadata = {"format": "pt", "arch": student.name, "bn_eps": str(backbone.bn_eps), "input_norm": "0-1"}
        save_file(backbone_tensors(backbone, ()), Path(folder) / BACKBONE_NAME, metadata)
        yield Path(folder) / BACKBONE_NAME


def _student(options: Mapping[str, Any]) -> Arch | None:
    return student_arch(str(options["model"])) if options.get("model") else None
