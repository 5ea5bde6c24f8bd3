"""Ultralytics' own distillation from a detector, beside a freeze and a thaw: exact, and stock when it ends."""

from __future__ import annotations

import csv
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from ultralytics import YOLO
from ultralytics.nn.distill_model import DistillationModel
from ultralytics.utils.torch_utils import unwrap_model

from kdyolo import KDYOLO, KDTrainer, Study, compare, preflight, read_checkpoint
from kdyolo.checkpoints.loading import changed_tensors
from kdyolo.cli import cli
from kdyolo.engine.start.plan import plan_run
from kdyolo.errors import CheckpointError, ConfigError, KDYOLOError, ModelError, RunError
from kdyolo.experiments.study.arm_checks import read_study
from kdyolo.models.taught_detector import TaughtDetector
from tests.builders.study_backend import InThisProcess
from tests.builders.training import FAST

# Frozen in the first epoch, thawed in the second; gradients wait across epochs.
OPTIONS: dict[str, Any] = {**FAST, "epochs": 3, "freeze_epochs": 1, "nbs": 12, "warmup_epochs": 0.5, "seed": 3}


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector of the next scale, of 80 classes where the student learns 3."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("teacher") / "yolov8s-teacher.pt"
    YOLO("yolov8s.yaml", verbose=False).save(path)
    return path


class Look:
    """What every epoch was like: what trains, and how the tensors stand to the files they come from."""

    def __init__(self, backbone: Path, teacher: Path) -> None:
        self.backbone, self.teacher = read_checkpoint(backbone).tensors, YOLO(teacher).model.float().state_dict()
        self.epochs: list[dict[str, Any]] = []
        self.projectors: list[torch.Tensor] = []

    def __call__(self, trainer: Any) -> None:
        model = unwrap_model(trainer.model)
        assert isinstance(model, TaughtDetector)
        taught, ema = model.teacher_model, trainer.ema.ema
        self.projectors.append(model.projector[0][0].weight.detach().clone())
        self.epochs.append(
            {
                "trains": {p.requires_grad for p in model.backbone.parameters()},
                "moved": bool(changed_tensors(model.backbone, self.backbone)),
                "ema moved": bool(changed_tensors(ema.backbone, self.backbone)),
                "teacher": all(torch.equal(t, self.teacher[n]) for n, t in taught.state_dict().items()),
                "kept": len(model._student_feats) + len(model._teacher_feats) + len(ema._student_feats),
            }
        )


