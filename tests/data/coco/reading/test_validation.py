"""Records that are wrong: one clear error for each, nothing written, or counted and left out when asked to."""

import pytest

from kdyolo.data.coco_to_yolo import convert_coco
from tests.builders.coco import DROP, document, edited, refusal, with_more, write

CATEGORY = {
    "duplicate id": (
        with_more("categories", {"id": 2, "name": "bird"}),
        "category 2 (id 2): duplicate category id: 'dog'",
    ),
    "duplicate name": (with_more("categories", {"id": 3, "name": "cat"}), "category 2 (id 3): duplicate category name"),
    "no name": (edited("categories", 1, name=DROP), "category 1 (id 2): Object missing required field `name`"),
    "no text": (edited("categories", 0, name="\ud800"), "category 0 (id 1): name is not text: '\\ud800'"),
    "float id": (edited("categories", 0, id=1.5), "category 0 (id 1.5): Expected `int`, got `float`"),
}


@pytest.mark.parametrize("skip_invalid", [False, True])
@pytest.mark.parametrize("case", CATEGORY)
def test_category_problems_are_never_skipped(tmp_path, case, skip_invalid):
    content, expected = CATEGORY[case]
    path = write(tmp_path / "root", content)
    message = refusal(tmp_path / "root", tmp_path / "out", skip_invalid=skip_invalid)
    assert message.startswith(f"{path}: {expected}")


NAN, INF = float("nan"), float("inf")


# case: (index, changes, reason); image 0 (id 7) has the three annotations, image 1 (id 8) has none
LEAVES, SUFFIX = "file_name leaves the image folder", "file_name has no suffix that Ultralytics reads"


LINE, SIZE = "file_name does not fit on a line of UTF-8 text", "width and height must be positive"


IMAGE_CHANGES = {
    "no id": (0, {"id": DROP}, "Object missing required field `id`"),
    "string id": (0, {"id": "7"}, "Expected `int`, got `str` - at `$.id`"),
    "float id": (0, {"id": 7.0}, "Expected `int`, got `float` - at `$.id`"),
    "no file name": (0, {"file_name": DROP}, "Object missing required field `file_name`"),
    "number as name": (1, {"file_name": 8}, "Expected `str`, got `int` - at `$.file_name`"),
    "no width": (0, {"width": DROP}, "Object missing required field `width`"),
    "null height": (0, {"height": None}, "Expected `int`, got `null` - at `$.height`"),
    "NaN width": (1, {"width": NAN}, "Expected `int`, got `float` - at `$.width`"),
    "negative width": (0, {"width": -100}, SIZE),
    "zero height": (1, {"height": 0}, SIZE),
    "endless width": (0, {"width": 10**400}, "width and height must be at most 1000000000"),
    "parent folder": (0, {"file_name": "../7.jpg"}, LEAVES),
    "inner parent": (0, {"file_name": "a/../../7.jpg"}, LEAVES),
    "absolute": (0, {"file_name": "/tmp/7.jpg"}, LEAVES),
    "drive": (0, {"file_name": "C:\\7.jpg"}, LEAVES),
    "no image": (0, {"file_name": "7.gif"}, SUFFIX),
    "empty name": (0, {"file_name": ""}, SUFFIX),
    "two lines": (0, {"file_name": "7\n.jpg"}, LINE),
    "surrogate": (0, {"file_name": "\udcff.jpg"}, LINE),
    "duplicate id": (1, {"id": 7}, "duplicate image id"),
    "one name": (1, {"file_name": "7.jpg"}, "two images of one name"),
    "one name, written otherwise": (1, {"file_name": "./7.jpg"}, "two images of one name"),
    "one label": (1, {"file_name": "7.png"}, "two images share a label file"),
}


# case: (document, record as it is named, reason, number of annotations that are skipped with it)
IMAGE = {"no record": (with_more("images", [1]), "image 2 (no id)", "Expected `object`, got `array`", 0)}


for _case, (_index, _changes, _reason) in IMAGE_CHANGES.items():
    _id = _changes.get("id", 7 + _index)
    _named = f"image {_index} (no id)" if _id is DROP else f"image {_index} (id {_id!r})"
    IMAGE[_case] = (edited("images", _index, **_changes), _named, _reason, 0 if _index else 3)


