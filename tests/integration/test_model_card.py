"""The model card says what the run's own files say, and warns where terms are unknown or not free."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml

from kdyolo.cli import main
from kdyolo.errors import RunError
from kdyolo.runs.model_card import write_model_card


def cells(card: str) -> dict[str, str]:
    rows = [[c.strip() for c in line.strip("|").split(" | ")] for line in card.splitlines() if line.startswith("| ")]
    return {row[0]: row[1] for row in rows if len(row) == 2}


def test_the_card_of_a_run(run_copy, capsys):
    main(["card", str(run_copy)])
    path = Path(capsys.readouterr().out.strip())
    assert path == run_copy / "model_card.md"
    card = path.read_text()
    facts, record = cells(card), yaml.safe_load((run_copy / "kdyolo.yaml").read_text())
    assert facts["sha256"] == f"`{record['backbone']['sha256']}`"
    assert facts["tensors"].startswith("162 of 162")
    assert (facts["backbone frozen"], facts["epochs"], facts["seed"]) == ("in epochs 1–2", "4 of 4", "7")
    assert facts["classes"] == "3: disc, square, triangle"
    assert facts["ultralytics"] == record["versions"]["ultralytics"]
    with (run_copy / "results.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    assert f"| 4 (last) | {float(last['metrics/mAP50-95(B)']):.4f} |" in card
    official = json.loads((run_copy / "coco_metrics.json").read_text())
    assert f"| {official['AP']:.4f} | {official['AP50']:.4f} |" in card
    assert "Official COCO metrics of `best.pt`" in card
    assert "distilled from dinov3_vitb16: DINOv3 License" in card
    assert "AGPL-3.0" in card


@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        ("facebook/sam2.1-hiera-large", "sam2.1-hiera-large: Apache-2.0"),
        ("eva02_large", "whose terms are not known here"),
        (None, "does not name its teacher"),
    ],
)
def test_terms_of_teachers(run_copy, tmp_path, teacher, words):
    record = yaml.safe_load((run_copy / "kdyolo.yaml").read_text())
    record["backbone"]["teacher"] = teacher
    (run_copy / "kdyolo.yaml").write_text(yaml.safe_dump(record))
    assert words in write_model_card(run_copy, tmp_path / "card.md").read_text()


def test_a_random_start_and_no_run_at_all(train, tmp_path):
    train(epochs=1, random_init=True)
    assert "No distilled backbone went in" in write_model_card(tmp_path / "run").read_text()
    (tmp_path / "run/results.csv").unlink()
    with pytest.raises(RunError, match="no epoch is finished"):
        write_model_card(tmp_path / "run")
    with pytest.raises(RunError, match="not a kdyolo run"):
        write_model_card(tmp_path)
