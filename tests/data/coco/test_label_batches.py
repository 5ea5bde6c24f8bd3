"""Labels of many annotations at once: the same text, to the letter, as from one annotation at a time."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kdyolo.data.coco.label_batches import Labeller, millionths
from kdyolo.data.coco.label_table import Selection, SplitLabels
from kdyolo.data.coco.reading.json_chunks import FastPathUnavailable
from kdyolo.data.coco.reading.schema import AnnotationRecord, ImageRecord
from kdyolo.data.yolo_labels import clip_box, label_line
from tests.builders.coco import box, image, make_split, seeded
from tests.builders.commands import CHECKOUT

SELECTION = Selection({category_id: category_id % 12 for category_id in range(1, 1300)} | {1300: None, 1301: 1203})

side = st.integers(1, 5000) | st.sampled_from([1, 10**9])
number = st.one_of(
    st.floats(-100, 5000), st.integers(-100, 5000).map(float), st.sampled_from([0.0, -0.0, 1e308, -1e308])
)
annotation = st.builds(
    AnnotationRecord,
    id=st.integers(),
    image_id=st.sampled_from([7, -1, 2**70]),
    category_id=st.sampled_from([1, 11, 1300, 1301]),
    bbox=st.tuples(number, number, number, number),
    iscrowd=st.sampled_from([0, 0, 0, 1, True]),
)


def one_by_one(annotations, images):
    """Lines by image, and how many were clipped, from the functions for a single box."""
    lines, clipped = {}, 0
    for record in annotations:
        image, index = images[record.image_id], SELECTION.class_of[record.category_id]
        if index is None or record.iscrowd:
            continue
        box = clip_box(record.bbox, image.width, image.height)
        if line := label_line(index, box, image.width, image.height):
            lines[image.id] = lines.get(image.id, b"") + line.encode()
            clipped += box is not record.bbox
    return lines, clipped


def in_parts(annotations, images, cuts):
    """The labels of annotations that came in several parts."""
    labeller = Labeller(images, SELECTION)
    cuts = sorted(min(cut, len(annotations)) for cut in cuts)
    pairs = zip([0, *cuts], [*cuts, len(annotations)], strict=True)
    columns = [labeller.columns(annotations[start:end]) for start, end in pairs]
    return SplitLabels([labeller.labels(columns[:2]), *(labeller.labels([each]) for each in columns[2:])], len(images))


@seeded(300)
@given(
    st.lists(annotation, max_size=12),
    st.lists(side, min_size=6, max_size=6),
    st.lists(st.integers(0, 12), max_size=3),
)
@example([], [1] * 6, [])
@example([AnnotationRecord(i, [7, -1][i % 2], 1, (1.0, 2.0, 3.0, 4.0 + i), 1.0) for i in range(8)], [9] * 6, [3, 5, 6])
def test_batches_equal_one_by_one(annotations, sides, cuts):
    images = {
        image_id: ImageRecord(image_id, "a.jpg", width, height)
        for image_id, width, height in zip([7, -1, 2**70], sides[:3], sides[3:], strict=True)
    }
    labels = in_parts(annotations, images, cuts)
    lines, clipped = one_by_one(annotations, images)
    files = labels.files(range(3))
    assert files == [lines.get(image_id, b"") for image_id in images]
    assert [labels.files(range(row, row + 1)) for row in range(3)] == [[text] for text in files]
    assert labels.backgrounds == files.count(b"")
    counts = labels.counts
    assert counts.clipped == clipped
    assert counts.annotations == len(annotations)
    assert counts.boxes + counts.unselected + counts.crowds + counts.empty == len(annotations)
    assert counts.boxes == sum(text.count(b"\n") for text in files)


@seeded(200)
@given(
    st.lists(st.sampled_from([0, 1, 2**24 - 1, 2**24, -1, 2**70]) | st.integers(), max_size=8),
    st.lists(st.integers(0, 8), max_size=3),
)
@example([5, 6, 5], [])
@example([5, 6, 5], [2])
@example([-5, 6, -5], [])
@example([-5, 6, -5], [1])
def test_an_id_that_comes_twice_is_noticed(ids, cuts):
    annotations = [AnnotationRecord(i, 7, 1, (1.0, 1.0, 2.0, 2.0), 4.0) for i in ids]
    labels = in_parts(annotations, {7: ImageRecord(7, "a.jpg", 9, 9)}, cuts)
    assert labels.ids_repeat == (len(set(ids)) < len(ids))


@pytest.mark.parametrize("change", [{"image_id": i} for i in (8, 3, -1, -8, 2**70)] + [{"category_id": 2000}])
def test_what_belongs_to_nothing_needs_a_closer_look(change):
    record = {"id": 1, "image_id": 7, "category_id": 1, "bbox": (1.0, 1.0, 2.0, 2.0), "area": 4.0} | change
    with pytest.raises(FastPathUnavailable):
        Labeller({7: ImageRecord(7, "a.jpg", 9, 9)}, SELECTION).columns([AnnotationRecord(**record)])


def test_ids_far_apart_take_no_table():
    images = {i: ImageRecord(i, f"{i}.jpg", 9, 9) for i in (5, 2**62)}
    labels = Labeller(images, SELECTION)
    columns = labels.columns([AnnotationRecord(1, 2**62, 1, (1.0, 1.0, 2.0, 2.0), 4.0)])
    assert SplitLabels([labels.labels([columns])], 2).files(range(2)) == [
        b"",
        b"1 0.222222 0.222222 0.222222 0.222222\n",
    ]


def test_rounding_is_that_of_formatting():
    """Also where the seventh decimal is a five: halves of units, which are mostly no float64, and their neighbours."""
    rng = np.random.default_rng(0)
    halves = (np.arange(1_000_000, step=7) + 0.5) / 1_000_000
    exact = np.arange(1, 4096) / 4096  # float64s, and some of them halves
    pixels = rng.integers(0, 64_000, 50_000) / 100 / 640
    values = np.concatenate(
        [halves, np.nextafter(halves, 0), np.nextafter(halves, 1), exact, pixels, rng.random(50_000)]
    )
    values = np.concatenate([values, [0.0, 1.0, 5e-7, 1e-300, np.nextafter(1, 0), 1 / 128, 3 / 128]])
    expected = [int(("%.6f" % value).replace(".", "")) for value in values.tolist()]  # noqa: UP031
    assert millionths(values).tolist() == expected
    naive = np.rint(values * 1e6).astype(int)
    assert (naive != expected).any()  # so that this test can tell


@pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux only")
def test_numpy_stays_out_of_the_process_that_forks(tmp_path):
    """Its threads would end all forking there, so that the files would be written by one process alone."""
    make_split(tmp_path / "root", "train", [image()], [box()])
    code = (
        "import os, sys; from kdyolo.data.coco_to_yolo import convert_coco; convert_coco(sys.argv[1], sys.argv[2]); "
        "print('numpy' in sys.modules, len(os.listdir('/proc/self/task')))"
    )
    command = [sys.executable, "-c", code, tmp_path / "root", tmp_path / "out"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout == "False 1\n"
    assert (tmp_path / "out/labels/train/a.txt").read_text()
