"""Losses of a conversion that leaves out invalid records: how many objects go, and whether that is too many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from kdyolo.coco_json.records import Key
from kdyolo.coco_json.values import id_key
from kdyolo.data.coco.reading.schema import RecordLog
from kdyolo.errors import DatasetError
from kdyolo.utils.text import plural, quoted

MOST_SHARE = 0.05  # of a split's objects, that may go without being asked for
_MOST_NAMED = 5


def check_losses(
    annotations: Sequence[Any], log: RecordLog, category_ids: Mapping[Key, int], categories: Mapping[int, str]
) -> None:
    """Check that no more than a few objects are left out, and no category with all of its objects.

    An object that goes while its image stays becomes background, which a detector learns.

    Args:
        annotations: All annotations of the file, as they are written.
        log: Log of the records left out.
        category_ids: Id in the file → id in use.
        categories: Category id in use → name.

    Raises:
        DatasetError: Too many go.
    """
    lost = [annotations[row] for row in log.skipped_rows]
    gone = _gone_categories(annotations, lost, category_ids, categories)
    if len(lost) <= MOST_SHARE * len(annotations) and not gone:
        return
    images = len({repr(record.get("image_id")) for record in lost if isinstance(record, dict)})
    reasons = ", ".join(f"{reason} ({count:,})" for reason, count in log.skipped["annotation"].most_common())
    names = ", ".join(map(quoted, gone[:_MOST_NAMED])) + (", …" if len(gone) > _MOST_NAMED else "")
    of_category = f"; among them all of {names}" if gone else ""
    raise DatasetError(
        f"{log.path}: --skip-invalid would leave out {len(lost):,} of {len(annotations):,} objects, "
        f"{len(lost) / len(annotations):.0%} (expected at most {MOST_SHARE:.0%}, and no whole category), of "
        f"{plural(images, 'image')}: {reasons}{of_category}. Correct the file, or go on with --skip-invalid=any."
    )


def _gone_categories(
    annotations: Sequence[Any], lost: Sequence[Any], category_ids: Mapping[Key, int], categories: Mapping[int, str]
) -> list[str]:
    """Names of the categories all of whose objects are lost."""

    def count(records: Sequence[Any]) -> Counter[int | None]:
        keys = (id_key(record.get("category_id")) for record in records if isinstance(record, dict))
        return Counter(category_ids.get(key) for key in keys if key is not None)

    if not lost:
        return []
    before, left_out = count(annotations), count(lost)
    return [categories[key] for key, number in left_out.items() if key is not None and number == before[key]]
