"""State of an interrupted distillation: what is no state, or not that of its run, is one error."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from kdyolo.distillation.run.state import DistillState
from kdyolo.engine.resume import ResumeState
from kdyolo.errors import RunError
from kdyolo.runs.contents.forms import DistillStateForm, StateForm

SOUND: dict[str, Any] = {
    "epoch": 1,
    "options": {},
    "data": ["photos"],
    "teacher": "vit",
    "teacher_digest": "00",
    "student": {},
    "optimizer": {},
    "scaler": {},
    "statistics": {"P3": [torch.zeros(2), torch.ones(2)]},
    "floors": {"P3": 0.5},
    "best": 0.25,
    "images": 4,
    "threads": 1,
    "ranks": 1,
    "projection": "",
    "images_digest": "",
}


def saved(folder: Path, content: Any) -> Path:
    torch.save(content, folder / "resume.pt")
    return folder / "resume.pt"


def test_what_was_saved_is_read(tmp_path: Path) -> None:
    DistillState(**SOUND).save(tmp_path / "resume.pt")
    assert str(DistillState.load(tmp_path / "resume.pt")) == str(DistillState(**SOUND))
    assert {field.name for field in fields(DistillState)} == set(DistillStateForm.__struct_fields__) == SOUND.keys()


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("value", [torch.zeros(3), {1: 2}, [[1]], "\x1b", None], ids=str)
def test_a_field_of_another_kind_is_refused(tmp_path: Path, name: str, value: Any) -> None:
    if isinstance(value, type(SOUND[name])) and isinstance(value, str):
        return
    with pytest.raises(RunError, match=rf"resume\.pt: damaged \(.*{name}"):
        DistillState.load(saved(tmp_path, {**SOUND, name: value}))


@pytest.mark.parametrize("name", [name for name in SOUND if name not in ("projection", "images_digest")])
def test_a_field_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    content = {key: value for key, value in SOUND.items() if key != name}
    with pytest.raises(RunError, match=rf"resume\.pt: damaged \({name} missing\)"):
        DistillState.load(saved(tmp_path, content))


def test_what_is_no_state_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"damaged .a list instead of a run's state"):
        DistillState.load(saved(tmp_path, [1]))
    (tmp_path / "resume.pt").write_bytes(b"PK")
    with pytest.raises(RunError, match=r"damaged .*cannot go on from here"):
        DistillState.load(tmp_path / "resume.pt")


def test_a_folder_that_cannot_be_resumed_says_why(tmp_path: Path) -> None:
    def says(reason: str) -> None:
        with pytest.raises(RunError, match=reason):
            DistillState.load(tmp_path / "run" / "weights" / "resume.pt")

    says("no such folder")
    (tmp_path / "run" / "weights").mkdir(parents=True)
    says(r"no run of a distillation, it has no kdyolo\.yaml")
    (tmp_path / "run" / "kdyolo.yaml").touch()
    (tmp_path / "run" / "weights" / "resume.pt").touch()
    says("ended before its first epoch was saved. Start it again with --exist-ok")
    (tmp_path / "run" / "backbone.safetensors").touch()
    says("the run is finished")


def test_the_state_of_a_training_says_which_command_goes_on(tmp_path: Path) -> None:
    content = dict.fromkeys(StateForm.__struct_fields__)
    with pytest.raises(RunError, match=r"the state of a training\. Go on with: kdyolo train --resume"):
        DistillState.load(saved(tmp_path, content))
    with pytest.raises(RunError, match=r"the state of a distillation\. Go on with: kdyolo distill --resume"):
        ResumeState.load(saved(tmp_path, SOUND))
