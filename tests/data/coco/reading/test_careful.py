"""Records that are wrong: one clear error for each, nothing written, or counted and left out when asked to."""

import pytest

from kdyolo.data.coco_to_yolo import convert_coco
from tests.builders.coco import DROP, box, document, edited, refusal, with_more, write

CATEGORY = {
    "duplicate id": (
        with_more("categories", {"id": 2, "name": "bird"}),
        "category 2 (id 2): repeated category id: 'dog' has it too, this is 'bird'",
    ),
    "duplicate name": (edited("annotations", 0, category_id=3), "category 2 (id 3): duplicate category name: 'cat' is"),
    "no text": (edited("categories", 0, name="\ud800"), "category 0 (id 1): name is not text: '\\ud800'"),
    "a list as name": (edited("categories", 0, name=["cat"]), "category 0 (id 1): name is not text: ['cat']"),
    "float id": (edited("categories", 0, id=1.5), "category 0 (id 1.5): has no id: 1.5"),
}
CATEGORY["duplicate name"][0]["categories"].append({"id": 3, "name": "cat"})


@pytest.mark.parametrize("skip_invalid", [False, "any"])
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
NO_SIZE, WHOLE = "has no size, and its file none", "width and height must be whole numbers"


IMAGE_CHANGES = {
    "no id": (0, {"id": DROP}, "has no id"),
    "true as id": (0, {"id": True}, "has no id: true"),
    "a fraction as id": (0, {"id": 7.5}, "has no id: 7.5"),
    "no file name": (0, {"file_name": DROP}, "has no file_name"),
    "number as name": (1, {"file_name": 8}, "file_name is not text: 8"),
    "no width, no image": (0, {"width": DROP}, NO_SIZE),
    "null height, no image": (0, {"height": None}, NO_SIZE),
    "NaN width, no image": (1, {"width": NAN}, NO_SIZE),
    "zero height, no image": (1, {"height": 0}, NO_SIZE),
    "a fraction as width": (1, {"width": 99.5}, WHOLE),
    "words as width": (1, {"width": "wide"}, WHOLE),
    "negative width": (0, {"width": -100}, SIZE),
    "endless width": (0, {"width": 10**400}, "width and height must be at most 1000000000"),
    "parent folder": (0, {"file_name": "../x.jpg"}, LEAVES),
    "inner parent": (0, {"file_name": "a/../../x.jpg"}, LEAVES),
    "absolute": (0, {"file_name": "/tmp/x.jpg"}, LEAVES),
    "drive": (0, {"file_name": "C:\\x.jpg"}, LEAVES),
    "no image": (0, {"file_name": "7.gif"}, SUFFIX),
    "empty name": (0, {"file_name": ""}, "has no file_name"),
    "two lines": (0, {"file_name": "7\n.jpg"}, LINE),
    "surrogate": (0, {"file_name": "\udcff.jpg"}, LINE),
    "duplicate id": (1, {"id": 7}, "repeated image id"),
    "one name": (1, {"file_name": "7.jpg"}, "two images of one name"),
    "one name, written otherwise": (1, {"file_name": "./7.jpg"}, "two images of one name"),
    "one label": (1, {"file_name": "7.png"}, "two images share a label file"),
}


# case: (document, record as it is named, reason, number of annotations that are skipped with it)
IMAGE = {"no record": (with_more("images", 1), "image 2 (no id)", "is no object: 1", 0)}


for _case, (_index, _changes, _reason) in IMAGE_CHANGES.items():
    _id = _changes.get("id", 7 + _index)
    _named = f"image {_index} (no id)" if _id is DROP else f"image {_index} (id {_id!r})"
    IMAGE[_case] = (edited("images", _index, **_changes), _named, _reason, 0 if _index else 3)


BOX = "bbox is not four finite numbers"


