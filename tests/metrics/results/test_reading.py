"""Results of people's tools for a ground truth: the right number, or what is wrong and what to do."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask
from ultralytics.data import converter

from kdyolo.errors import ConfigError, DatasetError
from kdyolo.metrics.bootstrap import Accumulator
from kdyolo.metrics.coco_files import read_ground_truth
from kdyolo.metrics.coco_metrics import score_coco
from kdyolo.metrics.matching import match_detections
from kdyolo.metrics.results.reading import read_detections
from tests.builders.coco_results import random_detections, random_ground_truth, write_json
from tests.builders.coco_spellings import SIDE, rectangle
from tests.metrics.test_coco_metrics import by_hand

TRUTH = {
    "images": [{"id": i, "file_name": f"{name}.jpg", "width": 100, "height": 80} for i, name in ((1, "a"), (2, "b"))],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 30], "area": 600, "iscrowd": 0},
        {"id": 2, "image_id": 2, "category_id": 2, "bbox": [40, 20, 30, 30], "area": 900, "iscrowd": 0},
    ],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
}
FOUND = [
    {"image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 30], "score": 0.9},
    {"image_id": 2, "category_id": 2, "bbox": [40, 20, 30, 30], "score": 0.8},
]


def score(folder: Path, found: object, truth: object = TRUTH, **options):
    return score_coco(write_json(folder / "pred.json", found), write_json(folder / "ann.json", truth), **options)


def changed(**values) -> list[dict]:
    """The detections with other values: a function of the detection, or what each of the two has."""
    found = copy.deepcopy(FOUND)
    for index, detection in enumerate(found):
        detection.update({k: v(detection) if callable(v) else v[index] for k, v in values.items()})
    return found


def without(*keys: str, found: list[dict] = FOUND) -> list[dict]:
    return [{k: v for k, v in detection.items() if k not in keys} for detection in found]


def x1y1x2y2(detection: dict) -> list[float]:
    x, y, w, h = detection["bbox"]
    return [x, y, x + w, y + h]


PERFECT = {
    "as asked": FOUND,
    "float categories": changed(category_id=[1.0, 2.0]),
    "text categories": changed(category_id=["1", "2.0"]),
    "float images": changed(image_id=[1.0, 2.0]),
    "text images": changed(image_id=["1", "2"]),
    "text numbers": changed(score=["0.9", "8e-1"], bbox=lambda d: [str(v) for v in d["bbox"]]),
    "names of categories": changed(category_id=["cat", "dog"]),
    "names of images": changed(image_id=["a", "b.jpg"]),
    "paths of images": changed(image_id=["x", "y"], file_name=["C:\\data\\a.jpg", "/mnt/data/b.png"]),
    "no image ids": without("image_id", found=changed(file_name=["a.jpg", "b.jpg"])),
    "more keys": changed(area=[1, 2], id=[7, 7], segmentation=[[], []], caption=["x", None], iscrowd=[1, 1]),
    "wrapper": {"annotations": FOUND},
    "wrapper of predictions": {"info": {}, "predictions": FOUND},
    "masks": without("bbox", found=changed(segmentation=[[rectangle(d["bbox"])] for d in FOUND])),
    "a mask and a box": [{**FOUND[0], "bbox": [], "segmentation": [rectangle(FOUND[0]["bbox"])]}, FOUND[1]],
    "keypoints": without("bbox", found=changed(keypoints=[[10, 10, 2, 30, 40, 1], [40, 50, 0, 70, 20, 2]])),
    "rotated": without("bbox", found=changed(poly=[rectangle(d["bbox"]) for d in FOUND], rbox=[[1] * 5, [1] * 5])),
    "rounded up": changed(bbox=[[10, 10, 20, 30.0001], [40, 20, 30, 30]]),
    "one at the border": [*FOUND, {**FOUND[0], "bbox": [80, 60, 21, 21], "score": 0.1}],
}


@pytest.mark.parametrize("name", PERFECT)
def test_what_is_read(tmp_path, name):
    scores = score(tmp_path, PERFECT[name])
    assert (scores.ap, scores.ap_small) == (1.0, 1.0)
    assert scores.ap_medium == -1


TOLD = {
    "masks": "2 predictions have no bbox: scored with the box of their mask",
    "keypoints": "2 predictions have no bbox: scored with the box of their keypoints",
    "rotated": "2 predictions have no bbox: scored with the box of their rotated box",
    "text categories": "2 predictions have a category_id that is a number where the annotations have a text",
    "names of categories": "pred.json: category ids are names, matched with those of ann.json (e.g. 'cat' is 1 there)",
    "names of images": "pred.json: image ids are made of file names, as stock Ultralytics does",
}


@pytest.mark.parametrize("name", TOLD)
def test_what_is_told_about_it(tmp_path, name):
    scores = score(tmp_path, PERFECT[name])
    assert any(note.startswith(TOLD[name]) for note in scores.notes), scores.notes
    assert scores.to_dict()["notes"] == list(scores.notes)
    assert f"note: {TOLD[name]}" in scores.table()
    assert score(tmp_path, FOUND).notes == ()


NO_BOX = without("bbox")[0]
REFUSED = {
    "corners": (changed(bbox=x1y1x2y2), ["boxes are corners x1, y1, x2, y2", "write [x1, y1, x2 − x1, y2 − y1]"]),
    "centres": (
        changed(bbox=[[20, 25, 20, 30], [55, 35, 30, 30]]),
        ["boxes are centre x, centre y, width, height", "[x − width / 2, y − height / 2, width, height]"],
    ),
    "shares": (changed(bbox=[[0.1, 0.125, 0.2, 0.375], [0.4, 0.25, 0.3, 0.375]]), ["shares of the image as left, top"]),
    "shares of centres": (
        changed(bbox=[[0.2, 0.3125, 0.2, 0.375], [0.55, 0.4375, 0.3, 0.375]]),
        ["shares of the image as centre x", "after turning centre x"],
    ),
    "shares of corners": (
        changed(bbox=[[0.1, 0.125, 0.3, 0.5], [0.4, 0.25, 0.7, 0.625]]),
        ["shares of the image as corners", "0.7", "70"],
    ),
    "shares of nothing": ([{**FOUND[0], "bbox": [0.9, 0.9, 0.1, 0.1]}], ["boxes are shares of the image: no number"]),
    "damaged mask": (
        [{**NO_BOX, "segmentation": {"size": [80, 100], "counts": "abc"}}, FOUND[1]],
        ["$[0].segmentation", "damaged RLE", "1 of 2 entries"],
    ),
    "mask of another size": (
        [{**NO_BOX, "segmentation": {"size": [80, 100], "counts": [10, 20]}}],
        ["its runs have 30 pixels, the image 8,000"],
    ),
    "mask without size": ([{**NO_BOX, "segmentation": {"counts": [10, 20]}}], ["$[0].segmentation", "size"]),
    "two corners": ([{**NO_BOX, "segmentation": [[1, 2, 3, 4]]}], ["$[0].segmentation", "three corners"]),
    "no box": (without("bbox"), ["$[0] has no bbox", "$[1] has no bbox", "2 of 2 entries"]),
    "NaN": (changed(score=[0.5, float("nan")]), ["$[1].score is NaN"]),
    "NaN box": (changed(bbox=[[1, 2, float("nan"), 3], [1, 2, float("inf"), 3]]), ["which has NaN", "is infinite"]),
    "ground truth": (TRUTH, ["expected predictions, found COCO annotations", "are the two files exchanged?"]),
    "annotations": (TRUTH["annotations"], ["$[0].score is missing"]),
    "another split": (changed(image_id=[1, 77]), ["1 of its 2 image ids", "e.g. 77", "another split"]),
    "another split by name": (changed(image_id=["c", "d"]), ["e.g. 'c'", "there are 2, e.g. 1 ('a.jpg')"]),
    "a misspelt name": (changed(image_id=["a", "b_resized"]), ["e.g. 'b_resized'"]),
    "one file twice": (changed(image_id=["x", "y"], file_name=["a.jpg", "a.jpg"]), ["2 images lead to only 1 file"]),
    "id and name": (
        changed(image_id=[1, 2], file_name=["b.jpg", "a.jpg"]),
        ["image_id and file_name disagree for 2 images", "'b.jpg' has the image_id 1, which is 'a.jpg'"],
    ),
    "no category": (changed(category_id=["fish", "bird"]), ["none of its category ids ('bird', 'fish')", "1 ('cat')"]),
    "far ids": (changed(category_id=[17, 18]), ["none of its category ids (17, 18)", "--category-offset N"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(tmp_path, name):
    found, words = REFUSED[name]
    with pytest.raises(DatasetError, match=r"pred\.json") as error:
        score(tmp_path, found)
    assert all(word in str(error.value) for word in words), error.value


def test_categories_that_the_ground_truth_lacks_do_not_count(tmp_path):
    for other in ("bird", 99):
        scores = score(tmp_path, [*FOUND, {**FOUND[0], "category_id": other, "score": 1}])
        assert scores.ap == 1.0
        assert scores.notes[0].startswith("1 detection of categories that ann.json lacks")


def test_places_of_categories_whose_ids_are_texts(tmp_path):
    truth = copy.deepcopy(TRUTH)
    for record in truth["categories"]:
        record["id"] = f"c{record['id']}"
    for annotation in truth["annotations"]:
        annotation["category_id"] = f"c{annotation['category_id']}"
    scores = score(tmp_path, FOUND, truth)
    assert scores.ap == 1.0
    assert "counted from 1, as boxes show" in scores.notes[-1]
    assert score(tmp_path, changed(category_id=["c1", "c2"]), truth).notes == scores.notes[:1]
    with pytest.raises(DatasetError, match=r"none of its category ids \(1, 2\) is in .* has 'c1', 'c2'"):
        score(tmp_path, FOUND, truth, category_offset=0)


def test_predictions_given_as_ground_truth(tmp_path):
    for found in (FOUND, [FOUND[0]]):
        with pytest.raises(DatasetError, match=r"ann\.json: expected COCO annotations.*are the two files exchanged"):
            score(tmp_path, TRUTH, found)


def test_a_wrapper_with_tables_of_its_own(tmp_path):
    """Its ids mean what its tables say."""
    images = [{"id": 50, "file_name": "b.jpg"}, {"id": 40, "file_name": "a.jpg"}]
    categories = [{"id": 2, "name": "cat"}, {"id": 1, "name": "dog"}]
    found = changed(image_id=[40, 50], category_id=[2, 1])
    scores = score(tmp_path, {"images": images, "categories": categories, "annotations": found})
    assert scores.ap == 1.0
    assert "pred.json has a table of categories of its own with other ids: matched by name" in scores.notes[1]
    with pytest.raises(DatasetError, match="exchanged"):
        score(tmp_path, {"images": images, "categories": categories, "annotations": TRUTH["annotations"]})


SCORES = {
    "scores go up to 98, as percent do": [98, 7],
    "scores lie between -3 and 4, not in 0–1": [4, -3],
    "scores lie between 0.5 and 250, not in 0–1": [250, 0.5],
}


@pytest.mark.parametrize("note", SCORES)
def test_scores_that_are_no_probabilities_count_in_their_order(tmp_path, note):
    scores = score(tmp_path, changed(score=SCORES[note]))
    assert scores.ap == 1.0
    assert [n[: len(note)] for n in scores.notes] == [note]


def test_equal_scores_are_told(tmp_path):
    truth = random_ground_truth(3)
    found = random_detections(truth, 3)
    assert score(tmp_path, found, truth).notes == ()
    flat = [{**d, "score": 1} for d in found]
    assert score(tmp_path, flat, truth).notes[0].startswith(f"all {len(found)} scores are 1: their order in the file")


# ---- masks and files of other tools ----------------------------------------------------------------------------------


def triangle(box: list[float]) -> dict:
    """A mask that fills half of its box, as run-length encoding."""
    x, y, w, h = box
    encoded = mask.frPyObjects([[x, y, x + w, y, x, y + h]], SIDE, SIDE)[0]
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def test_areas_of_masks_decide_as_in_pycocotools(tmp_path):
    """A triangle of a medium box may be small, which counts where it matches no object of its size."""
    truth = random_ground_truth(7)
    found = [{**d, "segmentation": triangle(d["bbox"])} for d in random_detections(truth, 8, 0.03)]
    found = [d for d in found if sum(mask.toBbox(d["segmentation"])[2:]) > 0]
    first_without = [{k: v for k, v in d.items() if i or k != "bbox"} for i, d in enumerate(found)]
    metrics = set()
    for each in (found, first_without, without("bbox", found=found)):
        expected = by_hand(write_json(tmp_path / "ann.json", truth), write_json(tmp_path / "pred.json", each))
        for evaluator in ("faster-coco-eval", "pycocotools"):
            scores = score(tmp_path, each, truth, evaluator=evaluator)
            assert scores.metrics == pytest.approx(expected.stats, abs=1e-9)
        metrics.add(scores.metrics)
        results = read_detections(tmp_path / "pred.json", read_ground_truth(tmp_path / "ann.json"))
        accumulated = Accumulator(match_detections(read_ground_truth(tmp_path / "ann.json"), results.detections))
        assert accumulated(np.ones(40)) == pytest.approx(expected.stats, abs=1e-9)
    assert len(metrics) == 3


def test_files_of_torchmetrics(tmp_path):
    """Images with an id and nothing else; IoU of 304 and 392 columns, 0.7755: AP is 6 of 10 thresholds."""
    truth = {
        "images": [{"id": 0}],
        "annotations": [
            {"id": 1, "image_id": 0, "area": 84912.0, "category_id": 0, "iscrowd": 0, "bbox": [214.0, 41, 348, 244]}
        ],
        "categories": [{"id": 0, "name": "0"}],
    }
    found = [{"id": 1, "image_id": 0, "area": 84912.0, "category_id": 0, "bbox": [258.0, 41, 348, 244], "score": 0.536}]
    assert score(tmp_path, found, truth).ap == pytest.approx(0.6)


def test_stock_predictions_of_twelve_images(shared):
    folder = shared / "cases/score/ultralytics_predictions"
    files = folder / "predictions.json", folder / "gt.json"
    scores = score_coco(*files)
    assert scores.ap == pytest.approx(0.614, abs=5e-4)
    assert "image ids are made of file names" in scores.notes[0]
    assert "category ids are shifted by +1, as boxes show, and are corrected: 1 → 0 ('disc')" in scores.notes[1]
    assert score_coco(*files, category_offset=-1).metrics == scores.metrics
    assert score_coco(*files, category_offset="0").ap == pytest.approx(0.083, abs=5e-4)
    assert score_coco(*files, evaluator="pycocotools").metrics == pytest.approx(scores.metrics, abs=1e-9)


# ---- stock Ultralytics ---------------------------------------------------------------------------------------------


def as_ultralytics(found: list[dict], truth: dict) -> list[dict]:
    """What ``DetectionValidator.pred_to_json`` writes for a data set that it does not take for COCO's."""
    names = {image["id"]: Path(image["file_name"]) for image in truth["images"]}
    places = {
        category["id"]: index for index, category in enumerate(sorted(truth["categories"], key=lambda c: c["id"]))
    }
    return [
        {
            "image_id": int(stem) if (stem := names[d["image_id"]].stem).isnumeric() else stem,
            "file_name": names[d["image_id"]].name,
            "category_id": places[d["category_id"]] + 1,
            "bbox": d["bbox"],
            "score": d["score"],
        }
        for d in found
    ]


