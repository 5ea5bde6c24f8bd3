"""YAML read safely, with one form of error."""

from __future__ import annotations

import ast
import re

import msgspec
import pytest
import yaml

from kdyolo.errors import DatasetError, RunError
from kdyolo.utils.plain_files import DEEPEST
from kdyolo.utils.yaml_files import MOST_BYTES, MOST_VALUES, check_values, load_yaml, read_mapping, read_yaml
from tests.contracts.source import modules


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


@pytest.mark.parametrize("unique", [False, True])
def test_anchors_serve_what_they_are_for(unique):
    text = "common: &c {lr0: 1, freeze: 5}\narms:\n  a: *c\n  b: {<<: *c, lr0: 2}"
    both = {"a": {"lr0": 1, "freeze": 5}, "b": {"lr0": 2, "freeze": 5}}
    assert load_yaml(text, unique_keys=unique)["arms"] == both


def grown(first: str, each: str) -> str:
    """Lines of which each holds ten times what the one before holds."""
    return f"x0: &x0 {first}\n" + "".join(
        f"x{i}: &x{i} {each.format(','.join([f'*x{i - 1}'] * 10))}\n" for i in range(1, 9)
    )


TOO_MUCH = {
    "lists": (grown("[l,l,l,l]", "[{}]"), r"line 6: \*x4 makes more than 200,000 values"),
    "mappings": (grown("{a: 1, b: 2}", "{{<<: [{}]}}"), r"line 6: \*x4 makes more than 200,000 values"),
    "long texts": (f"a: &a {'x' * 1_000_000}\nb: [{'*a,' * 100}]", r"line 2: \*a makes more"),
    "many values": (f"a:\n  [{'1,' * MOST_VALUES}]", "line 2: these are more"),
    "within itself": ("a: &a [1, *a]", r"line 1: \*a stands within itself"),
    "deep lists": ("[" * (DEEPEST + 1), "within each other"),
    "deep blocks": ("- " * 100_000, "within each other"),
    "too deep for libyaml": ("[" * 100_000, "nesting depth"),
    "large": (" " * (MOST_BYTES + 1), "4 MiB"),
    "decimal": ("a: " + "9" * 5000, "line 1: a number of 5000 digits"),
    "hexadecimal": ("a: 0x" + "f" * 5000, "a number of 5002 digits"),
    "base 60": ("a: 1" + ":1" * 500_000, "a number of 1000001 digits"),
    "base 60, not whole": ("a: 1" + ":1" * 500_000 + ".5", "a number of 1000003 digits"),
}
NO_VALUES = ("!!bool x", "!!int ''", "!!int x", "!!float x", "!!timestamp 2001-01-01", "!!set {a}", "!!binary aGk=")


@pytest.mark.parametrize(("text", "words"), TOO_MUCH.values(), ids=TOO_MUCH)
@pytest.mark.parametrize("unique", [False, True])
def test_what_grows_without_end_is_refused_before_it_does(text, words, unique):
    with pytest.raises(yaml.YAMLError, match=words) as caught:
        load_yaml(text, unique_keys=unique)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", [*NO_VALUES, "? [1, 2]\n: 3", "? {a: 1}\n: 3", "*a", "a: \0", "--- 1\n--- 2"])
@pytest.mark.parametrize("unique", [False, True])
def test_whatever_is_wrong_is_an_error_of_yaml(text, unique):
    with pytest.raises(yaml.YAMLError):
        load_yaml(text, unique_keys=unique)


def test_dates_stay_text():
    assert load_yaml("[2001-01-01, 2001-99-99, 2001-01-01 10:00:00]") == [
        "2001-01-01",
        "2001-99-99",
        "2001-01-01 10:00:00",
    ]


def test_a_document_from_a_file(tmp_path):
    path = tmp_path / "x.yaml"
    assert read_yaml(path) is None
    path.write_text("- 1")
    assert read_yaml(path) == [1]
    path.write_text("a: 1\na: 2")
    with pytest.raises(DatasetError, match=r"x\.yaml: not a YAML file \(line 1: a given twice\)\.$"):
        read_yaml(path, unique_keys=True, error=DatasetError)


def test_no_other_module_parses_yaml():
    calls = {
        path
        for path, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and re.fullmatch(r"yaml\.\w*(load|parse|compose)\w*", ast.unparse(node.func))
    }
    assert calls == {"kdyolo/utils/yaml_files.py"}


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
        (b"1: 2", "names before the colons, found 1"),
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


def test_a_file_that_is_no_text_is_named_so(tmp_path):
    with pytest.raises(yaml.YAMLError, match="expected text in UTF-8, found another kind of file"):
        load_yaml(b"\xff\xd8\xff\xe0JFIF")
    assert load_yaml("a: ä".encode()) == load_yaml("a: ä".encode("utf-16")) == {"a": "ä"}
