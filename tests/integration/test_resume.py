"""Interrupted runs: killed anywhere, resumed, and equal to the uninterrupted run to the last bit."""

from __future__ import annotations

import csv
import errno
import json
import os
import signal
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import LOGGER
from ultralytics.utils.torch_utils import unwrap_model

from kdyolo import KDYOLO, read_checkpoint
from kdyolo.checkpoints.loading import changed_tensors
from kdyolo.cli import main
from kdyolo.errors import ConfigError, RunError
from kdyolo.utils.atomic import AtomicPath
from tests.builders.training import FAST, Enough

EPOCHS = 5
# Frozen in epochs 0 and 1, thawed in 2, ramp until the end of 3. Three batches to a step and two to an epoch, so that
# gradients wait across epochs; a learning-rate warm-up that ends within an epoch; mosaic closed before the end.
OPTIONS = {
    **FAST,
    "epochs": EPOCHS,
    "freeze_epochs": 2,
    "thaw_warmup": 2,
    "nbs": 12,
    "warmup_epochs": 1.5,
    "mosaic": 1.0,
    "mixup": 0.5,
    "close_mosaic": 2,
    "seed": 11,
}
# Trains in a process of its own, which kills itself in the first batch of an epoch.
VICTIM = """
import os, signal, sys
from kdyolo import KDYOLO
checkpoint, data, work_dir, epoch, options = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), eval(sys.argv[5])
model = KDYOLO(backbone=checkpoint)
def kill(trainer):
    if trainer.epoch == epoch:
        os.kill(os.getpid(), signal.SIGKILL)
model.add_callback("on_train_batch_end", kill)
model.train(data=data, work_dir=work_dir, **options)
"""


def weights(trainer) -> dict[str, torch.Tensor]:
    """Everything that a run ends with, in full precision: model and EMA."""
    both = {"model": unwrap_model(trainer.model), "ema": trainer.ema.ema}
    return {f"{what}.{n}": t.clone() for what, m in both.items() for n, t in m.state_dict().items()}


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "results.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in ("time", "memory/GB")} for row in csv.DictReader(file)]


@pytest.fixture
def killed(python, tmp_path):
    """``killed(checkpoint, data, work_dir, epoch, options)``: a run that is killed in the first batch of an epoch."""

    def kill(checkpoint: Path, data: Path, work_dir: Path, epoch: int, options: dict[str, object]) -> None:
        done = python.run("-c", VICTIM, checkpoint, data, work_dir, epoch, options, cwd=tmp_path)
        assert done.returncode == -signal.SIGKILL, done.stderr

    return kill


@pytest.fixture(scope="module")
def uninterrupted(checkpoint, shapes, tmp_path_factory):
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    model = KDYOLO(backbone=checkpoint)
    model.train(data=str(shapes), work_dir=run, **OPTIONS)
    return weights(model.trainer), rows(run)


@pytest.mark.parametrize(
    "epoch", [1, 2, 3, 4], ids=["inside the freeze", "in the epoch of the thaw", "in the ramp", "after it"]
)
def test_killed_and_resumed_equals_uninterrupted(uninterrupted, killed, checkpoint, shapes, tmp_path, epoch):
    run = tmp_path / "run"
    killed(checkpoint, shapes, run, epoch, OPTIONS)
    file, phases = read_checkpoint(checkpoint).tensors, []
    model = KDYOLO(run / "weights/last.pt")

    def look(trainer):
        backbone = unwrap_model(trainer.model).backbone
        trains = {p.requires_grad for p in backbone.parameters()}
        phases.append(
            (trains, changed_tensors(backbone, file) == [], changed_tensors(trainer.ema.ema.backbone, file) == [])
        )

    model.add_callback("on_train_epoch_end", look)
    model.train(resume=True)
    assert phases == [({e >= 2}, e < 2, e < 2) for e in range(epoch, EPOCHS)]
    expected, expected_rows = uninterrupted
    found = weights(model.trainer)
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    assert rows(run) == expected_rows
    assert not (run / "weights/resume.pt").exists()


