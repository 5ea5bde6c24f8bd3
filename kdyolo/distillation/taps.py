"""Taps: which of a teacher's maps teaches which pyramid level of the student, and which layers none of them reaches."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from kdyolo.distillation.teachers.protocol import Teacher, TeacherMap
from kdyolo.errors import collect_mistakes
from kdyolo.models.backbone import LEVELS
from kdyolo.utils.text import did_you_mean, quoted

STRIDES = {"P2": 4, "P3": 8, "P4": 16, "P5": 32}  # of the levels that can be taught, in pixels


def default_taps(maps: Sequence[TeacherMap]) -> dict[str, int]:
    """Level → index of the map that teaches it; P5 is among them, so every layer of the backbone gets a gradient.

    Of a pyramid each level gets the deepest map of the nearest stride. Of a network of one stride (a ViT) P3, P4 and P5
    get its maps at a half, three quarters and the end of its depth.

    Args:
        maps: The teacher's maps, shallow to deep.
    """
    if len({found.stride for found in maps}) == 1:
        depths = {"P3": 0.5, "P4": 0.75, "P5": 1.0}
        return {level: max(round(depths[level] * len(maps)), 1) - 1 for level in LEVELS}

    def distance(index: int, level: str) -> float:
        return abs(math.log2(maps[index].stride / STRIDES[level]))

    return {level: min(range(len(maps)), key=lambda i: (distance(i, level), -i)) for level in LEVELS}


def parse_taps(text: str | None, teacher: Teacher) -> dict[str, int]:
    """Taps as ``"p3:blocks.2,p4:3,p5:-1"``: level, and a map of the teacher by its name or its index.

    Args:
        text: The taps; None: the default ones.
        teacher: The teacher.

    Returns:
        Level → index of its map, shallow to deep.

    Raises:
        ConfigError: A level or a map does not exist, or a level is given twice; every such mistake.
    """
    if text is None:
        return default_taps(teacher.maps)
    taps: dict[str, int] = {}
    with collect_mistakes() as mistakes:
        for tap in text.split(","):
            level, _, wanted = (part.strip() for part in tap.partition(":"))
            index = _index(wanted, teacher.maps)
            if level.upper() not in STRIDES:
                mistakes.add(f"taps: expected one of {', '.join(STRIDES)}, found {quoted(level)}.")
            elif level.upper() in taps:
                mistakes.add(f"taps: {level} is given twice.")
            elif index is None:
                names = [found.name for found in teacher.maps]
                mistakes.add(
                    f"taps: {teacher.name} has no map {quoted(wanted)}.{did_you_mean(wanted, names)} "
                    f"Expected one of {', '.join(names)}, or an index from 0 to {len(names) - 1}."
                )
            else:
                taps[level.upper()] = index
    return {level: taps[level] for level in STRIDES if level in taps}


def taps_text(taps: Mapping[str, int], teacher: Teacher) -> str:
    """Taps in the form that :func:`parse_taps` reads, with the names of the maps."""
    return ",".join(f"{level.lower()}:{teacher.maps[index].name}" for level, index in taps.items())


def _index(wanted: str, maps: Sequence[TeacherMap]) -> int | None:
    names = [found.name for found in maps]
    if wanted in names:
        return names.index(wanted)
    if re.fullmatch(r"-?[0-9]{1,9}", wanted) and -len(maps) <= int(wanted) < len(maps):
        return int(wanted) % len(maps)
    return None