NAMINGS = {
    "text": lambda n: f"frame {n:03d}.jpg",
    "numbers that are ids of other images": lambda n: f"{n + 1:06d}.png",
    "in folders": lambda n: f"val/part {n % 3}/{n + 100}.jpeg",
    "with dots": lambda n: f"2024.05.{n:02d}.rf.abc.jpg",
}
NUMBERINGS = {"from 0": lambda n: n, "from 1": lambda n: n + 1, "sparse": lambda n: 3 * n + 2, "far": lambda n: n + 500}


@pytest.mark.parametrize("numbering", NUMBERINGS)
@pytest.mark.parametrize("naming", NAMINGS)
def test_stock_ultralytics_predictions_of_any_data_set(tmp_path, naming, numbering):
    truth = random_ground_truth(5, images=20)
    image_ids = {i["id"]: n for n, i in enumerate(truth["images"])}
    category_ids = {c["id"]: NUMBERINGS[numbering](n) for n, c in enumerate(truth["categories"])}
    for image in truth["images"]:
        image["file_name"], image["id"] = NAMINGS[naming](image_ids[image["id"]]), image_ids[image["id"]]
    for category in truth["categories"]:
        category["id"] = category_ids[category["id"]]
    for record in truth["annotations"]:
        record.update(image_id=image_ids[record["image_id"]], category_id=category_ids[record["category_id"]])
    found = random_detections(truth, 6)
    expected = score(tmp_path, found, truth)
    assert 0.1 < expected.ap < 0.9
    assert expected.notes == ()
    stock = as_ultralytics(found, truth)
    scores = score(tmp_path, stock, truth)
    assert scores.metrics == expected.metrics
    assert len(scores.notes) == 1 + (numbering != "from 1")
    assert score(tmp_path, stock, truth, category_offset="from-1").metrics == expected.metrics
    unnamed = [{k: v for k, v in d.items() if k != "file_name"} for d in stock]  # as Ultralytics wrote before 8.3
    assert score(tmp_path, unnamed, truth).metrics == expected.metrics


