"""``kdyolo val`` and the evaluations of a run: official numbers on the user's own annotations, or a clear error."""

from __future__ import annotations

import csv
import json
import math
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from ultralytics import YOLO
from ultralytics.engine import validator
from ultralytics.models.yolo.detect import DetectionValidator
from ultralytics.nn.tasks import yaml_model_load

from kdyolo import KDYOLO, KDValidator, convert_coco, score_coco
from kdyolo.cli import main
from kdyolo.data.coco_to_yolo import CocoSplit
from kdyolo.errors import ConfigError, DatasetError
from kdyolo.metrics.names import NAMES
from kdyolo.metrics.tide import ErrorKind
from tests.builders.coco_spellings import ids_anew_in_every_image
from tests.builders.exports import PLAIN, write_onnx
from tests.builders.training import FAST
from tests.cli.test_cli import fails
from tests.metrics.test_coco_metrics import by_hand, by_hand_per_class

QUIET: dict[str, Any] = {"device": "cpu", "plots": False, "imgsz": 160}


def perceive(batch: dict[str, Any], classes: int) -> list[dict[str, torch.Tensor]]:
    """What a fair detector might find in a batch: each label twice, shifted, some of another class."""
    size = np.array(batch["img"].shape[2:])[[1, 0, 1, 0]]
    found = []
    for index, file in enumerate(batch["im_file"]):
        rng = np.random.default_rng(zlib.crc32(Path(file).name.encode()))
        mine = batch["batch_idx"] == index
        box = np.repeat(batch["bboxes"][mine].numpy() * size, 2, axis=0)
        label = np.repeat(batch["cls"][mine].numpy().ravel(), 2)
        box = box + rng.normal(0, 0.08, box.shape) * np.tile(box[:, 2:], 2)
        label = np.where(rng.random(len(label)) < 0.8, label, rng.integers(classes, size=len(label)))
        corners = np.c_[box[:, :2] - box[:, 2:] / 2, box[:, :2] + box[:, 2:] / 2]
        score = np.sort(rng.random(len(label)))[::-1].copy()
        columns = (torch.tensor(column, dtype=torch.float32) for column in (corners, score, label))
        found.append(dict(zip(("bboxes", "conf", "cls"), columns, strict=True)) | {"extra": torch.zeros(len(label), 0)})
    return found


@pytest.fixture
def seeing(monkeypatch):
    """Every evaluation, stock or ours, gets the detections of :func:`perceive` in place of the network's."""
    update = DetectionValidator.update_metrics
    monkeypatch.setattr(
        DetectionValidator, "update_metrics", lambda self, _, batch: update(self, perceive(batch, self.nc), batch)
    )


@pytest.fixture(scope="session")
def random_model(tmp_path_factory) -> Path:
    """A detector of COCO's 80 classes with random weights."""
    path = tmp_path_factory.mktemp("model") / "yolov8n.pt"
    YOLO("yolov8n.yaml").save(path)
    return path


@pytest.fixture(scope="session")
def coco128(shared, tmp_path_factory) -> Path:
    return convert_coco(shared / "coco128", tmp_path_factory.mktemp("coco") / "coco").yaml


