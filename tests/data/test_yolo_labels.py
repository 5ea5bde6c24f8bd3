"""One label: clipping, what is too small to be written, six decimals; and what is no label."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdyolo.data.coco_to_yolo import convert_coco
from kdyolo.data.yolo_to_coco import to_coco
from kdyolo.errors import DatasetError
from tests.builders.coco import box, convert_one, image, make_split, seeded, yolo_dataset
from tests.builders.commands import tree


@pytest.mark.parametrize(
    ("bbox", "line"),
    [
        ((-10, -10, 30, 30), "0 0.100000 0.200000 0.200000 0.400000"),
        ((90, 40, 30, 30), "0 0.950000 0.900000 0.100000 0.200000"),
        ((-5, -5, 200, 200), "0 0.500000 0.500000 1.000000 1.000000"),
        ((-1e308, 0, 1.7e308, 1.7e308), "0 0.500000 0.500000 1.000000 1.000000"),
    ],
)
def test_boxes_are_clipped(tmp_path, bbox, line):
    summary, lines = convert_one(tmp_path, [box(bbox=bbox)])
    assert lines == [line]
    assert (summary.splits["train"].clipped, summary.splits["train"].empty) == (1, 0)


def test_rounding_noise_at_the_border_is_not_called_clipped(tmp_path):
    left, width = 0.1, 99.9 + 3e-14
    assert left + width > 100
    summary, lines = convert_one(tmp_path, [box(bbox=(left, 0, width, 50))])
    assert lines == ["0 0.500500 0.500000 0.999000 1.000000"]
    assert summary.splits["train"].clipped == 0


@pytest.mark.parametrize(
    "bbox",
    [
        (10, 10, 0, 5),
        (10, 10, 5, 0),
        (10, 10, -5, 5),
        (100, 0, 5, 5),
        (-9, 0, 9, 9),
        (0, 0, 4e-5, 9),
        (700, 0, -650, 9),
    ],
)
def test_boxes_without_area_are_dropped(tmp_path, bbox):
    images = [image(), image(2, "b.jpg")]
    summary, lines = convert_one(tmp_path, [box(bbox=bbox), box(2, image_id=2)], images=images)
    counts = summary.splits["train"]
    assert lines == []
    assert (counts.boxes, counts.empty, counts.clipped, counts.backgrounds) == (1, 1, 0, 1)


coordinate = st.one_of(st.floats(-300, 300), st.integers(-300, 300), st.floats(allow_nan=False, allow_infinity=False))


annotation = st.fixed_dictionaries(
    {
        "image_id": st.integers(1, 3),  # 3 is no image
        "category_id": st.integers(1, 3),  # 3 is no category
        "iscrowd": st.sampled_from([0, 0, 0, 1]),
        "bbox": st.lists(st.one_of(coordinate, coordinate, st.just(float("nan"))), min_size=3, max_size=4)
        | st.tuples(*[coordinate] * 4).map(list),
    }
)


@seeded(60)
@given(records=st.lists(annotation, max_size=8), width=st.integers(1, 200), height=st.integers(1, 200))
def test_labels_lie_in_the_image_and_nothing_is_lost(tmp_path, records, width, height):
    annotations = [{"id": i, "area": 1, **record} for i, record in enumerate(records)] + [box(99, (0, 0, 1, 9), 2)]
    images = [image(1, "a.jpg", width, height), image(2, "b.jpg", 1, 200)]
    make_split(tmp_path / "root", "train", images, annotations)
    summary = convert_coco(tmp_path / "root", tmp_path / "out", skip_invalid="any")
    counts = summary.splits["train"]
    skipped = sum(counts.skipped_annotations.values())
    assert counts.boxes + counts.crowds + counts.empty + skipped == counts.annotations == len(annotations)
    lines = [line for path in (tmp_path / "out/labels").rglob("*.txt") for line in path.read_text().splitlines()]
    assert len(lines) == counts.boxes >= counts.clipped
    for line in lines:
        index, cx, cy, w, h = (float(value) for value in line.split())
        assert index in (0, 1)
        assert all(0 <= value <= 1 for value in (cx, cy, w, h))
        assert min(w, h) > 0
        for centre, size in ((cx, w), (cy, h)):
            assert centre - size / 2 >= -1e-6
            assert centre + size / 2 <= 1 + 1e-6


@seeded(60)
@given(st.data())
def test_boxes_inside_come_back_to_a_millionth(tmp_path, data):
    width, height = data.draw(st.integers(1, 5000)), data.draw(st.integers(1, 5000))
    left, right = sorted(data.draw(st.lists(st.floats(0, width), min_size=2, max_size=2)))
    top, bottom = sorted(data.draw(st.lists(st.floats(0, height), min_size=2, max_size=2)))
    bbox = (left, top, right - left, bottom - top)
    images = [image(width=width, height=height), image(2, "b.jpg")]
    summary, lines = convert_one(tmp_path, [box(bbox=bbox), box(2, image_id=2)], images=images)
    assert summary.splits["train"].clipped == 0
    for line in lines:
        expected = [(left + right) / 2 / width, (top + bottom) / 2 / height, bbox[2] / width, bbox[3] / height]
        assert [float(value) for value in line.split()[1:]] == pytest.approx(expected, abs=1e-6)
    assert lines or min(bbox[2] / width, bbox[3] / height) < 1e-6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0.5 0.5 0.2\n", "line 1: expected 'class cx cy w h'"),
        ("0 0.5 0.5 0.2 0.2 0.9\n", "line 1: expected 'class cx cy w h'"),
        ("0 0.5 0.5 0.2 0.2\n0 0.5 0.5 nan 0.2\n", "line 2: expected"),
        ("0 0.5 0.5 0.2 1.2\n", "with coordinates from 0 to 1"),
        ("0 a b c d\n", "line 1: expected"),
        ("2 0.5 0.5 0.2 0.2\n", "expected a class from 0 to 1, found 2"),
        ("0.5 0.5 0.5 0.2 0.2\n", "expected a class from 0 to 1, found 0.5"),
        ("-1 0.5 0.5 0.2 0.2\n", "expected a class from 0 to 1, found -1"),
    ],
)
def test_bad_labels_are_named(tmp_path, text, message):
    path = yolo_dataset(tmp_path / "d", {"a.jpg": text})
    before = tree(tmp_path)
    with pytest.raises(DatasetError, match=r"labels/train/a\.txt, ") as caught:
        to_coco(path, tmp_path / "out.json")
    assert message in str(caught.value)
    assert tree(tmp_path) == before
