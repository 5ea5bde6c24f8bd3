"""The model card says what the run's own files say, and warns where terms are unknown or not free."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml

from kdyolo.cli import main
from kdyolo.errors import RunError
from kdyolo.runs.model_card import write_model_card


def cells(card: str) -> dict[str, str]:
    rows = [[c.strip() for c in line.strip("|").split(" | ")] for line in card.splitlines() if line.startswith("| ")]
    return {row[0]: row[1] for row in rows if len(row) == 2}


def test_the_card_of_a_run(train, checkpoint, shapes, tmp_path, capsys):
    content = torch.load(checkpoint, weights_only=True)
    content["config"]["teacher"] = "dinov3_vitb16"
    torch.save(content, tmp_path / "distilled.pth")
    train({"backbone": tmp_path / "distilled.pth"}, freeze_epochs=1, epochs=3, seed=7)
    capsys.readouterr()
    main(["card", str(tmp_path / "run")])
    path = Path(capsys.readouterr().out.strip())
    assert path == tmp_path / "run/model_card.md"
    card = path.read_text()
    facts, record = cells(card), yaml.safe_load((tmp_path / "run/kdyolo.yaml").read_text())
    assert facts["sha256"] == f"`{record['backbone']['sha256']}`"
    assert facts["tensors"].startswith("162 of 162")
    assert (facts["backbone frozen"], facts["epochs"], facts["seed"]) == ("in epochs 1–1", "3 of 3", "7")
    assert facts["classes"] == "3: disc, square, triangle"
    assert facts["ultralytics"] == record["versions"]["ultralytics"]
    with (tmp_path / "run/results.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    assert f"| 3 (last) | {float(last['metrics/mAP50-95(B)']):.4f} |" in card
    official = json.loads((tmp_path / "run/coco_metrics.json").read_text())
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
def test_terms_of_teachers(train, checkpoint, tmp_path, teacher, words):
    train({"backbone": checkpoint}, epochs=1)
    record = yaml.safe_load((tmp_path / "run/kdyolo.yaml").read_text())
    record["backbone"]["teacher"] = teacher
    (tmp_path / "run/kdyolo.yaml").write_text(yaml.safe_dump(record))
    assert words in write_model_card(tmp_path / "run", tmp_path / "card.md").read_text()


def test_a_random_start_and_no_run_at_all(train, tmp_path):
    train(epochs=1, random_init=True)
    assert "No distilled backbone went in" in write_model_card(tmp_path / "run").read_text()
    (tmp_path / "run/results.csv").unlink()
    with pytest.raises(RunError, match="no epoch is finished"):
        write_model_card(tmp_path / "run")
    with pytest.raises(RunError, match="not a kdyolo run"):
        write_model_card(tmp_path)