def test_two_uninterrupted_runs_are_equal_and_another_seed_differs(uninterrupted, checkpoint, shapes, tmp_path):
    for seed, same in ((11, True), (12, False)):
        model = KDYOLO(backbone=checkpoint)
        model.train(data=str(shapes), work_dir=tmp_path / str(seed), **{**OPTIONS, "seed": seed})
        found = weights(model.trainer)
        assert all(torch.equal(found[n], t) for n, t in uninterrupted[0].items()) is same


@pytest.fixture(scope="module")
def partial(checkpoint, tmp_path_factory):
    """The tiny checkpoint as LightlyTrain would leave it: SPPF, layer 9, has never seen a batch."""
    tensors = {f"model.model.{name}": tensor for name, tensor in read_checkpoint(checkpoint).tensors.items()}
    for name, tensor in tensors.items():
        if name.endswith("num_batches_tracked"):
            tensor.fill_(0 if name.startswith("model.model.9.") else 12)
    path = tmp_path_factory.mktemp("partial") / "lightly.pth"
    torch.save(tensors, path)
    return path


@pytest.mark.parametrize("epoch", [1, 2], ids=["inside the freeze", "in the epoch of the thaw"])
def test_a_partly_distilled_backbone_goes_on_with_the_same_layers_frozen(partial, killed, shapes, tmp_path, epoch):
    options, ends = {**OPTIONS, "epochs": 4, "nbs": 4}, {}  # a step for every batch
    file, moved, frozen = read_checkpoint(partial).tensors, [], []
    assert not any(name.startswith("9.") for name in file)

    def look(trainer):
        layers = unwrap_model(trainer.model).backbone.layers
        trains = {
            number for number, layer in layers.named_children() if any(p.requires_grad for p in layer.parameters())
        }
        frozen.append((trains, changed_tensors(unwrap_model(trainer.model).backbone, file) == []))
        moved.append(layers[9].cv1.conv.weight.detach().clone())

    def whole(run):
        model = KDYOLO(backbone=partial)
        model.train(data=str(shapes), work_dir=run, **options)
        return model

    def resumed(run):
        killed(partial, shapes, run, epoch, options)
        model = KDYOLO(run / "weights/last.pt")
        model.add_callback("on_train_epoch_end", look)
        model.train(resume=True)
        return model

    for how in (whole, resumed):
        model = how(tmp_path / how.__name__)
        assert model.trainer.ema.ema.backbone.left_out == ("9",)
        ends[how.__name__] = weights(model.trainer), rows(tmp_path / how.__name__)
    everything = {str(i) for i in range(10)}
    assert frozen == [({"9"} if e < 2 else everything, e < 2) for e in range(epoch, 4)]
    assert not any(torch.equal(a, b) for a, b in pairwise(moved))  # what was left out has trained all the time
    assert ends["whole"][1] == ends["resumed"][1]
    assert [n for n, t in ends["whole"][0].items() if not torch.equal(ends["resumed"][0][n], t)] == []


