"""Views: colours change on as few pixels as are shown, and images stay where they were."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from kdyolo.distillation.views import ViewOptions, ViewSet


@pytest.mark.parametrize(("resize", "shape"), [("letterbox", (3, 48, 64)), ("stretch", (3, 64, 64))])
def test_colours_change_on_the_pixels_that_are_shown(resize: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    file = tmp_path / "large.png"
    small = np.random.default_rng(0).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    cv2.imwrite(str(file), cv2.resize(small, (320, 240), interpolation=cv2.INTER_CUBIC))
    plain, coloured = (ViewSet([file], ViewOptions(64, 32, resize, colour=share), 0) for share in (0.0, 1.0))
    seen: list[torch.Size] = []
    coloured._colour = lambda view: seen.append(view.shape) or view  # type: ignore[assignment,func-returns-value]
    for found, expected in zip(coloured[0][:2], plain[0][:2], strict=True):  # the student's canvas, the teacher's
        assert np.abs(found.astype(float) - expected).mean() < 2.0
    assert coloured[0][2:4] == plain[0][2:4]
    assert seen[0] == shape
