"""Small COCO folders for the converter's tests. The image files are empty: the converter does not open them."""

import json
from pathlib import Path

from hypothesis import HealthCheck, settings

from kdyolo.data.coco_to_yolo import CocoSplit

CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]


def image(image_id=1, file_name="a.jpg", width=100, height=50):
    return {"id": image_id, "file_name": file_name, "width": width, "height": height}


def box(annotation_id=1, bbox=(10, 10, 20, 20), image_id=1, category_id=1, **more):
    return {"id": annotation_id, "image_id": image_id, "category_id": category_id, "bbox": list(bbox), **more}


def write_file(root: Path, split: str, content: dict | str | bytes, names=(), folder="images/{}") -> CocoSplit:
    """The annotation file of a split and empty image files of these names."""
    path, images = root / "annotations" / f"instances_{split}.json", root / folder.format(split)
    for parent in (path.parent, images):
        parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, dict):
        content = json.dumps(content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    for name in names:
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        (images / name).touch()
    return CocoSplit(path, images, split)


def make_split(root, split, images=None, annotations=(), categories=CATEGORIES, folder="images/{}") -> CocoSplit:
    """A valid split: by default one background."""
    images = [image()] if images is None else list(images)
    document = {"info": {}, "images": images, "annotations": list(annotations), "categories": list(categories)}
    return write_file(root, split, document, [record["file_name"] for record in images], folder)


def seeded(examples: int) -> settings:
    """Hypothesis with so many examples, the same ones each time; they share ``tmp_path``."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=checks)


def label_rows(folder: Path) -> dict[str, list[list[float]]]:
    """Name of the label → its lines, as numbers."""
    return {
        path.name: [[float(value) for value in line.split()] for line in path.read_text().splitlines()]
        for path in folder.glob("*.txt")
    }
