"""YAML read safely, with one form of error."""

from __future__ import annotations

import msgspec
import pytest
import yaml

from kdyolo.errors import DatasetError, RunError
from kdyolo.utils.yaml_files import check_values, load_yaml, read_mapping


class Form(msgspec.Struct):
    epochs: int | None = None


def test_documents_of_every_kind():
    assert load_yaml("a: 1\nb: [x, 2.5]") == {"a": 1, "b": ["x", 2.5]}
    assert load_yaml(b"- \xc3\xa4") == ["ä"]
    assert load_yaml("") is None


@pytest.mark.parametrize("text", ["!!python/object/apply:os.getcwd []", "a: !!python/name:os.system"])
@pytest.mark.parametrize("unique", [False, True])
def test_nothing_but_plain_types(text, unique):
    with pytest.raises(yaml.YAMLError):
        load_yaml(text, unique_keys=unique)


def test_keys_given_twice():
    text = "arms:\n  a: {lr0: 1}\n  b: {lr0: 1, lr0: 2}"
    assert load_yaml(text)["arms"]["b"] == {"lr0": 2}
    with pytest.raises(yaml.YAMLError, match="line 3: lr0 given twice"):
        load_yaml(text, unique_keys=True)
    with pytest.raises(yaml.YAMLError, match="line 1: a given twice"):
        load_yaml("a: 1\na: 1", unique_keys=True)


def test_a_mapping_from_a_file(tmp_path):
    path = tmp_path / "args.yaml"
    assert read_mapping(path) is None
    path.write_text("epochs: 3\nname: ä\n", encoding="utf-8")
    assert read_mapping(path, Form) == {"epochs": 3, "name": "ä"}


@pytest.mark.parametrize("error", [RunError, DatasetError])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: [1", "damaged (while parsing"),
        (b"\xff\xfe\x00", "damaged ("),
        (b"- 1", "found list"),
        (b"", "found NoneType"),
        (b"epochs: many", "Expected `int | null`, got `str` - at `$.epochs`"),
    ],
)
def test_a_damaged_file_is_one_line(content, words, error, tmp_path):
    path = tmp_path / "args.yaml"
    path.write_bytes(content)
    with pytest.raises(error) as caught:
        read_mapping(path, Form, error=error)
    message = str(caught.value)
    assert message.startswith(f"{path}: damaged")
    assert words in message
    assert "\n" not in message


def test_values_of_another_file(tmp_path):
    check_values(tmp_path / "x.json", {"epochs": 3, "more": []}, Form)
    with pytest.raises(RunError, match=r"x\.json: damaged .*Restore it, or leave the run out"):
        check_values(tmp_path / "x.json", {"epochs": "3"}, Form)
