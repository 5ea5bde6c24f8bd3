"""Scores of a probe: accuracies, intervals over images, and differences on the same drawn images."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kdyolo.errors import RunError
from kdyolo.experiments.probe.figure import draw_probe
from kdyolo.experiments.probe.result import ProbeResult, Told, score_all, score_heads

IMAGES = np.repeat(np.arange(40), 3)


def result(right) -> ProbeResult:
    return ProbeResult(score_all(right, IMAGES, 500, 0), 120, 40, 3, 0.5, {"split": "val"})


def hits(share: float) -> Told:
    right = np.arange(120) < share * 120
    return Told(right, right - 0.25)


def test_accuracy_and_difference_by_hand() -> None:
    found = result({("a", "linear", "joined"): hits(0.75), ("b", "linear", "joined"): hits(0.5)})
    a, b = found.score("a"), found.score("b")
    assert (a.accuracy.estimate, b.accuracy.estimate) == (0.75, 0.5)
    assert a.difference is None
    assert a.information_difference is None
    assert (a.information.estimate, b.information.estimate) == (0.5, 0.25)
    assert b.information_difference.estimate == pytest.approx(-0.25)
    assert b.information_difference.low == pytest.approx(b.difference.low)
    assert b.difference.estimate == pytest.approx(-0.25)
    # Of 40 images, 30 are right: a binomial share, deviation sqrt(0.75 · 0.25 / 40) = 0.0685.
    assert a.accuracy.low == pytest.approx(0.75 - 1.96 * 0.0685, abs=0.03)
    assert a.accuracy.high == pytest.approx(0.75 + 1.96 * 0.0685, abs=0.03)


def test_the_same_images_are_drawn_for_both() -> None:
    """Of two with the same hits the difference is exactly nothing, however wide the intervals are."""
    same = result({("a", "knn", "P3"): hits(0.5), ("b", "knn", "P3"): hits(0.5)}).score("b", "knn", "P3")
    assert (same.difference.low, same.difference.high) == (0, 0)
    assert same.accuracy.high - same.accuracy.low > 0.2


def test_frame_table_and_json() -> None:
    found = result({("a", "linear", "joined"): hits(0.75), ("b", "linear", "joined"): hits(0.5)})
    assert found.to_frame()["accuracy"].tolist() == [0.75, 0.5]
    assert json.loads(json.dumps(found.to_dict()))["scores"][1]["difference"] == pytest.approx(-0.25)
    assert "minus a" in found.table()
    assert "−25.0 [" in found.table()
    assert "−0.250 [" in found.table()
    assert found.to_frame()["information"].tolist() == [0.5, 0.25]
    with pytest.raises(KeyError, match="no score of 'c'"):
        found.score("c")


def test_the_figure_is_written_completely_or_not_at_all(tmp_path) -> None:
    found = result({("a-name", "linear", "joined"): hits(0.75), ("b-name", "linear", "joined"): hits(0.5)})
    text = draw_probe(found, tmp_path / "probe.svg").read_text()
    assert text.startswith("<?xml")
    assert draw_probe(found, tmp_path / "probe.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(RunError, match="cannot be written"):
        draw_probe(found, tmp_path / "probe.none")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["probe.png", "probe.svg"]


def with_heads(*values: tuple[float, ...]) -> ProbeResult:
    told = {("a", "linear", "joined"): hits(0.75), ("b", "linear", "joined"): hits(0.5)}
    settings = {"split": "val", "detect_epochs": 5, "detect_images": 100}
    heads = score_heads(dict(zip("ab", values, strict=True)))
    return ProbeResult(score_all(told, IMAGES, 500, 0), 120, 40, 3, 0.5, settings, heads)


def test_heads_of_one_seed_have_no_interval() -> None:
    found = with_heads((0.2,), (0.15,))
    assert "one seed: no interval" in found.table()
    assert "−5.0" in found.table()
    assert "nan" not in found.table()
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["heads"][1]["ap_low"] is None
    assert found.to_frame()["ap"].tolist()[-2:] == [0.2, 0.15]


def test_heads_are_paired_by_seed() -> None:
    """Far apart over seeds, yet always about a tenth apart: t interval of 0.10, 0.09, 0.11, 4.303 · 0.01 / √3 wide."""
    difference = with_heads((0.1, 0.3, 0.5), (0.2, 0.39, 0.61)).heads[1].difference
    assert difference.estimate == pytest.approx(0.1)
    assert difference.high - difference.estimate == pytest.approx(4.3027 * 0.01 / 3**0.5, rel=1e-3)


def test_the_figure_shows_bits_and_heads(tmp_path) -> None:
    shown = draw_probe(with_heads((0.2,), (0.15,)), tmp_path / "heads.svg").read_text()
    assert "bits per object" in shown
    assert "one seed, no interval" in shown
    assert "official AP" not in draw_probe(result({("a", "linear", "P3"): hits(0.5)}), tmp_path / "p.svg").read_text()
