"""An evaluation that two ranks share: what one process finds, to the last bit; and how ranks end, together."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from kdyolo import convert_coco
from kdyolo.data.synthetic import draw_dataset
from kdyolo.models.detector import KDDetectionModel
from tests.builders.training import FAST
from tests.system.forkserver import ForkServer
from tests.system.test_distributed import run_ranks

# Each process evaluates the same weights on each data set, as after an epoch and then as at the end of a run.
EVALUATE = """
import json, sys, torch
import ultralytics.utils.metrics as plots
from pathlib import Path
from ultralytics.models.yolo.detect import DetectionValidator
from ultralytics.utils import RANK
from ultralytics.utils.ops import xywh2xyxy
from kdyolo import KDTrainer, KDYOLO
from kdyolo.engine.ranks import rank_training
from kdyolo.engine.validator import KDValidator

folder, out, options = Path(sys.argv[1]), Path(sys.argv[2]), eval(sys.argv[3])
rank_training.EVALUATION_BATCH = 3
for name in ("plot_pr_curve", "plot_mc_curve"):
    setattr(plots, name, lambda *args, **keywords: None)
DetectionValidator.plot_val_samples = DetectionValidator.plot_predictions = lambda *args: None
plots.ConfusionMatrix.plot = lambda *args, **keywords: None
KDTrainer.plot_training_labels = lambda self: None
batches = []
update = DetectionValidator.update_metrics

def seeing(self, preds, batch):
    for index, pred in enumerate(preds):  # where the network is surest, it is made to be right
        mine = batch["batch_idx"] == index
        height, width = batch["img"].shape[2:]
        boxes = xywh2xyxy(batch["bboxes"][mine] * torch.tensor([width, height, width, height]))[: len(pred["cls"])]
        pred["bboxes"][: len(boxes)] = boxes
        pred["cls"][: len(boxes)] = batch["cls"][mine].ravel()[: len(boxes)]
    update(self, preds, batch)

DetectionValidator.update_metrics = seeing

class Watching(KDValidator):
    def update_metrics(self, preds, batch):
        batches.append([Path(file).name for file in batch["im_file"]])
        if self.fails and RANK == 1:
            raise ValueError("this image is broken")
        super().update_metrics(preds, batch)

def found(validator, metrics):
    return {
        "metrics": metrics,
        "official": validator.scores.metrics,
        "detections": validator.jdict,
        "images": validator.seen,
        "objects": validator.metrics.nt_per_class.tolist(),
        "confusions": validator.confusion_matrix.matrix.tolist(),
        "per image": sorted(validator.metrics.box.image_metrics),
    }

def evaluate(name, fails=False):
    there = folder / f"{name} there"  # on the other node
    data = (there if RANK == 1 and there.exists() else folder / name) / "coco.yaml"
    own = {**options, "data": str(data), "work_dir": str(out / name), "coco_eval_period": 1}
    trainer = KDTrainer(overrides={**own, "model": "kdyolov8n.yaml", "plots": True, "epochs": 1})
    Watching.fails = fails
    trainer.get_validator = lambda: Watching(
        trainer.test_loader, save_dir=trainer.save_dir, args=trainer.args, _callbacks=trainer.callbacks
    )
    trainer.set_up()
    trainer.ema.ema.load_state_dict(torch.load(folder / "weights.pt"))
    if RANK == 1:
        for buffer in trainer.ema.ema.buffers():  # as after training: each rank's own statistics
            buffer.copy_(buffer * 2)
    trainer.begin_epoch(0)
    trainer.stopper.possible_stop = RANK < 1  # which only rank 0 asks, after an epoch
    trainer.loss = torch.zeros(())
    trainer.loss_items = dict.fromkeys(("box_loss", "cls_loss", "dfl_loss"), trainer.loss)
    batches.clear()
    trainer.metrics, trainer.fitness = trainer.validate()
    result = {"batches": batches.copy()}
    if RANK < 1:
        result["epoch"] = found(trainer.validator, trainer.metrics)
        trainer.save_model()
    batches.clear()
    trainer.final_eval()
    trainer.log.close()
    result["final batches"] = batches.copy()
    if RANK < 1:
        result["final"] = found(trainer.validator, {k: float(v) for k, v in trainer.metrics.items()})
        result["file"] = json.loads((out / name / "coco_metrics.json").read_text())
    if RANK == -1:
        model = KDYOLO(out / name / "weights/best.pt")
        coco = model.val(data=str(data), device="cpu", plots=False, save_dir=str(out / name / "val")).coco
        result["kdyolo val"] = coco.to_dict()
    return result

