"""Writers of scripts/exporters.py: each writes a small data set with another project's exporter.

Usage:
    ENVIRONMENT/bin/python scripts/exporter_writers.py NAME SOURCE OUT

SOURCE has ``train.json`` and ``val.json`` (COCO) and their images in ``train/`` and ``val/``. What was written is
described in ``OUT/layout.json``: for COCO the annotation file and image folder of each split, for YOLO the YAML.
"""
# ruff: noqa: D103 - a writer is described by its name

from __future__ import annotations

import json
import shutil
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

SPLITS = ("train", "val")
Layout = dict[str, Any]


def coco_layout(out: Path, annotations: str, images: str) -> Layout:
    """Places with the split in braces."""
    return {"coco": {s: [str(out / annotations.format(s)), str(out / images.format(s))] for s in SPLITS}}


def yolo_yaml(out: Path, names: list[str], train: str = "train/images", val: str = "val/images") -> Layout:
    """The YAML that a person writes beside labels for which the exporter writes none."""
    (out / "data.yaml").write_text(json.dumps({"train": train, "val": val, "names": names}))
    return {"yolo": str(out / "data.yaml")}


def class_names(source: Path) -> list[str]:
    """Names of the source's categories, in their order."""
    return [category["name"] for category in json.loads((source / "train.json").read_text())["categories"]]


def objects_of(source: Path, split: str) -> list[tuple[dict[str, Any], list[tuple[str, list[float]]]]]:
    """Each image record with the class names and boxes [left, top, width, height] of its objects."""
    content = json.loads((source / f"{split}.json").read_text())
    name_of = {category["id"]: category["name"] for category in content["categories"]}
    found: dict[int, list[tuple[str, list[float]]]] = {image["id"]: [] for image in content["images"]}
    for a in content["annotations"]:
        found[a["image_id"]].append((name_of[a["category_id"]], a["bbox"]))
    return [(image, found[image["id"]]) for image in content["images"]]


def supervision_coco(source: Path, out: Path) -> Layout:
    import supervision as sv

    for split in SPLITS:
        data = sv.DetectionDataset.from_coco(str(source / split), str(source / f"{split}.json"))
        data.as_coco(str(out / split), str(out / f"{split}.json"))
    return coco_layout(out, "{}.json", "{}")


def supervision_yolo(source: Path, out: Path) -> Layout:
    import supervision as sv

    for split in SPLITS:
        data = sv.DetectionDataset.from_coco(str(source / split), str(source / f"{split}.json"))
        folder = out / split
        for found in data.annotations.values():
            found.mask = None  # else each part of an outline becomes an object of its own
        data.as_yolo(str(folder / "images"), str(folder / "labels"), str(out / "supervision.yaml"))
    return yolo_yaml(out, data.classes)


def sahi_coco(source: Path, out: Path) -> Layout:
    from sahi.utils.coco import Coco
    from sahi.utils.file import save_json

    for split in SPLITS:
        save_json(Coco.from_coco_dict_or_path(str(source / f"{split}.json")).json, str(out / f"{split}.json"))
        shutil.copytree(source / split, out / split)
    return coco_layout(out, "{}.json", "{}")


def sahi_yolo(source: Path, out: Path) -> Layout:
    from sahi.utils.coco import Coco, export_coco_as_yolo

    # Its labels have the category ids themselves, so these have to be counted from 0 first.
    categories = json.loads((source / "train.json").read_text())["categories"]
    places = {category["id"]: index for index, category in enumerate(categories)}
    train, val = (
        Coco.from_coco_dict_or_path(str(source / f"{s}.json"), image_dir=str(source / s), remapping_dict=places)
        for s in SPLITS
    )
    return {"yolo": export_coco_as_yolo(str(out / "sahi"), train, val)}


def globox_coco(source: Path, out: Path) -> Layout:
    from globox import AnnotationSet

    for split in SPLITS:
        AnnotationSet.from_coco(source / f"{split}.json").save_coco(out / f"{split}.json", auto_ids=True)
        shutil.copytree(source / split, out / split)
    return coco_layout(out, "{}.json", "{}")


def globox_yolo(source: Path, out: Path) -> Layout:
    from globox import AnnotationSet

    names = class_names(source)
    for split in SPLITS:
        (out / split / "labels").mkdir(parents=True)
        ids = {name: index for index, name in enumerate(names)}
        AnnotationSet.from_coco(source / f"{split}.json").save_yolo_v5(out / split / "labels", label_to_id=ids)
        shutil.copytree(source / split, out / split / "images")
    return yolo_yaml(out, names)


def labelme2coco(source: Path, out: Path) -> Layout:
    import labelme2coco

    for split in SPLITS:
        shutil.copytree(source / split, out / split)
        for image, objects in objects_of(source, split):
            shapes = [
                {
                    "label": name,
                    "points": [[x, y], [x + w, y + h]],
                    "group_id": None,
                    "shape_type": "rectangle",
                    "flags": {},
                }
                for name, (x, y, w, h) in objects
            ]
            head = {"version": "5.5.0", "flags": {}, "imageData": None, "imagePath": image["file_name"]}
            size = {"imageHeight": image["height"], "imageWidth": image["width"]}
            path = (out / split / image["file_name"]).with_suffix(".json")
            path.write_text(json.dumps({**head, "shapes": shapes, **size}))
        labelme2coco.convert(str(out / split), str(out / f"{split}-coco"))
    return coco_layout(out, "{}-coco/dataset.json", "{}")