@pytest.fixture(scope="session")
def taught(checkpoint: Path, shapes: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A whole run, with what it ends with in full precision."""
    run = tmp_path_factory.mktemp("taught") / "run"
    model, look = KDYOLO(backbone=checkpoint), Look(checkpoint, teacher)
    model.add_callback("on_train_epoch_end", look)
    model.train(data=str(shapes), work_dir=run, distill_model=str(teacher), **OPTIONS)
    return run, look, weights(model.trainer)


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    both = {"model": unwrap_model(trainer.model), "ema": trainer.ema.ema}
    return {f"{what}.{n}": t.clone() for what, m in both.items() for n, t in m.state_dict().items()}


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "results.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in ("time", "memory/GB")} for row in csv.DictReader(file)]


def test_frozen_stays_frozen_and_the_teacher_always(taught: Any) -> None:
    _, look, _ = taught
    frozen = {"trains": {False}, "moved": False, "ema moved": False, "teacher": True, "kept": 0}
    thawed = {"trains": {True}, "moved": True, "ema moved": True, "teacher": True, "kept": 0}
    assert look.epochs == [frozen, thawed, thawed]
    assert not torch.equal(look.projectors[0], look.projectors[-1])


def test_the_loss_is_in_the_table(taught: Any) -> None:
    assert all(float(row["train/dis_loss"]) > 0 for row in rows(taught[0]))
    assert "lr/head/weight" in rows(taught[0])[0]


@pytest.mark.parametrize("name", ["best.pt", "last.pt"])
def test_what_is_left_is_stock_without_teacher_or_projectors(taught: Any, name: str, shapes: Path) -> None:
    path = taught[0] / "weights" / name
    content = torch.load(path, weights_only=False)
    model = content["model"]
    assert type(model).__module__.startswith("ultralytics.")
    assert not [m for m in model.modules() if isinstance(m, DistillationModel)]
    assert not [n for n in model.state_dict() if "projector" in n or "teacher" in n]
    assert not [m for m in model.modules() if m._forward_hooks]
    assert path.stat().st_size < 8e6  # 3.2 M parameters in fp16; the teacher alone has 11 M
    assert content["train_args"]["distill_model"]
    if name == "best.pt":
        YOLO(path).val(data=str(shapes), imgsz=64, plots=False, verbose=False, workers=0)


def test_record_and_card_name_the_teacher(taught: Any, teacher: Path) -> None:
    record = yaml.safe_load((taught[0] / "kdyolo.yaml").read_text())
    assert record["distill_model"]["path"] == str(teacher)
    assert record["distill_model"]["classes"] == 80
    assert len(record["distill_model"]["sha256"]) == 64
    cli.main(["card", str(taught[0])], standalone_mode=False)
    assert f"| also distilled from | {teacher.name} |" in (taught[0] / "model_card.md").read_text()


# Trains in a process of its own, which kills itself in the first batch of an epoch.
VICTIM = """
import os, signal, sys
from kdyolo import KDYOLO
checkpoint, data, work_dir, teacher, epoch, options = *sys.argv[1:5], int(sys.argv[5]), eval(sys.argv[6])
model = KDYOLO(backbone=checkpoint)
def kill(trainer):
    if trainer.epoch == epoch:
        os.kill(os.getpid(), signal.SIGKILL)
model.add_callback("on_train_batch_end", kill)
model.train(data=data, work_dir=work_dir, distill_model=teacher, **options)
"""


def test_killed_and_resumed_equals_uninterrupted(
    taught: Any, checkpoint: Path, shapes: Path, teacher: Path, python: Any, tmp_path: Path
) -> None:
    """After the thaw, with gradients that wait and an optimizer that knows the projectors."""
    run = tmp_path / "run"
    name = os.path.relpath(teacher, tmp_path)  # found again from another folder
    done = python.run("-c", VICTIM, checkpoint, shapes, run, name, 2, OPTIONS, cwd=tmp_path)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (run / "weights/resume.pt").stat().st_size < 75e6  # the teacher would add 45
    model = KDYOLO(run / "weights/last.pt")
    model.train(resume=True)
    found = weights(model.trainer)
    assert found.keys() == taught[2].keys()
    assert any(".projector." in name for name in found)
    assert [name for name, tensor in taught[2].items() if not torch.equal(found[name], tensor)] == []
    assert rows(run) == rows(taught[0])


def test_another_teacher_is_not_learned_from_on_resume(
    checkpoint: Path, shapes: Path, teacher: Path, tmp_path: Path
) -> None:
    own, run = tmp_path / "teacher.pt", tmp_path / "run"
    own.write_bytes(teacher.read_bytes())

    def stop(trainer: Any) -> None:
        if trainer.epoch == 1:
            raise KeyboardInterrupt

    model = KDYOLO(backbone=checkpoint)
    model.add_callback("on_train_batch_start", stop)
    with pytest.raises(KeyboardInterrupt):
        model.train(data=str(shapes), work_dir=run, distill_model=own, **OPTIONS)
    YOLO("yolov8n.yaml", verbose=False).save(own)
    with pytest.raises(RunError, match="another file than the run began with"):
        KDYOLO(run / "weights/last.pt").train(resume=True)
    own.unlink()
    with pytest.raises(RunError, match=r"its teacher .* is not there"):
        KDYOLO(run / "weights/last.pt").train(resume=True)


class Runs:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("RAN"),)


def saved(path: Path, model: str) -> str:
    YOLO(model, verbose=False).save(path)
    return str(path)


def evil(path: Path) -> str:
    torch.save({"model": Runs()}, path)
    return str(path)


WRONG: dict[str, tuple[Any, type[KDYOLOError], str]] = {
    "missing": (lambda path: str(path), CheckpointError, "distill_model: .*no such file"),
    "a YAML": (lambda path: "yolov8s.yaml", CheckpointError, r"takes a trained detector \(.pt\), found 'yolov8s.yaml'"),
    "code": (evil, CheckpointError, "distill_model: .*"),
    "a classifier": (lambda path: saved(path, "yolov8n-cls.yaml"), CheckpointError, "found ClassificationModel"),
    "another head": (lambda path: saved(path, "yolov8n-seg.yaml"), ModelError, "its head is Segment with 3 levels"),
    "more levels": (lambda path: saved(path, "yolov8n-p2.yaml"), ModelError, "its head is Detect with 4 levels"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_teacher_is_one_error_before_anything_runs(
    checkpoint: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make, error, message = WRONG[kind]
    given = make(tmp_path / "teacher.pt")
    with pytest.raises(error, match=message):
        KDYOLO(backbone=checkpoint).train(data=str(shapes), work_dir="run", distill_model=given, **OPTIONS)
    assert {path.name for path in tmp_path.iterdir()} <= {"teacher.pt"}


def test_a_teacher_of_other_strides_leaves_nothing_behind(
    checkpoint: Path, shapes: Path, teacher: Path, tmp_path: Path
) -> None:
    model = KDYOLO("kdyolov8-p234.yaml", backbone=checkpoint)
    with pytest.raises(ModelError, match=r"teacher's head reads strides 8, 16, 32, that of .* 4, 8, 16"):
        model.train(data=str(shapes), work_dir=tmp_path / "run", distill_model=str(teacher), **OPTIONS)
    assert not (tmp_path / "run").exists()


def test_a_wrong_teacher_is_told_with_every_other_mistake(checkpoint: Path, shapes: Path, tmp_path: Path) -> None:
    given = {"backbone": str(checkpoint), "data": str(tmp_path / "none.yaml"), "distill_model": str(tmp_path / "a.pt")}
    with pytest.raises(ConfigError) as caught:
        plan_run(given)
    assert len(caught.value.mistakes) == 2


def test_the_dry_run_measures_it(checkpoint: Path, shapes: Path, teacher: Path, tmp_path: Path, caplog: Any) -> None:
    phases = preflight({**OPTIONS, "backbone": checkpoint, "data": shapes, "distill_model": teacher}, tmp_path)
    assert len(phases) == 2


def test_runs_with_and_without_it_differ_in_it(taught: Any, finished_run: Any) -> None:
    text = str(compare(finished_run.folder, taught[0], baseline=finished_run.folder, anyway=True))
    assert "distill_model" in text
    assert "yolov8s-teacher.pt (SHA-256 " in text


def test_it_is_an_arm_of_a_study(
    checkpoint: Path, shapes: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(teacher.parent)
    file = tmp_path / "study.yaml"
    study = {
        "name": "taught",
        "data": str(shapes),
        "seeds": [0, 1],
        "base": {"epochs": 2, "imgsz": 64, "batch": 4, "backbone": str(checkpoint), "freeze_epochs": 1},
        "arms": {"alone": {}, "taught": {"distill_model": teacher.name}},
    }
    file.write_text(yaml.safe_dump(study))
    _, (alone, taught), _ = read_study(file)
    differing = {key for key, value in alone.identity().items() if taught.identity()[key] != value}
    assert differing == {"distill_model"}
    assert taught.options["distill_model"] == str(teacher)  # an engine may run elsewhere
    study["arms"]["taught"]["distill_model"] = "none.pt"
    file.write_text(yaml.safe_dump(study))
    with pytest.raises(ConfigError, match=r"arm taught: distill_model: none\.pt: no such file"):
        read_study(file)


def test_an_arm_of_a_study_learns_from_it(checkpoint: Path, shapes: Path, teacher: Path) -> None:
    """Trained by the command that the study makes of the arm."""
    own = {key: value for key, value in FAST.items() if key != "device"}
    content = {
        "name": "taught",
        "data": str(shapes),
        "seeds": [0],
        "devices": ["cpu"],
        "base": {**own, "epochs": 1, "backbone": str(checkpoint)},
        "arms": {"taught": {"distill_model": str(teacher)}},
    }
    Path("study.yaml").write_text(yaml.safe_dump(content))
    study = Study.from_file("study.yaml")
    assert study.run(InThisProcess(), report=False)["status"].tolist() == ["finished"]
    (row,) = rows(study.runs[0].folder)
    assert float(row["train/dis_loss"]) > 0


def test_after_nan_the_projectors_go_back_too(checkpoint: Path, shapes: Path, teacher: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, torch.Tensor]] = []

    def poison(trainer: Any) -> None:
        model = unwrap_model(trainer.model)
        poisoned = trainer.epoch == 1 and len(seen) == 1
        seen.append((trainer.epoch, model.projector[0][0].weight.detach().clone()))
        if poisoned:
            model.projector[0][0].weight.data.fill_(float("nan"))
            trainer.loss = torch.tensor(float("nan"))

    model = KDYOLO(backbone=checkpoint)
    model.add_callback("on_train_epoch_end", poison)
    model.train(data=str(shapes), work_dir=tmp_path / "run", distill_model=str(teacher), **{**OPTIONS, "epochs": 2})
    assert [epoch for epoch, _ in seen] == [0, 1, 1]
    assert seen[-1][1].isfinite().all()


def test_layers_that_ultralytics_freezes_stay_frozen_with_it(
    checkpoint: Path, shapes: Path, teacher: Path, tmp_path: Path
) -> None:
    given = {**OPTIONS, "freeze_epochs": 0, "freeze": 3, "data": str(shapes), "save_dir": str(tmp_path / "run")}
    trainer = KDTrainer(overrides={**given, "backbone": str(checkpoint), "distill_model": str(teacher)})
    trainer.set_up()
    trainer.log.close()
    frozen = {name for name, p in trainer.model.named_parameters() if not p.requires_grad}
    layers = {name.removeprefix("student_model.model.0.layers.").partition(".")[0] for name in frozen
              if name.startswith("student_model.model.0.")}  # fmt: skip
    assert layers == {"0", "1", "2"}
    assert {name.partition(".")[0] for name in frozen} == {"student_model", "teacher_model"}
