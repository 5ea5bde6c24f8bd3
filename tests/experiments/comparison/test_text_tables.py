"""A comparison as data, as text and as tables."""

from __future__ import annotations

import csv
import io
import json

import pytest

from kdyolo import compare
from tests.builders.run_folders import write_run


def test_frames(study):
    comparison = compare(study)
    runs = comparison.to_frame()
    assert len(runs) == 9
    assert runs.groupby("arm")["mAP50-95"].mean()["random"] == pytest.approx(
        comparison.arms[0].values["mAP50-95"].estimate
    )
    assert runs["seed"].tolist() == [0, 1, 2] * 3
    differences = comparison.differences_frame()
    assert len(differences) == 6
    assert differences.loc[0, "words"] == comparison.differences[0].words
    assert list(compare(study / "random").differences_frame().columns) == list(differences.columns)


def test_json_and_csv_say_the_same(study):
    comparison = compare(study)
    content = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    assert content["arms"][0]["values"]["mAP50-95"]["estimate"] == pytest.approx(0.30066667)
    rows = list(csv.DictReader(io.StringIO(comparison.to_csv())))
    assert [float(row["mAP50-95"]) for row in rows[:3]] == [0.3, 0.304, 0.298]


NASTY = 'a|b\n<script>alert(1)</script> `x` *y* [z](u) \\ \x1b[31m,"q"'


def test_names_are_shown_not_obeyed(tmp_path):
    folder = 'a|b <i> *x*,"q"\x1b'
    arms = (tmp_path / folder, tmp_path / "plain")
    for arm, value in zip(arms, (0.2, 0.3), strict=True):
        for seed in (0, 1):
            top = value + seed / 100
            write_run(arm / f"seed{seed}", [0.1, top], seed=seed, ap=top, per_class={NASTY: top})
    comparison = compare(*arms)
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


def test_columns_stand_below_each_other(study):
    lines = compare(study).table().splitlines()
    start = lines.index(next(line for line in lines if line.startswith("mAP50-95, best epoch")))
    table = lines[start + 1 : start + 5]
    assert len({len(line) for line in table}) == 1
    assert table[1].split()[:4] == ["random", "(baseline)", "3", "0.301"]
