"""Ids of annotations by which pycocotools counts otherwise, each told once."""

from __future__ import annotations

import pytest

from kdyolo.metrics.differences import differences_of_ids

ZERO, REPEATED = "the id 0: here it counts as any other", "an id that others have too: here each counts"


@pytest.mark.parametrize(
    ("ids", "told"),
    [
        ([1, 2, "x", 4.5], []),
        ([0, 1, 2], [f"1 annotation has {ZERO}"]),
        (["0", 1], [f"1 annotation has {ZERO}"]),
        ([False, 1], [f"1 annotation has {ZERO}"]),
        ([3, 3, 4], [f"2 annotations have {REPEATED}"]),
        ([None, None, 4], [f"2 annotations have {REPEATED}"]),
        ([1, True, 1.0], [f"3 annotations have {REPEATED}"]),
        ([0, 1, 0, 1], [f"2 annotations have {ZERO}", f"4 annotations have {REPEATED}"]),
        ([[1], {}], []),  # which pycocotools cannot read
    ],
)
def test_what_is_told(ids, told):
    notes = differences_of_ids(ids)
    assert [note[: len(start)] for note, start in zip(notes, told, strict=True)] == told
    assert all(note.endswith("(--evaluator pycocotools gives its number)") for note in notes)
