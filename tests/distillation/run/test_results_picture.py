"""The picture of a distillation keeps up with it, but takes little of its time."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from kdyolo.distillation.run.results_picture import SeldomWork, draw_distillation


def test_measures_that_begin_at_0_are_drawn_from_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    save = Figure.savefig

    def kept(figure: Figure, *rest: object, **how: object) -> None:
        drawn.append(figure)
        save(figure, *rest, **how)

    monkeypatch.setattr(Figure, "savefig", kept)
    columns = {"epoch": [1, 2], "cosine/P3": [-0.2, 0.4], "dead/P3": [0.0, 0.0], "rank/P3": [5.0, 7.0]}
    draw_distillation(columns, tmp_path / "results.png")
    axes = {axis.get_title(): axis.get_ylim() for axis in drawn[0].axes if axis.get_visible()}
    assert axes["share of dead channels"] == (0, pytest.approx(0.1))
    assert axes["effective rank"][0] == 0
    assert axes["effective rank"][1] > 7
    assert axes["centred cosine, held out (dashed: position alone)"][0] < -0.2


def test_work_takes_a_fiftieth_of_the_time_and_is_done_at_once_when_asked() -> None:
    now, done = [0.0], []

    def work() -> None:
        done.append(now[0])
        now[0] += 2.0

    seldom = SeldomWork(work, lambda: now[0])
    for _ in range(100):  # epochs of 5 s
        now[0] += 5.0
        seldom.offer()
    assert done[0] == 5.0
    assert len(done) * 2.0 <= 0.02 * now[0] + 2.0
    assert len(done) > 4
    seldom.offer(at_once=True)
    assert done[-1] == now[0] - 2.0