def test_four_ways_to_the_same_official_ap(seeing, shared, coco128, random_model, tmp_path):
    """``kdyolo val``, ``kdyolo score``, pycocotools by hand, and stock ``yolo val save_json=True``."""
    annotations = shared / "coco128/annotations/instances_val2017.json"
    metrics = KDYOLO(random_model).val(data=str(coco128), save_dir=str(tmp_path / "ours"), per_class=True, **QUIET)
    ours = metrics.coco
    assert 0.2 < ours.ap < 0.9
    assert (ours.images, ours.objects) == (26, sum(not a["iscrowd"] for a in load(annotations)["annotations"]))
    scored = score_coco(tmp_path / "ours/predictions.json", annotations)
    assert scored.metrics == pytest.approx(ours.metrics, abs=1e-9)
    assert [c.ap for c in scored.per_class] == pytest.approx([c.ap for c in ours.per_class], abs=1e-9)
    expected = by_hand(annotations, tmp_path / "ours/predictions.json")
    assert ours.metrics == pytest.approx(expected.stats, abs=1e-9)
    assert [c.ap for c in ours.per_class] == pytest.approx(by_hand_per_class(expected), abs=1e-9)
    stock = YOLO(random_model).val(data=str(coco128), save_dir=str(tmp_path / "stock"), save_json=True, **QUIET)
    assert load(tmp_path / "stock/predictions.json") == load(tmp_path / "ours/predictions.json")
    official = by_hand(annotations, tmp_path / "stock/predictions.json")
    assert ours.metrics == pytest.approx(official.stats, abs=1e-9)
    assert stock.box.map != pytest.approx(ours.ap, abs=1e-3)  # Ultralytics' own mAP is another number


def load(path: Path) -> Any:
    return json.loads(path.read_text())


def test_stock_val_takes_a_converted_coco_for_coco(seeing, coco128, random_model, tmp_path):
    """Its own rule on paths finds the official file, so what it prints is official too."""
    validator = DetectionValidator(
        args={**QUIET, "model": str(random_model), "data": str(coco128), "save_json": True, "save_dir": str(tmp_path)}
    )
    stats = validator()
    assert validator.is_coco
    official = score_coco(tmp_path / "predictions.json", coco128.parent / "annotations/instances_val2017.json")
    found = [stats[f"metrics/{name}(B)"] for name in ("mAP50-95", "mAP50", "mAP_small", "mAP_medium", "mAP_large")]
    expected = [official.ap, official.ap50, official.ap_small, official.ap_medium, official.ap_large]
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.fixture(scope="session")
def shop(shared, tmp_path_factory) -> tuple[Path, Path]:
    """coco128's validation images as a shop would have them: YAML and JSON.

    Unicode names in nested folders that repeat, ids in no order, sparse categories, a JSON with a name of its own
    somewhere else, crowds among the objects.
    """
    folder = tmp_path_factory.mktemp("shop")
    content = load(shared / "coco128/annotations/instances_val2017.json")
    crowds = load(shared / "coco128/annotations/instances_train2017.json")
    crowded = {a["image_id"] for a in crowds["annotations"] if a["iscrowd"]}
    more = [image for image in crowds["images"] if image["id"] in crowded]
    content["images"] += more
    content["annotations"] += [a for a in crowds["annotations"] if a["image_id"] in crowded]
    ids = {image["id"]: 5_000_000_000 - 7 * n for n, image in enumerate(content["images"])}
    for number, image in enumerate(content["images"]):
        split = "train2017" if image["id"] in crowded else "val2017"
        source = shared / "coco128" / split / image["file_name"]
        image["id"] = ids[image["id"]]
        image["file_name"] = f"größe {number % 3}/{number // 3:02d}.jpg"  # one stem in three folders
        target = folder / "photos" / image["file_name"]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    for annotation in content["annotations"]:
        annotation["image_id"] = ids[annotation["image_id"]]
        annotation["category_id"] = 1000 - 3 * annotation["category_id"]
    for category in content["categories"]:
        category["id"] = 1000 - 3 * category["id"]
    path = folder / "list of things.json"
    path.write_text(json.dumps(content))
    return convert_coco(
        out=folder / "data", name="shop", sources=[CocoSplit(path, folder / "photos", "val")]
    ).yaml, path


