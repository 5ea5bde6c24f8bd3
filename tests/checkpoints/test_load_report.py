"""The report: counts that make a partial load visible, in a line, in a table and as plain data."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from kdyolo.checkpoints.load_report import DOUBTFUL_NORM, LoadReport

FULL: dict[str, Any] = {
    "model": "yolov8n",
    "matched": 162,
    "total": 162,
    "values": 1_277_707,
    "missing": (),
    "unexpected": (),
    "wrong_shape": (),
    "dropped": {},
    "untrained": (),
    "left_out": (),
    "fits": "yolov8n",
    "path": "/data/epoch_4_model.pth",
    "sha256": "0123456789abcdef" * 4,
    "source": "resume file (vfmkd names)",
    "kind": "vfmkd",
    "epoch": 4,
    "teacher": None,
    "bn_eps": 1e-5,
    "input_norm": "0-1",
    "verified": True,
}


def test_the_summary_is_one_line_with_counts_and_origin() -> None:
    expected = "backbone: yolov8n · 162/162 tensors · 1,277,707 values · from epoch 4 of epoch_4_model.pth"
    assert LoadReport(**FULL).summary() == expected
    assert LoadReport(**{**FULL, "epoch": None}).summary().endswith("values · from epoch_4_model.pth")
    assert "from epoch 0 of" in LoadReport(**{**FULL, "epoch": 0}).summary()


def test_the_table_adds_a_line_for_each_further_fact() -> None:
    lines = LoadReport(**FULL).table().splitlines()
    assert lines[0] == LoadReport(**FULL).summary()
    assert [line.split()[0] for line in lines[1:]] == ["source", "BatchNorm"]
    assert "0123456789ab…" in lines[1]
    assert "1e-05" in lines[2]
    faults = {
        "dropped": {"edge_head": 2, "neck and head": 193},
        "missing": tuple(f"{i}.conv.weight" for i in range(6)),
        "unexpected": ("stage5.x",),
        "wrong_shape": ("stem.conv.weight (expected [1], found [2])",),
    }
    table = LoadReport(**{**FULL, **faults}).table()
    assert re.search(r"dropped +195 tensors .*edge_head \(2\), neck and head \(193\)", table)
    assert re.search(r"missing +6: 0\.conv\.weight, 1\.\S+, 2\.\S+, 3\.conv\.weight, … \(2 more\)\n", table)
    assert re.search(r"unexpected +1: stage5\.x\n", table)
    assert re.search(r"wrong shape +1: stem\.conv\.weight \(expected \[1\], found \[2\]\)$", table)


def test_a_normalisation_that_is_folded_or_doubtful_has_a_line() -> None:
    assert "images" not in LoadReport(**FULL).table()
    folded = LoadReport(**{**FULL, "input_norm": "imagenet mean and std, as given"}).table()
    assert re.search(r"images +imagenet mean and std, as given: folded into the first convolution", folded)
    doubtful = LoadReport(**{**FULL, "input_norm": DOUBTFUL_NORM}).table()
    assert re.search(r"images +0-1 ASSUMED: (.|\n)*say --input-norm imagenet; if not, --input-norm 0-1", doubtful)


@pytest.mark.parametrize(
    ("fault", "complete"),
    [
        ({}, True),
        ({"dropped": {"edge_head": 2}}, True),
        ({"matched": 161}, False),
        ({"missing": ("a",)}, False),
        ({"unexpected": ("a",)}, False),
        ({"wrong_shape": ("a",)}, False),
    ],
)
def test_complete_means_everything_matched_and_nothing_was_left_over(fault: dict[str, Any], complete: bool) -> None:
    assert LoadReport(**{**FULL, **fault}).complete is complete


def test_the_dictionary_is_plain_data_that_json_gives_back() -> None:
    report = LoadReport(**{**FULL, "missing": ("a", "b")})
    plain = report.to_dict()
    assert plain["missing"] == ["a", "b"]
    assert json.loads(json.dumps(plain)) == plain
    assert plain.keys() == FULL.keys()
