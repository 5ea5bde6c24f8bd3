"""Training through the public face: what is frozen when, what is written, what is refused."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
import torch
import yaml
from ultralytics import YOLO
from ultralytics.utils.torch_utils import unwrap_model

from kdyolo import KDYOLO, DistilledBackbone, KDTrainer, read_checkpoint
from kdyolo.errors import CheckpointError, ConfigError, DatasetError, ModelError, RunError
from kdyolo.utils.system import cpu_threads
from tests.builders.commands import tree
from tests.builders.training import FAST, Enough, Plateau, Watch, tensors_of


def test_frozen_means_frozen_and_then_it_trains(finished_run):
    watch = finished_run.watch
    for epoch in (0, 1):
        assert watch.model[epoch] == watch.ema[epoch] == []
        assert watch.trainable[epoch] == {False}
        assert watch.modes[epoch] == {False}
    for epoch in (2, 3):
        moved = set(watch.model[epoch])
        assert {"0.conv.weight", "9.cv2.bn.weight", "0.bn.running_mean", "9.cv2.bn.running_var"} <= moved
        assert "0.conv.weight" in watch.ema[epoch]
        assert watch.trainable[epoch] == watch.modes[epoch] == {True}
    assert watch.dfl == [False] * 4
    for epoch, same in ((0, True), (1, True), (2, False)):
        saved = torch.load(finished_run.folder / f"weights/epoch{epoch}.pt", weights_only=False)["ema"].state_dict()
        halves = {f"model.{n}": t.half() if t.is_floating_point() else t for n, t in watch.file.tensors.items()}
        assert all(torch.equal(saved[n], t) for n, t in halves.items()) is same


def test_without_a_freeze_the_backbone_trains_at_once(train, checkpoint):
    watch = Watch(checkpoint)
    train({"backbone": checkpoint}, {"on_train_epoch_end": watch}, epochs=1, finish=False)
    assert "0.conv.weight" in watch.model[0]


@pytest.mark.parametrize(("freeze", "words"), [("all", "it never thaws"), (9, "because freezing lasts 9")])
def test_frozen_to_the_end_says_so(train, checkpoint, tmp_path, freeze, words):
    watch = Watch(checkpoint)
    train({"backbone": checkpoint}, {"on_train_epoch_end": watch}, freeze_epochs=freeze, epochs=2, finish=False)
    assert watch.model == watch.ema == [[], []]
    assert words in (tmp_path / "run/train.log").read_text()


def test_a_touched_frozen_backbone_stops_the_run(train, checkpoint):
    def nudge(trainer):
        with torch.no_grad():
            unwrap_model(trainer.model).backbone.layers[3].bn.running_mean += 1e-6

    with pytest.raises(RunError, match=r"3\.bn\.running_mean"):
        train({"backbone": checkpoint}, {"on_train_epoch_end": nudge}, freeze_epochs=2)


@pytest.mark.parametrize(("epoch", "freeze"), [(1, 3), (2, 2), (2, 0)], ids=["frozen", "thawing", "never frozen"])
def test_recovery_from_nan(train, checkpoint, tmp_path, epoch, freeze):
    """Ultralytics goes back to last.pt and repeats the epoch; the schedule must hold in the repetition too."""
    hit, watch = [], Watch(checkpoint)

    def poison(trainer):
        watch(trainer)
        if trainer.epoch == epoch and not hit:
            hit.append(epoch)
            trainer.loss = torch.tensor(float("nan"))

    train({"backbone": checkpoint}, {"on_train_epoch_end": poison}, freeze_epochs=freeze, epochs=4)
    phases = [0, 1, 2, 3]
    phases.insert(epoch, epoch)  # one epoch ran twice
    assert [trainable == {False} for trainable in watch.trainable] == [e < freeze for e in phases]
    assert [names == [] for names in watch.model] == [e < freeze for e in phases]
    assert [names == [] for names in watch.ema] == [e < freeze for e in phases]
    assert "recovering from last.pt" in (tmp_path / "run/train.log").read_text()


@pytest.mark.parametrize(("freeze", "last"), [(0, 3), (4, 6)])
def test_patience_counts_unfrozen_epochs_only(train, checkpoint, tmp_path, freeze, last):
    train({"backbone": checkpoint}, trainer=Plateau, freeze_epochs=freeze, epochs=9, patience=2)
    with (tmp_path / "run/results.csv").open() as file:
        assert [int(row["epoch"]) for row in csv.DictReader(file)] == [*range(1, last + 1)]


def test_layer_freeze_counts_stock_layers(set_up, checkpoint, tmp_path):
    frozen = {}

    def look(trainer):
        model = unwrap_model(trainer.model)
        frozen.update({name: not p.requires_grad for name, p in model.named_parameters()})

    set_up({"backbone": checkpoint}, look, freeze=[*range(9), "21.cv1"])
    for name, is_frozen in frozen.items():
        in_layers = any(name.startswith(f"model.0.layers.{i}.") for i in range(9))
        expected = in_layers or name.startswith("model.15.cv1.") or ".dfl." in name  # stock layer 21 is row 15 here
        assert is_frozen == expected, name
    assert yaml.safe_load((tmp_path / "run/args.yaml").read_text())["freeze"] == [*range(9), "21.cv1"]


def test_what_a_run_leaves(finished_run):
    run = finished_run.folder
    kept = {f"epoch{epoch}.pt" for epoch in range(4)}
    assert {p.name for p in (run / "weights").iterdir()} == {"best.pt", "last.pt", *kept}
    record = yaml.safe_load((run / "kdyolo.yaml").read_text())
    assert record["backbone"]["sha256"] == read_checkpoint(finished_run.backbone).sha256
    assert (record["backbone"]["matched"], record["backbone"]["total"]) == (162, 162)
    assert list(record["schedule"]["thaws"]) == [3]
    assert record["recipe"]["name"] == "coco"
    assert record["recipe"]["values"]["optimizer"] == "SGD"
    assert {"kdyolo", "ultralytics", "torch", "python"} <= record["versions"].keys()
    assert record["command"]
    assert "git_commit" in record
    log = (run / "train.log").read_text()
    for words in (
        "backbone: yolov8n · 162/162 tensors · 1,277,707 values · from epoch 4 of epoch_4_model.pth",
        "plan: epochs 1–2: backbone frozen (1.3 M of 3.0 M parameters), from 3: all",
        "epoch 3: backbone thawed",
        "mAP50-95",
        "1/4 ",
    ):
        assert words in log, words
    assert "\x1b" not in log
    with (run / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert all("metrics/mAP50-95(B)" in row for row in rows)


def test_recipe_is_the_default_and_keywords_win(finished_run):
    args = yaml.safe_load((finished_run.folder / "args.yaml").read_text())
    assert (args["optimizer"], args["cos_lr"], args["mosaic"], args["lr0"]) == ("SGD", True, 0.0, 0.001)


def test_another_recipe_by_name_and_by_file(train, set_up, tmp_path):
    set_up({"model": "kdyolov8n.yaml"}, lambda trainer: None, recipe="coco-mosaic")
    args = yaml.safe_load((tmp_path / "run/args.yaml").read_text())
    assert (args["mosaic"], args["mixup"], args["close_mosaic"]) == (1.0, 0.1, 10)
    (tmp_path / "mine.yaml").write_text("optimizer: AdamW\nfreeze_epochs: 1\n")
    train(epochs=2, recipe=str(tmp_path / "mine.yaml"), work_dir=tmp_path / "second", finish=False)
    record = yaml.safe_load((tmp_path / "second/kdyolo.yaml").read_text())
    assert record["schedule"]["freeze_epochs"] == 1
    assert yaml.safe_load((tmp_path / "second/args.yaml").read_text())["optimizer"] == "AdamW"


def test_as_a_trainer_of_plain_yolo(checkpoint, shapes, tmp_path):
    watch = Watch(checkpoint)
    model = YOLO("yolov8n.yaml")
    model.add_callback("on_train_epoch_end", watch)
    model.train(
        trainer=KDTrainer, backbone=checkpoint, freeze_epochs=1, data=str(shapes), work_dir=tmp_path / "run", **FAST
    )
    assert watch.model[0] == []
    assert watch.model[1] != []


@pytest.fixture(scope="module")
def stock_weights(tmp_path_factory):
    """A stock yolov8n checkpoint, seeded."""
    path = tmp_path_factory.mktemp("weights") / "yolov8n.pt"
    torch.manual_seed(5)
    YOLO("yolov8n.yaml").save(path)
    return path


def test_weights_then_backbone_laid_over(set_up, checkpoint, stock_weights):
    seen = {}
    set_up({"weights": stock_weights, "backbone": checkpoint}, lambda trainer: seen.update(tensors_of(trainer)))
    stock = YOLO(stock_weights).model.float().state_dict()
    file = read_checkpoint(checkpoint).tensors
    assert all(torch.equal(seen[f"model.0.layers.{n}"], t) for n, t in file.items())
    assert torch.equal(seen["model.6.cv1.conv.weight"], stock["model.12.cv1.conv.weight"])
    assert torch.equal(seen["model.16.cv2.0.0.conv.weight"], stock["model.22.cv2.0.0.conv.weight"])


def test_weights_alone_start_the_whole_detector(set_up, stock_weights):
    seen = {}
    set_up({"weights": stock_weights}, lambda trainer: seen.update(tensors_of(trainer)))
    stock = YOLO(stock_weights).model.float().state_dict()
    assert torch.equal(seen["model.0.layers.4.cv1.conv.weight"], stock["model.4.cv1.conv.weight"])


def test_weights_of_another_scale_are_refused(train, stock_weights, tmp_path):
    with pytest.raises(ModelError, match=r"kdyolov8n\.yaml"):
        train({"model": "kdyolov8s.yaml"}, weights=str(stock_weights))
    assert not (tmp_path / "run").exists()


def test_trained_again_from_its_own_best(finished_run, shapes, tmp_path):
    again = KDYOLO(finished_run.folder / "weights/best.pt")
    again.train(**{**FAST, "data": str(shapes), "epochs": 1, "work_dir": tmp_path / "again"})
    assert (tmp_path / "again/weights/best.pt").is_file()
    log = (tmp_path / "again/train.log").read_text()
    assert "started from" in log
    assert "random initialisation" not in log


@pytest.mark.parametrize("model", ["kdyolov8n-p2.yaml", "kdyolov8n-p234.yaml"])
def test_other_layouts_train(train, checkpoint, tmp_path, model):
    watch = Watch(checkpoint)
    trained = train({"model": model, "backbone": checkpoint}, {"on_train_epoch_end": watch}, freeze_epochs=1)
    assert watch.model[0] == []
    assert watch.model[1]
    assert min(trained.model.stride.tolist()) == 4


# ---- the richer schedule ---------------------------------------------------------------------------------------------


class Steps:
    """Records what every optimizer step is made with: epoch, progress, and each group's learning rate."""

    def __init__(self):
        self.rates, self.trainer = [], None

    def __call__(self, trainer):
        self.trainer, step = trainer, trainer.optimizer.step

        def recorded(*arguments, **keywords):
            progress = trainer.epoch + trainer.batches_done / len(trainer.train_loader)
            groups = trainer.optimizer.param_groups
            self.rates.append((progress, [(g["part"], g["param_group"], g["initial_lr"], g["lr"]) for g in groups]))
            return step(*arguments, **keywords)

        trainer.optimizer.step = recorded


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW", "MuSGD", "auto"])
def test_every_group_has_the_schedules_rate_in_every_phase(train, checkpoint, optimizer):
    steps = Steps()
    options = {"unfreeze_stages": "1:p5,2:p4,3:all", "backbone_lr": 0.25, "thaw_warmup": 2}
    options |= {"optimizer": optimizer, "warmup_epochs": 2, "val": False}
    options["batch"] = 4 if optimizer == "SGD" else 8  # two steps in each epoch, or one
    train({"backbone": checkpoint}, {"on_train_start": steps}, epochs=6, finish=False, **options)
    schedule = steps.trainer.schedule
    part_of = {group: part for part, group in schedule.groups().items()}
    assert {round(progress) for progress, _ in steps.rates} >= {1, 2, 3, 4, 5, 6}
    for progress, groups in steps.rates:
        head = {(kind, initial): rate for part, kind, initial, rate in groups if part == "head"}
        assert {part for part, *_ in groups} == {"head", "p5", "p4", "stem-p2-p3"}
        for part, kind, initial, rate in groups:
            if part != "head":
                assert rate == pytest.approx(head[kind, initial] * schedule.lr_factor(part_of[part], progress)), part