def test_stock_predictions_of_another_split_whose_ids_occur(tmp_path):
    found = changed(image_id=[1, 2], file_name=["000001.jpg", "000002.jpg"])
    with pytest.raises(DatasetError, match=r"none of its file names is in .* e\.g\. '000001\.jpg'.*another split"):
        score(tmp_path, found)
    drawn = changed(file_name=["drawn 1.png", "drawn 2.png"])  # names of something else say nothing
    assert (score(tmp_path, drawn).ap, score(tmp_path, drawn).notes) == (1.0, ())


def test_names_that_stand_for_two_images_are_refused(tmp_path):
    truth = copy.deepcopy(TRUTH)
    for image, folder in zip(truth["images"], "xy", strict=True):
        image["file_name"] = f"{folder}/1.jpg"
    with pytest.raises(DatasetError, match="1 of its 2 image ids are not in"):
        score(tmp_path, changed(image_id=["1", "one"], file_name=["1.jpg", "1.jpg"]), truth)


COCO_IDS = converter.coco80_to_coco91_class()
# ---- categories ----------------------------------------------------------------------------------------------------


def numbered(first: int, step: int = 1, count: int = 5, seed: int = 5) -> tuple[dict, list[dict]]:
    truth = random_ground_truth(seed, images=20, categories=count)
    ids = {c["id"]: first + step * n for n, c in enumerate(sorted(truth["categories"], key=lambda c: c["id"]))}
    for category in truth["categories"]:
        category["id"] = ids[category["id"]]
    for annotation in truth["annotations"]:
        annotation["category_id"] = ids[annotation["category_id"]]
    return truth, random_detections(truth, seed + 1)