def pylabel_coco(source: Path, out: Path) -> Layout:
    from pylabel import importer

    for split in SPLITS:
        data = importer.ImportCoco(str(source / f"{split}.json"), path_to_images=str(source / split), name=split)
        data.export.ExportToCoco(output_path=str(out / f"{split}.json"))
        shutil.copytree(source / split, out / split)
    return coco_layout(out, "{}.json", "{}")


def pylabel_yolo(source: Path, out: Path) -> Layout:
    from pylabel import importer

    for split in SPLITS:
        data = importer.ImportCoco(str(source / f"{split}.json"), path_to_images=str(source / split), name=split)
        data.export.ExportToYoloV5(output_path=str(out / split / "labels"), yaml_file="pylabel.yaml")
        shutil.copytree(source / split, out / split / "images")
    # It counts the classes of each split by category id, as 0 to the largest, with gaps.
    names = {c["id"]: c["name"] for c in json.loads((source / "train.json").read_text())["categories"]}
    return yolo_yaml(out, [names.get(index, f"none-{index}") for index in range(max(names) + 1)])


def _datumaro(source: Path, out: Path) -> Any:
    from datumaro import Dataset

    root = out / "in"
    (root / "annotations").mkdir(parents=True)
    for split in SPLITS:
        shutil.copy(source / f"{split}.json", root / f"annotations/instances_{split}.json")
        shutil.copytree(source / split, root / "images" / split)
    return Dataset.import_from(str(root), "coco_instances")


def datumaro_coco(source: Path, out: Path) -> Layout:
    _datumaro(source, out).export(str(out / "coco"), "coco_instances", save_media=True)
    return coco_layout(out, "coco/annotations/instances_{}.json", "coco/images/{}")


def datumaro_yolo(source: Path, out: Path) -> Layout:
    _datumaro(source, out).export(str(out / "yolo"), "yolo_ultralytics", save_media=True)
    return {"yolo": str(out / "yolo/data.yaml")}


def datumaro_back(source: Path, out: Path) -> Layout:
    from datumaro import Dataset

    data = Dataset.import_from(str(source / "yolo"), "yolo")
    data.export(str(out / "coco"), "coco_instances", save_media=True)
    return coco_layout(out, "coco/annotations/instances_{}.json", "coco/images/{}")


def _fiftyone(source: Path, split: str) -> Any:
    import fiftyone as fo

    return fo.Dataset.from_dir(
        dataset_type=fo.types.COCODetectionDataset,
        data_path=str(source / split),
        labels_path=str(source / f"{split}.json"),
        label_types="detections",
        label_field="ground_truth",
    )


def fiftyone_coco(source: Path, out: Path) -> Layout:
    import fiftyone as fo

    for split in SPLITS:
        _fiftyone(source, split).export(
            export_dir=str(out / split), dataset_type=fo.types.COCODetectionDataset, label_field="ground_truth"
        )
    return coco_layout(out, "{}/labels.json", "{}/data")


def fiftyone_yolo(source: Path, out: Path) -> Layout:
    import fiftyone as fo

    for split in SPLITS:
        _fiftyone(source, split).export(
            export_dir=str(out),
            dataset_type=fo.types.YOLOv5Dataset,
            label_field="ground_truth",
            split=split,
            classes=class_names(source),
        )
    return {"yolo": str(out / "dataset.yaml")}


def fiftyone_back(source: Path, out: Path) -> Layout:
    import fiftyone as fo

    for split in SPLITS:
        data = fo.Dataset.from_dir(
            dataset_dir=str(source / "yolo"),
            yaml_path="data.yaml",
            dataset_type=fo.types.YOLOv5Dataset,
            split=split,
            label_field="ground_truth",
        )
        data.export(export_dir=str(out / split), dataset_type=fo.types.COCODetectionDataset, label_field="ground_truth")
    return coco_layout(out, "{}/labels.json", "{}/data")


def _label_studio(source: Path, out: Path, split: str) -> tuple[str, Path]:
    """Configuration and tasks as Label Studio's own export writes them: rectangles in percent of the image."""
    labels = "".join(f'<Label value="{name}"/>' for name in class_names(source))
    config = (
        f'<View><Image name="image" value="$image"/><RectangleLabels name="label" toName="image">{labels}'
        "</RectangleLabels></View>"
    )
    tasks = []
    for number, (image, objects) in enumerate(objects_of(source, split)):
        width, height = image["width"], image["height"]
        results = [
            {
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": {
                    "x": x / width * 100,
                    "y": y / height * 100,
                    "width": w / width * 100,
                    "height": h / height * 100,
                    "rotation": 0,
                    "rectanglelabels": [name],
                },
                "id": f"r{place}",
                "from_name": "label",
                "to_name": "image",
                "type": "rectanglelabels",
                "origin": "manual",
            }
            for place, (name, (x, y, w, h)) in enumerate(objects)
        ]
        annotation = {"id": number, "completed_by": {"id": 1, "email": "a@b.c"}, "result": results}
        data = {"image": f"/data/upload/1/{image['file_name']}"}
        tasks.append({"id": number, "data": data, "annotations": [annotation], "predictions": []})
    shutil.copytree(source / split, out / "upload/1", dirs_exist_ok=True)
    path = out / f"{split}-tasks.json"
    path.write_text(json.dumps(tasks))
    return config, path