def test_a_gradual_thaw(train, checkpoint, tmp_path):
    watch = Watch(checkpoint)
    train({"backbone": checkpoint}, {"on_train_epoch_end": watch}, unfreeze_stages="1:p5,2:p4,3:all", epochs=4)
    layers = [{int(name.split(".")[0]) for name in names} for names in watch.model]
    assert layers == [set(), {7, 8, 9}, set(range(5, 10)), set(range(10))]
    log = (tmp_path / "run/train.log").read_text()
    assert "from 2: p5, from 3: p4, from 4: all" in log
    assert "epoch 3: p4 thawed" in log
    with (tmp_path / "run/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["freeze/frozen_parts"] for row in rows] == ["5", "4", "3", "0"]
    trainable = [float(row["freeze/trainable_parameters"]) for row in rows]
    assert trainable == sorted(trainable)
    assert len(set(trainable)) == 4
    assert [float(row["lr/p5/weight"]) > 0 for row in rows] == [False, True, True, True]


def test_a_part_that_the_model_does_not_have_is_refused(train, checkpoint, tmp_path):
    with pytest.raises(ConfigError, match=r"names p5, which kdyolov8n-p234\.yaml does not have.*stem, p2, p3, p4"):
        train({"model": "kdyolov8n-p234.yaml", "backbone": checkpoint}, unfreeze_stages="1:p5,2:all")
    assert not (tmp_path / "run").exists()


def test_thawed_parts_start_without_momentum(finished_run):
    assert finished_run.watch.momentum == [False, False, True, True]


def test_batchnorm_that_never_moves(train, checkpoint):
    watch = Watch(checkpoint)
    train(
        {"backbone": checkpoint},
        {"on_train_epoch_end": watch},
        freeze_epochs=1,
        epochs=3,
        freeze_bn="always",
        finish=False,
    )
    moved = set(watch.model[-1])
    assert "0.conv.weight" in moved
    assert "0.bn.weight" in moved
    assert not [name for name in moved if "running" in name or "num_batches" in name]


def test_a_slower_backbone_moves_less(train, checkpoint):
    file = read_checkpoint(checkpoint).tensors["3.conv.weight"]
    distance = []

    def look(trainer):
        weight = unwrap_model(trainer.model).backbone.layers[3].conv.weight.detach()
        distance.append(float((weight - file).norm()))

    for factor in (1.0, 0.01, 0.0):
        options = {"epochs": 1, "backbone_lr": factor, "exist_ok": True}
        train({"backbone": checkpoint}, {"on_train_epoch_end": look}, finish=False, **options)
    assert distance[0] > 20 * distance[1] > 0
    assert distance[2] == 0


# ---- bad input -------------------------------------------------------------------------------------------------------


def test_all_mistakes_at_once(train, tmp_path):
    with pytest.raises(ConfigError) as error:
        train({"model": "kdyolov8n.yaml"}, lrO=0.1, epohcs=3, freeze_epochs=2, freeze=10, mosaic=7.0)
    text = str(error.value)
    for words in ("'lrO'", "'epohcs'", "Did you mean 'epochs'", "number of layers", "mosaic"):
        assert words in text
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"freeze_epochs": -1}, "'all'"),
        ({"freeze_epochs": 1, "time": 1.0}, "time"),
        ({"random_init": True, "backbone": "x.pth"}, "exclude"),
        ({"random_init": True, "weights": "x.pt"}, "exclude"),
        ({"recipe": "coco-mosiac"}, "coco-mosaic"),
        ({"weights": "x.pth"}, "--backbone"),
        ({"allow_partial": True}, "no backbone"),
        ({"task": "segment"}, "detectors"),
    ],
    ids=str,
)
def test_contradictions(train, tmp_path, keywords, words):
    with pytest.raises(ConfigError, match=words):
        train(**keywords)
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_that_does_not_fit_is_found_beside_missing_data(train, checkpoint, tmp_path):
    with pytest.raises(ConfigError, match=r"no-such-data(?s:.*)use --model kdyolov8n\.yaml"):
        train({"model": "kdyolov8s.yaml"}, backbone=str(checkpoint), data=str(tmp_path / "no-such-data.yaml"))
    assert not (tmp_path / "run").exists()


