"""How a detector came about stands in its run's record and in every checkpoint, wherever it travels."""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import ultralytics
import yaml
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.torch_utils import strip_optimizer

import kdyolo
from kdyolo import KDYOLO
from kdyolo.checkpoints.export import export_stock
from kdyolo.cli import main
from tests.builders.training import FAST

MISSING = "stage4.2.cv2.bn.bias"  # of the old system's names; layer 9 of Ultralytics'


@pytest.fixture(scope="module")
def run(checkpoint: Path, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in a git repository, of a partial checkpoint, with a freeze."""
    folder = tmp_path_factory.mktemp("provenance")
    for command in ("init -q", "-c user.name=a -c user.email=a@b commit -q --allow-empty -m first"):
        subprocess.run(["git", *command.split()], cwd=folder, check=True)
    content = torch.load(checkpoint, weights_only=True)
    content["backbone"] = {k: v for k, v in content["backbone"].items() if not k.endswith(MISSING)}
    torch.save(content, folder / "partial.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        model = KDYOLO(backbone="partial.pth", allow_partial=True)
        options = {**FAST, "freeze_epochs": 1, "backbone_lr": 0.5, "seed": 7, "save_period": 1}
        model.train(data=str(shapes), work_dir=folder / "run", **options)
    return folder / "run"


def expected(run: Path) -> dict[str, Any]:
    """Everything that must be said, worked out without kdyolo."""
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=run.parent, capture_output=True, text=True, check=True)
    recipe = Path(kdyolo.__file__).parents[1] / "cfg/recipes/coco.yaml"
    return {
        "source": "partial.pth",
        "sha256": hashlib.sha256((run.parent / "partial.pth").read_bytes()).hexdigest(),
        "source_kind": "vfmkd",
        "injected": "161/162",
        "missing": ["9.cv2.bn.bias"],
        "left_out": ["9.cv2.bn.bias"],
        "seed": 7,
        "git_commit": git.stdout.strip(),
        "recipe": {"name": "coco", "values": yaml.safe_load(recipe.read_text())},
        "versions": {
            "kdyolo": kdyolo.__version__,
            "ultralytics": ultralytics.__version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    }


SCHEDULE = {"epochs": 2, "freeze_epochs": 1, "backbone_lr": 0.5, "freeze_bn": "with-backbone"}


def check(kd: dict[str, Any], run: Path) -> None:
    for key, value in expected(run).items():
        assert kd[key] == value, key
    assert SCHEDULE.items() <= kd["schedule"].items()
    assert kd["schedule"]["thaws"] == {2: ["stem", "p2", "p3", "p4", "p5"]}


def record_in(file: Path, key: str = "model") -> dict[str, Any]:
    kd: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=False)[key].yaml["kd"]
    return kd


@pytest.mark.parametrize("name", ["best.pt", "last.pt"])
def test_finished_checkpoints_say_it(run: Path, name: str) -> None:
    check(record_in(run / "weights" / name), run)


def test_an_average_says_it_and_keeps_saying_it_once_stripped_or_made_stock(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "epoch0.pt"
    shutil.copy(run / "weights/epoch0.pt", file)
    check(record_in(file, "ema"), run)
    check(record_in(export_stock(file)), run)
    strip_optimizer(file)
    check(record_in(file), run)


def test_a_stock_rebuild_and_a_stock_training_keep_it(run: Path, shapes: Path, tmp_path: Path) -> None:
    best = YOLO(run / "weights/best.pt")
    check(DetectionModel(best.model.yaml, nc=5, verbose=False).yaml["kd"], run)
    best.train(data=str(shapes), project=str(tmp_path), name="tuned", **{**FAST, "epochs": 1})
    check(record_in(tmp_path / "tuned/weights/last.pt"), run)


def test_the_runs_record_says_it(run: Path) -> None:
    record = yaml.safe_load((run / "kdyolo.yaml").read_text())
    backbone, wanted = record["backbone"], expected(run)
    assert (Path(backbone["path"]).name, backbone["sha256"]) == (wanted["source"], wanted["sha256"])
    assert (backbone["kind"], f"{backbone['matched']}/{backbone['total']}") == ("vfmkd", wanted["injected"])
    assert (backbone["missing"], backbone["left_out"]) == (wanted["missing"], wanted["left_out"])
    for key in ("seed", "git_commit", "recipe", "versions"):
        assert record[key] == wanted[key]
    assert SCHEDULE.items() <= record["schedule"].items()


def test_inspect_prints_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["inspect", str(run / "weights/best.pt")])
    _, _, printed = capsys.readouterr().out.partition("made by kdyolo:\n")
    check(yaml.safe_load(printed), run)
