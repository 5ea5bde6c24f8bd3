"""Commands that train, in the test's own process: options arrive, and an interrupted run goes on."""

from __future__ import annotations

import shlex

import pytest
import yaml

from kdyolo.cli import main
from tests.cli.test_cli import fails


def test_train_and_val_options_arrive_and_what_comes_next_can_be_pasted(capsys, shapes, checkpoint, tmp_path):
    run = "it's a run"  # Ultralytics drops the apostrophe of a checkpoint's path
    line = f"train --data {shapes} --imgsz 64 --batch 4 --device cpu plots=False"
    more = "--freeze-epochs 1 --epochs 2 --workers 1 --seed 7 --save-period 1 --recipe coco-mosaic hsv_h=0.5"
    main([*line.split(), "--backbone", str(checkpoint), *more.split(), "--work-dir", run])
    args = yaml.safe_load((tmp_path / run / "args.yaml").read_text())
    expected = {"epochs": 2, "imgsz": 64, "batch": 4, "seed": 7, "save_period": 1, "hsv_h": 0.5, "mosaic": 1.0}
    assert {key: args[key] for key in expected} == expected
    assert (tmp_path / run / "weights/epoch0.pt").is_file()
    following = [shlex.split(line)[1:] for line in capsys.readouterr().err.split("next:")[1].strip().splitlines()]
    assert [words[0] for words in following] == ["val", "predict", "compare", "card"]
    for words in following[:2]:
        main([*words, "imgsz=64", "device=cpu", "plots=False", f"save_dir={words[0]}"])
        assert words[1] == f"{run}/weights/best.pt"
    main(["inspect", f"{run}/weights/best.pt"])
    capsys.readouterr()
    code, error = fails(capsys, "train", "--data", shapes, "--backbone", checkpoint, "--work-dir", run)
    assert code == 2
    assert "--exist-ok" in error
    main([*line.split(), "--model", "kdyolov8n.yaml", "--epochs", "1", "--exist-ok", "--work-dir", run])


def test_resume_from_the_run_folder(shapes, checkpoint, tmp_path, monkeypatch):
    from kdyolo.engine.trainer import KDTrainer

    def interrupt(self):
        if self.epoch == 1:
            raise KeyboardInterrupt
        return original(self)

    original = KDTrainer._model_train
    monkeypatch.setattr(KDTrainer, "_model_train", interrupt)
    command = f"train --data {shapes} --backbone {checkpoint} --freeze 2 --epochs 3 --imgsz 64 --batch 4 --device cpu"
    with pytest.raises(SystemExit) as end:
        main([*command.split(), "--work-dir", "run", "plots=False"])
    assert end.value.code == 130
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    main(["train", "--resume", "run", "--device", "cpu"])
    assert "kdyolo train --resume" in (tmp_path / "run/train.log").read_text()
    assert len((tmp_path / "run/results.csv").read_text().splitlines()) == 4