def test_an_end_to_end_head_goes_on_with_its_losses_weighted_as_they_were(killed, shapes, tmp_path):
    """YOLO26 weights its one-to-many loss less and its one-to-one loss more with every epoch."""
    options, weighted, ends = {**OPTIONS, "epochs": 4, "freeze_epochs": 1}, {}, {}

    def train_with(model, run, **keywords):
        seen = weighted.setdefault(run.name, {})
        model.add_callback("on_train_batch_end", lambda trainer: seen.update({trainer.epoch: losses_of(trainer)}))
        model.train(**keywords)
        ends[run.name] = weights(model.trainer), rows(run)

    def losses_of(trainer):
        criterion = unwrap_model(trainer.model).criterion
        return criterion.o2m, criterion.o2o

    torch.manual_seed(0)
    tensors = DetectionModel("yolo26n.yaml", verbose=False).state_dict()
    torch.save({"state_dict": tensors, "model_name": "yolo26n"}, tmp_path / "yolo26.pth")
    whole = KDYOLO(backbone=tmp_path / "yolo26.pth")
    train_with(whole, tmp_path / "whole", data=str(shapes), work_dir=tmp_path / "whole", **options)
    killed(tmp_path / "yolo26.pth", shapes, tmp_path / "resumed", 2, options)
    train_with(KDYOLO(tmp_path / "resumed/weights/last.pt"), tmp_path / "resumed", resume=True)
    assert len(set(weighted["whole"].values())) == 4  # another weighting in each epoch
    assert weighted["resumed"] == {epoch: weighted["whole"][epoch] for epoch in (2, 3)}
    assert ends["whole"][1] == ends["resumed"][1]
    assert [n for n, t in ends["whole"][0].items() if not torch.equal(ends["resumed"][0][n], t)] == []


@pytest.mark.parametrize(("accumulate", "warmup_epochs"), [(4, 1.5), (32, 2.5)])
def test_interrupted_after_every_epoch_and_resumed_each_time(shapes, tmp_path, accumulate, warmup_epochs):
    """Two batches an epoch. Steps come where they would, also while the warm-up changes how many batches make one."""
    options = {**FAST, "imgsz": 32, "batch": 4, "nbs": 4 * accumulate, "epochs": 4, "val": False, "lr0": 0.1}
    ends, interrupted = {}, tmp_path / "interrupted"

    def train(model, run, last, **keywords):
        def stop(trainer):
            if trainer.epoch > last:
                raise Enough

        def look(trainer):
            ends[run.name] = weights(trainer), trainer.steps.last_step
            if trainer.epoch == 3:
                raise Enough

        model.add_callback("on_train_epoch_start", stop)
        model.add_callback("on_train_epoch_end", look)
        with pytest.raises(Enough):
            model.train(**keywords)

    new = {**options, "data": str(shapes), "warmup_epochs": warmup_epochs}
    train(KDYOLO("kdyolov8n.yaml"), tmp_path / "whole", 3, work_dir=tmp_path / "whole", **new)
    train(KDYOLO("kdyolov8n.yaml"), interrupted, 0, work_dir=interrupted, **new)
    for epoch in range(1, 4):
        train(KDYOLO(interrupted / "weights/last.pt"), interrupted, epoch, resume=True)
    (expected, step), (found, step_found) = ends["whole"], ends["interrupted"]
    assert step_found == step
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def interrupt(train, checkpoint, in_epoch: int, **keywords) -> None:
    """A run that Ctrl-C ends in an epoch, counted from 0."""

    def stop(trainer):
        if trainer.epoch == in_epoch:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train({"backbone": checkpoint}, {"on_train_batch_start": stop}, **keywords)


def test_ctrl_c_says_how_to_go_on(train, checkpoint, tmp_path):
    interrupt(train, checkpoint, 1, epochs=3)
    run = tmp_path / "run"
    assert f"kdyolo train --resume {run}" in (run / "train.log").read_text()
    KDYOLO(run / "weights/last.pt").train(resume=True)
    assert [row["epoch"] for row in rows(run)] == ["1", "2", "3"]
    assert "resuming after epoch 1 of 3" in (run / "train.log").read_text()


def test_ctrl_c_before_anything_was_saved(train, checkpoint, tmp_path, caplog):
    LOGGER.addHandler(caplog.handler)
    for _ in range(2):  # the same call is as good as the first
        caplog.clear()
        interrupt(train, checkpoint, 0)
        assert "before the first epoch was saved: nothing is kept, the same command starts anew" in caplog.text
        assert not (tmp_path / "run").exists()
    LOGGER.removeHandler(caplog.handler)


