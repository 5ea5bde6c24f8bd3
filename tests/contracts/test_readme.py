"""The README is one page, and its Python runs; what holds for every page of the documentation is in ``test_docs``."""

from __future__ import annotations

import ast
import re

import pytest

from tests.builders.pages import Page, pages

MOST_LINES = 150
README: Page = next(page for page in pages() if page.name == "README.md")
# Words that a reader may not know → what is said about them where they first stand.
WORDS = {
    "backbone": "the part of a detector that turns an image into feature maps",
    "distill": "trained to imitate a large network",
    "frozen": "does not train",
    "thaw": "the moment from which it does",
    "P2": "pyramid levels",
    "vfmkd": "the distillation project whose names this file uses",
    "arm": "a way to train, such as",
    "stock": "Ultralytics without kdyolo",
    "letterboxed": "(padded)",
    "SPPF": "the last layer of YOLOv8's backbone",
}


def test_it_is_one_page():
    assert len(README.text.splitlines()) <= MOST_LINES


def test_it_shows_the_two_commands_that_set_up_and_the_three_that_matter():
    setup, three = ([line.split()[:2] for line in block.splitlines()] for block in README.blocks("bash")[:2])
    assert setup == [["make", "demo"], ["make", "test"]]
    assert three == [["kdyolo", "convert"], ["kdyolo", "train"], ["yolo", "val"]]


def test_every_claim_names_the_command_that_shows_it():
    section = README.text[README.text.index("## Measured") : README.text.index("## Beside")]
    rows = [row.strip("| ").split(" | ") for row in section.splitlines() if row.startswith("| ")][1:]
    assert len(rows) == 6
    for claim, _, command in rows:
        assert re.fullmatch(r"`(make \w+|python (-m pytest )?[\w/.]+( --records \w+)?)`", command), claim


@pytest.mark.parametrize(("word", "meaning"), WORDS.items())
def test_words_are_explained_where_they_first_stand(word, meaning):
    """In the sentence in which a word first stands, below the title, its meaning stands too."""
    text = " ".join(README.prose.partition("kdyolo is for")[2].split())
    sentences = re.split(r"(?<=[.:?])\s+(?=[A-Z*`])", text)
    first = next(sentence for sentence in sentences if re.search(rf"\b{word}", sentence, flags=re.IGNORECASE))
    assert meaning in first


def test_the_study_is_one(tmp_path):
    from kdyolo.experiments.study.study_file import parse_study

    (block,) = README.blocks("yaml")
    (tmp_path / "study.yaml").write_text(block, encoding="utf-8")
    study, mistakes = parse_study(tmp_path / "study.yaml")
    assert mistakes == []
    assert f"kdyolo compare studies/{study.name} --out report/" in list(README.shell())


def test_python_names_exist():
    import kdyolo

    (code,) = README.blocks("python")
    imported = [n.name for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom) for n in node.names]
    assert imported == ["KDYOLO", "convert_coco", "load_backbone"]
    called = {node.func.attr for node in ast.walk(ast.parse(code))
              if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)}  # fmt: skip
    assert called == {"train", "val", "predict", "export"}
    assert all(hasattr(kdyolo.KDYOLO, name) for name in called)


@pytest.mark.integration
def test_python_example_runs(shared, tmp_path, monkeypatch):
    """The README's Python, with the real data under the names it uses and a run short enough for a test."""
    import torch

    from kdyolo.engine.model import KDYOLO

    (code,) = README.blocks("python")
    (tmp_path / "COCO2017").symlink_to(shared / "coco128")
    (tmp_path / "ckpt.pth").symlink_to(shared / "checkpoints/vfmkd_n_resume.pth")
    (tmp_path / "image.jpg").symlink_to(next((shared / "coco128/val2017").iterdir()))
    train, val = KDYOLO.train, KDYOLO.val

    def short(self, **keywords):
        assert keywords.pop("epochs") == 100
        assert keywords.pop("freeze_epochs") == 50
        fast = {"imgsz": 32, "device": "cpu", "plots": False, "val": False, "work_dir": "run"}
        return train(self, epochs=2, freeze_epochs=1, **fast, **keywords)

    def quiet(self, **keywords):
        return val(self, device="cpu", plots=False, save_dir="val", **keywords)

    monkeypatch.setattr(KDYOLO, "train", short)
    monkeypatch.setattr(KDYOLO, "val", quiet)
    names = {"images": torch.rand(1, 3, 64, 64)}
    exec(compile(code, "README.md", "exec"), names)
    assert [tuple(p.shape[2:]) for p in (names["p3"], names["p4"], names["p5"])] == [(8, 8), (4, 4), (2, 2)]
    assert (tmp_path / "run/weights/best.onnx").is_file()
