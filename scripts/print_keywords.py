"""The typed keywords of Python calls, made from the declared options and Ultralytics' own defaults.

    python scripts/print_keywords.py            # print keywords.py of kdyolo/engine/options and kdyolo/distillation
    python scripts/print_keywords.py --check    # exit code 1 where one of these files is another
    python scripts/print_keywords.py --write    # renew them

Names, types and meanings of Ultralytics' settings are those in its ``cfg/default.yaml``, whose comments begin with the
type; kdyolo's are the fields of its dataclasses. ``source`` is left out, which is an argument of its own.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from ultralytics.utils import DEFAULT_CFG_PATH

from kdyolo.distillation.options import DistillOptions
from kdyolo.engine.options.train_options import TrainOptions
from kdyolo.runs.lifecycle.options import Option, declared

PACKAGE = Path(__file__).resolve().parent.parent / "kdyolo"
SETTING = re.compile(r"(\w+): *(.*?) *# \(([^)]*)\) (.*)")
TYPES = {
    "list": "list[Any] | tuple[Any, ...]",  # as both are taken
    "tuple": "tuple[float, float]",
    "float": "float",
    "int": "int",
    "bool": "bool",
}
PATHS = ("data", "model", "project", "pretrained", "resume")  # for which a ``Path`` is as good as its text
WIDTH = 120
HEAD = '''"""Keywords of Python calls with their types, so that editors complete them and type checkers check them.

Printed by scripts/print_keywords.py from the declared options and from Ultralytics' defaults, not written by hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import {names}'''


def print_modules() -> dict[Path, str]:
    """File → the module that it should hold."""
    own = [_field(name, kind, found.help) for name, kind, found in _own(TrainOptions)]
    distil = [_field(name, kind, found.help) for name, kind, found in _own(DistillOptions) if name != "model"]
    return {
        PACKAGE / "engine" / "options" / "keywords.py": "\n\n\n".join(
            (
                HEAD.format(names="Any, Literal, TypedDict"),
                _class("UltralyticsKeywords", "TypedDict", "Ultralytics' own settings.", list(_settings())),
                _class("TrainKeywords", "UltralyticsKeywords", "Settings of a training: kdyolo's, Ultralytics'.", own),
            )
        ),
        PACKAGE / "distillation" / "keywords.py": "\n\n\n".join(
            (
                HEAD.format(names="Literal, TypedDict"),
                _class("DistillKeywords", "TypedDict", "Options of a distillation.", distil),
            )
        ),
    }


def _class(name: str, base: str, text: str, lines: list[str]) -> str:
    return f'class {name}({base}, total=False):\n    """{text}"""\n\n' + "\n".join(lines)


def _own(options: type) -> Iterator[tuple[str, str, Option]]:
    """Name, type and declaration of each option that is a field of a dataclass."""
    for field in fields(options):
        found, kind = declared(options)[field.name], str(field.type)
        if found.choices:
            kind = kind.replace("str", f"Literal[{', '.join(map(_quoted, found.choices))}]")
        elif found.kind == "path":
            kind = kind.replace("str", "str | Path")
        elif field.name == "device":  # also the number of a GPU
            kind = f"int | {kind}"
        yield field.name, kind, found


def _quoted(text: str) -> str:
    return f'"{text}"'


def _settings() -> Iterator[str]:
    """Ultralytics' settings, one a line."""
    for line in Path(DEFAULT_CFG_PATH).read_text(encoding="utf-8").splitlines():
        if (found := SETTING.match(line)) and found[1] != "source":
            yield _field(found[1], _type(found[1], found[3], found[2] == ""), found[4])
    yield _field("save_dir", "str | Path", "folder of the results itself, in place of project and name")
    yield _field("augmentations", "list[Any]", "transforms of Albumentations, in place of Ultralytics' own choice")


def _type(name: str, text: str, optional: bool) -> str:
    """``"int | list, optional"`` → ``"int | list[Any] | None"``."""
    names = [TYPES.get(kind, kind) for kind in re.split(r" *[|] *", text.removesuffix(", optional"))]
    names += [kind for kind in ("str", "Path") if name in PATHS and kind not in names]
    names += ["None"] if optional else []
    return " | ".join(names)


def _field(name: str, kind: str, meaning: str) -> str:
    """One line, its meaning cut to what fits."""
    line = f"    {name}: {kind}  # {meaning}"
    line = line.replace("Literal['all']", 'Literal["all"]')
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 2].rstrip(' ,.;(')} …"


def main() -> None:
    """Print, check or write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    for path, text in print_modules().items():
        if options.write:
            path.write_text(f"{text}\n", encoding="utf-8")
        elif not options.check:
            print(f"{text}\n")
        elif path.read_text(encoding="utf-8") != f"{text}\n":
            sys.exit(f"{path} is not what scripts/print_keywords.py prints: run it with --write")


if __name__ == "__main__":
    main()