def test_only_some_settings_may_change(train, checkpoint, tmp_path):
    interrupt(train, checkpoint, 1, epochs=3, freeze_epochs=1)
    last = tmp_path / "run/weights/last.pt"
    with pytest.raises(ConfigError, match="lr0, freeze_epochs cannot change"):
        KDYOLO(last).train(resume=True, lr0=0.5, freeze_epochs=2)
    with pytest.raises(ConfigError, match="longer, not shorter"):
        KDYOLO(last).train(resume=True, epochs=2)
    KDYOLO(last).train(resume=True, epochs=4, workers=1, device="cpu")
    assert len(rows(tmp_path / "run")) == 4


def test_a_finished_run_says_so(train, checkpoint, tmp_path):
    train({"backbone": checkpoint}, epochs=1)
    with pytest.raises(RunError, match="finished"):
        KDYOLO(tmp_path / "run/weights/last.pt").train(resume=True)


def test_a_run_goes_on_with_as_many_threads_as_it_began_with(train, set_up, checkpoint, tmp_path, monkeypatch):
    """Sums are rounded differently by another number of threads."""
    monkeypatch.setattr("kdyolo.engine.start.run_start.cpu_threads", lambda: 1)
    interrupt(train, checkpoint, 1, epochs=2)
    monkeypatch.setattr("kdyolo.engine.start.run_start.cpu_threads", lambda: 2)
    counts = []
    model = KDYOLO(tmp_path / "run/weights/last.pt")
    model.add_callback("on_train_batch_end", lambda trainer: counts.append(torch.get_num_threads()))
    model.train(resume=True)
    set_up({"backbone": checkpoint}, lambda _: counts.append(torch.get_num_threads()), work_dir=tmp_path / "another")
    assert counts == [1, 1, 2]


def test_a_moved_run_goes_on_where_it_is(train, checkpoint, tmp_path):
    interrupt(train, checkpoint, 1, epochs=2)
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    KDYOLO(tmp_path / "elsewhere/weights/last.pt").train(resume=True)
    assert len(rows(tmp_path / "elsewhere")) == 2
    assert not (tmp_path / "run").exists()


def test_patience_goes_on_counting(train, checkpoint, tmp_path):
    from tests.integration.test_trainer import Plateau

    interrupt(train, checkpoint, 4, epochs=9, freeze_epochs=2, patience=3, trainer=Plateau)
    KDYOLO(tmp_path / "run/weights/last.pt").train(resume=True, trainer=Plateau)
    assert len(rows(tmp_path / "run")) == 5  # 2 frozen and 3 more, the best was the first


def test_a_stock_resume_by_mistake_stops_with_advice(train, checkpoint, tmp_path):
    interrupt(train, checkpoint, 1, epochs=3, freeze_epochs=1)
    with pytest.raises(TypeError, match="kdyolo train --resume"):
        YOLO(tmp_path / "run/weights/last.pt").train(resume=True)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("process.json", '{"pid": "5", "host": "vm", "started": 1.0, "launcher": null}'),
        ("args.yaml", "epochs: .inf"),
        ("kdyolo.yaml", "schedule: {epochs: x}"),
        ("results.csv", f"epoch,x\n1,{'9' * 200_000}\n"),
        ("coco_metrics.json", "[" * 100_000),
        ("weights/resume.pt", ""),
    ],
)
def test_a_damaged_file_is_found_before_anything_is_set_up(interrupted_copy, capsys, name, content):
    run = interrupted_copy
    (run / "pid.txt").write_text("5")
    (run / name).write_text(content)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as exit_:
        main(["train", "--resume", str(run)])
    error = capsys.readouterr().err
    assert exit_.value.code == 1
    assert error.startswith("Error: ")
    assert error.count("\n") == 1
    assert "damaged" in error or "killed while its first epoch was saved" in error
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_damaged_state_is_refused(train, checkpoint, tmp_path):
    interrupt(train, checkpoint, 1, epochs=3)
    state = tmp_path / "run/weights/resume.pt"
    state.write_bytes(state.read_bytes()[:5000])
    with pytest.raises(RunError, match="damaged"):
        KDYOLO(tmp_path / "run/weights/last.pt").train(resume=True)
    assert (tmp_path / "run/results.csv").is_file()


