"""On a narrow terminal every table fits: no line is longer than it, and each number stands whole in one line."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable

import pytest

from kdyolo.cli import main
from kdyolo.utils.text import without_colours
from tests.builders.run_folders import detect
from tests.experiments.probe.test_result import hits, result


def pasted(line: str) -> bool:
    """Whether a line stays whole because it is a command, or a single path."""
    return line.lstrip().startswith("kdyolo ") or ("/" in line and len(line.split()) == 1)


class Terminal(io.StringIO):
    """A stdout that says that it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture(params=[60, 80, 120])
def terminal(request, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(request.param))

    def shown(command: str | Callable[[], str]) -> str:
        """What a command prints, or a function gives, on such a terminal."""
        screen = Terminal()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", screen)
            text = command() if callable(command) else main(command.split()) or screen.getvalue()
        text = without_colours(text)
        assert text.strip()
        assert not [line for line in text.splitlines() if len(line) > request.param and not pasted(line)]
        return text

    return shown


def test_convert(terminal, shapes, tmp_path):
    text = terminal(f"convert {shapes.parent.parent / 'root'} --out {tmp_path / 'out'}")
    assert {"split", "background", "crowds", "clipped", "dropped"} <= set(text.split())


def test_score(terminal, shapes, tmp_path):
    annotations = next((shapes.parent.parent / "root" / "annotations").glob("*val*.json"))
    for name, skill in (("a", 0.9), ("b", 0.5)):
        (tmp_path / f"{name}.json").write_text(json.dumps(detect(annotations, 0, skill)))
    scores = terminal(f"score a.json {annotations} --ci --per-class --resamples 20")
    assert sum(line.count(" @[ ") for line in scores.splitlines()) == 12
    assert all(" = 0." in line or " = -1." in line or " = 1." in line for line in scores.splitlines() if " @[ " in line)
    both = terminal(f"score a.json b.json {annotations} --resamples 20")
    assert sum(line.split()[:1] == ["AR100"] for line in both.splitlines()) == 1


def test_inspect(terminal, checkpoint):
    text = terminal(f"inspect {checkpoint}")
    assert {"162/162", "1,277,707", "923,143", "dead"} <= set(text.split())
    assert "equal to the last bit" in terminal(f"inspect {checkpoint} {checkpoint}")


def test_compare(terminal, study):
    text = terminal(f"compare {study}")
    assert {"(baseline)", "mAP50-95", "GiB"} <= set(text.split())


def test_ps(terminal, study):
    text = terminal(f"ps {study}")
    assert {"STATUS", "EPOCH", "mAP50-95"} <= set(text.split())


def test_probe(terminal):
    features = ("P3", "P4", "P5", "all levels")
    names = ("distilled/best.pth", "random")
    found = result({(n, c, f): hits(0.5) for n in names for c in ("linear", "k-NN") for f in features})
    text = terminal(lambda: "\n".join(found.table().splitlines()[1:-1]))  # without the sentences around the tables
    assert text.count("50.0") >= 16
    assert all(line.count("[") == line.count("]") for line in text.splitlines()), "an interval stays whole"


def test_doctor(terminal, checkpoint, shapes):
    text = terminal(f"doctor --data {shapes} --backbone {checkpoint}")
    assert {"CPU", "classes,", "162/162", "sha256"} <= set(text.split())


@pytest.mark.parametrize("mistake", ["--nonsense lrO=1", "--data nowhere.yaml --epochs 0", "--resume nowhere"])
def test_mistakes(mistake, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with pytest.raises(SystemExit):
        main(["train", *mistake.split()])
    assert not [line for line in screen.getvalue().splitlines() if len(line) > 60 and not pasted(line)]