@pytest.mark.parametrize("evaluator", ["faster-coco-eval", "pycocotools"])
def test_any_json_with_its_crowds_and_ids(seeing, shop, random_model, tmp_path, evaluator):
    data, annotations = shop
    content = load(annotations)
    assert any(a["iscrowd"] for a in content["annotations"])
    metrics = KDYOLO(random_model).val(data=str(data), save_dir=str(tmp_path), evaluator=evaluator, **QUIET)
    assert metrics.coco.evaluator.startswith(evaluator)
    assert 0.2 < metrics.coco.ap < 0.9
    assert metrics.coco.images == len(content["images"])
    predictions = load(tmp_path / "predictions.json")
    names = {image["id"]: image["file_name"] for image in content["images"]}
    assert all(p["file_name"] == names[p["image_id"]] for p in predictions)
    assert {p["image_id"] for p in predictions} == {a["image_id"] for a in content["annotations"] if not a["iscrowd"]}
    assert metrics.coco.metrics == pytest.approx(by_hand(annotations, tmp_path / "predictions.json").stats, abs=1e-9)


@pytest.mark.parametrize(
    ("classes", "evaluator"), [([79], "pycocotools"), ([2, 0], "pycocotools"), (79, "faster-coco-eval")]
)
def test_classes_are_those_that_count(seeing, shop, random_model, tmp_path, caplog, evaluator, classes):
    data, annotations = shop
    options = {"save_dir": str(tmp_path), "evaluator": evaluator, "per_class": True, **QUIET}
    found = KDYOLO(random_model).val(data=str(data), classes=classes, **options).coco
    content = yaml.safe_load(data.read_text())
    chosen = sorted(content["category_ids"][index] for index in ([79] if classes == 79 else classes))
    expected = by_hand(annotations, tmp_path / "predictions.json", chosen)
    assert found.metrics == pytest.approx(expected.stats, abs=1e-9)
    assert [c.category_id for c in found.per_class] == chosen
    assert 0 < found.ap < 1
    everything = by_hand(annotations, tmp_path / "predictions.json")
    assert found.ap != pytest.approx(everything.stats[0], abs=1e-3)
    names = {c["id"]: c["name"] for c in load(annotations)["categories"]}
    assert found.categories == tuple(names[category] for category in chosen)
    assert f"official COCO metrics of {', '.join(found.categories)} only: " in caplog.text
    assert load(tmp_path / "coco_metrics.json")["categories"] == list(found.categories)


def test_errors_of_chosen_classes_alone(seeing, shop, random_model, tmp_path, monkeypatch):
    monkeypatch.setattr("kdyolo.metrics.tide_plots.draw_worst", lambda *_: [])
    data, _ = shop
    metrics = KDYOLO(random_model).val(data=str(data), classes=[79], errors=True, save_dir=str(tmp_path), **QUIET)
    assert metrics.errors.ap50 == pytest.approx(metrics.coco.ap50, abs=1e-9)


@pytest.mark.parametrize("classes", [[0, 3], 7, [-1], ["disc"], [], [True], [0.5]])
def test_classes_that_are_none_are_one_clear_error(shapes, random_model, tmp_path, classes):
    words = r"which has 3: 0 \(disc\), 1 \(square\), 2 \(triangle\)|classes takes the number of a class, or a list"
    with pytest.raises(ConfigError, match=words) as raised:
        KDYOLO(random_model).val(data=str(shapes), classes=classes, save_dir=str(tmp_path / "v"), **QUIET)
    assert len(raised.value.mistakes) == 1
    assert not (tmp_path / "v").exists()


def plain(data: Path, folder: Path, **changes: Any) -> Path:
    """A stock data set YAML: the same images and labels, no word of annotations."""
    content = yaml.safe_load(data.read_text())
    for key in ("annotations", "category_ids"):
        content.pop(key)
    path = folder / "plain.yaml"
    path.write_text(yaml.safe_dump({**content, **changes}, allow_unicode=True))
    return path


