"""A study that distils its backbones and trains with shares of the labels, in the test's own process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from kdyolo import Study
from kdyolo.errors import RunError
from tests.builders.commands import tree
from tests.builders.distillation import write_images
from tests.builders.study_backend import InThisProcess
from tests.builders.training import FAST


@pytest.fixture
def file(shapes: Path, checkpoint: Path, tmp_path: Path) -> str:
    """A random arm and a distilled one, with half of the labels and with all."""
    asked = {"teacher": str(checkpoint), "images": str(write_images(tmp_path / "photos", 12)), "epochs": 1}
    own = {k: v for k, v in FAST.items() if k != "device"}
    content: dict[str, Any] = {
        "name": "few",
        "data": str(shapes),
        "base": {**own, "epochs": 1, "model": "kdyolov8n.yaml"},
        "arms": {"random": {}, "distilled": {"distill": {**asked, "imgsz": 64, "batch": 4, "held_out": 4}}},
        "seeds": [0],
        "devices": ["cpu"],
        "baseline": "random",
        "labels": [0.5, 1.0],
    }
    Path("study.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return "study.yaml"


def test_it_is_distilled_once_trained_with_every_share_and_reported(file: str, capsys: pytest.CaptureFixture) -> None:
    backend = InThisProcess()
    study = Study.from_file(file)
    table = study.run(backend)
    assert [words[0] for words in backend.commands] == ["train", "distill", "train", "train", "train"]
    assert table[["arm", "labels", "status"]].to_numpy().tolist() == [
        ["random", 0.5, "finished"],
        ["distilled", 0.5, "finished"],
        ["random", 1.0, "finished"],
        ["distilled", 1.0, "finished"],
    ]
    (distillation,) = study.distillations
    used = yaml.safe_load((study.folder / "distilled@50%/seed0/kdyolo.yaml").read_text())
    assert used["backbone"]["path"] == str(distillation.backbone)
    assert yaml.safe_load(Path(used["data"]).read_text())["kdyolo_subset"]["images"] == 4

    comparison = study.comparison()
    assert comparison is not None
    assert comparison.unlike == ()
    assert [found.arms for found in comparison.distillations] == [("distilled",)]
    assert comparison.labels is not None
    assert [(p.arm, p.images) for p in comparison.labels.points] == [
        (arm, images) for arm in ("random", "distilled") for images in (4, 8)
    ]
    page = (study.folder / "report/report.html").read_text(encoding="utf-8")
    assert '<section id="labels">' in page
    assert '<section id="distillations">' in page

    before, again = tree(study.folder / "@backbones"), InThisProcess()
    Study.from_file(file).run(again)
    assert again.commands == []
    assert tree(study.folder / "@backbones") == before

    # Another distillation under the same name: what was trained from the old one is named, and nothing is touched.
    content = yaml.safe_load(Path(file).read_text())
    content["arms"]["distilled"]["distill"]["epochs"] = 2
    Path(file).write_text(yaml.safe_dump(content))
    with pytest.raises(RunError, match=r"@backbones/.*: not in the file"):
        Study.from_file(file).run(again)


def test_a_distillation_that_fails_is_told_with_what_needs_it(file: str) -> None:
    def break_it(_words: list[str]) -> None:
        raise SystemExit(2)

    study = Study.from_file(file)
    with pytest.raises(RunError) as error:
        study.run(InThisProcess(break_it))
    assert "5 of 5 runs failed" in str(error.value)
    assert "distilled@50%/seed0: not started, because @backbones/" in str(error.value)
    assert study.results()["status"].tolist() == ["new"] * 4