def test_a_kill_while_saving_keeps_what_was_there(tmp_path, monkeypatch):
    path = AtomicPath(tmp_path / "last.pt")
    path.write_bytes(b"old")

    def killed(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        path.write_bytes(b"new")
    assert path.read_bytes() == b"old"
    monkeypatch.undo()
    path.write_bytes(b"new")
    assert path.read_bytes() == b"new"
    assert isinstance(path.parent / "epoch1.pt", AtomicPath)


@pytest.mark.parametrize("finished", [False, True], ids=["before its checkpoints are finished", "after that"])
def test_a_run_killed_in_its_last_evaluation_is_evaluated(train, checkpoint, tmp_path, finished):
    """All epochs are trained; what is left is what a run ends with, and what is finished stays to the bit."""

    def interrupt_at_the_end(trainer):
        def cut_off():
            raise KeyboardInterrupt

        if finished:
            trainer.validator.as_command = lambda plots: cut_off()
        else:
            trainer.final_eval = cut_off

    start = {"backbone": checkpoint}
    with pytest.raises(KeyboardInterrupt):
        train(start, {"on_train_start": interrupt_at_the_end}, freeze_epochs=1)
    assert (tmp_path / "run/weights/resume.pt").is_file()
    assert (torch.load(tmp_path / "run/weights/last.pt", weights_only=False)["epoch"] == -1) is finished
    trained = []
    model = KDYOLO(tmp_path / "run/weights/last.pt")
    model.add_callback("on_train_epoch_start", lambda trainer: trained.append(trainer.epoch))
    model.train(resume=True)
    assert trained == []
    train(start, freeze_epochs=1, work_dir=tmp_path / "uninterrupted")
    ended, expected = (tmp_path / run for run in ("run", "uninterrupted"))
    assert not (ended / "weights/resume.pt").exists()
    assert rows(ended) == rows(expected)
    for name in ("best", "last"):
        own, other = (YOLO(run / f"weights/{name}.pt").model.state_dict() for run in (ended, expected))
        assert own.keys() == other.keys()
        assert all(torch.equal(own[key], other[key]) for key in own)
    assert {p.name for p in ended.iterdir()} == {p.name for p in expected.iterdir()}


def test_a_run_killed_while_its_first_epoch_is_saved_is_not_taken_for_a_finished_one(train, checkpoint, tmp_path):
    train({"backbone": checkpoint}, epochs=1)
    (tmp_path / "run/weights/resume.pt").touch()
    with pytest.raises(RunError, match="while its first epoch was saved"):
        KDYOLO(tmp_path / "run/weights/last.pt").train(resume=True)


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("write", "error", "ended_by"),
    [(1, FULL, RunError), (2, KeyboardInterrupt(), KeyboardInterrupt), (3, FULL, RunError)],
    ids=["disk full at last.pt", "Ctrl-C at best.pt", "disk full at resume.pt"],
)
def test_ended_in_the_middle_of_saving_and_resumed(
    uninterrupted, checkpoint, shapes, tmp_path, monkeypatch, write, error, ended_by
):
    """With every file half written in turn."""
    run, model, flush, count = tmp_path / "run", KDYOLO(backbone=checkpoint), os.fsync, 0

    def end(descriptor):
        nonlocal count
        count += model.trainer.epoch == 3
        if count == write:
            raise error
        flush(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", end)
        with pytest.raises(ended_by) as caught:
            model.train(data=str(shapes), work_dir=run, **OPTIONS)
    if ended_by is RunError:
        assert "No space left on device" in str(caught.value)
        assert f"kdyolo train --resume {run}" in str(caught.value)
    assert not (run / "pid.txt").exists()
    model = KDYOLO(run / "weights/last.pt")
    model.train(resume=True)
    expected, expected_rows = uninterrupted
    found = weights(model.trainer)
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    assert rows(run) == expected_rows


def test_images_and_label_caches_that_vanish_while_a_run_goes_on(uninterrupted, checkpoint, shapes, tmp_path):
    """Nothing that was saved is lost; a run goes on when all images are back, caches or not."""
    run, images, elsewhere = tmp_path / "run", shapes.parent / "images/train", shapes.parent / "elsewhere"

    def vanish(trainer):
        if trainer.epoch == 1:
            images.rename(elsewhere)

    model = KDYOLO(backbone=checkpoint)
    model.add_callback("on_train_epoch_start", vanish)
    try:
        with pytest.raises(RunError, match=rf"cannot be read.*{images}(?s:.*)kdyolo train --resume {run}"):
            model.train(data=str(shapes), work_dir=run, **OPTIONS)
        before = (run / "weights/resume.pt").read_bytes()
    finally:
        elsewhere.rename(images)
    one = next(images.iterdir())
    one.rename(elsewhere)
    try:
        with pytest.raises(RunError, match="8 training images, here there are 7"):
            KDYOLO(run / "weights/last.pt").train(resume=True)
    finally:
        elsewhere.rename(one)
    assert (run / "weights/resume.pt").read_bytes() == before

    def uncache(trainer):
        for cache in (shapes.parent / "labels").glob("*.cache"):
            cache.unlink()

    model = KDYOLO(run / "weights/last.pt")
    model.add_callback("on_train_epoch_start", uncache)
    model.train(resume=True)
    found = weights(model.trainer)
    assert [name for name, tensor in uninterrupted[0].items() if not torch.equal(found[name], tensor)] == []
    assert rows(run) == uninterrupted[1]


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process")
def test_a_disk_that_is_full_when_the_checkpoints_are_finished_costs_nothing(train, checkpoint, tmp_path):
    """A file cannot grow beyond a limit, which torch's writer in C++ meets as well."""
    import resource

    run, limits = tmp_path / "run", resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(trainer):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))

    try:
        with pytest.raises(RunError, match=f"cannot be read or written(?s:.*)kdyolo train --resume {run}"):
            train({"backbone": checkpoint}, {"on_fit_epoch_end": fill}, epochs=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name for path in (run / "weights").iterdir()} == {"best.pt", "last.pt", "resume.pt"}
    for name in ("best", "last"):
        assert YOLO(run / f"weights/{name}.pt").model is not None
    KDYOLO(run / "weights/last.pt").train(resume=True)
    assert {path.name for path in (run / "weights").iterdir()} == {"best.pt", "last.pt"}
    for name in ("best", "last"):
        content = torch.load(run / f"weights/{name}.pt", weights_only=False)
        assert (content["epoch"], content["optimizer"]) == (-1, None)


def test_the_process_is_named_while_it_works_and_one_of_another_machine_is_warned_of(train, checkpoint, tmp_path):
    run, seen = tmp_path / "run", []

    def look(trainer):
        seen.append((run / "pid.txt").read_text())
        record = json.loads((run / "process.json").read_text())
        if trainer.epoch == 1:
            elsewhere.update({**record, "host": "gpu7"})
            raise KeyboardInterrupt

    elsewhere: dict[str, object] = {}
    with pytest.raises(KeyboardInterrupt):
        train({"backbone": checkpoint}, {"on_train_epoch_start": look})
    assert seen == [f"{os.getpid()}\n"] * 2
    assert not (run / "pid.txt").exists()
    (run / "process.json").write_text(json.dumps(elsewhere))
    (run / "pid.txt").write_text(f"{os.getpid()}\n")
    KDYOLO(run / "weights/last.pt").train(resume=True)
    assert "was being trained on gpu7" in (run / "train.log").read_text()
    assert not (run / "process.json").exists()