def test_a_named_file_for_a_stock_data_set(seeing, shop, random_model, tmp_path):
    """Categories by name, as a stock YAML knows no ids."""
    data, annotations = shop
    expected = KDYOLO(random_model).val(data=str(data), save_dir=str(tmp_path / "a"), **QUIET).coco
    found = KDYOLO(random_model).val(
        data=str(plain(data, tmp_path)), annotations=annotations, save_dir=str(tmp_path / "b"), **QUIET
    )
    assert found.coco == expected


def test_a_json_of_another_tool_is_read_as_score_reads_it(seeing, shop, random_model, tmp_path, monkeypatch):
    """Texts for ids, and ids of annotations anew in every image: predictions have the ids of that file."""
    monkeypatch.setattr("kdyolo.metrics.tide_plots.draw_worst", lambda *_: [])
    data, annotations = shop
    expected = KDYOLO(random_model).val(data=str(data), save_dir=str(tmp_path / "a"), **QUIET).coco
    content = load(annotations)
    ids_anew_in_every_image(None, content, [])
    for record in (*content["images"], *content["annotations"]):
        key = "image_id" if "image_id" in record else "id"
        record[key] = f"image {record[key]:012d}"
    for record in (*content["categories"], *content["annotations"]):
        key = "category_id" if "category_id" in record else "id"
        record[key] = f"category {record[key]:04d}"
    odd = tmp_path / "odd.json"
    odd.write_text(json.dumps(content))
    stock = str(plain(data, tmp_path))
    for evaluator in ("faster-coco-eval", "pycocotools"):
        folder = tmp_path / evaluator
        model, options = KDYOLO(random_model), {"evaluator": evaluator, "errors": True}
        found = model.val(data=stock, annotations=odd, save_dir=str(folder), **options, **QUIET)
        predictions = folder / "predictions.json"
        own = by_hand(odd, predictions).stats
        assert {p["image_id"] for p in load(predictions)} <= {image["id"] for image in content["images"]}
        assert found.coco.metrics == pytest.approx(own if evaluator == "pycocotools" else expected.metrics, abs=1e-9)
        assert own[0] != pytest.approx(expected.ap, abs=1e-3)
        assert found.errors.ap50 == pytest.approx(expected.ap50, abs=1e-9)
        assert score_coco(predictions, odd, evaluator=evaluator).metrics == found.coco.metrics
        assert "have the id 0: here" in load(folder / "coco_metrics.json")["notes"][-2 - (evaluator == "pycocotools")]


def test_predictions_of_stock_val_are_scored_as_ours(seeing, shapes, tmp_path):
    """Whose image ids are names, and whose category ids are numbers of the classes."""
    description = yaml_model_load("yolov8n.yaml")
    (tmp_path / "yolov8n.yaml").write_text(yaml.safe_dump({**description, "nc": 3, "yaml_file": None}))
    YOLO(tmp_path / "yolov8n.yaml").save(tmp_path / "three.pt")
    options = {"data": str(shapes), **QUIET, "imgsz": 64, "split": "train"}
    ours = KDYOLO(tmp_path / "three.pt").val(save_dir=str(tmp_path / "ours"), **options).coco
    YOLO(tmp_path / "three.pt").val(save_dir=str(tmp_path / "stock"), save_json=True, **options)
    stock, annotations = tmp_path / "stock/predictions.json", load(tmp_path / "ours/coco_metrics.json")["annotations"]
    assert {d["category_id"] for d in load(stock)} == {1, 2, 3}
    scores = score_coco(stock, annotations)
    assert scores.metrics == pytest.approx(ours.metrics, abs=1e-9)
    assert 0.2 < scores.ap < 0.9
    other = load(Path(annotations))
    ids = {image["id"]: 100 + number for number, image in enumerate(other["images"])}
    for image in other["images"]:
        image["id"], image["file_name"] = ids[image["id"]], f"else/{image['file_name']}"
    for category in other["categories"]:
        category["id"] = 10 * category["id"] + 7
    for annotation in other["annotations"]:
        annotation["image_id"] = ids[annotation["image_id"]]
        annotation["category_id"] = 10 * annotation["category_id"] + 7
    (tmp_path / "other.json").write_text(json.dumps(other))
    again = score_coco(stock, tmp_path / "other.json")
    assert again.metrics == pytest.approx(ours.metrics, abs=1e-9)
    assert len(again.notes) == 2