def _converted(converter: Any, source: Path, out: Path, into: str) -> None:
    for split in SPLITS:
        config, tasks = _label_studio(source, out, split)
        used = converter(config, project_dir=str(out), upload_dir=str(out / "upload"), download_resources=True)
        getattr(used, f"convert_to_{into}")(str(tasks), str(out / split), is_dir=False)


def label_studio_converter_coco(source: Path, out: Path) -> Layout:
    from label_studio_converter import Converter

    _converted(Converter, source, out, "coco")
    return coco_layout(out, "{}/result.json", "{}")


def label_studio_converter_yolo(source: Path, out: Path) -> Layout:
    from label_studio_converter import Converter

    _converted(Converter, source, out, "yolo")
    return yolo_yaml(out, (out / "train/classes.txt").read_text().splitlines())


def label_studio_sdk_coco(source: Path, out: Path) -> Layout:
    from label_studio_sdk.converter import Converter

    _converted(Converter, source, out, "coco")
    return coco_layout(out, "{}/result.json", "{}")


def label_studio_sdk_yolo(source: Path, out: Path) -> Layout:
    from label_studio_sdk.converter import Converter

    _converted(Converter, source, out, "yolo")
    return yolo_yaml(out, (out / "train/classes.txt").read_text().splitlines())


def _roboflow_name(name: str) -> str:
    """As Roboflow renames what is uploaded."""
    stem, _, suffix = name.rpartition(".")
    return f"{stem}_{suffix}.rf.{zlib.crc32(stem.encode()):08x}{'0' * 24}.jpg"


def roboflow_coco(source: Path, out: Path) -> Layout:
    """By hand, as Roboflow's COCO export is: a category 0 that no annotation uses, ids from 0 in every split."""
    names = sorted(class_names(source))
    folders = {"train": "train", "val": "valid"}
    for split, folder in folders.items():
        (out / folder).mkdir()
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for image, objects in objects_of(source, split):
            name = _roboflow_name(image["file_name"])
            shutil.copy(source / split / image["file_name"], out / folder / name)
            size = {"height": image["height"], "width": image["width"]}
            extra = {"name": image["file_name"]}
            stamp = {"license": 1, "date_captured": "2024-01-01T00:00:00+00:00"}
            images.append({"id": len(images), **stamp, "file_name": name, **size, "extra": extra})
            for class_name, (x, y, w, h) in objects:
                ids = {"id": len(annotations), "image_id": len(images) - 1, "category_id": names.index(class_name) + 1}
                annotations.append({**ids, "bbox": [x, y, w, h], "area": w * h, "segmentation": [], "iscrowd": 0})
        categories = [{"id": 0, "name": "objects", "supercategory": "none"}]
        categories += [{"id": i, "name": n, "supercategory": "objects"} for i, n in enumerate(names, start=1)]
        content = {"info": {}, "licenses": [], "categories": categories, "images": images, "annotations": annotations}
        (out / folder / "_annotations.coco.json").write_text(json.dumps(content))
    return {"coco": {s: [str(out / f / "_annotations.coco.json"), str(out / f)] for s, f in folders.items()}}


def roboflow_yolo(source: Path, out: Path) -> Layout:
    """By hand, as Roboflow's YOLO export is: paths that start with ``../``, and a test split that is not there."""
    names = sorted(class_names(source))
    for split, folder in {"train": "train", "val": "valid"}.items():
        (out / folder / "images").mkdir(parents=True)
        (out / folder / "labels").mkdir()
        for image, objects in objects_of(source, split):
            name = _roboflow_name(image["file_name"])
            shutil.copy(source / split / image["file_name"], out / folder / "images" / name)
            width, height = image["width"], image["height"]
            rows = [
                f"{names.index(n)} {(x + w / 2) / width} {(y + h / 2) / height} {w / width} {h / height}"
                for n, (x, y, w, h) in objects
            ]
            (out / folder / "labels" / name).with_suffix(".txt").write_text("\n".join(rows))
    places = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\n"
    (out / "data.yaml").write_text(f"{places}nc: {len(names)}\nnames: {names!r}\n")
    return {"yolo": str(out / "data.yaml")}


if __name__ == "__main__":
    writer: Callable[[Path, Path], Layout] = globals()[sys.argv[1]]
    place = Path(sys.argv[3]).resolve()
    place.mkdir(parents=True)
    (place / "layout.json").write_text(json.dumps(writer(Path(sys.argv[2]).resolve(), place)))
