"""Reference pages made from the program itself: commands, options of a training, recipes, error messages.

A page has a line ``<!-- made by reference_pages: NAME -->``; when the site is built the Markdown of the function for
that name stands in its place. On a code host the line is invisible, so the page says beside it where the same is found.
Nothing here is copied by hand, so nothing can be out of date. The contents of the site stand in such a comment, too.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click

import kdyolo
from kdyolo import errors
from kdyolo.cli import cli
from kdyolo.cli.sections import SECTIONS
from kdyolo.engine.options.train_options import HELP_ORDER, OPTION_NAMES, command_options
from kdyolo.runs.lifecycle.options import Option
from kdyolo.utils.shipped_files import cfg_dir
from kdyolo.utils.tables import markdown_code, markdown_table, markdown_text

DOCS = Path(__file__).resolve().parents[1]
CHECKOUT = DOCS.parent
MARK = re.compile(r"^<!-- made by reference_pages: (\w+) -->$", re.MULTILINE)
CONTENTS = re.compile(r"^<!-- contents\n(.*?)\n-->$", re.MULTILINE | re.DOTALL)  # a line: caption, colon, pages
# A link that leads out of the documentation, to a file of the repository: ](../scripts/x.py)
OUTWARD = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+[^)#\s]+)(#[^)\s]*)?\)")
GROUPS = {
    "start": "What the detector starts from",
    "freeze": "When which part trains",
    "recipe": "Recipe",
    "run": "The run",
    "reading": "How a checkpoint is read",
}


# ---- commands --------------------------------------------------------------------------------------------------------


def commands() -> str:
    """Every command: what it does, how it is called, its arguments, its options, examples."""
    parts = []
    for section, names in SECTIONS.items():
        parts.append(f"## {section}")
        parts += [command_section(name) for name in names]
    return "\n\n".join(parts)


def command_section(name: str) -> str:
    """One command as a section of a page."""
    found = cli.get_command(None, name)
    context = click.Context(found, info_name=f"kdyolo {name}")
    usage = " ".join([context.command_path, *found.collect_usage_pieces(context)])
    options = [p for p in found.params if isinstance(p, click.Option) and not p.hidden and "--help" not in p.opts]
    options.sort(key=lambda option: tuple(option.opts) in common_options())  # what every command has stands last
    records = (option.get_help_record(context) for option in options)
    rows = [(markdown_code(flags), markdown_text(meaning)) for flags, meaning in filter(None, records)]
    return "\n\n".join(
        [
            f"### kdyolo {name}",
            *paragraphs(found.help or ""),
            f"```text\n{usage}\n```",
            "\n".join(markdown_table(("option", "meaning"), rows)),
            *([f"```bash\n{examples(found.epilog)}\n```"] if examples(found.epilog) else []),
        ]
    )


@cache
def common_options() -> frozenset[tuple[str, ...]]:
    """Flags of the options that every command has, such as ``--debug``."""
    every = (cli.get_command(None, name) for names in SECTIONS.values() for name in names)
    return frozenset.intersection(*(frozenset(tuple(option.opts) for option in found.params) for found in every))


def paragraphs(text: str) -> list[str]:
    """The paragraphs of a command's help; those that keep their lines become code."""
    blocks = [block.strip("\n") for block in re.split(r"\n\s*\n", inspect.cleandoc(text)) if block.strip()]
    return [
        f"```text\n{block[1:].strip()}\n```" if block.startswith("\b") else markdown_text(" ".join(block.split()))
        for block in blocks
    ]


def examples(epilog: str | None) -> str:
    """The commands of an epilog ``Examples:``, each without its indentation."""
    lines = (epilog or "").replace("\b", "").splitlines()
    return "\n".join(line.removeprefix("  ") for line in lines if line.strip() not in ("", "Examples:"))


# ---- options of a training -------------------------------------------------------------------------------------------


def train_options() -> str:
    """Options of ``kdyolo train`` by group: flag, Python name, meaning, default."""
    parts, listed = [], command_options()
    for group in HELP_ORDER:
        rows = [_train_row(name, found) for name, found in listed.items() if found.group == group]
        parts += [f"## {GROUPS[group]}", "\n".join(markdown_table(("option", "Python", "meaning", "default"), rows))]
    return "\n\n".join(parts)


def _train_row(name: str, found: Option) -> tuple[str, str, str, str]:
    flags = ", ".join(markdown_code(f"{flag} {found.value}".strip()) for flag in found.flags_of(name))
    meaning = (found.meaning or found.help).replace("|", r"\|")
    default = found.default_text or ("the recipe's, then Ultralytics'" if name not in OPTION_NAMES else "")
    return flags, found.python or markdown_code(name), meaning, default if name != "resume" else ""


# ---- Python ----------------------------------------------------------------------------------------------------------