def test_stock_predictions_whose_names_lost_their_folders_are_refused(seeing, shop, random_model, tmp_path):
    data, annotations = shop
    YOLO(random_model).val(data=str(data), save_dir=str(tmp_path), save_json=True, **QUIET)
    with pytest.raises(DatasetError, match=r"image ids are not in .* e\.g\. .*\.jpg"):
        score_coco(tmp_path / "predictions.json", annotations)


def test_a_stock_data_set_without_json_says_so(seeing, shapes, tmp_path, caplog, capsys):
    data = plain(shapes, tmp_path)
    model = tmp_path / "yolov8n.pt"
    YOLO("yolov8n.yaml").save(model)
    metrics = KDYOLO(model).val(data=str(data), save_dir=str(tmp_path / "v"), save_json=True, **{**QUIET, "imgsz": 64})
    assert metrics.coco is None
    assert metrics.box.map >= 0
    assert "no official COCO metrics: the data set names no COCO annotations for 'val'" in caplog.text
    assert "faster-coco-eval" not in caplog.text  # nothing rebuilt from labels is passed off as official
    assert load(tmp_path / "v/predictions.json")
    for option in ("--per-class", "--errors", "--evaluator=pycocotools"):
        arguments = ("val", "--model", model, "--data", data, "--imgsz", 64, "--device", "cpu", option)
        code, error = fails(capsys, *arguments)
        assert code == 2
        assert "names no COCO annotations" in error


def test_what_cannot_be_scored_fails(shapes, train, tmp_path, capsys):
    model = tmp_path / "run/weights/best.pt"
    train(epochs=1)
    content = yaml.safe_load(shapes.read_text())
    annotations = load(shapes.parent / content["annotations"]["val"])
    changes = {
        "an image more": lambda a: a["images"].append({**a["images"][0], "id": 99, "file_name": "new.jpg"}),
        "an image less": lambda a: a["images"].pop(),
        "no such class": lambda a: a["categories"].pop(0),
        "no number": lambda a: a["annotations"][0].update(bbox=["x", 0, 1, 1]),
    }
    for name, change in changes.items():
        changed = json.loads(json.dumps(annotations))
        change(changed)
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(changed))
        code, error = fails(
            *(capsys, "val", "--model", model, "--data", shapes, "--annotations", path, "--imgsz", 64),
            *("--device", "cpu", "plots=False", f"save_dir={tmp_path / 'val'}"),
        )
        assert code == 1, name
        assert f"{name}.json" in error
        assert not (tmp_path / "val").exists()
    code, error = fails(capsys, "val", "--model", model, "--data", shapes, "--annotations", "none.json")
    assert code == 1
    assert "--annotations none.json: no such file" in error
    with pytest.raises(ConfigError, match="no such file"):
        KDYOLO(model).val(data=str(shapes), annotations="none.json", **QUIET)


def test_a_model_of_other_classes_is_refused(shapes, random_model, tmp_path):
    with pytest.raises(DatasetError, match="the model has 80 classes, the data set 3"):
        KDYOLO(random_model).val(data=str(shapes), save_dir=str(tmp_path / "v"), **QUIET)


def test_images_of_other_channels_are_refused_before_a_word_is_printed(shapes, random_model, tmp_path, capsys):
    (data := tmp_path / "four.yaml").write_text(f"{shapes.read_text()}channels: 4\n")
    with pytest.raises(DatasetError, match=r"takes images of 3 channels.*'channels: 4'.*Expected 'channels: 3'"):
        KDYOLO(random_model).val(data=str(data), save_dir=str(tmp_path / "v"), **QUIET)
    assert not (tmp_path / "v").exists()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("takes", "has"), [("3", 4), ("1", 3), ("3", 1)])
