"""Tables as text: widths as a terminal counts them, and Markdown that its readers take for a table."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

import kdyolo
from kdyolo.checkpoints.checkpoint_diff import StageDiff
from kdyolo.data.coco.summary import SplitSummary
from kdyolo.experiments.comparison.significance import Interval
from kdyolo.experiments.probe.result import ProbeScore
from kdyolo.metrics.bootstrap import BootstrapIntervals
from kdyolo.utils.tables import (
    ShownAsTable,
    ShownInOneLine,
    aligned,
    cell_width,
    fitted,
    fitting_columns,
    markdown_code,
    markdown_table,
    markdown_text,
)


def test_columns_are_as_wide_as_their_widest_cell():
    rows = [["class", "objects", "AP"], ["person", "7", "0.5"], ["犬", "1,000", ""]]
    assert aligned(rows, "<>") == ["class   objects   AP", "person        7  0.5", "犬        1,000"]
    assert aligned(rows) == ["class   objects  AP", "person  7        0.5", "犬      1,000"]


def test_least_widths_and_another_gap():
    assert aligned([["a", "b"], ["c", "d"]], "<>", gap=" | ", indent=2) == ["  a | b", "  c | d"]


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


@pytest.mark.parametrize("width", [60, 40])
def test_a_table_that_is_too_wide_for_the_terminal_is_folded(monkeypatch, width):
    rows = [["run", "of what", "AP"], ["runs/detect/a-very-long-name", "every [word] of a long sentence here", "0.123"]]
    monkeypatch.setattr("kdyolo.utils.tables.terminal_width", lambda: width)
    lines = aligned(rows, "<<>")
    assert max(map(len, lines)) <= width
    assert lines[0].split() == ["run", "of", "what", "AP"]
    assert lines[1].endswith("0.123"), "numbers stay whole"
    text = "".join(line[: lines[0].index("of what")].strip() for line in lines[1:])
    assert text == "runs/detect/a-very-long-name", "nothing is lost"
    monkeypatch.setattr("kdyolo.utils.tables.terminal_width", lambda: 200)
    assert len(aligned(rows, "<<>")) == 2


def test_columns_are_dropped_in_order_until_the_rest_fits():
    widths = {"run": 10, "phase": 8, "epoch": 5, "pid": 6}
    assert fitting_columns(widths, 35, ["pid", "phase"]) == ["run", "phase", "epoch", "pid"]
    assert fitting_columns(widths, 34, ["pid", "phase"]) == ["run", "phase", "epoch"]
    assert fitting_columns(widths, 20, ["pid", "phase"]) == ["run", "epoch"]
    assert fitting_columns(widths, 3, ["pid", "phase"]) == ["run", "epoch"], "the others stay"


class Scores(ShownAsTable):
    def table(self) -> str:
        return f"\n official <metrics> {'x' * 200}\nAP 0.5"


def test_results_are_shown_short_at_the_prompt_and_as_a_table_in_notebooks():
    shown = repr(Scores())
    assert shown.startswith("<Scores: official <metrics> xxx")
    assert len(shown) < 120
    html = Scores()._repr_html_()
    assert html.startswith("<pre>\n official &lt;metrics&gt;")
    assert html.endswith("AP 0.5</pre>")


def test_every_public_result_with_a_table_is_shown_so():
    results = [getattr(kdyolo, name) for name in kdyolo.__all__ if hasattr(getattr(kdyolo, name), "table")]
    assert len(results) >= 8
    for result in results:
        assert issubclass(result, ShownAsTable)
        assert "__repr__" not in vars(result), "a dataclass has its own, unless told otherwise"


def test_the_line_at_the_prompt_says_what_came_out():
    """And not the head of the table below it."""
    part = StageDiff("stem", 6, 2, 0.5, 0.1, "0.conv.weight")
    differ = kdyolo.CheckpointDiff((part, replace(part, name="p2", differing=0)), ("a",), (), ("b",), (1e-3, 1e-3))
    assert repr(differ) == "<CheckpointDiff: 2 of 12 tensors differ, 2 others not in both>"
    same = replace(differ, parts=(replace(part, differing=0),), only_first=(), other_shape=())
    assert repr(same) == "<CheckpointDiff: equal to the last bit>"
    split = SplitSummary(5, 1, 0, 4, 1, 0, 0, {}, {})
    converted = kdyolo.ConversionSummary(Path("coco.yaml"), {0: "a"}, {0: 1}, {"train": "train"}, {"train": split}, ())
    assert repr(converted) == "<ConversionSummary: coco.yaml, 1 class; train 1 image, 4 objects>"
    scores = kdyolo.CocoScores(*[0.25, 0.5, -1.0, *[0.1] * 9], (), 3, 1, 9, "pycocotools")  # type: ignore[arg-type]
    assert repr(scores) == "<CocoScores: AP 0.250, AP50 0.500, 3 images, 1 object>"
    ends = BootstrapIntervals(0.95, 10, 0, (-0.1,) * 12, (0.2,) * 12)
    both = kdyolo.CocoComparison(scores, scores, (0.05,) * 12, ends, (0.5,) * 12)
    assert repr(both) == "<CocoComparison: AP 0.250 and 0.250, +0.050 (95% CI −0.100 … +0.200)>"
    linear = ProbeScore("a.pt", "linear", "joined", Interval(0.625), None)
    probed = kdyolo.ProbeResult((linear, replace(linear, checkpoint="random yolov8n")), 40, 9, 3, 0.5, {})
    assert repr(probed) == "<ProbeResult: a.pt 62.5 %, random yolov8n 62.5 % of 40 objects>"
    damaged = kdyolo.RunStatus(Path("runs/a"), "damaged", problem="results.csv: <b>")
    assert repr(damaged) == "<RunStatus: runs/a, damaged, results.csv: <b>>"
    assert "<td>results.csv: &lt;b&gt;</td>" in damaged._repr_html_()


def test_every_public_result_without_a_table_is_shown_in_one_line():
    big = {f"layer{i}": torch.zeros(100) for i in range(200)}
    columns = {"epoch": [*map(float, range(1, 301))], "metrics/mAP50-95(B)": [0.1] * 300}
    shapes, names = dict.fromkeys(big, (100,)), dict.fromkeys(big, "float32")
    file = Path("ckpt.pth")
    results = {
        kdyolo.Run(
            Path("runs/a"), {"epochs": 300, **names}, None, columns
        ): "runs/a, 300 of 300 epochs, best mAP50-95 0.100",
        kdyolo.RunStatus(Path("runs/a"), "running", "all train", 3, 9): "runs/a, running, epoch 3/9",
        kdyolo.ExportSummary(
            Path("val.json"), 2, 5, 1, 0, ("note",) * 9
        ): "val.json: 2 images, 5 annotations, 1 of them",
    }
    shown = {type(result).__name__: (repr(result), words) for result, words in results.items()}
    for result in results:
        html = result._repr_html_()
        assert html.startswith("<table><tr><th>"), "a notebook shows facts under headings"
        assert html.count("<th>") == html.count("<td>") >= 5
        assert all(f">{fact}<" in html for fact in result.facts().values())
    distilled = kdyolo.DistillResult(Path("runs/d"), Path("runs/d/b.pth"), columns, "learned")
    shown["DistillResult"] = (repr(distilled), "runs/d/b.pth: learned")
    assert "<td>learned</td>" in distilled._repr_html_()
    assert distilled._repr_html_().count("<tr") < 30, "of many epochs the first and the last ones"
    read = kdyolo.BackboneCheckpoint(file, "0" * 64, "clean", "vfmkd", big, shapes, names, names, (), {}, 1e-5)
    shown["BackboneCheckpoint"] = (repr(read), "ckpt.pth")
    shown["PhaseCost"] = (repr(kdyolo.PhaseCost("all train", 3, 0.5, 2**30)), "all train, 3 epochs, 0.5 s and 1.0 GiB")
    shown["CocoSplit"] = (repr(kdyolo.CocoSplit(file, file, "val")), "val")
    shown["FreezeSchedule"] = (repr(kdyolo.FreezeSchedule()), "FreezeSchedule")
    for line, words in shown.values():
        assert words in line
        assert len(line) <= 200
        assert len(line.splitlines()) == 1
        assert " object at 0x" not in line
    public = [getattr(kdyolo, name) for name in kdyolo.__all__]
    plain = {each.__name__ for each in public if dataclasses.is_dataclass(each) and not issubclass(each, ShownAsTable)}
    assert plain - {"TrainOptions", "ComparisonResult", "TeacherMap"} == set(shown), (
        "a result that this test does not know"
    )
    assert issubclass(kdyolo.Study, ShownInOneLine)


def test_sentences_are_folded_at_blanks_and_what_one_pastes_is_not(monkeypatch):
    monkeypatch.setattr("kdyolo.utils.tables.terminal_width", lambda stream=None: 20)
    path = "/a/path/that/is/longer/than/a/line"
    words = "日本語 日本語 日本語 日本語"
    text = f"  one two three four five\n{path} is kept\n  kdyolo val best.pt coco.yaml --errors\n\n{words}"
    assert fitted(text).split("\n") == [
        *("  one two three four", "    five"),
        *(path, "  is kept"),
        "  kdyolo val best.pt coco.yaml --errors",
        "",
        *("日本語 日本語 日本語", "  日本語"),
    ]
    coloured = "\x1b[1mone\x1b[0m two \x1b[1mthree\x1b[0m four 5"
    assert fitted(coloured) == coloured, "codes take no room"
    monkeypatch.setattr("kdyolo.utils.tables.terminal_width", lambda stream=None: None)
    assert fitted(text) == text
