"""Tables as text: columns that fit a terminal, Markdown, and results that are shown as their table."""

from __future__ import annotations

import html
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

from kdyolo.utils.text import printable, printable_lines, shortened, without_colours

_COMMAND = re.compile(r" *(kd)?yolo [a-z]")  # a line to paste, as kdyolo's own name and version are none
NARROWEST = 10  # cells that a column of words keeps on a narrow terminal


def aligned(rows: Sequence[Sequence[str]], align: str = "<", *, gap: str = "  ", indent: int = 0) -> list[str]:
    """Lines of cells in columns that are as wide as their widest cell; control characters in them are shown.

    On a terminal that is too narrow, words and headings are folded, numbers never; where that is not enough, further
    columns follow below, each block with the first column again.

    >>> aligned([["class", "AP"], ["person", "0.5"]], "<>")
    ['class    AP', 'person  0.5']

    Args:
        rows: Cells of each row, all rows with the same number; the header is the first of them.
        align: ``"<"`` (left) or ``">"`` (right) for each column; the last one also for all further columns.
        gap: Text between two columns.
        indent: Blanks before every line.

    Returns:
        A line for each row, without blanks at its end.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(cell_width, column)) for column in zip(*rows, strict=True)]
    sides = align.ljust(len(widths), align[-1])
    terminal, before = terminal_width(), " " * indent
    room = sys.maxsize if terminal is None else terminal - indent
    if sum(widths) + len(gap) * (len(widths) - 1) <= room:
        return [f"{before}{gap.join(map(_pad, row, widths, sides))}".rstrip() for row in rows]
    lines: list[str] = []
    for block in _blocks([_narrowest(*column) for column in zip(sides, *rows, strict=False)], len(gap), room):
        part = [[row[index] for index in block] for row in rows]
        lines += _folded(part, "".join(sides[index] for index in block), len(gap), room)
    return [before + line for line in lines]


def _narrowest(side: str, heading: str, *cells: str) -> int:
    """Cells that a column needs: a number whole, of words and headings as much as can be read."""
    if side == "<":
        return min(max(map(cell_width, (heading, *cells))), NARROWEST)
    return max(map(cell_width, (*heading.split(), *cells)), default=0)


def _blocks(least: Sequence[int], gap: int, room: int) -> list[list[int]]:
    """Numbers of the columns that stand beside each other; the first one is in every block."""
    blocks = [[0]]
    for index in range(1, len(least)):
        taken = sum(least[i] + gap for i in blocks[-1])
        if taken + least[index] > room and len(blocks[-1]) > 1:
            blocks.append([0])
        blocks[-1].append(index)
    return blocks


def _folded(rows: Sequence[Sequence[str]], sides: str, gap: int, room: int) -> list[str]:
    """Lines of a table in so much room: the widest columns are folded first."""
    from io import StringIO

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    columns = list(zip(*rows, strict=True))
    least = [_narrowest(side, *column) for side, column in zip(sides, columns, strict=False)]
    widths = [max(map(cell_width, column)) for column in columns]
    while sum(widths) + gap * (len(widths) - 1) > room and widths != least:
        widths[max(range(len(widths)), key=lambda i: (widths[i] > least[i], widths[i]))] -= 1
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, gap, 0, 0))
    for width, side in zip(widths, sides, strict=False):
        table.add_column(justify="left" if side == "<" else "right", overflow="fold", width=width)
    for row in rows:
        table.add_row(*map(Text, row))  # no markup: names may hold [square] brackets
    wide = max(room, sum(widths) + gap * (len(widths) - 1))
    console = Console(file=StringIO(), width=wide, color_system=None, legacy_windows=False)
    with console.capture() as lines:
        console.print(table)
    return [line.rstrip() for line in lines.get().splitlines()]


def terminal_width(stream: TextIO | None = None) -> int | None:
    """Columns of the terminal that something is printed on; None where there is none, e.g. in a pipe or a notebook.

    Args:
        stream: Where it is printed; None: stdout.
    """
    shown = sys.stdout if stream is None else stream
    return shutil.get_terminal_size().columns if shown is not None and shown.isatty() else None


def fitted(text: str, stream: TextIO | None = None) -> str:
    """Text whose sentences are folded at blanks where the terminal is narrow; commands to paste stay in one line.

    Args:
        text: Lines, perhaps with codes for colours; words as long as paths stay whole.
        stream: Where they are printed; None: stdout.
    """
    room = terminal_width(stream)
    lines = text.split("\n")
    if room is None or all(len(line) <= room for line in lines):
        return text
    return "\n".join(line if _COMMAND.match(line) else _fold(line, room) for line in lines)


def _fold(line: str, room: int) -> str:
    """A line in lines of at most so many cells, but for words that are longer."""
    if _cells(line) <= room:
        return line
    before = " " * (len(line) - len(line.lstrip()))
    folded: list[str] = []
    further = f"{before}  "
    for word in re.findall(r"\s*\S+", line[len(before) :]):
        if folded and _cells(folded[-1] + word) <= room:
            folded[-1] += word
        else:
            folded.append(f"{further}{word.lstrip()}" if folded else f"{before}{word}")
    return "\n".join(folded)


def _cells(text: str) -> int:
    return cell_width(without_colours(text))


def fitting_columns(widths: Mapping[str, int], room: int, order: Sequence[str], gap: int = 2) -> list[str]:
    """The columns that fit beside each other, in their order.

    >>> fitting_columns({"run": 10, "pid": 6, "left": 5}, 20, ["pid"])
    ['run', 'left']

    Args:
        widths: Column → its width in cells.
        room: Cells that there are.
        order: Columns that may be dropped, the first of them first; the others stay.
        gap: Cells between two columns.
    """
    kept = dict(widths)
    for name in order:
        if sum(kept.values()) + gap * (len(kept) - 1) <= room:
            break
        kept.pop(name, None)
    return list(kept)


class ShownInOneLine:
    """A result that Python's prompt shows as its kind with a line on what it is, and notebooks as a row of facts."""

    def headline(self) -> str:
        """What this is, in one line."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {shortened(printable(self.headline()), 100)}>"

    def facts(self) -> Mapping[str, str]:
        """Heading → what stands below it in a notebook; none: the line alone is shown."""
        return {}

    def _repr_html_(self) -> str:
        facts = self.facts()
        if not facts:
            return f"<pre>{html.escape(printable(self.headline()))}</pre>"
        rows = (("th", facts), ("td", facts.values()))
        cells = ("".join(f"<{tag}>{html.escape(printable(text))}</{tag}>" for text in texts) for tag, texts in rows)
        return f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


class ShownAsTable(ShownInOneLine):
    """A result that notebooks show as its table, and Python's prompt as its kind with the first line of the table."""

    def table(self) -> str:
        """The result as text."""
        raise NotImplementedError

    def headline(self) -> str:
        """The first line of the table."""
        return next((line.strip() for line in self.table().splitlines() if line.strip()), "")

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(printable_lines(self.table()))}</pre>"


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