# case: (changes of annotation 2, reason)
ANNOTATION_CHANGES = {
    "no box": ({"bbox": DROP}, "has no bbox"),
    "null as box": ({"bbox": None}, "has no bbox"),
    "three numbers": ({"bbox": [1, 2, 3]}, f"{BOX}: [1, 2, 3]"),
    "five numbers": ({"bbox": [1] * 5}, f"{BOX}: [1, 1, 1, 1, 1]"),
    "a word in the box": ({"bbox": [1, "two", 3, 4]}, f"{BOX}: [1, 'two', 3, 4]"),
    "an object as box": ({"bbox": {"x": 1}}, BOX),
    "NaN": ({"bbox": [1, NAN, 3, 4]}, f"{BOX}: [1, NaN, 3, 4]"),
    "Infinity": ({"bbox": [1, 2, INF, 4]}, f"{BOX}: [1, 2, Infinity, 4]"),
    "a crowd or not": ({"iscrowd": 2}, "iscrowd is neither 0 nor 1: 2"),
    "a fraction as image": ({"image_id": 7.5}, "image_id is no id: 7.5"),
    "a name as image": ({"image_id": "cat"}, "unknown image: image_id is 'cat'"),
    "unknown image": ({"image_id": 999}, "unknown image"),
    "unknown category": ({"category_id": 999}, "unknown category"),
    "no category": ({"category_id": DROP}, "category_id is no id: null"),
}


ANNOTATION = {
    case: (
        edited("annotations", 2, **changes),
        "(id 42)",
        reason,
    )
    for case, (changes, reason) in ANNOTATION_CHANGES.items()
}
_document = edited("annotations", 2)
_document["annotations"][2] = 1
ANNOTATION["no record"] = _document, "(no id)", "is no object: 1"


def anchored(content: dict) -> dict:
    """The document with one more image that has a box, so that the split is never empty."""
    content["images"].append({"id": 9, "file_name": "9.jpg", "width": 100, "height": 50})
    content["annotations"].append(box(99, image_id=9))
    return content


def converted(tmp_path):
    return convert_coco(tmp_path / "root", tmp_path / "out", skip_invalid="any")


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
    content = anchored(content)
    write(tmp_path / "root", content)
    summary = converted(tmp_path)
    counts = summary.splits["train2017"]
    reason = reason.partition(":")[0]
    assert counts.skipped_images == {reason: 1}
    assert counts.images == len(content["images"]) - 1 == len((tmp_path / "out/train2017.txt").read_text().splitlines())
    assert sum(counts.skipped_annotations.values()) == lost
    assert counts.boxes == 3 - lost + 1
    assert f"train2017: skipped 1 image: {reason}" in summary.table()


@pytest.mark.parametrize("case", ANNOTATION)
def test_bad_annotations_are_skipped_and_counted(tmp_path, case):
    content, _, reason = ANNOTATION[case]
    write(tmp_path / "root", content)
    summary = convert_coco(tmp_path / "root", tmp_path / "out", skip_invalid="any")
    counts = summary.splits["train2017"]
    assert counts.skipped_annotations == {reason.partition(":")[0]: 1}
    assert (counts.annotations, counts.boxes, counts.skipped_images) == (3, 2, {})
    assert len((tmp_path / "out/labels/train2017/7.txt").read_text().splitlines()) == 2
    assert f"train2017: skipped 1 annotation: {reason.partition(':')[0]}" in summary.table()


def test_annotations_of_a_skipped_image_say_so(tmp_path):
    write(tmp_path / "root", anchored(edited("images", 0, width=-1)))
    counts = converted(tmp_path).splits["train2017"]
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
    counts = convert_coco(tmp_path / "root", tmp_path / "out", skip_invalid="any").splits["train2017"]
    assert counts.skipped_images == {"image file is missing": 5}
    assert counts.images == 2


def test_nothing_left_is_an_error_even_when_skipping(tmp_path):
    path = write(tmp_path / "root", document())
    for image in (tmp_path / "root/images/train2017").iterdir():
        image.unlink()
    message = refusal(tmp_path / "root", tmp_path / "out", skip_invalid="any")
    assert message.startswith(f"{path}: no valid image is left: image file is missing (2)")