def test_an_exported_model_is_held_to_the_channels_that_it_says(shapes, tmp_path, capsys, takes, has):
    (data := tmp_path / "data.yaml").write_text(f"{shapes.read_text()}channels: {has}\n")
    model = KDYOLO(write_onnx(tmp_path / "m.onnx", **PLAIN, channels=takes))
    with pytest.raises(DatasetError, match=rf"takes images of {takes} channels?, .*'channels: {has}'"):
        model.val(data=str(data), save_dir=str(tmp_path / "v"), **QUIET)
    assert not (tmp_path / "v").exists()
    assert capsys.readouterr() == ("", "")


def test_no_detection_at_all_is_zero_and_leaves_an_empty_file(shapes, train, tmp_path):
    train(epochs=1)
    (tmp_path / "val").mkdir()
    (tmp_path / "val/predictions.json").write_text('["of an earlier run"]')
    metrics = KDYOLO(tmp_path / "run/weights/best.pt").val(
        data=str(shapes), conf=1.0, save_dir=str(tmp_path / "val"), **{**QUIET, "imgsz": 64}
    )
    assert (metrics.coco.ap, metrics.coco.ar100, metrics.coco.detections) == (0, 0, 0)
    assert load(tmp_path / "val/predictions.json") == []


def test_errors_and_pictures(seeing, shop, random_model, tmp_path):
    data, _ = shop
    metrics = KDYOLO(random_model).val(data=str(data), errors=True, save_dir=str(tmp_path), **QUIET)
    assert metrics.errors.ap50 == pytest.approx(metrics.coco.ap50, abs=1e-9)
    assert metrics.errors.count[ErrorKind.CLASSIFICATION] > 0
    assert (tmp_path / "errors.png").is_file()
    pictures = sorted((tmp_path / "errors").iterdir())
    assert len(pictures) == 16
    files = {image.image_id: image for image in metrics.errors.images}
    assert len(files) == metrics.coco.images


def test_the_command_prints_both_tables(seeing, shapes, train, caplog):
    train(epochs=1)
    caplog.clear()
    main(
        f"val --model run/weights/best.pt --data {shapes} --imgsz 64 --device cpu --per-class --errors plots=False "
        "save_dir=val".split()
    )
    text = caplog.text
    assert 0 < text.index("Speed: ") < text.index("official COCO metrics: 4 images") < text.index("errors (TIDE)")
    assert text.count("@[ IoU=") == 12
    assert "triangle" in text[text.index("official COCO") :]


# ---- within a run ----------------------------------------------------------------------------------------------------


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "results.csv").open() as file:
        return list(csv.DictReader(file))


def computed(found: list[dict[str, str]]) -> list[dict[str, str]]:
    """Without what is measured: seconds and memory."""
    return [{k: v for k, v in row.items() if k not in ("time", "memory/GB")} for row in found]


def test_a_run_ends_with_official_numbers_on_best(train, shapes, tmp_path):
    model = train(epochs=1)
    annotations = shapes.parent / "annotations/instances_val.json"
    scored = score_coco(tmp_path / "run/predictions.json", annotations)
    assert model.trainer.validator.scores.metrics == pytest.approx(scored.metrics, abs=1e-9)
    assert "official COCO metrics: 4 images" in (tmp_path / "run/train.log").read_text()
    assert model.trainer.metrics["coco/AP"] == round(scored.ap, 5)
    assert load(tmp_path / "run/coco_metrics.json") == {
        "annotations": str(annotations.resolve()),
        "resize": "letterbox",
        **scored.to_dict(),
        "precision": "fp32",
    }
    (row,) = rows(tmp_path / "run")
    assert not any(column.startswith("coco/") for column in row)
    assert 0.1 < float(row["memory/GB"]) < 100


