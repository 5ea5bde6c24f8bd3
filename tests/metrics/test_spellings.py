"""Any way in which tools write a file gives the numbers of the regular file, and pycocotools' own on request."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdyolo.metrics.coco_metrics import score_coco
from tests.builders.coco_results import write_json
from tests.builders.coco_spellings import SPELLINGS, whole_numbered
from tests.metrics.test_coco_metrics import by_hand


def spelled(folder, seed, names, ties=False):
    """Files of the same ground truth and detections: the regular ones, and those in other spellings.

    Where scores tie, the order of the images decides, which is that of the alphabet where ids are texts.
    """
    truth, detections = whole_numbered(seed, ties)
    regular = write_json(folder / "pred.json", detections), write_json(folder / "ann.json", truth)
    rng = np.random.default_rng(seed)
    for name in sorted(names, key=lambda name: name == "a record twice"):  # which may not change afterwards
        SPELLINGS[name](rng, truth, detections)
    return regular, (write_json(folder / "odd_pred.json", detections), write_json(folder / "odd_ann.json", truth))


@pytest.mark.parametrize("name", SPELLINGS)
def test_each_spelling_gives_the_same_twelve_numbers(tmp_path, name):
    for seed in (1, 2, 3):
        regular, odd = spelled(tmp_path, seed, [name])
        expected = score_coco(*regular)
        assert 0.02 < expected.ap < 0.9
        assert score_coco(*odd).metrics == pytest.approx(expected.metrics, abs=1e-12)  # sums in another order


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.sampled_from(sorted(SPELLINGS)), min_size=2, max_size=6, unique=True))
def test_any_mixture_of_spellings_gives_the_same_twelve_numbers(tmp_path_factory, seed, names):
    regular, odd = spelled(tmp_path_factory.mktemp("any"), seed, names)
    assert score_coco(*odd).metrics == pytest.approx(score_coco(*regular).metrics, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.sampled_from(sorted(SPELLINGS)), min_size=1, max_size=3, unique=True))
def test_where_pycocotools_differs_a_note_says_so_and_its_own_number_is_to_be_had(tmp_path_factory, seed, names):
    _, (predictions, annotations) = spelled(tmp_path_factory.mktemp("own"), seed, names, ties=True)
    ours = score_coco(predictions, annotations)
    own = score_coco(predictions, annotations, evaluator="pycocotools")
    try:
        expected = by_hand(annotations, predictions).stats
    except Exception:  # of many kinds: pycocotools checks nothing
        assert any(note.startswith("pycocotools itself cannot read") for note in own.notes)
        assert own.metrics == pytest.approx(ours.metrics, abs=1e-9)
        return
    assert own.metrics == tuple(expected)
    if not np.allclose(ours.metrics, expected, rtol=0, atol=1e-9):
        assert any("--evaluator pycocotools gives its number" in note for note in ours.notes), names


def test_gzip_byte_order_mark_and_wrappers(tmp_path):
    (predictions, annotations), _ = spelled(tmp_path, 5, [])
    expected = score_coco(predictions, annotations)
    detections = json.loads(predictions.read_text())
    zipped = tmp_path / "no ending"
    zipped.write_bytes(gzip.compress(b"\xef\xbb\xbf" + annotations.read_bytes()))
    for key in ("annotations", "predictions", "results", "detections"):
        wrapped = tmp_path / "pred.json.gz"
        wrapped.write_bytes(gzip.compress(json.dumps({"info": {}, key: detections}).encode()))
        assert score_coco(wrapped, zipped).metrics == expected.metrics
