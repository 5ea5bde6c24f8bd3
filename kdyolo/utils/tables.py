"""Tables as text: columns aligned for a terminal, and Markdown."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from itertools import zip_longest

from kdyolo.utils.text import printable


def aligned(
    rows: Sequence[Sequence[str]], align: str = "<", *, gap: str = "  ", least: Sequence[int] = ()
) -> list[str]:
    """Lines of cells in columns that are as wide as their widest cell; control characters in them are shown.

    >>> aligned([["class", "AP"], ["person", "0.5"]], "<>")
    ['class    AP', 'person  0.5']

    Args:
        rows: Cells of each row, all rows with the same number; the header is the first of them.
        align: ``"<"`` (left) or ``">"`` (right) for each column; the last one also for all further columns.
        gap: Text between two columns.
        least: Widths that the first columns have at least, in cells of a terminal.

    Returns:
        A line for each row, without blanks at its end.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    found = [max(map(cell_width, column)) for column in zip(*rows, strict=True)]
    widths = [max(pair) for pair in zip_longest(found, least[: len(found)], fillvalue=0)]
    sides = align.ljust(len(widths), align[-1])
    return [gap.join(map(_pad, row, widths, sides)).rstrip() for row in rows]


def _pad(text: str, width: int, side: str) -> str:
    blanks = " " * (width - cell_width(text))
    return text + blanks if side == "<" else blanks + text


def cell_width(text: str) -> int:
    """Number of a terminal's cells that a text takes: two for a wide character, none for a combining one."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # a fiftieth of a second, which ``kdyolo ps`` seldom needs

    return cell_len(text)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], align: str = "") -> list[str]:
    """Lines of a Markdown table; cells stand there as they are, see :func:`markdown_text` and :func:`markdown_code`.

    Args:
        header: Names of the columns.
        rows: Cells of each row.
        align: ``"<"`` or ``">"`` for each column, the last one also for all further columns; empty: left to the reader
            of the Markdown.
    """
    if align:
        sides = align.ljust(len(header), align[-1])
        rule = markdown_row(["---" if side == "<" else "---:" for side in sides])
    else:
        rule = f"|{'---|' * len(header)}"
    return [markdown_row(header), rule, *map(markdown_row, rows)]


def markdown_row(cells: Iterable[str]) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def markdown_text(text: str) -> str:
    """Text that Markdown, its tables, and HTML within it show unchanged, in one line."""
    # Entities where a backslash does not do for every reader of Markdown; an underscore within a word is one anyway.
    plain = html.escape(printable(text), quote=False)
    return re.sub(r"([\\`*\[\]~]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", plain).replace("|", "&#124;")


def markdown_code(text: str) -> str:
    """Text as code in Markdown, also within a table, in one line."""
    plain = printable(text).replace("|", r"\|")
    fence = "`" * (1 + max(map(len, re.findall("`+", plain)), default=0))  # longer than any within
    return f"{fence} {plain} {fence}" if len(fence) > 1 else f"`{plain}`"
