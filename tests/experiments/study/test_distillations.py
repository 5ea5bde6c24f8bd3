"""Arms that distil their backbone: what is asked for, checked before anything runs, and shared by who asks the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from kdyolo import Study
from kdyolo.errors import ConfigError
from tests.builders.distillation import write_images


@pytest.fixture
def content(shapes: Path, checkpoint: Path, tmp_path: Path) -> dict[str, Any]:
    """A study of four arms, three of which distil; two of them the same."""
    asked = {"teacher": str(checkpoint), "images": str(write_images(tmp_path / "photos", 4)), "epochs": 2}
    return {
        "name": "distils",
        "data": str(shapes),
        "base": {"epochs": 4, "imgsz": 64, "batch": 4, "model": "kdyolov8n.yaml", "distill": asked},
        "arms": {
            "random": {"random_init": True, "distill": None},
            "frozen": {"freeze": 2},
            "thawed": {},
            "p3": {"distill": {"taps": "p3:P3", "per_seed": True}},
        },
        "seeds": [0, 1],
        "devices": ["cpu"],
    }


def study_of(content: dict[str, Any]) -> Study:
    Path("study.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return Study.from_file("study.yaml")


def test_who_asks_for_the_same_gets_the_same_and_each_is_made_before_its_first_run(content):
    study = study_of(content)
    names = [job.name for job in study.jobs]
    once, first, second = (d.name for d in study.distillations)
    assert names == [
        *("random/seed0", once, "frozen/seed0", "thawed/seed0", first, "p3/seed0"),
        *("random/seed1", "frozen/seed1", "thawed/seed1", second, "p3/seed1"),
    ]
    assert (first.removesuffix("-seed0"), second.removesuffix("-seed1")) == (first[:-6], first[:-6])
    assert study.distillations[2].options["seed"] == 1
    frozen = next(run for run in study.runs if run.name == "frozen/seed0")
    words = frozen.arguments("cpu")
    assert words[words.index("--backbone") + 1] == str(study.folder / once / "backbone.safetensors")
    assert study.plan()["status"].tolist() == ["new"] * 11


def test_a_default_that_is_written_out_asks_for_the_same(content):
    content["arms"]["thawed"]["distill"] = {"lr": 0.004, "amp": False}
    names = [d.name for d in study_of(content).distillations]
    assert len(names) == 3


def test_the_command_says_what_was_asked_for(content, checkpoint, tmp_path):
    content["base"]["distill"] |= {"amp": True, "compile": False, "lr": 0.01, "cache": "kept"}
    words = study_of(content).distillations[0].arguments("cpu")
    assert words[0] == "distill"
    assert words[words.index("--model") + 1] == "yolov8n"
    assert words[words.index("--images") + 1] == str(tmp_path / "photos")
    assert words[words.index("--teacher") + 1] == str(checkpoint)
    assert words[words.index("--lr") + 1] == "0.01"
    assert words[words.index("--cache") + 1] == str(tmp_path / "kept")  # wherever a backend starts it
    assert ("--amp" in words, "--compile" in words) == (True, False)
    for device, first in (("0,1", "0"), ("cpu,cpu", "cpu")):  # of a place with several devices
        words = study_of(content).distillations[0].arguments(device)
        assert words[words.index("--device") + 1] == first


def test_the_student_is_the_backbone_of_the_detector(content):
    content["base"]["model"] = "kdyolov8n-p2.yaml"
    assert {d.options["model"] for d in study_of(content).distillations} == {"yolov8n"}
    del content["base"]["model"]
    content["base"]["distill"]["model"] = "yolo11n"
    assert {arm.model for arm in study_of(content).arms} == {"kdyolo11n.yaml"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"teacher": "resnet999"}, "every arm: distill: unknown teacher 'resnet999'"),
        ({"teacher": "resnet18:no.pth"}, "distill: teacher resnet18:no.pth: there is no no.pth"),
        ({"teacher": None}, "distill: teacher: expected a name of timm"),
        ({"images": "nowhere"}, "distill: images: there is no nowhere"),
        ({"images": None}, "distill: no images"),
        ({"epoch": 3}, "distill: unknown option 'epoch'. Did you mean 'epochs'?"),
        ({"imgsz": 100}, "distill: imgsz: expected a multiple of 32"),
        ({"model": "yolov8z"}, "distill: unknown backbone 'yolov8z'"),
        (
            {"model": "yolov8s"},
            "every arm: distill: the student is yolov8s, but the detector kdyolov8n.yaml takes yolov8n.",
        ),
        ({"per_seed": 1}, "distill: per_seed: expected true or false"),
        ({"work_dir": "x"}, "base: distill: work_dir cannot be given here; backbones are kept"),
        ({"device": "0"}, "base: distill: device cannot be given here; give 'devices'"),
    ],
)
def test_mistakes_are_named_before_anything_runs(content, change, says, tmp_path):
    content["arms"] = {"a": {}, "b": {"lr0": 0.1}}
    content["base"]["distill"] |= change
    with pytest.raises(ConfigError) as error:
        study_of(content)
    assert says in str(error.value)
    assert not (tmp_path / "studies").exists()


def test_a_backbone_beside_what_is_distilled_and_arms_that_distil_the_same_are_refused(content, checkpoint):
    content["arms"] = {"a": {"backbone": str(checkpoint)}, "b": {}, "c": {}, "d": {"random_init": True}}
    with pytest.raises(ConfigError) as error:
        study_of(content)
    assert "arm a: distill and backbone exclude each other" in str(error.value)
    assert "b and c are the same" in str(error.value)
    assert "arm d: backbone and random_init exclude each other" in str(error.value)


def test_other_taps_and_other_teachers_are_other_arms(content):
    content["arms"] = {"a": {}, "b": {"distill": {"taps": "p4:P4"}}, "c": {"distill": {"teacher": "resnet18"}}}
    assert len({d.folder for d in study_of(content).distillations}) == 3


def test_with_a_fraction_of_its_own_no_arm_is_like_the_others(content):
    content["arms"] = {"a": {"fraction": 0.5}, "b": {}}
    with pytest.raises(ConfigError, match=r"their fractions of the training images differ: 0.5 \(a\); 1 \(b\)"):
        study_of(content)
    content["arms"] = {"a": {}, "b": {"lr0": 0.1}}
    content["base"]["fraction"] = 0.5
    with pytest.raises(ConfigError, match="fraction and labels exclude each other"):
        study_of({**content, "labels": [0.5, 1.0]})
