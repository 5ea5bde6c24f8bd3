"""Arguments of public functions: what has one meaning is taken, all else is one error of ours that names everything."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import kdyolo
from kdyolo.arguments import checked
from kdyolo.errors import ConfigError, KDYOLOError


@checked
def call(
    path: str | Path = "a",
    number: float | None = None,
    count: int = 0,
    flag: bool = False,
    word: str | None = None,
    kind: Literal["x", "y"] = "x",
    many: Sequence[str | Path] = (),
    values: Sequence[float] | None = None,
    given: Mapping[str, Any] | None = None,
    error: ConfigError | None = None,
    anything: Any = None,
    **more: Any,
) -> dict[str, Any]:
    return {name: value for name, value in locals().items() if name != "more"} | more


class Place(os.PathLike[str]):
    def __fspath__(self) -> str:
        return "place"


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({"path": Path("b"), "many": ["a", Path("b")]}, {"path": Path("b"), "many": ["a", Path("b")]}),
        ({"path": Place(), "many": (path for path in "ab")}, {"path": Path("place"), "many": ["a", "b"]}),
        ({"number": np.float32(0.5), "count": np.int64(3)}, {"number": 0.5, "count": 3}),
        ({"flag": np.bool_(True)}, {"flag": True}),
        ({"number": 1, "values": np.array([0.25, 1.0])}, {"number": 1, "values": [0.25, 1.0]}),
        ({"kind": "y", "word": None, "given": {"a": 1}}, {"kind": "y", "word": None, "given": {"a": 1}}),
        ({"other": np.int32(4), "anything": b"x"}, {"other": 4, "anything": b"x"}),
    ],
)  # fmt: skip
def test_what_has_one_meaning_is_taken(given: dict[str, Any], taken: dict[str, Any]) -> None:
    found = call(**given)
    assert {name: found[name] for name in taken} == taken
    assert {name: type(found[name]) for name in taken} == {name: type(value) for name, value in taken.items()}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"path": None}, "path: expected a path, found None."),
        ({"path": b"a"}, "path: expected a path, found b'a'."),
        ({"path": "a\0"}, r"path: expected a path, found 'a\x00'."),
        ({"number": "1"}, "number: expected a number, or None, found '1'."),
        ({"number": float("nan")}, "number: expected a number, or None, found nan."),
        ({"number": True}, "number: expected a number, or None, found True."),
        ({"count": 1.0}, "count: expected a whole number, found 1.0."),
        ({"count": None}, "count: expected a whole number, found None."),
        ({"flag": 1}, "flag: expected True or False, found 1."),
        ({"word": 3}, "word: expected a text, or None, found 3."),
        ({"kind": "z"}, "kind: expected one of 'x', 'y', found 'z'."),
        ({"many": "a.pt"}, "many: expected a list of paths, found 'a.pt'."),
        ({"many": Path("a.pt")}, "many: expected a list of paths, found "),
        ({"many": [1]}, "many: expected a list of paths, found [1]."),
        ({"values": {0.5: 1}}, "values: expected a list of numbers, or None, found {0.5: 1}."),
        ({"values": 0.5}, "values: expected a list of numbers, or None, found 0.5."),
        ({"given": [1]}, "given: expected a dictionary, or None, found [1]."),
        ({"error": ValueError()}, "error: expected a ConfigError, or None, found a ValueError."),
    ],
)
def test_what_has_none_is_one_error(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        call(**given)
    assert str(error.value).startswith(says)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        call(3, count="x", many=[None], kind="y")  # type: ignore[arg-type, list-item]
    assert len(error.value.mistakes) == 3


def test_each_of_several_arguments_is_looked_at() -> None:
    @checked
    def several(*paths: str | Path) -> tuple[str | Path, ...]:
        return paths

    assert several("a", Path("b")) == ("a", Path("b"))
    with pytest.raises(ConfigError, match=r"^paths: expected a path, found 3\.$"):
        several("a", 3)  # type: ignore[arg-type]


def test_what_is_missing_or_too_much_is_pythons_own_error() -> None:
    @checked
    def one(path: str) -> str:
        return path

    with pytest.raises(TypeError, match=r"one\(\) missing 1 required positional argument: 'path'"):
        one()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"one\(\) got an unexpected keyword argument 'paths'"):
        one("a", paths=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: kdyolo.draw_features("a.pt", "a.jpg", "a.png", imgsz=0), "imgsz: expected at least 32 pixels"),
        (lambda: kdyolo.compare_coco("a", "b", "c", seed=-1), "--seed -1: expected at least 0."),
        (lambda: kdyolo.DistilledBackbone(max_channels=-1), "max_channels: expected at least 1, found -1."),
        (lambda: kdyolo.FreezeSchedule(np.array([1, 2])), "freeze_epochs must be 0, a number of epochs or 'all'"),  # type: ignore[arg-type]
        (lambda: kdyolo.FreezeSchedule(freeze_bn=np.array(["always"] * 2)), "freeze_bn must be one of"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_values_out_of_range_are_errors_of_ours(call: Callable[[], Any], says: str) -> None:
    with pytest.raises(KDYOLOError) as error:
        call()
    assert says in str(error.value)
