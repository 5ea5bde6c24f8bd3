"""Detection heads of a probe: trained on frozen backbones, on the same images, and kept where asked for."""

from __future__ import annotations

from kdyolo.experiments.probe.probe import probe
from kdyolo.runs.history import read_run


def test_heads_are_trained_on_frozen_backbones_and_kept(shapes, checkpoint, tmp_path) -> None:
    options = {"split": "train", "imgsz": 32, "batch": 4, "detect": True, "detect_epochs": 1, "detect_images": 4}
    found = probe([checkpoint], shapes, work_dir=tmp_path / "heads", **options)
    assert [head.checkpoint for head in found.heads] == [checkpoint.name, "random yolov8n"]
    runs = sorted((tmp_path / "heads").glob("*/seed0/kdyolo.yaml"))
    assert len(runs) == 2
    for head, record in zip(found.heads, runs, strict=True):
        run = read_run(record.parent)
        assert head.values == (run.scores["AP"],)
        assert run.phase(1) == "backbone frozen"
    assert len(list((tmp_path / "heads/images/seed0/images/train").iterdir())) == 4