@pytest.mark.parametrize(
    ("first", "step", "read", "option"),
    [
        (1, 1, lambda c: c - 1, "1"),  # class indices
        (0, 1, lambda c: c + 1, "-1"),  # stock Ultralytics
        (2, 3, lambda c: (c - 2) // 3, "from-0"),
        (2, 3, lambda c: (c - 2) // 3 + 1, "from-1"),
        (100, 1, lambda c: COCO_IDS[c - 100], "coco"),  # stock Ultralytics for a path that looks like COCO's
    ],
)
def test_numbers_of_categories_are_recognised_by_the_boxes(tmp_path, first, step, read, option):
    truth, found = numbered(first, step, count=30 if option == "coco" else 5)
    expected = score(tmp_path, found, truth)
    other = [{**d, "category_id": read(d["category_id"])} for d in found]
    scores = score(tmp_path, other, truth)
    assert scores.metrics == expected.metrics
    assert "as boxes show, and are corrected" in scores.notes[0]
    assert "--category-offset 0 takes them as they are" in scores.notes[0]
    told = score(tmp_path, other, truth, category_offset=option)
    assert told.metrics == expected.metrics
    assert f"read with --category-offset {option}" in told.notes[0]
    some = {d["category_id"] for d in other} - {max(d["category_id"] for d in other)}
    part = [d for d in other if d["category_id"] in some]
    kept = [d for d, o in zip(found, other, strict=True) if o["category_id"] in some]
    assert score(tmp_path, part, truth).metrics == score(tmp_path, kept, truth).metrics


def test_one_class_counted_from_0_or_1(tmp_path):
    for first, other in ((0, 1), (1, 0), (5, 1), (5, 0)):
        truth, found = numbered(first, count=2)
        truth["categories"] = [{"id": first, "name": "all"}]
        for annotation in truth["annotations"]:
            annotation["category_id"] = first
        found = [{**d, "category_id": other} for d in found]
        assert score(tmp_path, found, truth).ap > 0.1
        far = [{**d, "bbox": [0, 0, 3, 3]} for d in found]
        with pytest.raises(
            DatasetError, match=r"Say which: --category-offset .*; --category-offset 0 takes them as they"
        ):
            score(tmp_path, far, truth)
        assert score(tmp_path, far, truth, category_offset="0" if other == first else str(first - other)).ap == 0


def test_what_boxes_do_not_decide_is_refused_with_the_choices(tmp_path):
    truth, found = numbered(0)
    rng = np.random.default_rng(0)
    shuffled = [{**d, "category_id": int(rng.integers(1, 6))} for d in found]
    with pytest.raises(DatasetError) as error:
        score(tmp_path, shuffled, truth)
    assert "category ids 5 are not in" in str(error.value)
    assert "--category-offset -1 if they are shifted by +1" in str(error.value)
    assert "2 detections" not in str(error.value)
    scores = score(tmp_path, shuffled, truth, category_offset=0)
    assert "of categories that ann.json lacks (id 5) do not count" in scores.notes[0]
    with pytest.raises(
        ConfigError, match="--category-offset 'up': expected a whole number, auto, from-0, from-1 or coco"
    ):
        score(tmp_path, found, truth, category_offset="up")


# ---- no false alarm ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_good_noisy_and_random_detections_are_taken_as_they_are(shared, tmp_path, seed):
    rng = np.random.default_rng(seed)
    if seed % 3:
        truth = random_ground_truth(seed, images=int(rng.choice([1, 3, 30])), categories=int(rng.choice([2, 10])))
    else:
        split = ("train", "val")[seed % 2]
        truth = json.loads((shared / f"coco128/annotations/instances_{split}2017.json").read_text())
    sides = {i["id"]: np.array([i["width"], i["height"]]) for i in truth["images"]}
    categories = [c["id"] for c in truth["categories"]]
    chance = []
    for image, size in sides.items():
        for _ in range(rng.integers(0, 1 + int(rng.choice([1, 40])))):
            near, far = np.sort(rng.uniform(0, 1, (2, 2)), axis=0) * size
            box = [*near.tolist(), *(far - near).tolist()]
            score_, category = float(rng.random()), int(rng.choice(categories))
            chance.append({"image_id": image, "category_id": category, "bbox": box, "score": score_})
    annotations = read_ground_truth(write_json(tmp_path / "ann.json", truth))
    for found in (chance, random_detections(truth, seed, 0.05), random_detections(truth, seed, 0.4)):
        results = read_detections(write_json(tmp_path / "pred.json", found), annotations)
        assert results.notes == ()
        assert not results.irregular
        assert results.detections == found


# ---- the files that failed -----------------------------------------------------------------------------------------

CASES = {
    "float_cat": None,
    "gt_nobbox": "1 annotation has no bbox",
    "gt_nocatname": None,
    "gt_nofilename": None,
    "gt_nullarea": "1 annotation has no area",
    "gt_strids": None,
    "id0": "1 annotation has the id 0",
    "wrapped": None,
}
WRONG_CASES = {"normalised": "shares of the image", "segm_only": "damaged RLE", "xyxy": "corners x1, y1, x2, y2"}


@pytest.mark.parametrize("case", CASES)
def test_files_that_failed_before(shared, case):
    files = (shared / f"cases/score/{case}.{kind}.json" for kind in ("dt", "gt"))
    scores = score_coco(*files)
    assert (scores.ap, scores.ap_small, scores.objects) == (1.0, 1.0, 2)
    assert CASES[case] is None or any(note.startswith(CASES[case]) for note in scores.notes), scores.notes


@pytest.mark.parametrize("case", WRONG_CASES)
def test_files_that_meant_nothing_before(shared, case):
    files = (shared / f"cases/score/{case}.{kind}.json" for kind in ("dt", "gt"))
    with pytest.raises(DatasetError, match=WRONG_CASES[case]):
        score_coco(*files)


def test_pycocotools_own_number_of_an_object_0(shared):
    files = [shared / f"cases/score/id0.{kind}.json" for kind in ("dt", "gt")]
    assert score_coco(*files, evaluator="pycocotools").ap == by_hand(*reversed(files)).stats[0] < 0.51