results = {name: evaluate(name) for name in ("many", "one")}
if RANK >= 0:
    for name, fails in (("incomplete", False), ("many", True)):
        try:
            options["exist_ok"] = True
            evaluate(name, fails)
        except Exception as error:
            results[name + " fails"] = [type(error).__name__, str(error)]
(out / f"{RANK}.json").write_text(json.dumps(results))
"""

OPTIONS = {**FAST, "batch": 4, "imgsz": 96}


def images_of_many_shapes(folder: Path, images: int) -> Path:
    """Folder of a converted data set whose validation images differ in their shape."""
    root = draw_dataset(folder.with_name(f"{folder.name} root"), {"train2017": 8, "val2017": images}, imgsz=96)
    path = root / "annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    rng = np.random.default_rng(0)
    scale = {image["id"]: rng.choice([0.4, 0.6, 0.8, 1.0], 2).tolist() for image in content["images"]}
    for image in content["images"]:
        x, y = scale[image["id"]]
        image["width"], image["height"] = round(x * 96), round(y * 96)
        file = root / "val2017" / image["file_name"]
        Image.open(file).resize((image["width"], image["height"])).save(file)
    for annotation in content["annotations"]:
        x, y = scale[annotation["image_id"]]
        annotation["bbox"] = [v * s for v, s in zip(annotation["bbox"], (x, y, x, y), strict=True)]
        annotation["area"] *= x * y
    content["annotations"] = [a for a in content["annotations"] if not a["iscrowd"]]
    path.write_text(json.dumps(content))
    return convert_coco(root, folder).yaml.parent


def without_its_last_image(data: Path, folder: Path) -> None:
    """A copy of a data set that lacks one validation image."""
    shutil.copytree(data, folder, symlinks=True)
    text = (data / "coco.yaml").read_text()
    (folder / "coco.yaml").write_text(text.replace(f"path: {data}", f"path: {folder}"))
    files = (data / "val2017.txt").read_text().splitlines(keepends=True)
    (folder / "val2017.txt").write_text("".join(files[:-1]))


def weights_that_find_something(path: Path) -> None:
    """Random weights of a detector of three classes that sees objects everywhere."""
    torch.manual_seed(0)
    model = KDDetectionModel("kdyolov8n.yaml", nc=3, verbose=False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2.0)
            nn.init.normal_(module.bias, 0.0, 0.3)
    for branch in model.model[-1].cv3:
        nn.init.constant_(branch[-1].bias, -2.0)
    torch.save(model.state_dict(), path)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, python: ForkServer) -> dict[str, dict[str, Any]]:
    """What one process (``"-1"``) and each of two ranks found: name of the data set → its results."""
    folder = tmp_path_factory.mktemp("evaluated")
    for name, images in (("many", 18), ("one", 1), ("incomplete", 4)):
        images_of_many_shapes(folder / name, images)
    without_its_last_image(folder / "incomplete", folder / "incomplete there")
    weights_that_find_something(folder / "weights.pt")
    (folder / "worker.py").write_text(EVALUATE)
    for out in ("alone", "shared"):
        (folder / out).mkdir()
    worker = (folder / "worker.py", folder)
    alone = python.run(*worker, folder / "alone", OPTIONS, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert alone.returncode == 0, alone.stdout[-3000:]
    ended = run_ranks(python, *worker, folder / "shared", OPTIONS, folders=[folder, folder])
    assert [rank.code for rank in ended] == [0, 0], "\n".join(rank.output[-3000:] for rank in ended)
    files = (folder / "alone/-1.json", folder / "shared/0.json", folder / "shared/1.json")
    return {file.stem: json.loads(file.read_text()) for file in files}


@pytest.mark.parametrize("name", ["many", "one"])
def test_two_ranks_find_what_one_process_finds(evaluated, name):
    alone, shared = evaluated["-1"][name], evaluated["0"][name]
    for when in ("epoch", "final"):
        assert shared[when].keys() == alone[when].keys()
        for what in alone[when]:
            assert shared[when][what] == alone[when][what], (when, what)
    found = alone["epoch"]
    assert len(found["detections"]) > 10 * found["images"]
    assert found["metrics"]["val/box_loss"] > 0
    assert sum(map(sum, found["confusions"])) > 0
    if name == "many":
        assert 0.1 < found["official"][0] < 1
        assert 0.1 < found["metrics"]["metrics/mAP50(B)"] < 1
        assert found["detections"] != alone["final"]["detections"]  # other batches, so other padding


def test_batches_are_those_of_one_process_and_each_is_computed_once(evaluated):
    for when, sizes in (("batches", [3, 3, 2, 3, 3, 2, 2]), ("final batches", [16, 2])):
        alone, first, second = (evaluated[rank]["many"][when] for rank in ("-1", "0", "1"))
        assert list(map(len, alone)) == sizes
        assert first + second == alone
        assert abs(len(first) - len(second)) <= 1
    assert evaluated["1"]["one"]["batches"] == evaluated["1"]["one"]["final batches"] == []


def test_the_end_of_a_run_and_the_command_agree(evaluated):
    alone = evaluated["-1"]["many"]
    expected = alone["kdyolo val"]
    assert expected["precision"] == "fp32"
    for rank in ("-1", "0"):
        written = evaluated[rank]["many"]["file"]
        assert {key: written[key] for key in expected} == expected


def test_a_data_set_that_is_incomplete_on_one_node_ends_all_ranks(evaluated):
    errors = [evaluated[rank]["incomplete fails"] for rank in ("0", "1")]
    assert errors[0] == errors[1]
    assert errors[0][0] == "DatasetError"
    assert "1 of its 4 images are not in the data set" in errors[0][1]


def test_what_goes_wrong_on_one_rank_while_evaluating_is_raised_on_all(evaluated):
    for rank in ("0", "1"):
        assert evaluated[rank]["many fails"] == ["ValueError", "this image is broken"]


# ---- the end of a run ------------------------------------------------------------------------------------------------

# What rank 0 still does at the end, and when each rank is through, stands in one file, in order.
END = """
import sys, time
from ultralytics.utils import RANK
from kdyolo import KDYOLO

