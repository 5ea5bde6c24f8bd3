"""A comparison as data, as text and as tables."""

from __future__ import annotations

import csv
import io
import json

from kdyolo import compare
from tests.builders.run_folders import write_run
from tests.builders.studies import compare_to_first

NASTY = 'a|b\n<script>alert(1)</script> `x` *y* [z](u) \\ \x1b[31m,"q"'


def test_names_are_shown_not_obeyed(tmp_path):
    folder = 'a|b <i> *x*,"q"\x1b'
    arms = (tmp_path / folder, tmp_path / "plain")
    for arm, value in zip(arms, (0.2, 0.3), strict=True):
        for seed in (0, 1):
            top = value + seed / 100
            write_run(arm / f"seed{seed}", [0.1, top], seed=seed, ap=top, per_class={NASTY: top})
    comparison = compare_to_first(*arms)
    text, md = comparison.table(), comparison.to_markdown()
    assert "\x1b" not in text + md
    assert "a|b\\n<script>" in text
    assert "<script>" not in md
    row = next(line for line in md.splitlines() if "script" in line)
    assert row.count("|") == 7  # six cells and their borders
    for sign in ("\\`x\\`", "\\*y\\*", "\\[z\\]", "\\\\ ", "a&#124;b"):
        assert sign in row
    rows = list(csv.DictReader(io.StringIO(comparison.to_csv())))
    assert [row["arm"] for row in rows] == [folder, folder, "plain", "plain"]
    assert json.loads(json.dumps(comparison.to_dict()))["class_differences"][0]["name"] == NASTY


def test_classes_of_equal_ap_are_no_differences(tmp_path):
    for arm, values in (("one", {"cat": 0.0, "dog": 0.0}), ("two", {"cat": 0.0, "dog": 0.1})):
        write_run(tmp_path / arm / "seed0", [0.1, 0.2 + values["dog"]], seed=0, ap=0.2, per_class=values)
    text = compare(tmp_path / "one", tmp_path / "two", baseline="one").table()
    assert "the 1 largest of 2 differences" in text
    assert "  dog " in text
    assert "  cat " not in text


def test_folders_of_runs_are_told_as_one_would_type_them_here(study, monkeypatch):
    monkeypatch.chdir(study.parent)
    assert f"\n  {study.name}/random/seed0 " in compare(study.resolve()).table()
    monkeypatch.chdir(study / "random")
    assert str(study.resolve() / "frozen/seed0") in compare(study).table()


def test_columns_stand_below_each_other(study):
    lines = compare(study).table().splitlines()
    start = lines.index(next(line for line in lines if line.startswith("mAP50-95, best epoch")))
    table = lines[start + 1 : start + 5]
    assert len({len(line) for line in table}) == 1
    assert table[1].split()[:4] == ["random", "(baseline)", "3", "0.301"]
