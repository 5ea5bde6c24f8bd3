"""Tables as text: widths as a terminal counts them, and Markdown that its readers take for a table."""

from __future__ import annotations

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from kdyolo.utils.tables import aligned, cell_width, markdown_code, markdown_table, markdown_text


def test_columns_are_as_wide_as_their_widest_cell():
    rows = [["class", "objects", "AP"], ["person", "7", "0.5"], ["犬", "1,000", ""]]
    assert aligned(rows, "<>") == ["class   objects   AP", "person        7  0.5", "犬        1,000"]
    assert aligned(rows) == ["class   objects  AP", "person  7        0.5", "犬      1,000"]


def test_least_widths_and_another_gap():
    assert aligned([["a", "b"], ["c", "d"]], "<>", gap=" | ", least=(3, 2)) == ["a   |  b", "c   |  d"]
    assert aligned([["a"]], least=(3, 9)) == ["a"]


@given(
    st.lists(
        st.lists(st.text(st.characters(exclude_categories=["C", "Z"]), max_size=4), min_size=3, max_size=3), min_size=1
    )
)
def test_every_column_begins_in_the_same_cell(rows):
    lines = aligned([[*row, "|"] for row in rows], "<><")
    assert len({cell_len(line) for line in lines}) == 1
    assert all(line.endswith("|") for line in lines)


def test_markdown():
    rows = [["a", "1"], ["b", "2"]]
    assert markdown_table(["arm", "n"], rows) == ["| arm | n |", "|---|---|", "| a | 1 |", "| b | 2 |"]
    assert markdown_table(["arm", "n", "m"], [], "<>") == ["| arm | n | m |", "| --- | ---: | ---: |"]


def test_plain_text_needs_no_heavy_import():
    code = (
        "import sys; from kdyolo.utils.tables import aligned, cell_width\n"
        "aligned([['RUN', 'STATUS'], ['runs/a', 'running']]); assert 'rich' not in sys.modules\n"
        "assert cell_width('犬') == 2; assert 'rich' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert cell_width("e\u0301") == 1  # a letter and its accent


def test_cells_stay_in_their_row():
    lines = aligned([["name", "AP"], ["a\nb\x1b[2J\u202e", "1"], ["c", "2"]])
    assert lines == [f"{'name':<17}  AP", r"a\nb\x1b[2J\u202e  1", f"{'c':<17}  2"]


def test_names_in_markdown_are_themselves():
    assert markdown_text("a|b\n# c") == r"a&#124;b\\n# c"
    assert markdown_text("<b> _x_ a_b *c* [d](e)") == r"&lt;b&gt; \_x\_ a_b \*c\* \[d\](e)"
    assert markdown_code("a|b\nc") == r"`a\|b\nc`"
    assert markdown_code("a``b`") == "``` a``b` ```"