# Package in which a public name is defined → heading of its section.
SUBJECTS = {
    "engine": "Train, evaluate",
    "checkpoints": "Checkpoints",
    "models": "Backbones and schedules",
    "distillation": "Distil",
    "data": "Data",
    "metrics": "Metrics",
    "experiments": "Compare, study, probe",
    "runs": "Runs",
    "errors": "Errors",
    "typing": "Kinds of values",
}


def python() -> str:
    """Every public name of the package by subject, for Sphinx' autodoc to fill in; the errors with their kinds."""
    found: dict[str, list[str]] = {subject: [] for subject in SUBJECTS.values()}
    for name in kdyolo.__all__:
        value = getattr(kdyolo, name)
        subject = SUBJECTS.get(getattr(value, "__module__", "").partition(".")[2].partition(".")[0])
        if subject and not (inspect.isclass(value) and issubclass(value, Exception)):
            found[subject].append(autodoc(name, value))
        elif type(value).__module__ in ("typing", "types"):  # one of a few values
            found["Kinds of values"].append(
                f".. py:data:: kdyolo.{name}\n\n   ``{str(value).replace('typing.', '')}``\n"
            )
    kinds = [name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)]
    found["Errors"] += [f".. autoexception:: kdyolo.{name}\n   :no-members:" for name in kinds]
    parts = ((subject, "\n".join(names)) for subject, names in found.items() if names)
    return "\n\n".join(f"## {subject}\n\n```{{eval-rst}}\n{names}\n```" for subject, names in parts)


def autodoc(name: str, value: Any) -> str:
    """The directive of a public name: a function, or a class with what it adds to those that it extends."""
    if inspect.isclass(value):
        return f".. autoclass:: kdyolo.{name}\n   :members:\n   :exclude-members: __init__"
    return f".. autofunction:: kdyolo.{name}"


# ---- recipes and model YAMLs -----------------------------------------------------------------------------------------


def recipes() -> str:
    """The shipped recipes as they are."""
    files = sorted((cfg_dir() / "recipes").glob("*.yaml"))
    return "\n\n".join(f"### Recipe {path.stem}\n\n```yaml\n{path.read_text('utf-8').strip()}\n```" for path in files)


# ---- errors ----------------------------------------------------------------------------------------------------------


def messages() -> str:
    """Every message with which a command ends on purpose, by the part of kdyolo that it comes from."""
    parts = []
    for package in sorted(path for path in (CHECKOUT / "kdyolo").iterdir() if (path / "__init__.py").is_file()):
        found = sorted({text for path in sorted(package.rglob("*.py")) for text in messages_in(path)})
        if found:
            parts += [f"## From {package.name}", "\n".join(f"- {markdown_code(text)}" for text in found)]
    return "\n\n".join(parts)


def messages_in(path: Path) -> Iterator[str]:
    """Texts of the errors that a module raises, and of the mistakes that it gathers; ``…`` for what differs."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in ("add", "append") or name.endswith("Error"):
            for argument in node.args:
                text = template(argument)
                if text and len(re.findall(r"\w{2,}", text)) >= 3:
                    yield text


def template(node: ast.expr) -> str | None:
    """The text that an expression builds, in one line, ``…`` for every value in it; None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        text = node.value
    elif isinstance(node, ast.JoinedStr):
        text = "".join(value.value if isinstance(value, ast.Constant) else "…" for value in node.values)  # type: ignore[misc]
    else:
        return None
    return " ".join(text.split())


MADE: dict[str, Callable[[], str]] = {
    "commands": commands,
    "train_options": train_options,
    "python": python,
    "recipes": recipes,
    "messages": messages,
}


# ---- Sphinx ----------------------------------------------------------------------------------------------------------


def fill(text: str) -> str:
    """A page with what is made from the program in its place."""
    return CONTENTS.sub(lambda found: toctrees(found[1]), MARK.sub(lambda found: MADE[found[1]](), text))


def toctrees(contents: str) -> str:
    """Sphinx's directives for the contents of the site: a list of pages, with its caption, for each line."""
    parts = (line.partition(": ") for line in contents.splitlines())
    lists = ((caption, "\n".join(pages.split())) for caption, _, pages in parts)
    return "\n\n".join(f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{pages}\n```" for caption, pages in lists)


def without_outward_links(text: str, page: Path) -> str:
    """A page whose links to files beside the documentation are the names of these files: a site has no such files."""

    def replaced(found: re.Match[str]) -> str:
        target = (page.parent / found[2]).resolve()
        if target.is_relative_to(DOCS) or not target.is_relative_to(CHECKOUT):
            return found[0]
        path = target.relative_to(CHECKOUT).as_posix()
        return found[1] if path in found[1] else f"{found[1]} (`{path}`)"

    return OUTWARD.sub(replaced, text)


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""

    def read(app: Any, name: str, source: list[str]) -> None:
        page = Path(app.env.doc2path(name))
        source[0] = without_outward_links(fill(source[0]), page)

    app.connect("source-read", read)
    return {"version": kdyolo.__version__, "parallel_read_safe": True}
