"""One word, one thing: names of classes and functions, words in identifiers, and texts that can be read alone."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from fnmatch import fnmatch

import pytest

from tests.contracts.source import docstrings, modules

# Names that may occur twice, and why.
TWICE = {
    "distill": "the command is called as what it calls",
    "export_stock": "the command is called as what it calls",
    "probe": "the command is called as what it calls",
    "to_coco": "the command is called as what it calls",
}

# Word of the house → the field's word, and where it is refused. A word is a part of an identifier between underscores
# or capitals.
WORDS = {
    "thaw": ("unfreeze", "kdyolo/*"),
    "thaws": ("unfreezes", "kdyolo/*"),
    "thawed": ("unfrozen", "kdyolo/*"),
    "outline": ("polygon", "kdyolo/*"),
    "outlines": ("polygons", "kdyolo/*"),
    "fill": ("load", "kdyolo/*"),
    "likeness": ("comparable", "kdyolo/*"),
    "differing": ("changed", "kdyolo/checkpoints/*"),
    "look": ("style", "kdyolo/experiments/report/*"),
    "looks": ("styles", "kdyolo/experiments/report/*"),
    "boxy": ("box_fallback", "kdyolo/*"),
    "words": ("summary or verdict", "kdyolo/*"),
    "publish": ("transaction", "kdyolo/*"),
    "slice": ("chunk", "kdyolo/data/*"),
    "slices": ("chunks", "kdyolo/data/*"),
    "facts": ("metadata", "kdyolo/checkpoints/*"),
    "source": ("naming scheme", "kdyolo/checkpoints/*"),
    "sources": ("naming schemes", "kdyolo/checkpoints/*"),
    "engine": ("backend", "kdyolo/experiments/*"),
    "engines": ("backends", "kdyolo/experiments/*"),
}

# Identifiers that keep such a word, and why.
KEPT = {
    "thaw_warmup": "the option --thaw-warmup, and the key under which runs have recorded it",
    "differing": "the key of kdyolo inspect --json, which scripts read",
    "source": "the key in kdyolo.yaml, which the record of a run keeps",
    "words": "the column of a comparison's data frame, which notebooks read",
    "scale_fill": "Ultralytics' own name",
    "SOURCE_DEFAULT": "what is assumed of images from a file's source, not a class of names",
}

SMALL = ("kdyolo", "kdyolo's", "p-values", "x1")  # names that are written small at the beginning of a phrase, too

SECTIONS = {"Args", "Attributes", "Returns", "Raises", "Yields"}
ENTRY = re.compile(r"^    (\*{0,2}\w+)(?: \([^)]*\))?: +(.*)$")
TERSE = re.compile(r"(Which|Why|How|Theirs?|Its?|It, [a-z ]+|Likewise|The same|Of [a-z ]{1,20})\.")


def public_definitions() -> Iterator[tuple[str, ast.ClassDef | ast.FunctionDef]]:
    """Path and node of every public class and function at the top of a module."""
    for path, tree in modules().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                yield path, node


def public_identifiers() -> Iterator[tuple[str, str]]:
    """Path and name of public modules, classes, functions, constants, methods and fields."""
    for path, tree in modules().items():
        yield path, path.rsplit("/", 1)[-1].removesuffix(".py")
        for name in _names(tree.body):
            yield path, name
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                for name in _names(node.body):
                    yield path, name


def _names(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names = [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
        else:
            continue
        yield from (name for name in names if not name.startswith("_"))


def parts(identifier: str) -> list[str]:
    """The words of an identifier: ``"LocalBackend"`` and ``"local_backend"`` → ``["local", "backend"]``."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", identifier)]


def entries(docstring: str) -> Iterator[tuple[str, str]]:
    """Section (or name) and text of everything that a Google-style docstring lists, continuation lines joined."""
    section, name, text = "", "", ""
    for line in [*docstring.splitlines(), "end:"]:
        heading = re.fullmatch(r"(\w+):", line)
        entry = ENTRY.match(line) if section in SECTIONS - {"Returns", "Yields"} else None
        first = section in {"Returns", "Yields"} and not text and line.startswith("    ")
        if text and (heading or entry or (line and not line.startswith("    "))):
            yield name, text
            text = ""
        if heading:
            section = heading[1]
        elif line and not line.startswith("    "):
            section = ""
        elif entry:
            name, text = entry[1], entry[2]
        elif first:
            name, text = section, line.strip()
        elif text and line.strip():
            text += " " + line.strip()


def begins_upper(text: str) -> bool:
    """Whether a text begins with a capital, a figure, code, or a name that is written small, e.g. ``mAP50``."""
    word = text.split(maxsplit=1)[0].rstrip(",.:;")
    return not word[0].islower() or not word.islower() or word in SMALL


def test_no_name_has_two_meanings():
    homes = defaultdict(set)
    for path, node in public_definitions():
        homes[node.name].add(path)
    twice = {name: sorted(paths) for name, paths in homes.items() if len(paths) > 1}
    assert not {name: paths for name, paths in twice.items() if name not in TWICE}
    assert not TWICE.keys() - twice.keys(), "no longer needed"
    for name in TWICE:
        commands = [path for path in twice[name] if path.startswith("kdyolo/cli/")]
        assert len(commands) == 1 == len(twice[name]) - 1, twice[name]


def test_identifiers_use_the_words_of_the_field():
    found = set()
    for path, identifier in public_identifiers():
        if identifier in KEPT:
            continue
        for word in parts(identifier):
            instead, where = WORDS.get(word, ("", ""))
            if instead and fnmatch(path, where):
                found.add(f"{path}: {identifier}: {word} → {instead}")
    assert not found, "\n".join(sorted(found))


def test_texts_of_attributes_can_be_read_alone():
    found = [
        f"{where}: {name}: {text}"
        for where, doc in docstrings()
        for name, text in entries(doc)
        if TERSE.fullmatch(text)
    ]
    assert not found, "\n".join(found)


def test_texts_begin_with_a_capital():
    found = [
        f"{where}: {name}: {text}"
        for where, doc in docstrings()
        for name, text in entries(doc)
        if not begins_upper(text)
    ]
    found += [f"{where}: {doc.splitlines()[0]}" for where, doc in docstrings() if not begins_upper(doc)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("One.\n\nArgs:\n    a: First.\n    b (int): Over\n        two lines.\n\nMore.", ["First.", "Over two lines."]),
        (
            "One.\n\nReturns:\n    What is\n    left.\n\nRaises:\n    ValueError: Too small.",
            ["What is left.", "Too small."],
        ),
        ("One.\n\nAttributes:\n    *rest: Of the draws.", ["Of the draws."]),
        ("One: two.\n\n    code: here", []),
    ],
)
def test_entries_of_a_docstring(docstring, expected):
    assert [text for _, text in entries(docstring)] == expected


@pytest.mark.parametrize("text", ["Of the draws.", "Its.", "Which.", "It, byte for byte."])
def test_what_cannot_be_read_alone(text):
    assert TERSE.fullmatch(text)
    assert not TERSE.fullmatch(f"Seed of the run. {text}")


@pytest.mark.parametrize("text", ["Folder.", "``out`` exists.", "mAP50 first.", "0 for never.", "kdyolo's own."])
def test_what_begins_upper(text):
    assert begins_upper(text)
    assert not begins_upper(f"folder: {text}")
