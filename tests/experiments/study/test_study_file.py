"""Study files: every mistake at once and by name, and the same model for arms that are to be compared."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ultralytics import YOLO

from kdyolo import Study
from kdyolo.errors import ConfigError, RunError
from kdyolo.experiments.study.study_file import KEYS, parse_study
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
    Path(path).write_text(yaml.dump(content, Dumper=yaml.CSafeDumper, sort_keys=False))  # some are megabytes
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
    "base that is none": ({"base": 0}, "base: expected options such as {freeze: 50, lr0: 0.01}; found 0."),
    "option of the base": ({"base": {"epocs": 3}}, "every arm: unknown setting 'epocs'. Did you mean 'epochs'"),
    "wrong value": ({"arms": {"a": {"lr0": "fast"}, "b": {}}}, "arm a: lr0 takes a number from 0 to 1; found 'fast'"),
    "missing checkpoint": ({"arms": {"a": {"backbone": "no.pth"}, "b": {}}}, "arm a: no.pth: no such file"),
    "missing weights": ({"arms": {"a": {"weights": "./no.pt"}, "b": {}}}, "arm a: weights ./no.pt: no such file"),
    "unknown model": ({"base": {"model": "kdyolov9s.yaml"}}, "every arm: kdyolov9s.yaml: no such model YAML"),
    "missing data": ({"data": "no.yaml"}, "data: data no.yaml: 'no.yaml' does not exist"),
    "no data": ({"data": None}, "data: expected the data set YAML of all arms"),
    "the same twice": ({"arms": {"a": {"random_init": True}, "b": {"lr0": 0.01}}}, "arms: a and b are the same"),
    "no such GPU": ({"devices": [7]}, "devices: GPU 7 does not exist"),
    "no such device": ({"devices": ["gpu"]}, "devices: 'gpu' is not understood. Expected cpu, mps"),
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
    with pytest.raises(RunError, match="cannot be read"):
        parse_study("missing.yaml")


GROWING = "".join(f"x{i}: &x{i} [{','.join([f'*x{i - 1}' if i else 'l'] * 10)}]\n" for i in range(9))


def test_a_file_that_grows_without_end_is_one_line(tmp_path, capsys):
    Path("study.yaml").write_text(f"{GROWING}name: *x8\ndata: d.yaml\narms: {{a: {{random_init: true}}}}\n")
    code, error = fails(capsys, "study", "study.yaml")
    assert code == 2
    assert "study file study.yaml: not a YAML file (line 6: *x4 makes more than 200,000 values." in error
    assert len(error) < 300


@pytest.mark.parametrize("key", ["name", "data", "base", "arms", "seeds", "devices", "baseline", "unknown", "an arm"])
@pytest.mark.parametrize("kind", [str, list, dict])
def test_what_is_long_is_quoted_shortly(key, kind, tmp_path):
    document: dict[Any, Any] = {"data": "d.yaml", "arms": {"a": {"random_init": True}}}
    long = "x" * 1_000_000
    value = {str: long, list: [long] * 3, dict: {long: [long]}}[kind]
    if key == "an arm":
        document["arms"][long] = value
    else:
        document[long if key == "unknown" else key] = value
    try:
        _, mistakes = parse_study(write(document))
    except ConfigError as e:
        mistakes = [str(e)]
    assert mistakes or (key, kind) in {("base", dict), ("data", str)}
    assert all(len(mistake) < 1000 for mistake in ConfigError(mistakes).mistakes or [""]) or key == "devices"


def test_a_file_with_more_runs_than_anyone_has_time_for(tmp_path):
    document = {"data": "d.yaml", "arms": {f"a{i}": {} for i in range(200)}, "seeds": list(range(200))}
    study, (mistake,) = parse_study(write(document))
    assert mistake == "200 arms with 200 seeds each are more than 10,000 runs."
    assert not study.arms


def test_options_that_arms_share_may_be_written_once(tmp_path):
    text = "data: d.yaml\nbase: &b {epochs: 4}\narms: {a: &a {freeze: 1}, b: {<<: *a, lr0: 1}, c: *b}\n"
    Path("study.yaml").write_text(text)
    study, mistakes = parse_study("study.yaml")
    assert mistakes == []
    assert study.arms == {"a": {"freeze_epochs": 1}, "b": {"freeze_epochs": 1, "lr0": 1}, "c": {"epochs": 4}}


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["a", "cpu", "all"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3),
)


@given(st.dictionaries(st.sampled_from([*KEYS, "x", 1]), VALUES, max_size=7))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_values_are_read_or_named(tmp_path, document):
    document.setdefault("arms", {"a": {"freeze": 3}})
    try:
        study, mistakes = parse_study(write(document))
    except ConfigError:
        return
    assert len(study.arms) == len(document["arms"])
    assert all(isinstance(mistake, str) for mistake in mistakes)


def test_what_may_be_left_out(content):
    for key in ("name", "seeds", "devices", "baseline"):
        del content[key]
    file, mistakes = parse_study(write(content, "mine.yaml"))
    assert mistakes == []
    assert (file.name, file.seeds, file.devices, file.baseline) == ("mine", (0, 1, 2), (), None)


@pytest.mark.parametrize(
    ("devices", "parsed"),
    [
        ("cpu", ["cpu"]),
        ([5, "6"], ["5", "6"]),
        (["5, 6"], ["5,6"]),
        (["cpu", "cpu"], ["cpu"] * 2),
        (["cuda:0", [1, 2]], ["0", "1,2"]),
    ],
)
def test_devices(content, devices, parsed):
    file, mistakes = parse_study(write({**content, "devices": devices}))
    assert (list(file.devices), mistakes) == (parsed, [])


def test_the_study_of_the_guide_is_one():
    text = re.findall(r"```yaml\n(name:.*?)```", (CHECKOUT / "docs/guides/study.md").read_text(), flags=re.DOTALL)[0]
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
