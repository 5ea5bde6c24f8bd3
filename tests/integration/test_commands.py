"""Commands that train, in the test's own process: options arrive, and an interrupted run goes on."""

from __future__ import annotations

import pytest
import yaml

from kdyolo.cli import main
from tests.cli.test_cli import fails


def test_train_and_val_options_arrive(capsys, shapes, checkpoint, tmp_path):
    main(
        f"train --data {shapes} --backbone {checkpoint} --freeze-epochs 1 --epochs 2 --imgsz 64 --batch 4 --device cpu "
        "--workers 1 --seed 7 --save-period 1 --work-dir run --recipe coco-mosaic plots=False hsv_h=0.5".split()
    )
    args = yaml.safe_load((tmp_path / "run/args.yaml").read_text())
    expected = {"epochs": 2, "imgsz": 64, "batch": 4, "seed": 7, "save_period": 1, "hsv_h": 0.5, "mosaic": 1.0}
    assert {key: args[key] for key in expected} == expected
    assert (tmp_path / "run/weights/epoch0.pt").is_file()
    capsys.readouterr()
    code, error = fails(capsys, "train", "--data", shapes, "--backbone", checkpoint, "--work-dir", "run")
    assert code == 2
    assert "--exist-ok" in error
    main(f"val --model run/weights/best.pt --data {shapes} --imgsz 64 --device cpu plots=False save_dir=val".split())
    main(
        f"train --data {shapes} --model kdyolov8n.yaml --epochs 1 --imgsz 64 --batch 4 --device cpu "
        "--work-dir run --exist-ok plots=False".split()
    )


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
