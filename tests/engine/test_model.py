"""``KDYOLO`` as ``YOLO``: every public method and property works, or is refused at once with what to do instead."""

from __future__ import annotations

import copy
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn
from ultralytics import YOLO
from ultralytics.engine.model import Model

from kdyolo import KDYOLO
from kdyolo.errors import CheckpointError, ConfigError, KDYOLOError, ModelError
from tests.builders.training import FAST, Enough

IMAGE = np.zeros((32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def shared_model(three: Path) -> KDYOLO:
    """A model that no test trains or fuses."""
    return KDYOLO(three)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stock checkpoint, as a run leaves it."""
    path = tmp_path_factory.mktemp("trained") / "best.pt"
    YOLO("yolov8n.yaml").save(path)
    return path


def trains(model: KDYOLO, data: Path) -> bool:
    def stop(trainer: Any) -> None:
        raise Enough

    model.add_callback("on_train_start", stop)
    with pytest.raises(Enough):
        model.train(**{**FAST, "data": str(data), "imgsz": 32})
    return True


def saves(model: KDYOLO, data: Path) -> bool:
    model.save("saved.pt")
    return "model" in torch.load("saved.pt", weights_only=False)


def loads(model: KDYOLO, data: Path) -> bool:
    return model.load(model.model.state_dict()) is model


def counts_callbacks(model: KDYOLO, data: Path) -> bool:
    model.add_callback("on_train_end", print)
    added = model.callbacks["on_train_end"][-1] is print
    model.clear_callback("on_train_end")
    cleared = model.callbacks["on_train_end"] == []
    model.reset_callbacks()
    return added and cleared and len(model.callbacks["on_train_end"]) == 1


# Public name of YOLO → a call of it that is true, or the words with which it is refused.
WORKS: dict[str, Callable[[KDYOLO, Path], Any]] = {
    "add_callback": counts_callbacks,
    "clear_callback": counts_callbacks,
    "device": lambda model, data: model.device == torch.device("cpu"),
    "embed": lambda model, data: model.embed(IMAGE, imgsz=32, verbose=False)[0].numel() > 0,
    "eval": lambda model, data: model.eval() is model and not model.model.training,
    "export": lambda model, data: Path(model.export(format="torchscript", imgsz=32)).is_file(),
    "fuse": lambda model, data: model.fuse(verbose=False).model.is_fused(),
    "info": lambda model, data: model.info(verbose=True, imgsz=32)[1] > 3_000_000,
    "is_triton_model": lambda model, data: not model.is_triton_model("kdyolov8n.yaml"),
    "load": loads,
    "names": lambda model, data: len(model.names) == 3,
    "predict": lambda model, data: len(model.predict(IMAGE, imgsz=32, verbose=False)) == 1,
    "reset_callbacks": counts_callbacks,
    "reset_weights": lambda model, data: model.reset_weights() is model,
    "save": saves,
    "task_map": lambda model, data: set(model.task_map) == {"detect"},
    "track": lambda model, data: len(model.track(IMAGE, imgsz=32, verbose=False, persist=True)) == 1,
    "train": trains,
    "transforms": lambda model, data: model.transforms is None,
    "val": lambda model, data: model.val(data=str(data), imgsz=32, plots=False, verbose=False).coco is not None,
}
REFUSED: dict[str, tuple[Callable[[KDYOLO], Any], str]] = {
    "benchmark": (lambda model: model.benchmark(data="coco8.yaml"), r"measures a trained detector: KDYOLO\('runs/"),
    "calibrate": (lambda model: model.calibrate("data.yaml"), "for depth models"),
    "tune": (lambda model: model.tune(data="coco8.yaml", iterations=1), "arms of a study instead: kdyolo study"),
}


@pytest.fixture
def assignment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package ``lap`` as far as trackers use it, by SciPy's solver of the same problem."""

    def lapjv(cost: Any, extend_cost: bool, cost_limit: float) -> tuple[float, Any, Any]:
        rows, columns = linear_sum_assignment(cost)
        x, y = np.full(cost.shape[0], -1), np.full(cost.shape[1], -1)
        for row, column in zip(rows, columns, strict=True):
            if cost[row, column] <= cost_limit:
                x[row], y[column] = column, row
        return 0.0, x, y

    lap = types.ModuleType("lap")
    lap.__dict__.update(__version__="0.5.12", lapjv=lapjv, __spec__=types.SimpleNamespace(name="lap"))
    monkeypatch.setitem(sys.modules, "lap", lap)


def test_every_public_name_of_yolo_has_a_row() -> None:
    """A method that a new Ultralytics brings fails here until a row says whether it works."""
    own = [name for name in dir(YOLO) if not name.startswith("_")]
    theirs = [name for name in own if getattr(YOLO, name) is not getattr(nn.Module, name, None)]
    assert set(theirs) == WORKS.keys() | REFUSED.keys()
    assert not WORKS.keys() & REFUSED.keys()
    assert {"T_destination", "call_super_init", "dump_patches"}.isdisjoint(theirs)
    assert issubclass(YOLO, Model)


@pytest.mark.parametrize("name", sorted(WORKS))
@pytest.mark.usefixtures("assignment")
def test_it_works(shared_model: KDYOLO, three: Path, shapes: Path, name: str) -> None:
    model = KDYOLO(three) if name in ("fuse", "reset_weights", "train") else shared_model
    assert WORKS[name](model, shapes)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_it_is_refused_with_what_to_do_instead(shared_model: KDYOLO, name: str) -> None:
    call, words = REFUSED[name]
    with pytest.raises(ConfigError, match=words):
        call(shared_model)
    assert list(Path().iterdir()) == []


def test_calling_a_model_predicts(shared_model: KDYOLO) -> None:
    assert len(shared_model(IMAGE, imgsz=32, verbose=False)) == 1


@pytest.mark.parametrize("name", ["/usr/bin/kdyolo", "yolo"])
def test_whatever_the_command_is_called_a_prediction_is_given_back(
    shared_model: KDYOLO, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Ultralytics takes "kdyolo predict" for its own command, which gives back nothing."""
    monkeypatch.setattr("ultralytics.engine.model.ARGV", [name, "predict"])
    assert len(shared_model.predict(IMAGE, imgsz=32, verbose=False)) == 1
    assert len(list(shared_model.predict(IMAGE, stream=True, imgsz=32, verbose=False))) == 1


@pytest.mark.parametrize("name", ["../../evil", "/evil", "..", "a\\b", "\x1b]0;evil\x07", "n" * 300])
def test_no_class_name_leads_crops_elsewhere(three: Path, tmp_path: Path, name: str) -> None:
    model = KDYOLO(three)
    model.model.names = {0: name, 1: "square", 2: "triangle"}
    with pytest.raises(ConfigError, match=r"save_crop: class .* cannot name a folder"):
        model.predict(IMAGE, imgsz=32, device="cpu", save_crop=True, project=str(tmp_path))


def test_tracking_without_its_package_is_refused_and_nothing_is_installed(
    shared_model: KDYOLO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install 'lap"):
        shared_model.track(IMAGE)


def test_a_trained_detector_is_benchmarked(trained: Path, shapes: Path) -> None:
    model = KDYOLO(trained)
    with pytest.raises(ConfigError, match="no data"):
        model.benchmark()
    table = model.benchmark(data=str(shapes), imgsz=32, format="torchscript", verbose=True)
    assert table.height == 1
    assert table["Status❔"][0] == "✅"


@pytest.mark.parametrize("task", [None, "detect"])
def test_the_one_task_is_accepted_as_yolo_does(task: str | None, trained: Path) -> None:
    assert KDYOLO("kdyolov8n.yaml", task).task == "detect"
    assert KDYOLO(trained, task=task).task == "detect"


def test_another_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="found task=segment"):
        KDYOLO("kdyolov8n.yaml", task="segment")
    YOLO("yolov8n-seg.yaml").save(tmp_path / "seg.pt")
    with pytest.raises(ModelError, match=r"seg\.pt: kdyolo takes YOLO detectors; this is one of KDYOLO, segment"):
        KDYOLO(tmp_path / "seg.pt")


def test_another_kind_of_detector_is_refused(tmp_path: Path) -> None:
    """Ultralytics makes a YOLOWorld, or an RTDETR, of the object that is being made."""
    YOLO("yolov8n-worldv2.yaml").save(tmp_path / "world.pt")
    with pytest.raises(ModelError, match=r"world\.pt: kdyolo takes YOLO detectors; this is one of YOLOWorld"):
        KDYOLO(tmp_path / "world.pt")


def test_several_data_sets_are_refused(shared_model: KDYOLO) -> None:
    """Ultralytics trains on one after the other, and goes on behind one that failed with a line in the log."""
    with pytest.raises(ConfigError, match="found several"):
        shared_model.train(data=["one.yaml", "two.yaml"])


def test_a_model_object_is_refused(shared_model: KDYOLO) -> None:
    with pytest.raises(ConfigError, match="found a KDYOLO"):
        KDYOLO(shared_model)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "given", "says"),
    [
        ("val", {"imgsz": 3.5}, "imgsz"),
        ("val", {"split": 3}, "split takes a text; found 3."),
        ("val", {"batch": "640", "conf": 3}, "2 mistakes:"),
        ("val", {"batch": -1}, "batch takes a number of images of at least 1; found -1."),
        ("val", {"split": ""}, "split takes a text; found ''."),
        ("val", {"cnof": 0.5}, "unknown setting 'cnof'. Did you mean 'conf'?"),
        ("val", {"evaluator": "mine"}, "evaluator: expected one of 'faster-coco-eval', 'pycocotools', found 'mine'."),
        ("val", {"validator": "mine"}, "validator: expected a class, or None, found 'mine'."),
        ("predict", {"source": "a.jpg", "conf": "high"}, "conf takes a number from 0 to 1; found 'high'."),
        ("predict", {"source": "a.jpg", "classes": "cat"}, "classes takes the number of a class"),
        ("predict", {"source": 3.5}, "source: there is nothing to predict in it"),
        ("predict", {"source": []}, "source: there is nothing to predict in it"),
        ("predict", {"source": ["nowhere.jpg"]}, "nowhere.jpg: no such file or folder."),
        ("predict", {"stream": "yes"}, "stream: expected True or False, found 'yes'."),
        ("export", {"format": "pdf"}, "format=pdf is none that Ultralytics exports to."),
        ("export", {"format": 3}, "format takes a text; found 3."),
        ("load", {"weights": 3}, "weights: expected a checkpoint, a detector or a state dict, found 3."),
        ("train", {"cfg": "nowhere"}, "nowhere: expected a file whose name ends in .yaml or .yml."),
        ("train", {"data": "coco.yaml", "cfg": 3, "recipe": True}, "2 mistakes:"),
        ("train", {"data": np.zeros(2)}, "data: expected a path, found array"),
        ("train", {"data": "coco.yaml", "fraction": True}, "fraction=True is none that Ultralytics knows."),
    ],
)  # fmt: skip
def test_what_is_wrong_is_an_error_of_ours(shared_model: KDYOLO, method: str, given: dict[str, Any], says: str) -> None:
    with pytest.raises(KDYOLOError) as error:
        getattr(shared_model, method)(**given)
    assert says in str(error.value)


def test_none_and_numbers_of_numpy_are_what_they_mean(shared_model: KDYOLO) -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    given: dict[str, Any] = {"imgsz": np.int64(64), "conf": np.float32(0.5), "iou": None, "classes": None}
    assert len(shared_model.predict(picture, **given, verbose=False)) == 1


@pytest.mark.parametrize("loaded", ["backbone", "weights"])
def test_a_random_start_that_loads_something_is_refused(loaded: str, trained: Path) -> None:
    with pytest.raises(ConfigError, match="random_init excludes backbone and weights"):
        KDYOLO("kdyolov8n.yaml", random_init=True, **{loaded: trained})


def test_a_copy_is_a_model(trained: Path) -> None:
    assert copy.deepcopy(KDYOLO(trained)).model_name == str(trained)


def test_a_file_that_is_loaded_runs_no_code(shared_model: KDYOLO, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match="whose author you trust"):
        shared_model.load(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()
