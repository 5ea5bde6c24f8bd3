"""The picture of a run: it must show when something was frozen and when it thawed."""

from __future__ import annotations

import csv
from pathlib import Path

import matplotlib.figure
import pytest
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from kdyolo import FreezeSchedule
from kdyolo.runs.results_plot import plot_results


@pytest.fixture
def figures(monkeypatch):
    """Every figure that is saved, by file."""
    saved = {}
    save = matplotlib.figure.Figure.savefig

    def keep(figure, path, **keywords):
        saved[Path(path).with_name(Path(path).name.removesuffix(".partial"))] = figure
        save(figure, path, **keywords)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", keep)
    return saved


def phases(axis) -> tuple[list[tuple[float, float, str]], list[float]]:
    """Shaded spans with their labels, and vertical lines."""
    spans = [(p.get_x(), p.get_x() + p.get_width(), p.get_label()) for p in axis.patches if isinstance(p, Rectangle)]
    lines = [line.get_xdata()[0] for line in axis.lines if isinstance(line, Line2D) and len(set(line.get_xdata())) == 1]
    return spans, lines


def test_a_run_leaves_a_picture_with_its_phases(train, checkpoint, figures, tmp_path):
    train({"backbone": checkpoint}, {"on_train_end": lambda t: t.plot_metrics()}, freeze_epochs=1, epochs=3)
    axes = figures[tmp_path / "run/results.png"].axes
    titles = [axis.get_title() for axis in axes if axis.get_visible()]
    assert titles[:3] == ["box_loss", "cls_loss", "dfl_loss"]
    assert {"mAP50(B)", "mAP50-95(B)", "learning rate"} <= set(titles)
    for axis in axes[: len(titles)]:
        assert phases(axis) == ([(0.5, 1.5, "backbone frozen")], [1.5])
    with (tmp_path / "run/results.csv").open() as file:
        rates = [float(row["lr/backbone/weight"]) for row in csv.DictReader(file)]
    drawn = {line.get_label(): list(line.get_ydata()) for line in axes[titles.index("learning rate")].lines}
    assert drawn["backbone"] == rates
    assert rates[0] == 0 < rates[1]


def test_a_plain_run_has_ultralytics_own(train, figures, tmp_path):
    train(None, {"on_train_end": lambda t: t.plot_metrics()}, epochs=1)
    titles = [axis.get_title() for axis in figures[tmp_path / "run/results.png"].axes]
    assert "train/box_loss" in titles


@pytest.mark.parametrize(
    ("options", "spans", "lines"),
    [
        ({"freeze_epochs": "all"}, [(0.5, 6.5, "backbone frozen")], []),
        ({"freeze_epochs": 9}, [(0.5, 6.5, "backbone frozen")], []),
        (
            {"unfreeze_stages": "2:p5,4:p4"},
            [(0.5, 2.5, "backbone frozen"), (2.5, 4.5, "stem–p4 frozen"), (4.5, 6.5, "stem–p3 frozen")],
            [2.5, 4.5],
        ),
    ],
)
def test_every_phase_is_drawn(options, spans, lines, figures, tmp_path):
    results = tmp_path / "results.csv"
    rows = "".join(f"{epoch},{1 / epoch},nan\n" for epoch in range(1, 7))
    results.write_text("epoch,train/box_loss,val/box_loss\n" + rows)
    picture = plot_results(results, FreezeSchedule(epochs=6, **options))
    assert phases(figures[picture].axes[0]) == (spans, lines)
