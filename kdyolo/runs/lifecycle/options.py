"""Declaration of an option as the metadata of a dataclass field: flag, help, and what it counts for. No torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from kdyolo.utils.text import quoted

Kind = Literal["text", "path", "flag", "integer", "number", "count"]
Group = Literal["start", "teaching", "views", "freeze", "recipe", "run", "reading"]


@dataclass(frozen=True)
class Option:
    """One option of a command, beside its name and its default.

    Attributes:
        help: Text in the command's help.
        group: Group of options that it is listed with; what ``KDYOLO`` takes is ``start`` and ``reading``.
        kind: Kind of value on the command line; ``count`` is a whole number of at least 0.
        choices: The values that are allowed, if they are few.
        flags: Flags on the command line. Empty: the name with dashes.
        metavar: Stand-in for the value in the help, instead of click's.
        value: Stand-in for the value in the reference.
        meaning: Text in the reference. Empty: listed with others as one of Ultralytics' options.
        default_text: Default in the reference.
        python: How Python code gives the option, in the reference. Empty: by its name.
        before: Option of kdyolo that one of Ultralytics' is listed before.
        reads: Whether it says how a backbone checkpoint is read, so that another value reads another checkpoint.
        input_file: Whether the value may name a file that a run reads.
        in_stock: Whether stock training is a training with this option at its default.
        in_study: Whether two runs of a study are different trainings if only the words of this option differ. A
            backbone is compared by its content instead, and a recipe by the settings that it gives.
        in_arm: Whether runs that differ in it are different arms of a comparison.
    """

    help: str
    group: Group = "run"
    kind: Kind = "text"
    choices: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    metavar: str | None = None
    value: str = ""
    meaning: str = ""
    default_text: str = ""
    python: str = ""
    before: str = ""
    reads: bool = False
    input_file: bool = False
    in_stock: bool = True
    in_study: bool = True
    in_arm: bool = True

    def flags_of(self, name: str) -> tuple[str, ...]:
        """The flags of the option with this name, e.g. ``("--backbone-lr",)``."""
        return self.flags or (f"--{name.replace('_', '-')}",)


def option(**attributes: Any) -> Mapping[str, Option]:
    """Metadata of a dataclass field that is an option; see :class:`Option` for what it takes."""
    return {"option": Option(**attributes)}


# How a backbone checkpoint is read, by every kind of run that starts from one.
HOW_READ: Mapping[str, Option] = {
    "bn_eps": Option(
        help="BatchNorm epsilon of the backbone, if the recognised one is wrong.",
        group="reading",
        kind="number",
        value="X",
        meaning="BatchNorm epsilon of the checkpoint, where the recognised one is wrong",
        default_text="from the format",
        reads=True,
    ),
    "input_norm": Option(
        help="Images the backbone knows: 0-1, imagenet, or MEANS/STDS.",
        group="reading",
        metavar="NORM",
        value="NORM",
        meaning="images the backbone was trained on: `0-1`, `imagenet`, or means/deviations",
        default_text="from the source",
        reads=True,
    ),
    "key_map": Option(
        help="YAML with the names of an unknown checkpoint.",
        group="reading",
        kind="path",
        metavar="FILE",
        value="FILE",
        meaning="YAML with the names of an unknown checkpoint",
        default_text="none",
        reads=True,
        input_file=True,
    ),
}


def how_read(name: str) -> Mapping[str, Option]:
    """Metadata of a dataclass field that is one of :data:`HOW_READ`."""
    return {"option": HOW_READ[name]}


def declared(options: type) -> dict[str, Option]:
    """Name → declaration of every option that is a field of a dataclass, in the order of the fields."""
    return {f.name: f.metadata["option"] for f in fields(options)}


_LARGEST = 1 << 62  # what other packages take as a whole number


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST


def _is_number(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


_KINDS: Mapping[Kind, tuple[str, Callable[[Any], bool]]] = {
    "text": ("a text", lambda value: isinstance(value, str)),
    "path": ("a path", lambda value: isinstance(value, (str, Path)) and "\0" not in str(value)),
    "flag": ("true or false", lambda value: isinstance(value, bool)),
    "integer": ("a whole number", _is_whole),
    "number": ("a number", _is_number),
    "count": ("a whole number of at least 0", lambda value: _is_whole(value) and value >= 0),
}


def wrong_kinds(given: Mapping[str, Any], options: type) -> dict[str, str]:
    """What is wrong with values that are not of the kind of their option, as Python calls and files may bring them.

    Args:
        given: Name → value, of some of the options; None is right where it is the default.
        options: Dataclass whose fields are the options.

    Returns:
        Name → a sentence.
    """
    known = {f.name: f for f in fields(options)}
    found = {}
    for name, value in given.items():
        expected, is_right = _KINDS[known[name].metadata["option"].kind]
        if not (is_right(value) or (value is None and known[name].default is None)):
            found[name] = f"{name}: expected {expected}, found {quoted(value)}."
    return found
