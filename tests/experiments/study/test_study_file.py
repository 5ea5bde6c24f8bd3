"""Study files: every mistake at once and by name, and the same model for arms that are to be compared."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from ultralytics import YOLO

from kdyolo import Study
from kdyolo.errors import ConfigError
from kdyolo.experiments.study.study_file import parse_study
from kdyolo.models.backbone import DistilledBackbone
from tests.builders.checkpoints import old_names
from tests.builders.commands import CHECKOUT
from tests.builders.run_folders import write_run
from tests.cli.test_cli import fails


@pytest.fixture
def content(shapes: Path, checkpoint: Path) -> dict[str, Any]:
    """A study without a mistake."""
    return {
        "name": "question",
        "data": str(shapes),
        "base": {"epochs": 4, "imgsz": 64, "batch": 4},
        "arms": {"random": {"random_init": True}, "frozen": {"backbone": str(checkpoint), "freeze": 2}},
        "seeds": [0, 1],
        "devices": ["cpu"],
        "baseline": "random",
    }


def write(content: dict[str, Any], path: str = "study.yaml") -> str:
    Path(path).write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def test_a_study_is_every_arm_with_every_seed(content, tmp_path, checkpoint):
    study = Study.from_file(write(content))
    assert [(run.arm.name, run.seed) for run in study.runs] == [
        ("random", 0),
        ("frozen", 0),
        ("random", 1),
        ("frozen", 1),
    ]
    run = study.runs[1]
    assert run.folder == tmp_path / "studies/question/frozen/seed0"
    assert run.arm.settings.freeze_epochs == 2
    words = " ".join(run.arguments("cpu"))
    for expected in (f"--backbone {checkpoint}", "--freeze-epochs 2", "--model kdyolov8n.yaml", "imgsz=64", "--seed 0"):
        assert expected in words
    assert study.plan()["status"].tolist() == ["new"] * 4
    assert not (tmp_path / "studies").exists()


def test_an_arm_without_weights_gets_the_model_of_the_others(content, tmp_path):
    """The checkpoint is of scale n, and without it kdyolo would take yolov8s."""
    study = Study.from_file(write(content))
    assert {arm.model for arm in study.arms} == {"kdyolov8n.yaml"}
    content["base"]["model"] = "kdyolov8n-p2.yaml"
    assert {arm.model for arm in Study.from_file(write(content)).arms} == {"kdyolov8n-p2.yaml"}


def test_arms_of_different_scales_are_named(content, tmp_path):
    torch.save(old_names(DistilledBackbone("yolov8s")), tmp_path / "s.pth")
    content["arms"]["bigger"] = {"backbone": str(tmp_path / "s.pth")}
    with pytest.raises(ConfigError, match=r"kdyolov8n\.yaml \(frozen\); kdyolov8s\.yaml \(bigger\)"):
        Study.from_file(write(content))


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"sedes": [1]}, "unknown key 'sedes'. Did you mean 'seeds'?"),
    "unknown option": ({"arms": {"a": {"freez": 3}, "b": {}}}, "arm a: unknown setting 'freez'. Did you mean 'freeze'"),
    "option of the base": ({"base": {"epocs": 3}}, "every arm: unknown setting 'epocs'. Did you mean 'epochs'"),
    "wrong value": ({"arms": {"a": {"lr0": "fast"}, "b": {}}}, "arm a: 'lr0=fast' is of invalid type"),
    "missing checkpoint": ({"arms": {"a": {"backbone": "no.pth"}, "b": {}}}, "arm a: no.pth: no such file"),
    "missing weights": ({"arms": {"a": {"weights": "./no.pt"}, "b": {}}}, "arm a: weights ./no.pt: no such file"),
    "unknown model": ({"base": {"model": "kdyolov9s.yaml"}}, "every arm: kdyolov9s.yaml: no such model YAML"),
    "missing data": ({"data": "no.yaml"}, "data: data no.yaml: 'no.yaml' does not exist"),
    "no data": ({"data": None}, "data: expected the data set YAML of all arms"),
    "the same twice": ({"arms": {"a": {"random_init": True}, "b": {"lr0": 0.01}}}, "arms: a and b are the same"),
    "no such GPU": ({"devices": [7]}, "devices: GPU 7 does not exist"),
    "no such device": ({"devices": ["gpu"]}, "devices: expected cpu, mps, the number of a GPU"),
    "one GPU for two": ({"devices": ["0,1", 1]}, "GPU 1 named twice"),
    "no such baseline": ({"baseline": "randm"}, "baseline 'randm' is no arm. Did you mean 'random'?"),
    "a seed twice": ({"seeds": [0, 0]}, "seeds: 0 given twice"),
    "seeds as a number": ({"seeds": 3}, "seeds: expected a list of whole numbers"),
    "seeds as words": ({"seeds": ["a", True]}, "seeds: expected a list of whole numbers"),
    "name of a folder": ({"name": "../up"}, "name: '../up' cannot name a folder"),
    "arm's folder": ({"arms": {"a/b": {}, "b": {"lr0": 0.1}}}, "arm 'a/b' cannot name a folder"),
    "reserved": ({"arms": {"report": {}, "b": {"lr0": 0.1}}}, "'report' is taken"),
    "upper case": ({"arms": {"A": {}, "a": {"lr0": 0.1}}}, "arms A, a differ in upper and lower case only"),
    "seed in an arm": (
        {"arms": {"a": {"seed": 1}, "b": {"lr0": 0.1}}},
        "arm a: seed cannot be given here; give 'seeds'",
    ),
    "data in an arm": ({"arms": {"a": {"data": "x"}, "b": {"lr0": 0.1}}}, "arm a: data cannot be given here"),
    "two freezes": ({"arms": {"a": {"freeze": 1, "freeze_epochs": 2}}}, "two names of one option"),
    "two batches": (
        {"arms": {"a": {"batch": 8}, "b": {"lr0": 0.1}}},
        "arms: their batches differ: 8 (a); 4 (b). Give all of them one",
    ),
    "AutoBatch": ({"base": {"batch": -1}}, "every arm: batch -1: AutoBatch chooses anew for every run"),
    "layers": ({"arms": {"a": {"freeze": [0, 1]}}}, "freeze counts epochs of the backbone"),
    "contradiction": ({"arms": {"a": {"random_init": True, "bn_eps": 0.1}}}, "arm a: bn_eps is about a backbone"),
    "not options": ({"arms": {"a": [1]}}, "arm a: expected options such as"),
}


@pytest.mark.parametrize(("change", "words"), BAD.values(), ids=BAD)
def test_mistakes_are_named(content, change, words, tmp_path):
    content.update(change)
    with pytest.raises(ConfigError) as error:
        Study.from_file(write(content))
    assert words in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]


def test_the_command_tells_all_of_them_at_once(content, capsys):
    content.update(sedes=[1], devices=[7], baseline="no")
    content["arms"] |= {"typo": {"freez": 3}, "lost": {"backbone": "no.pth"}, "again": {}}
    code, error = fails(capsys, "study", write(content))
    assert code == 2
    assert "6 mistakes" in error
    for words in ("'sedes'", "GPU 7", "'no' is no arm", "typo: unknown setting", "lost: no.pth", "random and again"):
        assert words in error


def test_the_same_checkpoint_under_another_name_is_the_same_arm(content, checkpoint, tmp_path):
    copy = shutil.copy(checkpoint, tmp_path / "other.pth")
    content["arms"]["copy"] = {"backbone": str(copy), "freeze_epochs": 2}
    with pytest.raises(ConfigError, match="frozen and copy are the same"):
        Study.from_file(write(content))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("arms: {a: {}, a: {freeze: 1}}\ndata: x\n", "a given twice"),
        ("arms: [a, b]\n", "there are no arms"),
        ("arms: {a: \n", "not a YAML file"),
        ("", "there are no arms"),
    ],
)
def test_files_that_are_no_study(text, words, tmp_path):
    Path("study.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        parse_study("study.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        parse_study("missing.yaml")


def test_what_may_be_left_out(content):
    for key in ("name", "seeds", "devices", "baseline"):
        del content[key]
    file, mistakes = parse_study(write(content, "mine.yaml"))
    assert mistakes == []
    assert (file.name, file.seeds, file.devices, file.baseline) == ("mine", (0, 1, 2), (), None)


@pytest.mark.parametrize(
    ("devices", "parsed"),
    [("cpu", ["cpu"]), ([5, "6"], ["5", "6"]), (["5, 6"], ["5,6"]), (["cpu", "cpu"], ["cpu"] * 2)],
)
def test_devices(content, devices, parsed):
    file, mistakes = parse_study(write({**content, "devices": devices}))
    assert (list(file.devices), mistakes) == (parsed, [])


def test_the_study_of_the_readme_is_one():
    (text,) = re.findall(r"```yaml\n(name:.*?)```", (CHECKOUT / "README.md").read_text(), flags=re.DOTALL)
    Path("study.yaml").write_text(text)
    file, mistakes = parse_study("study.yaml")
    assert mistakes == []
    assert (file.devices, file.seeds, file.baseline) == (("5", "6"), (0, 1, 2), "random")
    assert file.options("frozen50") | {"backbone": None} == {
        "data": "datasets/coco/coco.yaml",
        "recipe": "coco",
        "epochs": 100,
        "batch": 16,
        "imgsz": 640,
        "backbone": None,
        "freeze_epochs": 50,
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"backbone": {"sha256": "0" * 64}}, "backbone sha256: 0000"),
        ({"seed": 5}, "seed: 5 there, 0 in the file"),
        ({"model": "kdyolov8s.yaml"}, "model: yolov8s.yaml there"),
        ({"data": "/elsewhere/coco.yaml"}, "data: /elsewhere/coco.yaml there"),
        ({"settings": {"freeze_epochs": 1}}, "freeze_epochs: 1 there, 2 in the file"),
        ({"settings": {"recipe": "/copy/of/coco.yaml", "work_dir": "/moved"}}, None),
        ({"asked": {"lr0": 0.5, "device": "3", "workers": 1}}, "lr0: 0.5 there, 0.01 in the file"),
        ({"asked": {"momentum": 0.937}}, None),  # the default, said
    ],
)
def test_a_run_says_whether_it_still_belongs(content, change, words):
    """What a run recorded, against what the file asks for: content and settings, not places."""
    run = Study.from_file(write(content)).runs[1]
    record = {
        "settings": run.arm.settings.to_dict(),
        "asked": {key: run.arm.ultralytics[key] for key in ("epochs", "imgsz", "batch", "lr0", "optimizer", "cos_lr")},
        "seed": run.seed,
        "data": content["data"],
        "model": "kdyolov8n.yaml",
        "backbone": {"sha256": run.arm.sha256},
    }
    missing = {k: v for k, v in run.arm.ultralytics.items() if k not in record["asked"]}
    record["asked"] |= missing
    for key, value in change.items():
        record[key] = {**record[key], **value} if isinstance(value, dict) else value
    write_run(run.folder)
    (run.folder / "kdyolo.yaml").write_text(yaml.safe_dump(record))
    differences = run.differences()
    if words is None:
        assert differences == []
    else:
        assert len(differences) == 1
        assert differences[0].startswith(words)


def test_a_stock_detector_as_an_arm_brings_its_model(content, tmp_path):
    YOLO("yolov8n.yaml").save(tmp_path / "stock.pt")
    content["arms"] = {"random": {"random_init": True}, "coco": {"weights": str(tmp_path / "stock.pt")}}
    study = Study.from_file(write(content))
    assert {arm.model for arm in study.arms} == {"kdyolov8n.yaml"}
    content["base"]["model"] = "kdyolov8s.yaml"
    with pytest.raises(ConfigError, match=r"arm coco: weights .*stock\.pt are of kdyolov8n\.yaml and do not fit"):
        Study.from_file(write(content))