def test_a_run_for_some_classes_ends_with_their_official_numbers(seeing, train, shapes, tmp_path):
    model = train(epochs=1, classes=[1], coco_eval_period=1)
    annotations = shapes.parent / "annotations/instances_val.json"
    square = next(c["id"] for c in load(annotations)["categories"] if c["name"] == "square")
    expected = by_hand(annotations, tmp_path / "run/predictions.json", [square]).stats
    scores = model.trainer.validator.scores
    assert scores.metrics == pytest.approx(expected, abs=1e-9)
    assert scores.categories == ("square",)
    assert scores.ap > 0.2
    assert load(tmp_path / "run/coco_metrics.json")["categories"] == ["square"]
    assert float(rows(tmp_path / "run")[0]["coco/AP"]) == pytest.approx(scores.ap, abs=1e-5)
    assert "official COCO metrics of square only: AP " in (tmp_path / "run/train.log").read_text()


@pytest.mark.parametrize("classes", [[3], 7, -1, [], True, 0.5, [[1]], [{}], "disc", float("nan")], ids=str)
def test_a_run_for_classes_that_are_none_is_refused(train, tmp_path, classes):
    words = r"classes=.*: expected indices of classes of the data set|classes takes the number of a class, or a list"
    with pytest.raises(ConfigError, match=words):
        train(epochs=1, classes=classes, work_dir=tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


def test_one_class_may_be_given_without_a_list(set_up):
    labels = []
    set_up({"model": "kdyolov8n.yaml"}, lambda trainer: labels.extend(trainer.train_loader.dataset.labels), classes=1)
    assert {int(index) for label in labels for index in label["cls"].ravel()} == {1}


def test_the_end_of_a_run_is_evaluated_as_the_command_evaluates(train, shapes, tmp_path, monkeypatch):
    """In full precision, also where training was evaluated in half, and in batches of the same padding."""
    asked = []

    class Backend(validator.AutoBackend):
        def __init__(self, *args, **keywords):
            asked.append({name: keywords[name] for name in ("fp16", "channels_last", "end2end")})
            super().__init__(*args, **keywords)

    def as_on_a_gpu(found):
        if found.training:
            found.args.quantize = 16  # what Ultralytics sets there with amp

    monkeypatch.setattr(validator, "AutoBackend", Backend)
    loaded = []
    callbacks = {"on_val_end": as_on_a_gpu, "on_val_start": lambda found: loaded.append(vars(found.args).copy())}
    train(epochs=1, amp=True, batch=2, callbacks=callbacks)
    of_run = load(tmp_path / "run/coco_metrics.json")
    best = KDYOLO(tmp_path / "run/weights/best.pt")
    best.add_callback("on_val_start", callbacks["on_val_start"])
    coco = best.val(data=str(shapes), device="cpu", plots=False, save_dir=str(tmp_path / "val")).coco
    assert asked[0] == asked[1]
    assert asked[0]["fp16"] is False
    assert of_run["precision"] == coco.precision == "fp32"
    assert "; network in fp32)" in (tmp_path / "run/train.log").read_text()
    _, at_the_end, by_command = loaded
    differ = {key for key in by_command if key in at_the_end and by_command[key] != at_the_end[key]}
    assert not differ & {"rect", "batch", "imgsz", "conf", "iou", "max_det", "quantize", "augment", "compile", "cache"}
    assert {key: of_run[key] for key in coco.to_dict()} == coco.to_dict()


def test_half_precision_where_the_user_asks_for_it(shapes, random_model, tmp_path, monkeypatch):
    class Asked(Exception):
        pass

    def backend(*_, fp16, **__):
        raise Asked(fp16)

    monkeypatch.setattr(validator, "AutoBackend", backend)
    for half in (True, False):
        with pytest.raises(Asked, match=str(half)):
            KDYOLO(random_model).val(data=str(shapes), half=half, save_dir=str(tmp_path / "v"), **QUIET)


def test_precision_in_words():
    found = KDValidator(args={"data": "coco.yaml", "save_dir": "."})
    named = []
    for found.args.quantize, found.training in ((None, False), (None, True), (16, False), (16, True)):
        named.append(found.precision)
    assert named == ["fp32", "fp32", "fp16", "fp16 autocast"]


def test_only_a_model_that_nobody_else_uses_is_evaluated_without_a_copy(shapes, tmp_path):
    model = torch.nn.Linear(1, 1)
    validator = KDValidator(args={"data": str(shapes)}, save_dir=tmp_path)
    assert validator.get_model(model) is not model
    validator.as_command(plots=False)  # as a training does with what it has read for its last evaluation
    assert validator.get_model(model) is model


def test_a_period_fills_results_csv_and_changes_no_bit(seeing, train, tmp_path):
    finished = {}
    for period in (0, 2):
        run = tmp_path / f"period {period}"
        model = train(epochs=5, freeze_epochs=1, coco_eval_period=period, work_dir=run, plots=bool(period))
        finished[period] = model.trainer.ema.ema.state_dict(), rows(run)
    weights, found = finished[2]
    assert all(torch.equal(tensor, weights[name]) for name, tensor in finished[0][0].items())
    official = [[float(row[f"coco/{name}"]) for name in NAMES] for row in found]
    assert [all(map(math.isnan, values)) for values in official] == [True, False, True, False, True]
    assert 0.2 < official[1][0] < 0.9
    assert official[1] == pytest.approx(model.trainer.validator.scores.metrics, abs=1e-5)
    others = [{k: v for k, v in row.items() if not k.startswith("coco/")} for row in computed(found)]
    assert others == computed(finished[0][1])
    assert (run / "results.png").is_file()


def test_a_period_survives_an_interruption(seeing, train, tmp_path):
    def stop(trainer):
        if trainer.epoch == 3:
            raise KeyboardInterrupt

    whole = train(epochs=4, coco_eval_period=2, work_dir=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(callbacks={"on_train_batch_start": stop}, epochs=4, coco_eval_period=2)
    KDYOLO(tmp_path / "run/weights/last.pt").train(resume=True)

    assert computed(rows(tmp_path / "run")) == computed(rows(tmp_path / "whole"))
    assert float(rows(tmp_path / "run")[3]["coco/AP"]) > 0.2
    assert whole.trainer.settings.coco_eval_period == 2


def test_broken_annotations_stop_a_run_before_it_starts(train, shapes, tmp_path):
    content = yaml.safe_load(shapes.read_text())
    (tmp_path / "broken.json").write_text("{")
    content["annotations"]["val"] = str(tmp_path / "broken.json")
    (tmp_path / "broken.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(DatasetError, match=r"broken\.json"):
        train(data=str(tmp_path / "broken.yaml"))
    assert not (tmp_path / "run").exists()


def test_a_run_on_a_stock_data_set(train, shapes, tmp_path):
    data = str(plain(shapes, tmp_path))
    with pytest.raises(ConfigError, match="names no COCO annotations"):
        train(data=data, coco_eval_period=1)
    assert not (tmp_path / "run").exists()
    train(data=data, epochs=1)
    log = (tmp_path / "run/train.log").read_text()
    assert "no official COCO metrics: the data set names no COCO annotations" in log
    assert not (tmp_path / "run/predictions.json").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"coco_eval_period": -1}, "number of epochs"),
        ({"coco_eval_period": 2.5}, "number of epochs"),
        ({"coco_eval_period": 2, "val": False}, "exclude each other"),
        ({"coco_eval_period": 2, "single_cls": True}, "exclude each other"),
    ],
)
def test_wrong_periods(train, tmp_path, options, words):
    with pytest.raises(ConfigError, match=words):
        train(**{**FAST, **options})
    assert not (tmp_path / "run").exists()
