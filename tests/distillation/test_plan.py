"""Options of a distillation: every mistake in them at once, whatever a file or a call brings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kdyolo.distillation.options import DistillOptions
from kdyolo.distillation.plan import check_options, plan_distillation
from kdyolo.distillation.run.backbone_file import backbone_tensors
from kdyolo.errors import ConfigError
from kdyolo.runs.lifecycle.options import declared
from tests.builders.distillation import BlurTeacher, filled_backbone, write_images

ODD: tuple[Any, ...] = (
    *([], [[1]], {"a": 1}, b"evil", 1j, float("nan"), float("inf"), 10**30, -1, "9" * 5000, "a\0b", object()),
)
OPTIONS = [name for name in declared(DistillOptions) if name != "device"]  # which is read with the machine


@pytest.mark.parametrize("name", OPTIONS)
def test_values_of_any_kind_are_taken_or_refused_by_name(name: str) -> None:
    for value in ODD:
        said = mistake_in({name: value})
        assert said is None or (name in said and len(said) < 400)


def mistake_in(given: dict[str, Any]) -> str | None:
    try:
        check_options(given)
    except ConfigError as e:
        return str(e)
    return None


def test_paths_are_kept_as_texts() -> None:
    """Which is what a run records of its options, and reads again when it is resumed."""
    options = check_options({"model": "yolov8n", "val_images": Path("held"), "work_dir": Path("run")})
    assert (options.val_images, options.work_dir) == ("held", "run")


def test_all_mistakes_at_once() -> None:
    given = {"epochs": "many", "crop": [1], "lr": 0, "imgsz": 100, "seed": -1, "teacher_size": 1 << 20, "clip": None}
    given |= {"workers": 5400}
    with pytest.raises(ConfigError) as caught:
        check_options(given)
    assert len(caught.value.mistakes) == len(given)


@pytest.mark.parametrize(("taps", "kept"), [("p4:s16", (7, 8, 9)), (None, ())])
def test_what_a_checkpoint_has_filled_is_not_untrained(tmp_path: Path, taps: str | None, kept: tuple[int, ...]) -> None:
    torch.save(backbone_tensors(filled_backbone(), ()), tmp_path / "student.pt")
    images = write_images(tmp_path / "images", 4)
    given = {"imgsz": 64, "batch": 2, "held_out": 2, "taps": taps}
    teacher = BlurTeacher(64, (8, 16, 32))
    plan = plan_distillation(images, teacher, {**given, "backbone": str(tmp_path / "student.pt")})
    assert (plan.kept, plan.untrained) == (kept, ())
    layers = plan.student.backbone.layers
    assert {number for number, layer in enumerate(layers) if all(not p.requires_grad for p in layer.parameters())} == {
        *kept
    }
    fresh = plan_distillation(images, teacher, {**given, "model": "yolov8n"})
    assert (fresh.kept, fresh.untrained) == ((), kept)


def test_unknown_options_are_named() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'epochs'"):
        check_options({"epoch": 3})
