"""The public API: names, signatures, and docstrings whose examples run. What changes here, changes for users."""

from __future__ import annotations

import dataclasses
import doctest
import inspect
import re
import shutil
import sys
from pathlib import Path

import mypy.api
import pytest
import yaml
from ultralytics.utils import DEFAULT_CFG_DICT

import kdyolo
from kdyolo.distillation.keywords import DistillKeywords
from kdyolo.distillation.options import DistillOptions
from kdyolo.engine.options import keywords
from kdyolo.engine.options.keywords import TrainKeywords, UltralyticsKeywords
from kdyolo.engine.options.train_options import OPTION_NAMES
from kdyolo.engine.options.ultralytics_settings import EXTRA_KEYS
from tests.builders.coco_results import random_detections, random_ground_truth, write_json
from tests.builders.commands import CHECKOUT, run_command
from tests.builders.distillation import write_images
from tests.builders.run_folders import write_full_run
from tests.builders.studies import write_small_study

# Name → its parameters with annotations and defaults, and what is returned; classes: how one is made.
SIGNATURES = {
    "CocoSplit": "(annotations: 'Path', images: 'Path', split: 'str') -> None",
    "DistilledBackbone": (
        "(arch: 'str' = 'yolov8n', max_channels: 'int | None' = None, bn_eps: 'float' = 0.001, "
        "levels: 'Sequence[str]' = ('P3', 'P4', 'P5')) -> 'None'"
    ),
    "FreezeSchedule": (
        "(freeze_epochs: \"int | Literal['all']\" = 0, epochs: 'int' = 100, "
        "unfreeze_stages: 'str | None' = None, backbone_lr: 'float' = 1.0, thaw_warmup: 'float' = 1.0, "
        "freeze_bn: 'str' = 'with-backbone') -> None"
    ),
    "KDTrainer": (
        "(cfg: 'Any' = '…', overrides: 'dict[str, Any] | None' = None, "
        "_callbacks: 'dict[str, Any] | None' = None, plan: 'RunPlan | None' = None) -> 'None'"
    ),
    "KDValidator": (
        "(dataloader: 'Any' = None, save_dir: 'Any' = None, args: 'Any' = None, "
        "_callbacks: 'dict[str, Any] | None' = None, resize: 'str' = 'letterbox') -> 'None'"
    ),
    "KDYOLO": (
        "(model: 'str | Path | None' = None, task: 'str | None' = None, *, backbone: 'str | Path | None' = None, "
        "weights: 'str | Path | None' = None, random_init: 'bool' = False, "
        "allow_partial: 'bool' = False, bn_eps: 'float | None' = None, input_norm: 'str | None' = None, "
        "key_map: 'str | Path | None' = None, trust: 'bool' = False, verbose: 'bool' = False) -> 'None'"
    ),
    "Study": ("(file: 'StudyFile', arms: 'tuple[StudyArm, ...]', devices: 'tuple[str, ...]', root: 'Path') -> 'None'"),
    "TrainOptions": (
        "(backbone: 'str | None' = None, weights: 'str | None' = None, random_init: 'bool' = False, "
        "allow_partial: 'bool' = False, bn_eps: 'float | None' = None, input_norm: 'str | None' = None, "
        "key_map: 'str | None' = None, trust: 'bool' = False, "
        "freeze_epochs: \"int | Literal['all']\" = 0, unfreeze_stages: 'str | None' = None, "
        "backbone_lr: 'float' = 1.0, thaw_warmup: 'float' = 1.0, freeze_bn: 'str' = 'with-backbone', "
        "resize: 'str' = 'letterbox', recipe: 'str' = 'coco', coco_eval_period: 'int' = 0, "
        "run_download: 'bool' = False, work_dir: 'str | None' = None) -> None"
    ),
    "compare": (
        "(*runs: 'str | Path', baseline: 'str | Path | None' = None, out: 'str | Path | None' = None, "
        "anyway: 'bool' = False, metric: 'str' = 'mAP50-95', at: 'str' = 'best', "
        "targets: 'Sequence[float] | None' = None) -> 'RunComparison'"
    ),
    "compare_checkpoints": (
        "(first: 'str | Path', second: 'str | Path', *, model: 'str | None' = None, **how: 'Unpack[ReadKeywords]') "
        "-> 'CheckpointDiff'"
    ),
    "compare_coco": (
        "(first: 'str | Path', second: 'str | Path', annotations: 'str | Path', *, "
        "evaluator: 'Evaluator' = 'faster-coco-eval', resamples: 'int' = 1000, seed: 'int' = 0, "
        "level: 'float' = 0.95, categories: 'Sequence[int] | None' = None, category_offset: 'int | str' = 'auto') "
        "-> 'CocoComparison'"
    ),
    "compare_runs": (
        "(*runs: 'str | Path', baseline: 'str | Path | None' = None, out: 'str | Path | None' = None, "
        "anyway: 'bool' = False, metric: 'str' = 'mAP50-95', at: 'str' = 'best', "
        "targets: 'Sequence[float] | None' = None) -> 'RunComparison'"
    ),
    "convert_coco": (
        "(root: 'str | Path | None' = None, out: 'str | Path | None' = None, *, name: 'str' = 'coco', "
        "link: 'Link' = 'symlink', sources: 'Sequence[CocoSplit]' = (), skip_invalid: 'SkipInvalid' = False, "
        "classes: 'Sequence[str]' = (), min_area: 'float' = 0.0, include_crowd: 'bool' = False, "
        "segments: 'bool' = False, verify_images: 'bool' = False, keep_empty_categories: 'bool' = False) "
        "-> 'ConversionSummary'"
    ),
    "distill": (
        "(images: 'str | Path | Sequence[str | Path]', *, teacher: 'str | Path | Teacher', "
        "model: 'str | None' = None, **options: 'Unpack[DistillKeywords]') -> 'DistillResult'"
    ),
    "draw_features": (
        "(path: 'str | Path', image: 'str | Path', out: 'str | Path', imgsz: 'int' = 640, *, "
        "model: 'str | None' = None, **how: 'Unpack[ReadKeywords]') -> 'Path'"
    ),
    "export_stock": ("(source: 'str | Path', out: 'str | Path | None' = None, exist_ok: 'bool' = False) -> 'Path'"),
    "extract_backbone": "(source: 'str | Path', out: 'str | Path', exist_ok: 'bool' = False) -> 'Path'",
    "inspect_checkpoint": (
        "(path: 'str | Path', *, model: 'str | None' = None, **how: 'Unpack[ReadKeywords]') -> 'CheckpointSummary'"
    ),
    "list_runs": "(folders: 'Sequence[str | Path]' = ()) -> 'list[RunStatus]'",
    "load_backbone": (
        "(path: 'str | Path', *, levels: 'Sequence[str]' = ('P3', 'P4', 'P5'), "
        "allow_partial: 'bool' = False, bn_eps: 'float | None' = None, family: 'str | None' = None, "
        "key_map: 'str | Path | None' = None, input_norm: 'str | None' = None, trust: 'bool' = False)"
        " -> 'DistilledBackbone'"
    ),
    "preflight": "(overrides: 'Mapping[str, Any]', folder: 'str | Path' = 'preflight') -> 'list[PhaseCost]'",
    "probe": (
        "(checkpoints: 'Sequence[str | Path]', data: 'str | Path', *, split: 'str' = 'val', imgsz: 'int' = 640, "
        "resize: 'str' = 'letterbox', images: 'int | None' = 1000, batch: 'int' = 16, seed: 'int' = 0, "
        "device: 'int | str' = 'cpu', detect: 'bool' = False, detect_epochs: 'int' = 5, detect_images: 'int' = 1000, "
        "detect_seeds: 'Sequence[int]' = (0,), work_dir: 'str | Path | None' = None, "
        "key_map: 'str | Path | None' = None, bn_eps: 'float | None' = None, input_norm: 'str | None' = None, "
        "trust: 'bool' = False) -> 'ProbeResult'"
    ),
    "read_checkpoint": (
        "(path: 'str | Path', bn_eps: 'float | None' = None, *, key_map: 'str | Path | None' = None, "
        "input_norm: 'str | None' = None, trust: 'bool' = False) -> 'BackboneCheckpoint'"
    ),
    "read_run": "(path: 'str | Path') -> 'Run'",
    "score_coco": (
        "(predictions: 'str | Path', annotations: 'str | Path', *, "
        "evaluator: 'Evaluator' = 'faster-coco-eval', categories: 'Sequence[int] | None' = None, "
        "category_offset: 'int | str' = 'auto') -> 'CocoScores'"
    ),
    "to_coco": ("(dataset: 'str | Path', out: 'str | Path', *, split: 'str | None' = None) -> 'ExportSummary'"),
    "write_model_card": "(run: 'str | Path', out: 'str | Path | None' = None) -> 'Path'",
    "write_report": (
        "(comparison: 'ComparisonResult', folder: 'str | Path', *, refresh: 'float | None' = None) -> 'Path'"
    ),
}

