"""Checkpoints of runs that have ended: plain Ultralytics', completely or as they were."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.torch_utils import strip_optimizer

from kdyolo.checkpoints.export import finish_checkpoints, finished
from kdyolo.checkpoints.safe_load import read_detector
from kdyolo.errors import CheckpointError, RunError
from kdyolo.models.detector import to_stock
from tests.builders.detectors import difference, foreign_classes, kd, rebuilt_by_ultralytics, tensors_equal


def training_checkpoint(path: Path, trained: DetectionModel, **more: object) -> Path:
    """What the trainer has on disk at the end: the average in half precision, and things to resume from."""
    trained.args, trained.task = {"imgsz": 64}, "detect"
    content = {"epoch": 7, "model": None, "ema": copy.deepcopy(trained).half(), "optimizer": {"lr": 1.0}, "updates": 3}
    torch.save({**content, "train_args": {"epochs": "resume it", "box": 7.0}, **more}, path)
    return path


def files(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@pytest.mark.parametrize("layout", ["kdyolo", "stock"])
def test_a_finished_checkpoint_is_stock_and_computes_the_same(tmp_path: Path, layout: str) -> None:
    model = kd("kdyolov8n.yaml", nc=3, bn_eps=1e-5)
    model.yaml["kd"] = {"bn_eps": 1e-5, "freeze_epochs": 2}
    last = training_checkpoint(tmp_path / "last.pt", model if layout == "kdyolo" else to_stock(model))
    finish_checkpoints(last, tmp_path / "best.pt", 8)
    content = torch.load(last, weights_only=False)
    flat = content["model"].float()
    assert type(flat) is DetectionModel
    assert foreign_classes(flat) == set()
    assert difference(flat, copy.deepcopy(model).half().float()) < 1e-5
    assert difference(rebuilt_by_ultralytics(flat), flat) == 0.0
    assert flat.yaml["kd"] == {"bn_eps": 1e-3, "freeze_epochs": 2}
    assert (content["epoch"], content["ema"], content["optimizer"], content["updates"]) == (-1, None, None, None)
    assert (content["train_args"]["epochs"], content["train_args"]["box"]) == (8, 7.0)
    assert files(tmp_path) == ["last.pt"]


def test_but_for_the_epsilon_it_is_what_ultralytics_makes_of_it(tmp_path: Path) -> None:
    mine, theirs = (training_checkpoint(tmp_path / name, to_stock(kd(nc=3))) for name in ("last.pt", "theirs.pt"))
    finish_checkpoints(mine, tmp_path / "best.pt", 8)
    strip_optimizer(theirs)
    content, expected = (torch.load(path, weights_only=False) for path in (mine, theirs))
    assert content["train_args"] == {**expected["train_args"], "epochs": 8}
    assert content.keys() == expected.keys() | {"train_results"}
    for key in content.keys() - {"date", "model", "train_args", "train_results"}:
        assert content[key] == expected[key], key
    assert tensors_equal(content["model"].state_dict(), expected["model"].state_dict())
    assert vars(content["model"]).keys() == vars(expected["model"]).keys()


def test_the_best_gets_the_history_of_the_last(tmp_path: Path) -> None:
    last = training_checkpoint(tmp_path / "last.pt", kd(nc=3), train_results={"epoch": [1, 2]})
    best = training_checkpoint(tmp_path / "best.pt", kd(nc=4), train_results={"epoch": [1]}, epoch=0)
    finish_checkpoints(last, best, 2)
    contents = [torch.load(path, weights_only=False) for path in (last, best)]
    assert [content["train_results"] for content in contents] == [{"epoch": [1, 2]}] * 2
    assert [content["model"].yaml["nc"] for content in contents] == [3, 4]


def test_equal_checkpoints_are_finished_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last = training_checkpoint(tmp_path / "last.pt", kd(nc=3))
    best = tmp_path / "best.pt"
    best.write_bytes(last.read_bytes())
    saved = []
    monkeypatch.setattr(torch, "save", lambda *arguments, save=torch.save: (saved.append(1), save(*arguments)))
    finish_checkpoints(last, best, 2)
    assert saved == [1]
    assert best.read_bytes() == last.read_bytes()
    assert read_detector(best)["epoch"] == -1
    assert files(tmp_path) == ["best.pt", "last.pt"]


def test_a_finished_one_is_not_rounded_again(tmp_path: Path) -> None:
    """A kill in the final evaluation leaves finished files, which a resume finishes again."""
    last = training_checkpoint(tmp_path / "last.pt", kd(bn_eps=1e-5))
    finish_checkpoints(last, tmp_path / "best.pt", 8)
    before = torch.load(last, weights_only=False)
    assert {t.dtype for t in before["model"].parameters()} == {torch.half, torch.float32}
    finish_checkpoints(last, tmp_path / "best.pt", 8)
    after = torch.load(last, weights_only=False)
    assert tensors_equal(before["model"].state_dict(), after["model"].state_dict())
    assert {t.dtype for t in after["model"].parameters()} == {torch.half, torch.float32}


def test_what_is_the_average_counts(tmp_path: Path) -> None:
    last = training_checkpoint(tmp_path / "last.pt", kd(nc=3), model=kd(nc=4))
    finish_checkpoints(last, tmp_path / "best.pt", 8)
    assert read_detector(last)["model"].yaml["nc"] == 3


def test_a_file_without_an_entry_for_the_model_is_one_too() -> None:
    content = finished({"ema": kd(nc=3), "train_args": {}, "epoch": 2}, Path("a.pt"), {}, {})
    assert type(content["model"]) is DetectionModel


def test_a_damaged_checkpoint_is_named_and_left(tmp_path: Path) -> None:
    last = training_checkpoint(tmp_path / "last.pt", kd())
    best = tmp_path / "best.pt"
    best.write_bytes(last.read_bytes()[:-5000])
    before = best.read_bytes()
    with pytest.raises(CheckpointError, match=r"best\.pt: damaged, so that the run cannot be finished with it"):
        finish_checkpoints(last, best, 8)
    assert best.read_bytes() == before
    assert files(tmp_path) == ["best.pt", "last.pt"]


def test_a_checkpoint_that_cannot_be_finished_is_left_as_it_was(tmp_path: Path) -> None:
    model = kd(bn_eps=1e-5)
    with torch.no_grad():
        model.backbone.layers[0].conv.weight[0] = float("nan")
    path = training_checkpoint(tmp_path / "last.pt", model)
    before = path.read_bytes()
    with pytest.raises(RunError, match=r"last\.pt: the stock model differs from the trained one by inf"):
        finish_checkpoints(path, tmp_path / "best.pt", 8)
    assert path.read_bytes() == before
    assert files(tmp_path) == ["last.pt"]


def test_a_fold_that_would_change_the_outputs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fold_wrongly(model: nn.Module) -> None:
        with torch.no_grad():
            model.model[5].bn.weight.mul_(1.5)

    monkeypatch.setattr("kdyolo.checkpoints.export.fold_bn_eps", fold_wrongly)
    path = training_checkpoint(tmp_path / "last.pt", kd(bn_eps=1e-5))
    before = path.read_bytes()
    with pytest.raises(RunError, match=r"last\.pt: the stock model differs from the trained one by \d"):
        finish_checkpoints(path, tmp_path / "best.pt", 8)
    assert path.read_bytes() == before
