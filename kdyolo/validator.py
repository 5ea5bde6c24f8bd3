"""Evaluation: Ultralytics' validator, kept from scoring other data sets as if they were COCO."""

from __future__ import annotations

from typing import Any

from ultralytics.data.converter import coco80_to_coco91_class
from ultralytics.models.yolo.detect import DetectionValidator


class KDValidator(DetectionValidator):  # type: ignore[misc]
    """Ultralytics' detection validator.

    Ultralytics takes any list named ``val2017.txt`` below a path with "coco" in it for COCO itself, renumbers classes
    to COCO's 91 ids and prints "official" figures. For a converted data set of other categories they would be wrong.
    """

    data: dict[str, Any]

    def init_metrics(self, model: Any) -> None:
        """Prepare the metrics, as COCO only if the data set's own category ids are COCO's."""
        ids, val = self.data.get("category_ids"), self.data.get(self.args.split)
        if ids is not None and list(ids.values()) != coco80_to_coco91_class() and isinstance(val, str):
            self.data = {**self.data, self.args.split: [val]}  # only a plain string is ever taken for COCO
        super().init_metrics(model)
