"""Official evaluators: faster-coco-eval and pycocotools on the records, and pycocotools on the files as they are."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdyolo.coco_json.files import read_json_document
from kdyolo.coco_json.values import id_key
from kdyolo.metrics.ground_truth import Detection, GroundTruth, Key, area_of
from kdyolo.metrics.results.entries import raw_list
from kdyolo.utils.progress import waiting
from kdyolo.utils.text import plural, quoted

Measured = tuple[NDArray[np.float64], NDArray[np.float64]]


def evaluate(truth: GroundTruth, detections: Sequence[Detection], evaluator: str) -> Measured:
    """Evaluate by an official package.

    Args:
        truth: Images, categories and objects.
        detections: Detections on images of the ground truth. They are not changed.
        evaluator: ``"faster-coco-eval"`` or ``"pycocotools"``.

    Returns:
        The twelve metrics; precision [10 IoU thresholds, 101 recalls, categories, 4 areas, 3 limits], −1 for none.
    """
    coco_type, eval_type = _classes(evaluator)
    return _run(eval_type, *(_api(coco_type, dataset) for dataset in _as_datasets(truth, detections)))


def evaluate_files(truth: GroundTruth, detections: Sequence[Detection], results: Path | None) -> tuple[Measured, str]:
    """Evaluate by pycocotools what stands in the files, as pycocotools itself reads it.

    Its numbers differ from those of the records as kdyolo reads them, e.g. where an annotation has the id 0.

    Args:
        truth: Ground truth, which is read anew from its file.
        detections: Detections on its images.
        results: Results file that pycocotools reads instead of ``detections``; None for these.

    Returns:
        What :func:`evaluate` does, and a note on what was evaluated. Where pycocotools cannot read the files, that is
        the records as kdyolo reads them.
    """
    coco_type, eval_type = _classes("pycocotools")
    document = read_json_document(truth.path)
    entries = raw_list(read_json_document(results)) if results else None
    try:
        own = _api(coco_type, document)
        with contextlib.redirect_stdout(io.StringIO()):
            found = _found(own, document, truth, detections) if entries is None else own.loadRes(entries)
        keys = _keys(document, "categories", truth.category_keys)
        measured = _run(eval_type, own, found, [keys[category] for category in truth.categories])
    except Exception as error:  # of any kind: pycocotools checks nothing, and raises this class itself
        what = f"{type(error).__name__}: {quoted(error)}"
        note = f"pycocotools itself cannot read these files ({what}): it was given the records as kdyolo reads them"
        return evaluate(truth, detections, "pycocotools"), note
    return measured, "these are pycocotools' own numbers, of the files as it reads them"


def _run(eval_type: Any, truth: Any, found: Any, categories: Sequence[Any] | None = None) -> Measured:
    """Run an evaluator; with categories, of these alone and with the precisions in their order."""
    scoring = waiting(f"scoring {plural(len(truth.dataset['images']), 'image')}")
    with scoring, contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        evaluation = eval_type(truth, found, iouType="bbox")
        if categories is not None:
            evaluation.params.catIds = list(categories)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = np.asarray(evaluation.eval["precision"])
    if categories is not None:  # ids that are texts are in the order of the alphabet
        place = {category.item(): index for index, category in enumerate(evaluation.params.catIds)}
        precision = precision[:, :, [place[c] if c in place else place[str(c)] for c in categories]]
    return np.asarray(evaluation.stats), precision


def _api(coco_type: Any, dataset: Any) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        api = coco_type()
        api.dataset = dataset
        api.createIndex()
    return api


def _classes(evaluator: str) -> tuple[Any, Any]:
    if evaluator == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        return COCO, COCOeval
    import faster_coco_eval

    return faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster


def _as_datasets(truth: GroundTruth, detections: Sequence[Detection]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What both evaluators take, in dictionaries of their own, as they write into them.

    Images are numbered 1, 2, … in the order of their ids, and annotations in that of the file: an annotation with id 0
    is never matched in pycocotools, ids above 2⁵³ run together in faster-coco-eval, and objects of one id are one.
    """
    number = {image_id: index for index, image_id in enumerate(truth.images, 1)}
    shared = {
        "images": [{"id": index} for index in number.values()],
        "categories": [{"id": category, "name": name} for category, name in truth.categories.items()],
    }
    objects = [
        {
            "id": index,
            "image_id": number[a["image_id"]],
            "category_id": a["category_id"],
            "bbox": a["bbox"],
            "area": a["area"],
            "iscrowd": int(a["iscrowd"]),
        }
        for index, a in enumerate(truth.annotations, 1)
    ]
    found = [
        {
            "id": index,
            "image_id": number[d["image_id"]],
            "category_id": d["category_id"],
            "bbox": d["bbox"],
            "score": d["score"],
            "area": area_of(d),
            "iscrowd": 0,
        }
        for index, d in enumerate(detections, 1)
    ]
    return {**shared, "annotations": objects}, {**shared, "annotations": found}


def _found(coco: Any, document: Any, truth: GroundTruth, detections: Sequence[Detection]) -> Any:
    """Detections with ids as the annotation file writes them, as ``loadRes`` of pycocotools makes it."""
    images = _keys(document, "images", truth.image_keys)
    categories = _keys(document, "categories", truth.category_keys)
    *_, found = _as_datasets(truth, detections)
    for record, detection in zip(found["annotations"], detections, strict=True):
        record["image_id"] = images[detection["image_id"]]
        record["category_id"] = categories.get(detection["category_id"], detection["category_id"])
    dataset = {"images": document["images"], "categories": document["categories"], "annotations": found["annotations"]}
    return _api(type(coco), dataset)


def _keys(document: Any, kind: str, own: dict[int, Key]) -> dict[Any, Any]:
    """Id in use → id exactly as the file has it."""
    written = {id_key(record["id"]): record["id"] for record in document[kind]}
    number: dict[Any, int] = {key: number for number, key in own.items()}
    return {number.get(key, key): each for key, each in written.items()}
