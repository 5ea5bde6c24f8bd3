"""Names in a model card: they are themselves, whatever Markdown or HTML they would be."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdyolo.errors import RunError
from kdyolo.runs.model_card import write_model_card
from tests.builders.run_folders import write_run

EVIL = "a|b\nc `d` <script>\x1b]0;pwn\x07\u202e"


def with_record(folder: Path, **changes: Any) -> Path:
    """A run whose record has all that a card says."""
    run = write_run(folder, [0.1, 0.2], ap=0.25)
    record = yaml.safe_load((run / "kdyolo.yaml").read_text())
    backbone = {"path": "x.pth", "sha256": "0", "source": "s", "model": "m", "bn_eps": 0.001, "teacher": "dinov2"}
    record["schedule"]["backbone_lr"] = 1.0
    record |= {"recipe": {"name": "coco", "values": {"lr0": 0.1}}}
    record |= {"backbone": {**backbone, "matched": 1, "total": 2, "values": 3, "left_out": ["a"]}}
    (run / "kdyolo.yaml").write_text(yaml.safe_dump({**record, **changes}))
    return run


def test_names_stay_in_their_cells(tmp_path):
    run = with_record(
        tmp_path / "run",
        command=f"kdyolo {EVIL}",
        model=EVIL,
        data=f"{EVIL}.yaml",
        started_from=EVIL,
        versions={"kdyolo": EVIL, EVIL: "1"},
        recipe={"name": EVIL, "values": {EVIL: EVIL}},
    )
    plain = write_model_card(with_record(tmp_path / "plain", started_from="x", versions={"kdyolo": "1", "b": "1"}))
    card = write_model_card(run).read_text()
    assert len(card.splitlines()) == len(plain.read_text().splitlines())
    assert not set(card) & set("\x1b\x07\u202e")
    rows = [line.replace(r"\|", "") for line in card.splitlines() if line.startswith("| ")]
    assert all(row.count("|") in (3, 6, 13) for row in rows)
    assert "<script>" not in re.sub(r"(`+)(.*?[^`])\1(?!`)", "", card), "outside of code"


@pytest.mark.parametrize(
    ("teacher", "licence", "says"),
    [
        (
            "resnet18",
            "apache-2.0",
            "distilled from resnet18, whose weights are under apache-2.0, as the backbone's file",
        ),
        ("eupe_vitt16", "fair-noncommercial", "records, which forbids commercial use, also of the backbone."),
        ("dinov2_vitb14", "apache-2.0", "under apache-2.0, as the backbone's file records."),
        ("dinov2_vitb14", None, "distilled from dinov2_vitb14: Apache-2.0."),
        ("dinov3_vitb16", "dinov3-license", "records (DINOv3 License (Meta): not an open-source licence"),
    ],
)
def test_the_licence_that_the_backbones_file_records_is_told(tmp_path, teacher, licence, says):
    run = with_record(tmp_path / "run")
    record = yaml.safe_load((run / "kdyolo.yaml").read_text())
    record["backbone"] |= {"teacher": teacher, "teacher_licence": licence}
    (run / "kdyolo.yaml").write_text(yaml.safe_dump(record))
    card = write_model_card(run).read_text()
    assert says in card
    assert ("licence of the teacher" in card) is (licence is not None)


@pytest.mark.parametrize("missing", ["recipe", "schedule", "versions", "model", "command", "data", "seed"])
def test_a_record_that_says_too_little_is_named(tmp_path, missing):
    run = with_record(tmp_path / "run")
    record = yaml.safe_load((run / "kdyolo.yaml").read_text())
    del record[missing]
    (run / "kdyolo.yaml").write_text(yaml.safe_dump(record))
    with pytest.raises(RunError, match=rf"kdyolo\.yaml: damaged .*`{missing}`"):
        write_model_card(run)
    assert not (run / "model_card.md").exists()


def test_a_card_that_cannot_be_written_is_one_error(tmp_path):
    (tmp_path / "card").mkdir()
    with pytest.raises(RunError, match=r"card: cannot be written \(.+\)\. Choose another file\.$"):
        write_model_card(with_record(tmp_path / "run"), tmp_path / "card")


def test_values_of_any_length_make_no_long_card(tmp_path):
    run = with_record(tmp_path / "run", command="x" * 1_000_000, recipe={"name": "r", "values": {"y" * 1_000_000: 1}})
    assert len(write_model_card(run).read_text()) < 10_000


def test_the_card_of_a_distillation_is_its_own(tmp_path):
    folder = write_run(tmp_path / "run", task="distill")
    with pytest.raises(RunError, match="a distillation, which writes its own"):
        write_model_card(folder)
