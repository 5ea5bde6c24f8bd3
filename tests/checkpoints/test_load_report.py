"""The report: counts that make a partial load visible, in a line, in a table and as plain data."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from kdyolo.checkpoints.input_norm import NORMS, InputNorm, NormOrigin
from kdyolo.checkpoints.load_report import LoadReport

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
    "norm": InputNorm(),
    "norm_origin": NormOrigin.SOURCE_DEFAULT,
    "verified": True,
    "teacher_licence": None,
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


def test_a_file_without_checksums_has_a_line() -> None:
    table = LoadReport(**{**FULL, "verified": False}).table()
    assert re.search(r"checksums +none, .*epoch_4_model\.pth\.sha256 beside the file", table)


def test_a_normalisation_that_is_folded_or_doubtful_has_a_line() -> None:
    assert "images" not in LoadReport(**FULL).table()
    folded = LoadReport(**{**FULL, "norm": NORMS["imagenet"], "norm_origin": NormOrigin.GIVEN}).table()
    assert re.search(r"images +imagenet mean and std, as given: folded into the first convolution", folded)
    doubtful = LoadReport(**{**FULL, "norm_origin": NormOrigin.ASSUMED}).table()
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
    assert list(plain) == [{"norm": "input_norm"}.get(key, key) for key in FULL if key != "norm_origin"]


@pytest.mark.parametrize(
    ("norm", "origin", "text"),
    [
        ("0-1", NormOrigin.GIVEN, "0-1"),
        ("0-1", NormOrigin.RECORDED, "0-1"),
        ("0-1", NormOrigin.SOURCE_DEFAULT, "0-1"),
        ("0-1", NormOrigin.ASSUMED, "0-1 ASSUMED"),
        ("imagenet", NormOrigin.GIVEN, "imagenet mean and std, as given"),
        ("imagenet", NormOrigin.RECORDED, "imagenet mean and std, recorded in the file"),
        ("imagenet", NormOrigin.SOURCE_DEFAULT, "imagenet mean and std, LightlyTrain's default"),
        ("0,0,0/1,1,0.5", NormOrigin.GIVEN, "0,0,0/1,1,0.5 mean and std, as given"),
    ],
)
def test_a_normalisation_in_words_says_what_it_is_known_from(norm: str, origin: NormOrigin, text: str) -> None:
    report = LoadReport(**{**FULL, "kind": "LightlyTrain", "norm": InputNorm.parse(norm), "norm_origin": origin})
    assert report.to_dict()["input_norm"] == report.input_norm == text
