"""Data frames of a comparison, and its JSON and CSV."""

from __future__ import annotations

import csv
import io
import json

import pytest

from kdyolo import compare


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