# What these functions give back, and the error that all of them raise.
GIVEN = {
    *("BackboneCheckpoint", "CheckpointDiff", "CheckpointSummary", "CocoComparison", "CocoScores", "ConversionSummary"),
    *("DistillResult", "ExportSummary", "KDYOLOError", "LoadReport", "PhaseCost", "ProbeResult", "Run"),
    *("RunComparison", "RunStatus"),
}

# What signatures name beside it, and the errors that docstrings name.
NAMED = {
    *("CheckpointError", "ComparisonResult", "ConfigError", "DatasetError", "DistillKeywords", "ErrorReport"),
    *("Evaluator", "Link", "ModelError", "ReadKeywords", "RunError", "SkipInvalid", "Teacher", "TeacherMap"),
    *("TrainKeywords", "UltralyticsKeywords"),
}
# What only kdyolo itself gives to a constructor.
INSIDE = {"RunPlan", "StudyFile", "StudyArm"}

# Names whose docstrings have an example that runs.
WITH_EXAMPLE = (
    *("DistilledBackbone", "FreezeSchedule", "compare_checkpoints", "compare_coco", "compare_runs", "convert_coco"),
    *("inspect_checkpoint", "load_backbone", "read_checkpoint", "score_coco"),
    *("CocoSplit", "KDValidator", "TrainOptions"),
    *(
        "distill",
        "draw_features",
        "list_runs",
        "preflight",
        "probe",
        "read_run",
        "to_coco",
        "write_model_card",
        "write_report",
    ),
)


