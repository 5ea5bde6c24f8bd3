"""The map of the house in CONTRIBUTING.md, printed from the first lines of the docstrings.

    python scripts/print_map.py            # print it
    python scripts/print_map.py --check    # exit code 1 where CONTRIBUTING.md has another one
    python scripts/print_map.py --write    # renew it there

Packages stand in the order of the layers, as the contract in pyproject.toml has them: each may import from those above.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from importlinter.api import read_configuration

CHECKOUT = Path(__file__).resolve().parent.parent
CONTRIBUTING = CHECKOUT / "CONTRIBUTING.md"
BEGIN, END = "<!-- map: make map -->", "<!-- end of map -->"


def print_map() -> str:
    """The map as a Markdown code block."""
    package = CHECKOUT / "kdyolo"
    lines = list(_lines(package, depth=1, order=_layers()))
    width = max(len(name) for name, _ in lines) + 2
    body = "\n".join(f"{name:<{width}}{text}".rstrip() for name, text in [("kdyolo/", ""), *lines])
    return f"```text\n{body}\n```"


def current_map(document: str) -> str:
    """The block between the markers of a document.

    Raises:
        ValueError: A marker is missing.
    """
    return document[document.index(BEGIN) + len(BEGIN) : document.index(END)].strip("\n")


def with_map(document: str, block: str) -> str:
    """The document with another block between its markers."""
    begin, end = document.index(BEGIN) + len(BEGIN), document.index(END)
    return f"{document[:begin]}\n\n{block}\n\n{document[end:]}"


def _layers() -> list[str]:
    """Packages and modules at the top of the package, from the lowest layer to the highest."""
    contracts = read_configuration(str(CHECKOUT / "pyproject.toml"))["contracts_options"]
    layers = next(contract["layers"] for contract in contracts if contract.get("containers") == ["kdyolo"])
    return [name.strip() for layer in reversed(layers) for name in reversed(layer.split("|"))]


def _lines(folder: Path, depth: int, order: list[str] | None = None) -> Iterator[tuple[str, str]]:
    """Indented name and first line of everything in a package: modules first, then packages, each with its own."""
    modules = [path for path in folder.glob("*.py") if path.stem != "__init__"]
    packages = [path.parent for path in folder.glob("*/__init__.py")]
    if order is None:
        entries = sorted(modules) + sorted(packages)
    else:
        entries = sorted(modules + packages, key=lambda path: order.index(path.stem))
    for path in entries:
        file = path / "__init__.py" if path.is_dir() else path
        yield "  " * depth + path.name + "/" * path.is_dir(), _first_line(file)
        if path.is_dir():
            yield from _lines(path, depth + 1)


def _first_line(file: Path) -> str:
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].replace("``", "").removesuffix(".")


def main() -> None:
    """Print, compare or renew the map."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--check", action="store_true", help="Compare it with CONTRIBUTING.md.")
    how.add_argument("--write", action="store_true", help="Renew it in CONTRIBUTING.md.")
    options = parser.parse_args()
    block, document = print_map(), CONTRIBUTING.read_text(encoding="utf-8")
    if options.write:
        CONTRIBUTING.write_text(with_map(document, block), encoding="utf-8")
    elif not options.check:
        print(block)
    elif current_map(document) != block:
        sys.exit("CONTRIBUTING.md has another map: run make map")


if __name__ == "__main__":
    main()