checkpoint, data, out, how, options = *sys.argv[1:5], eval(sys.argv[5])
resumes = how == "resumes"

def say(line):
    with open(f"{out}/lines", "a") as file:
        file.write(line + "\\n")

def at_the_end(trainer):
    time.sleep(2)
    say(f"rank {RANK} has written everything")

def of_best(trainer):
    if trainer.epoch == trainer.epochs:
        say(f"rank {RANK} has evaluated best.pt")
        if not resumes:
            raise OSError(28, "disk full at the end")

model = KDYOLO(f"{out}/run/weights/last.pt") if resumes else KDYOLO(backbone=checkpoint)
model.add_callback("on_fit_epoch_end", of_best)
model.add_callback("on_train_end", at_the_end)
model.train(**({"resume": True, "device": "cpu"} if resumes else {"data": data, "work_dir": f"{out}/run", **options}))
say(f"rank {RANK} ends")
"""


def test_ranks_end_together_whether_the_end_goes_well_or_not(python, checkpoint, shapes, tmp_path):
    """First rank 0 fails after the final evaluation; then the run is resumed there, and rank 0 takes its time."""
    (tmp_path / "worker.py").write_text(END)
    worker = (tmp_path / "worker.py", checkpoint, shapes, tmp_path)
    options = {**FAST, "epochs": 1, "batch": 8}
    ended = run_ranks(python, *worker, "starts", options, folders=[tmp_path, tmp_path])
    assert all(rank.code for rank in ended)
    assert all("disk full at the end" in rank.output for rank in ended)
    assert (tmp_path / "run/weights/resume.pt").is_file()
    assert (tmp_path / "lines").read_text() == "rank 0 has evaluated best.pt\n"
    ended = run_ranks(python, *worker, "resumes", {}, folders=[tmp_path, tmp_path])
    assert [rank.code for rank in ended] == [0, 0], ended[0].output[-3000:]
    lines = (tmp_path / "lines").read_text().splitlines()[1:]
    assert lines[:2] == ["rank 0 has evaluated best.pt", "rank 0 has written everything"]
    assert sorted(lines[2:]) == ["rank 0 ends", "rank 1 ends"]
    assert not (tmp_path / "run/weights/resume.pt").exists()