def signature(name: str) -> str:
    """Signature as text; defaults that are Ultralytics' own settings, which change with its version, as ``…``."""
    found = inspect.signature(getattr(kdyolo, name))
    parameters = [
        parameter.replace(default="…") if type(parameter.default).__module__.startswith("ultralytics") else parameter
        for parameter in found.parameters.values()
    ]
    return str(found.replace(parameters=parameters))


def test_names():
    assert set(kdyolo.__all__) == {"__version__", *SIGNATURES, *GIVEN, *NAMED}
    assert set(kdyolo.__all__) <= set(dir(kdyolo))
    assert kdyolo.compare is kdyolo.compare_runs


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name):
    assert signature(name) == SIGNATURES[name]


def test_what_public_signatures_name_is_public():
    """Every name of ours in an annotation, of what is taken and of what is given back, also of public methods."""
    classes = (kdyolo.KDYOLO, kdyolo.Study)
    methods = [getattr(each, name) for each in classes for name in vars(each) if not name.startswith("_")]
    texts = [*SIGNATURES.values(), *(str(inspect.signature(method)) for method in methods if callable(method))]
    named = {name for text in texts for name in re.findall(r"(?<![.\w])[A-Z]\w+", text)}
    theirs = {
        "None",
        "Path",
        "Any",
        "Literal",
        "Sequence",
        "Mapping",
        "Unpack",
        "NoReturn",
        "False",
        "True",
        "P3",
        "P4",
    }
    assert named - theirs - {"P5", "Callable", "DataFrame", "Backend"} - INSIDE <= set(kdyolo.__all__)


def test_errors_that_docstrings_name_are_public():
    texts = [inspect.getdoc(getattr(kdyolo, name)) or "" for name in SIGNATURES]
    named = {name for text in texts for name in re.findall(r"^    (\w+Error):", text, re.MULTILINE)}
    assert named - {"KeyError"} <= set(kdyolo.__all__)
    assert all(issubclass(getattr(kdyolo, name), kdyolo.KDYOLOError) for name in NAMED if name.endswith("Error"))


@pytest.mark.parametrize("method", ["train", "val", "predict", "export"])
def test_keywords_of_the_detector_are_typed(method):
    last = [*inspect.signature(getattr(kdyolo.KDYOLO, method)).parameters.values()][-1]
    assert last.kind is inspect.Parameter.VAR_KEYWORD
    assert last.annotation == f"Unpack[{'Train' if method == 'train' else 'Ultralytics'}Keywords]"