def test_missing_data_leaves_nothing(train, tmp_path):
    with pytest.raises(DatasetError, match="nowhere"):
        train(data=str(tmp_path / "nowhere.yaml"))
    with pytest.raises(ConfigError, match="no data"):
        KDYOLO("kdyolov8n.yaml").train()
    assert not (tmp_path / "run").exists()


def test_a_work_dir_in_use_is_refused(train, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="--exist-ok"):
        train(epochs=1)
    assert (tmp_path / "run/thesis.txt").read_text() == "mine"
    train(epochs=1, exist_ok=True)
    assert (tmp_path / "run/weights/best.pt").is_file()
    assert (tmp_path / "run/thesis.txt").is_file()


def test_set_up_that_fails_removes_only_what_it_made(train, stock_weights, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/thesis.txt").write_text("mine")
    with pytest.raises(ModelError):
        train({"model": "kdyolov8s.yaml"}, weights=str(stock_weights), exist_ok=True)
    assert (tmp_path / "run/thesis.txt").read_text() == "mine"
    with pytest.raises(ModelError):
        train({"model": "kdyolov8s.yaml"}, weights=str(stock_weights), work_dir=None, project=str(tmp_path / "new"))
    assert not list((tmp_path / "new").glob("*"))


# ---- a run that ends before it has saved anything --------------------------------------------------------------------


def fail(trainer):
    raise RuntimeError("a disk, a driver, a callback")


def interrupt(trainer):
    raise KeyboardInterrupt


EVENTS = [
    ("on_pretrain_routine_start", fail, RuntimeError),
    ("on_pretrain_routine_end", fail, RuntimeError),
    ("on_train_batch_end", fail, RuntimeError),
    ("on_train_batch_end", interrupt, KeyboardInterrupt),
    ("on_train_epoch_end", fail, RuntimeError),
]


@pytest.mark.parametrize(("event", "end", "error"), EVENTS, ids=lambda value: getattr(value, "__name__", value))
def test_a_run_that_ends_early_leaves_nothing_whatever_ended_it(train, tmp_path, event, end, error):
    for where in ({}, {"work_dir": None, "project": str(tmp_path / "numbered")}):
        with pytest.raises(error):
            train(callbacks={event: end}, epochs=1, **where)
    assert not (tmp_path / "run").exists()
    assert not list((tmp_path / "numbered").glob("*"))


def test_one_value_per_channel_is_explained_and_the_call_can_be_mended(train, tmp_path):
    """It was a bare ValueError, and the next call found that the folder was not empty."""
    with pytest.raises(ConfigError, match=r"batch=1 at imgsz=32 .* batches of two images or more"):
        train(batch=1, imgsz=32)
    assert not (tmp_path / "run").exists()
    train(batch=2, imgsz=32, epochs=1)
    assert (tmp_path / "run/weights/best.pt").is_file()


@pytest.mark.parametrize(("event", "end", "error"), EVENTS[1:4], ids=lambda value: getattr(value, "__name__", value))
def test_a_folder_that_was_there_is_as_it_was(train, run_copy, event, end, error):
    """With ``exist_ok`` over a finished run: its record, its log and its rows were written over."""
    (run_copy / "thesis.txt").write_text("mine")
    before = tree(run_copy)
    with pytest.raises(error):
        train(callbacks={event: end}, exist_ok=True, plots=True, lr0=0.5)
    assert tree(run_copy) == before


def test_an_empty_folder_and_one_with_a_log_stay(train, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(RuntimeError):
        train(callbacks={"on_train_batch_end": fail})
    assert list(run.iterdir()) == []
    (run / "train.log").write_text("of a detached run that failed\n")
    with pytest.raises(RuntimeError):
        train(callbacks={"on_train_batch_end": fail})
    assert {path.name: path.read_text() for path in run.iterdir()} == {"train.log": "of a detached run that failed\n"}
    train(epochs=1)
    assert (run / "train.log").read_text().startswith("of a detached run that failed\n")
    assert (run / "weights/best.pt").is_file()


def test_a_log_that_is_read_nowhere_else_stays(train, tmp_path):
    """As of a detached run, whose terminal is gone when its first batch fails."""

    def go_on_alone(trainer):
        trainer.log.alone = True
        raise RuntimeError("out of something")

    with pytest.raises(RuntimeError):
        train(callbacks={"on_train_batch_end": go_on_alone})
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["train.log"]
    train(epochs=1)
    assert (tmp_path / "run/train.log").read_text().count("plan: ") == 2


def test_what_was_saved_stays_and_can_be_resumed(train, tmp_path):
    def fail_later(trainer):
        if trainer.epoch == 1:
            raise RuntimeError("later")

    with pytest.raises(RuntimeError):
        train(callbacks={"on_train_batch_end": fail_later})
    KDYOLO(tmp_path / "run/weights/last.pt").train(resume=True)
    assert not (tmp_path / "run/weights/resume.pt").exists()


def test_weights_that_do_not_fit_leave_nothing(train, finished_run, tmp_path):
    """Ultralytics asks the trainer for its model before it lets it train, and outside of it."""
    backbone = tmp_path / "s.pth"
    torch.save({"state_dict": DistilledBackbone("yolov8s").layers.state_dict()}, backbone)
    with pytest.raises(CheckpointError):
        train({"model": finished_run.folder / "weights/best.pt"}, backbone=str(backbone))
    assert not (tmp_path / "run").exists()


# ---- one training after another --------------------------------------------------------------------------------------


def test_a_second_training_goes_on_from_the_first(train, checkpoint, shapes, tmp_path):
    model = train({"backbone": checkpoint}, epochs=1)
    first, seen = model.model.float().state_dict(), {}

    def look(trainer):
        seen.update(tensors_of(trainer))
        raise Enough

    model.add_callback("on_train_start", look)
    with pytest.raises(Enough):
        model.train(**{**FAST, "data": str(shapes), "epochs": 1, "work_dir": tmp_path / "second"})
    assert torch.equal(seen["model.0.layers.3.conv.weight"], first["model.3.conv.weight"])


def test_partial_checkpoints_only_on_request(set_up, checkpoint, tmp_path):
    content = torch.load(checkpoint)
    content["backbone"] = {k: v for k, v in content["backbone"].items() if ".stage4.2." not in k}
    partial = tmp_path / "partial.pth"
    torch.save(content, partial)
    with pytest.raises(CheckpointError, match="missing 12"):
        KDYOLO(backbone=partial)
    set_up({"backbone": partial, "allow_partial": True}, lambda trainer: None, freeze_epochs=1)
    assert "missing     12" in (tmp_path / "run/train.log").read_text()


def test_default_names_follow_the_checkpoint(checkpoint):
    assert KDYOLO(backbone=checkpoint).model_name == "kdyolov8n.yaml"
    assert KDYOLO(random_init=True).model_name == "kdyolov8s.yaml"
    with pytest.raises(ConfigError, match="excludes"):
        KDYOLO(backbone=checkpoint, random_init=True)


# ---- real data -------------------------------------------------------------------------------------------------------


def test_a_trained_backbone_learns_faster_frozen_than_random_does(shared, tmp_path):
    from kdyolo import convert_coco

    data = convert_coco(shared / "coco128", tmp_path / "coco").yaml
    keywords = {"data": str(data), "epochs": 2, "imgsz": 96, "batch": 8, "nbs": 8, "optimizer": "AdamW", "lr0": 0.002}
    keywords |= {"device": "cpu", "plots": False, "warmup_epochs": 0, "val": False}
    losses = {}
    for name, start, freeze in (
        ("distilled", {"backbone": shared / "checkpoints/trained_n_clean.pth"}, "all"),
        ("random", {"model": "kdyolov8n.yaml", "random_init": True}, 0),
    ):
        KDYOLO(**start).train(**keywords, freeze_epochs=freeze, work_dir=tmp_path / name)
        with (Path(tmp_path) / name / "results.csv").open() as file:
            last = list(csv.DictReader(file))[-1]
        losses[name] = float(last["train/box_loss"]) + float(last["train/cls_loss"])
    assert losses["distilled"] < 0.95 * losses["random"], losses


def test_threads_on_a_cpu(monkeypatch):
    """Every core, if threads sleep while they wait; Ultralytics sets OMP_NUM_THREADS=1 on import, so 1 is no wish."""
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert cpu_threads() is None
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    cores = len(os.sched_getaffinity(0))
    for asked, expected in (("1", cores), ("3", 3), ("many", cores)):
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
        assert cpu_threads() == expected
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert cpu_threads() == cores


def test_the_folded_backbone_is_used_while_all_of_it_is_frozen_and_no_longer(train, checkpoint):
    used = []

    def look(trainer):
        used.append(unwrap_model(trainer.model).backbone.folded)

    train({"backbone": checkpoint}, {"on_train_batch_end": look}, unfreeze_stages="1:p5,2:all", epochs=3, finish=False)
    assert used == [True, True, False, False, False, False]
