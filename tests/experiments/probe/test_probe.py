"""The probe on real images orders random and trained, is repeatable, and names what is wrong with its input."""

from __future__ import annotations

import json

import click
import pytest
import torch

from kdyolo.cli import cli
from kdyolo.distillation.run.backbone_file import backbone_tensors
from kdyolo.errors import ConfigError, DatasetError
from kdyolo.experiments.probe.probe import _left_random, _open_all, probe
from tests.builders.distillation import filled_backbone


@pytest.mark.slow
def test_a_probe_is_repeatable_and_the_command_prints_it(shapes, checkpoint, capsys) -> None:
    first = probe([checkpoint], shapes, split="train", imgsz=64)
    arguments = [str(checkpoint), "--data", str(shapes), "--split", "train", "--imgsz", "64", "--json"]
    cli.main(["probe", *arguments], standalone_mode=False)
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(first.to_dict()))
    assert 0 < first.majority < 1
    assert {score.checkpoint for score in first.scores} == {checkpoint.name, "random yolov8n"}
    assert len(first.scores) == 2 * 3 * 4


def test_all_wrong_options_are_named_at_once(shapes, checkpoint) -> None:
    with pytest.raises(ConfigError) as error:
        probe([checkpoint], shapes, imgsz=100, resize="crop", images=0, batch=0, seed=-1, device="nowhere")
    assert len(error.value.mistakes) == 6


def test_what_no_picture_can_be_drawn_to_is_refused_before_anything_is_read(shapes, checkpoint, tmp_path) -> None:
    for plot in (tmp_path / "none" / "a.png", tmp_path / "a.xyz"):
        with pytest.raises(ConfigError, match=r"--plot .*expected a \.png, \.svg, \.pdf in a folder that is there"):
            cli.main(["probe", "none.pth", "--data", str(shapes), "--plot", str(plot)], standalone_mode=False)


def test_layers_that_never_trained_are_told_and_are_the_same_each_time(tmp_path) -> None:
    torch.save(backbone_tensors(filled_backbone(), (9,)), tmp_path / "a.pt")
    (first,), (again,) = ([b for n, b in _open_all([tmp_path / "a.pt"], 0, {}) if n == "a.pt"] for _ in range(2))
    assert list(_left_random({"a.pt": first})) == ["a.pt: layers 9 never trained and are random, and so P5 and joined"]
    assert all(map(torch.equal, first.state_dict().values(), again.state_dict().values()))


def test_too_few_objects_are_one_error(shapes, checkpoint) -> None:
    with pytest.raises(DatasetError, match=r"too little to probe with in train.*at least 10 objects of 2 classes"):
        probe([checkpoint], shapes, split="train", imgsz=64, images=1)


def test_unreadable_images_are_one_error(shapes, checkpoint, tmp_path) -> None:
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    labels.mkdir()
    (images / "a.jpg").write_bytes(b"none")
    (labels / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "d.yaml").write_text("val: images\nnames: [a, b]\n")
    with pytest.raises(DatasetError, match="1 of 1 image cannot be read"):
        probe([checkpoint], tmp_path / "d.yaml")


def test_files_given_twice_are_an_error(shapes, checkpoint) -> None:
    with pytest.raises(ConfigError, match="more than once"):
        probe([checkpoint, checkpoint], shapes, split="train", imgsz=64)


def test_seeds_are_numbers_between_commas(shapes, checkpoint) -> None:
    with pytest.raises(click.UsageError, match="such as 0,1,2"):
        cli.main(["probe", str(checkpoint), "--data", str(shapes), "--detect-seeds", "0;1"], standalone_mode=False)


def test_wrong_options_of_heads_are_named_before_anything_is_computed(shapes, checkpoint, tmp_path) -> None:
    (tmp_path / "kept").write_text("something")
    wrong = {"detect_epochs": 0, "detect_images": 1, "detect_seeds": (1, 1), "work_dir": tmp_path}
    with pytest.raises(ConfigError) as error:
        probe([checkpoint], shapes, imgsz=64, detect=True, **wrong)
    assert len(error.value.mistakes) == 4
    with pytest.raises(ConfigError, match="Add detect"):
        probe([checkpoint], shapes, imgsz=64, detect_epochs=2)