def test_help_names_every_option_of_a_training():
    text = kdyolo.KDYOLO.train.__doc__ or ""
    assert [name for name in OPTION_NAMES if f"``{name}``" not in text] == []


def test_keywords_are_what_the_options_and_ultralytics_say():
    names = set(UltralyticsKeywords.__annotations__)
    assert names == {*DEFAULT_CFG_DICT, *EXTRA_KEYS} - {"source"}
    assert set(TrainKeywords.__annotations__) == {*names, *OPTION_NAMES}
    fields = {field.name for field in dataclasses.fields(DistillOptions)}
    assert set(DistillKeywords.__annotations__) == fields - {"model"}
    reading = inspect.signature(kdyolo.read_checkpoint).parameters
    assert {name: each.annotation for name, each in reading.items() if name != "path"} == {
        name: hint.__forward_arg__ for name, hint in kdyolo.ReadKeywords.__annotations__.items()
    }
    run_command(
        sys.executable, "scripts/print_keywords.py", "--check", cwd=CHECKOUT, fresh=True, PYTHONPATH=str(CHECKOUT)
    )


def test_a_type_checker_refuses_what_is_wrong(tmp_path):
    (tmp_path / "call.py").write_text(
        "from typing_extensions import Unpack\n"
        "from kdyolo.engine.options.keywords import TrainKeywords\n"
        "def train(**given: Unpack[TrainKeywords]) -> None: ...\n"
        "train(data='coco.yaml', freeze_epochs='all', epochs=3, lr0=0.01, work_dir='run', imgsz=(480, 640))\n"
        "train(epochs='three')\n"
        "train(epohcs=3)\n"
        "train(resize='squash')\n"
    )
    files = [str(tmp_path / "call.py"), keywords.__file__]  # alone: what the package imports would take ten seconds
    text, _, code = mypy.api.run(["--strict", "--follow-imports=skip", "--cache-dir=mypy", *files])
    assert code == 1
    lines = [line for line in text.splitlines() if ": error:" in line]
    assert [line.split(":")[1] for line in lines] == ["5", "6", "7"], text


@pytest.mark.parametrize("name", SIGNATURES)
def test_every_name_has_a_docstring_of_its_own(name):
    thing = getattr(kdyolo, name)
    assert "__doc__" in vars(thing) if inspect.isclass(thing) else thing.__doc__
    assert thing.__doc__.strip().splitlines()[0].endswith((".", ":"))


@pytest.fixture
def files(shapes: Path, checkpoint: Path, tmp_path: Path) -> None:
    """The names that the examples use, in the folder where they run."""
    root = shapes.parent.parent / "root"
    (tmp_path / "COCO2017").symlink_to(root)
    (tmp_path / "datasets").mkdir()
    shutil.copytree(shapes.parent, tmp_path / "datasets" / "coco", symlinks=True)
    (tmp_path / "ckpt.pth").symlink_to(checkpoint)
    write_images(tmp_path / "photos", 12)
    (tmp_path / "image.jpg").symlink_to(
        next(path for path in sorted(root.rglob("*")) if path.suffix in (".jpg", ".png"))
    )
    record = write_full_run(tmp_path / "runs" / "detect" / "train", epochs=3) / "kdyolo.yaml"
    content = yaml.safe_load(record.read_text())
    content["schedule"].update({"backbone_lr": 1.0, "thaw_warmup": 1.0, "freeze_bn": "with-backbone"})
    content["recipe"] = {"name": "coco", "values": {}}
    record.write_text(yaml.safe_dump(content))
    write_small_study(tmp_path / "studies" / "does-it-help")
    truth = random_ground_truth()
    write_json(tmp_path / "instances_val2017.json", truth)
    for name in ("a", "b"):
        write_json(tmp_path / f"{name}.json", random_detections(truth))


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    "name", [name for name in WITH_EXAMPLE if name != "KDYOLO"]
)  # trains 100 epochs; README's test
def test_examples_run(name):
    text = inspect.getdoc(getattr(kdyolo, name)) or ""
    assert "Examples:" in text
    examples = doctest.DocTestParser().get_examples(text)
    imported = "compare" if name == "compare_runs" else name
    assert any(f"import {imported}" in e.source or f", {imported}" in e.source for e in examples)
    names: dict[str, object] = {}
    for example in examples:
        if example.want:
            assert repr(eval(example.source, names)) == example.want.rstrip("\n"), example.source
        else:
            exec(example.source, names)
