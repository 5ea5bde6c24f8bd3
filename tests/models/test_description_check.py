"""Descriptions of models are plain data of known layers before Ultralytics, which evaluates parts, sees them."""

from __future__ import annotations

import random
from collections.abc import Callable
from copy import deepcopy
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdyolo.errors import ModelError
from kdyolo.models.description_check import LAYERS, check_description, is_activation, not_plain
from kdyolo.models.detector import KDDetectionModel
from kdyolo.models.yaml_layouts import describe_detector, from_stock_yaml, to_stock_yaml

MARK = "__import__('pathlib').Path('RAN').touch()"
SHIPPED = sorted(Path(str(files("ultralytics") / "cfg/models")).rglob("*.yaml"))


@pytest.fixture(autouse=True)
def nothing_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    yield
    assert not Path("RAN").exists()


def hostile(place: str) -> Callable[[dict[str, Any]], None]:
    """A change of a description that puts an expression in a place of it."""

    def row(column: int, value: Any) -> Callable[[dict[str, Any]], None]:
        return lambda d: d["head"][2].__setitem__(column, value)

    changes: dict[str, Callable[[dict[str, Any]], None]] = {
        "activation": lambda d: d.update(activation=f"{MARK} or torch.nn.SiLU()"),
        "argument of an activation": lambda d: d.update(activation=f"torch.nn.LeakyReLU({MARK})"),
        "attribute of an activation": lambda d: d.update(activation="torch.nn.SiLU().__class__()"),
        "activation that is none": lambda d: d.update(activation="torch.nn.Linear(9, 9)"),
        "global as layer": row(2, "load_checkpoint"),
        "module as layer": row(2, "torch"),
        "function of torch.nn": row(2, "nn.init.normal_"),
        "layer that downloads": row(2, "TorchVision"),
        "operation of torchvision": row(2, "torchvision.ops.StochasticDepth"),
        "variable of the parser": row(3, ["d"]),
        "expression as argument": row(3, [MARK]),
        "nested argument": row(3, [[[1]]]),
        "huge argument": row(3, [10**9]),
        "huge number of repeats": row(1, 10**6),
        "text as repeats": row(1, "9"),
        "source that is none": row(0, "x"),
        "unknown key": lambda d: d.update(evil=1),
        "object as class number": lambda d: d.update(nc="80"),
        "record with objects": lambda d: d.update(kd={"settings": {"x": object()}}),
        "record with an impossible epsilon": lambda d: d.update(kd={"bn_eps": 7}),
        "scales of text": lambda d: d.update(scales={"n": ["1", "1", "1"]}),
        "endless rows": lambda d: d.update(head=d["head"] * 1000),
    }
    return changes[place]


PLACES = [
    *("activation", "argument of an activation", "attribute of an activation", "activation that is none"),
    *("global as layer", "module as layer", "function of torch.nn", "layer that downloads"),
    *("operation of torchvision", "variable of the parser", "expression as argument", "nested argument"),
    *("huge argument", "huge number of repeats", "text as repeats", "source that is none", "unknown key"),
    *("object as class number", "record with objects", "record with an impossible epsilon", "scales of text"),
    "endless rows",
]


@pytest.mark.parametrize("stock", [False, True], ids=["kdyolo", "stock"])
@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_plain_description_is_refused_in_both_layouts(place: str, stock: bool) -> None:
    description = deepcopy(describe_detector("kdyolov8n.yaml"))
    if stock:
        description = to_stock_yaml(description)
    hostile(place)(description)
    with pytest.raises(ModelError) as caught:
        KDDetectionModel(description, verbose=False)
    assert len(str(caught.value)) < 2000


def test_a_file_is_checked_as_a_description_in_memory_is(tmp_path: Path) -> None:
    content = yaml.safe_load(SHIPPED[[p.name for p in SHIPPED].index("yolov8.yaml")].read_text())
    (tmp_path / "my-yolov8n.yaml").write_text(yaml.safe_dump({**content, "activation": MARK}))
    with pytest.raises(ModelError, match="activation names one of"):
        describe_detector(tmp_path / "my-yolov8n.yaml")


@pytest.mark.parametrize("text", ["nn.ReLU()", "torch.nn.LeakyReLU(0.1, inplace=True)", "torch.nn.Hardswish()"])
def test_a_plain_activation_is_built(text: str) -> None:
    assert is_activation(text)
    model = KDDetectionModel({**describe_detector("kdyolov8n.yaml"), "activation": text}, verbose=False)
    assert type(model.model[-1].cv2[0][0].act).__name__ == text.partition("(")[0].rpartition(".")[2]


@pytest.mark.parametrize("file", SHIPPED, ids=lambda path: path.name)
def test_every_description_that_ultralytics_ships_passes(file: Path) -> None:
    description = yaml.safe_load(file.read_text())
    if any(row[2] == "TorchVision" for row in description["backbone"]):  # which fetches weights
        with pytest.raises(ModelError, match="unknown layer 'TorchVision'"):
            check_description(description)
    else:
        check_description(description)


def test_every_known_layer_is_a_module_that_the_parser_finds() -> None:
    from torch import nn
    from ultralytics.nn import tasks

    for layer in LAYERS - {"DistilledBackbone"}:
        found = getattr(nn, layer[3:]) if layer.startswith("nn.") else getattr(tasks, layer)
        assert isinstance(found, type)
        assert issubclass(found, nn.Module)


def test_plain_data_has_limits() -> None:
    bomb: Any = "l"
    for _ in range(9):
        bomb = [bomb] * 10
    deep: Any = []
    for _ in range(10_000):
        deep = [deep]
    assert not_plain({"a": [1, 2.5, None, True, ("x",)]}) is None
    for value, reason in (
        (bomb, "more than 50,000 values"),
        (deep, "nested more than 20 deep"),
        ("x" * 200_000, "more than 100,000 characters"),
        ({"a": {1, 2}}, "a set"),
        (10**5000, "more than 38 digits"),
    ):
        assert reason in str(not_plain(value))


def places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in nested containers, as the keys that lead there."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(deeper for key, part in parts for deeper in places(part, (*place, key)))]


def test_whatever_is_changed_in_a_description_it_is_refused_or_understood() -> None:
    choose = random.Random(1)
    layouts = (describe_detector("kdyolov8n.yaml"), to_stock_yaml(describe_detector("kdyolov8n.yaml")))
    values = [None, "", 0, -1, 5, 10**5, 1.5, "x", "nc", [], {}, [1], [[1]], True, "P3", ["P9"], {"n": [1, 1, 1]}, "d"]
    understood = 0
    for _ in range(600):
        description = deepcopy(choose.choice(layouts))
        *way, last = choose.choice(places(description)[1:])
        owner: Any = description
        for key in way:
            owner = owner[key]
        if choose.random() < 0.25:
            del owner[last]
        else:
            owner[last] = deepcopy(choose.choice(values))
        try:
            from_stock_yaml(to_stock_yaml(describe_detector(description)))
        except ModelError:
            continue
        understood += 1
    assert 0 < understood < 300