# case: (changes of annotation 2, reason)
ANNOTATION_CHANGES = {
    "no id": ({"id": DROP}, "Object missing required field `id`"),
    "string id": ({"id": "42"}, "Expected `int`, got `str` - at `$.id`"),
    "true as id": ({"id": True}, "Expected `int`, got `bool` - at `$.id`"),
    "duplicate id": ({"id": 41}, "duplicate annotation id"),
    "no box": ({"bbox": DROP}, "Object missing required field `bbox`"),
    "three numbers": ({"bbox": [1, 2, 3]}, "Expected `array` of length 4, got 3 - at `$.bbox`"),
    "five numbers": ({"bbox": [1] * 5}, "Expected `array` of length 4, got 5 - at `$.bbox`"),
    "text in box": ({"bbox": [1, "2", 3, 4]}, "Expected `float`, got `str` - at `$.bbox[1]`"),
    "null as box": ({"bbox": None}, "Expected `array`, got `null` - at `$.bbox`"),
    "NaN": ({"bbox": [1, NAN, 3, 4]}, "bbox is not finite"),
    "Infinity": ({"bbox": [1, 2, INF, 4]}, "bbox is not finite"),
    "float image": ({"image_id": 7.0}, "Expected `int`, got `float` - at `$.image_id`"),
    "unknown image": ({"image_id": 999}, "unknown image"),
    "unknown category": ({"category_id": 999}, "unknown category"),
    "no category": ({"category_id": DROP}, "Object missing required field `category_id`"),
}


ANNOTATION = {
    case: (
        edited("annotations", 2, **changes),
        "(no id)" if changes.get("id") is DROP else f"(id {changes.get('id', 42)!r})",
        reason,
    )
    for case, (changes, reason) in ANNOTATION_CHANGES.items()
}


@pytest.mark.parametrize("case", IMAGE)
def test_bad_images_are_named(tmp_path, case):
    content, record, reason, _ = IMAGE[case]
    path = write(tmp_path / "root", content)
    message = refusal(tmp_path / "root", tmp_path / "out")
    assert message.startswith(f"{path}: {record}: {reason}")
    assert "--skip-invalid" in message


@pytest.mark.parametrize("case", ANNOTATION)
def test_bad_annotations_are_named(tmp_path, case):
    content, record, reason = ANNOTATION[case]
    path = write(tmp_path / "root", content)
    message = refusal(tmp_path / "root", tmp_path / "out")
    assert message.startswith(f"{path}: annotation 2 {record}: {reason}")
    assert "--skip-invalid" in message


@pytest.mark.parametrize("case", IMAGE)
def test_bad_images_are_skipped_with_their_annotations(tmp_path, case):
    content, _, reason, lost = IMAGE[case]
    write(tmp_path / "root", content)
    summary = convert_coco(tmp_path / "root", tmp_path / "out", skip_invalid=True)
    counts = summary.splits["train2017"]
    assert counts.skipped_images == {reason: 1}
    assert counts.images == len(content["images"]) - 1 == len((tmp_path / "out/train2017.txt").read_text().splitlines())
    assert sum(counts.skipped_annotations.values()) == lost
    assert counts.boxes == 3 - lost
    assert f"train2017: skipped 1 image: {reason}" in summary.table()


@pytest.mark.parametrize("case", ANNOTATION)
def test_bad_annotations_are_skipped_and_counted(tmp_path, case):
    content, _, reason = ANNOTATION[case]
    write(tmp_path / "root", content)
    summary = convert_coco(tmp_path / "root", tmp_path / "out", skip_invalid=True)
    counts = summary.splits["train2017"]
    assert counts.skipped_annotations == {reason: 1}
    assert (counts.annotations, counts.boxes, counts.skipped_images) == (3, 2, {})
    assert len((tmp_path / "out/labels/train2017/7.txt").read_text().splitlines()) == 2
    assert f"train2017: skipped 1 annotation: {reason}" in summary.table()


def test_annotations_of_a_skipped_image_say_so(tmp_path):
    write(tmp_path / "root", edited("images", 0, width=0))
    counts = convert_coco(tmp_path / "root", tmp_path / "out", skip_invalid=True).splits["train2017"]
    assert counts.skipped_annotations == {"its image was skipped": 3}


def test_nan_where_nobody_looks_is_no_problem(tmp_path):
    write(tmp_path / "root", edited("annotations", 0, area=NAN))
    assert convert_coco(tmp_path / "root", tmp_path / "out").splits["train2017"].boxes == 3


def test_missing_images_are_reported_together(tmp_path):
    content = document()
    content["images"] += [{"id": i, "file_name": f"x{i}.jpg", "width": 10, "height": 10} for i in range(20, 25)]
    path = write(tmp_path / "root", content)
    message = refusal(tmp_path / "root", tmp_path / "out")
    assert message.startswith(f"{path}: 5 of 7 image files are missing in {tmp_path / 'root/images/train2017'}: ")
    assert "x20.jpg (image 2, id 20), x21.jpg (image 3, id 21), x22.jpg (image 4, id 22), …" in message
    counts = convert_coco(tmp_path / "root", tmp_path / "out", skip_invalid=True).splits["train2017"]
    assert counts.skipped_images == {"image file is missing": 5}
    assert counts.images == 2


def test_nothing_left_is_an_error_even_when_skipping(tmp_path):
    path = write(tmp_path / "root", document())
    for image in (tmp_path / "root/images/train2017").iterdir():
        image.unlink()
    message = refusal(tmp_path / "root", tmp_path / "out", skip_invalid=True)
    assert message.startswith(f"{path}: no valid image is left: image file is missing (2)")
