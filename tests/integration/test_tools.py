"""What convert takes, train, val, score and to-coco take: every file that a tool writes goes through all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdyolo import KDYOLO, CocoSplit, convert_coco, score_coco, to_coco
from kdyolo.cli import main
from tests.builders.coco import box, image, photo, yolo_dataset
from tests.builders.coco_tools import LABELS, TOOLS, regular, write_tool_files
from tests.builders.training import FAST


@pytest.fixture(scope="module")
def data_sets(tmp_path_factory) -> dict[str, Path]:
    """The folder of each case: the file of the tool is in it, the data set made of it in ``out``."""
    folder = tmp_path_factory.mktemp("tools")
    found = {}
    for number, (case, (change, _)) in enumerate(TOOLS.items()):
        found[case] = folder / str(number)
        path, images = write_tool_files(found[case], change)
        convert_coco(out=found[case] / "out", sources=[CocoSplit(path, images, "train")])
    return found


def predictions(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Every object found where it is, by the ids of the file."""
    boxes = [record["bbox"] for record in regular()["annotations"]]
    ids = [{key: record[key] for key in ("image_id", "category_id")} for record in document["annotations"]]
    return [{**of, "bbox": found, "score": 0.9} for of, found in zip(ids, boxes, strict=True)]


@pytest.mark.parametrize("case", TOOLS)
def test_score_and_to_coco_read_the_same(data_sets, tmp_path, case):
    folder = data_sets[case]
    for path in (folder / "ann.json", folder / "out/annotations/instances_train.json"):
        (tmp_path / "found.json").write_text(json.dumps(predictions(json.loads(path.read_text()))))
        assert score_coco(tmp_path / "found.json", path).ap == pytest.approx(1)
    to_coco(folder / "out/coco.yaml", tmp_path / "back.json", split="train")
    back = json.loads((tmp_path / "back.json").read_text())["annotations"]
    found = sorted(record["bbox"] for record in back)
    assert found == [pytest.approx(record["bbox"], abs=1e-3) for record in regular()["annotations"]]


@pytest.fixture(scope="module")
def trained(data_sets, checkpoint, tmp_path_factory) -> KDYOLO:
    """A detector that has seen the objects of all data sets once."""
    folder = tmp_path_factory.mktemp("trained")
    lists = [str(place / "out/train.txt") for place in data_sets.values()]
    data = folder / "all.yaml"
    data.write_text(yaml.safe_dump({"train": lists, "val": lists[:1], "names": ["cat", "dog"]}))
    seen = []
    model = KDYOLO(backbone=checkpoint)
    model.add_callback("on_train_start", lambda trainer: seen.extend(trainer.train_loader.dataset.labels))
    model.train(**{**FAST, "data": str(data), "epochs": 1, "batch": 16, "work_dir": str(folder / "run")})
    assert len(seen) == 2 * len(TOOLS)
    assert sorted(int(index) for label in seen for index in label["cls"].flatten()) == [
        *[0] * len(TOOLS),
        *[1] * len(TOOLS),
    ]
    return model


@pytest.mark.parametrize("case", TOOLS)
def test_val_reads_the_same(trained, data_sets, case):
    data = data_sets[case] / "out/coco.yaml"
    metrics = trained.val(data=str(data), imgsz=64, device="cpu", plots=False, save_json=True)
    assert metrics.coco is not None
    assert metrics.coco.objects == 2
    assert len(LABELS) == metrics.coco.images


def test_a_split_that_lists_fewer_categories_is_evaluated(trained, tmp_path):
    """As pylabel writes it: each file has the categories that occur in it."""
    for split, number in (("train", 1), ("val", 0)):
        document = regular()
        document["images"] = document["images"][number:][:1] if split == "val" else document["images"]
        if split == "val":
            document["annotations"], document["categories"] = document["annotations"][:1], document["categories"][:1]
        for record in document["images"]:
            photo(tmp_path / "root/images" / split / record["file_name"], (100, 80))
        path = tmp_path / f"root/annotations/instances_{split}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(document))
    convert_coco(tmp_path / "root", tmp_path / "out")
    metrics = trained.val(data=str(tmp_path / "out/coco.yaml"), imgsz=64, device="cpu", plots=False, save_json=True)
    assert [scores.name for scores in metrics.coco.per_class] == ["cat", "dog"]
    assert metrics.coco.per_class[1].ap == -1


# --- Nobody trains on nothing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["train", "train --dry-run", "doctor"])
def test_a_split_without_boxes_is_refused(checkpoint, tmp_path, monkeypatch, capsys, command):
    data = yolo_dataset(tmp_path / "data", {"a.jpg": "", "b.jpg": ""})
    monkeypatch.chdir(tmp_path)
    fast = ("--backbone", str(checkpoint), *(() if command == "doctor" else ("--epochs", "1", "--device", "cpu")))
    with pytest.raises(SystemExit) as end:
        main([*command.split(), "--data", str(data), *fast])
    error = capsys.readouterr().err
    assert end.value.code == 1
    assert "expected objects in the train images, found none in 2 of them" in error
    assert "Traceback" not in error


def test_many_crowds_are_told_wherever_the_data_set_is_checked(checkpoint, tmp_path, monkeypatch, capsys):
    document = {
        "images": [image()],
        "annotations": [box(i, iscrowd=int(i > 0)) for i in range(4)],
        "categories": regular()["categories"],
    }
    photo(tmp_path / "img/a.jpg")
    (tmp_path / "ann.json").write_text(json.dumps(document))
    convert_coco(out=tmp_path / "out", sources=[CocoSplit(tmp_path / "ann.json", tmp_path / "img", "train")])
    monkeypatch.chdir(tmp_path)
    lines: list[str] = []
    for level in ("info", "warning"):
        monkeypatch.setattr(f"ultralytics.utils.LOGGER.{level}", lambda text, *_: lines.append(str(text)))
    main(["doctor", "--data", "out/coco.yaml"])
    fast = ("--backbone", str(checkpoint), "--epochs", "1", "--imgsz", "64", "--batch", "1", "--device", "cpu")
    main(["train", "--data", "out/coco.yaml", "--dry-run", *fast])
    words = "train: 3 of 4 objects were crowd regions (iscrowd 1), and are background now"
    assert words in capsys.readouterr().out
    assert words in "\n".join(lines)
