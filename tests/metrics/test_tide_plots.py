"""Pictures of a TIDE analysis."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from kdyolo.metrics.coco_files import read_ground_truth
from kdyolo.metrics.tide import ERRORS, find_errors
from kdyolo.metrics.tide_plots import draw_worst, plot_errors
from tests.builders.coco_results import IMAGE, random_detections, random_ground_truth, write_json


def test_pictures(tmp_path):
    data = random_ground_truth(1, images=6)
    truth = read_ground_truth(write_json(tmp_path / "ann.json", data))
    detections = random_detections(data, 1, noise=0.3)
    files = {}
    for image_id, name in truth.images.items():
        files[image_id] = tmp_path / name
        Image.new("RGB", (IMAGE, IMAGE), "gray").save(files[image_id])
    report = find_errors(truth, detections)
    (tmp_path / "errors").mkdir()
    (tmp_path / "errors/07_of_an_earlier_run.jpg").touch()
    pictures = draw_worst(report, truth, detections, files, tmp_path / "errors", count=3)
    assert [p.name for p in pictures] == [
        f"{place:02d}_{Path(truth.images[image.image_id]).stem}.jpg"
        for place, image in enumerate(report.images[:3], start=1)
    ]
    assert sorted((tmp_path / "errors").iterdir()) == pictures
    with Image.open(pictures[0]) as worst:
        assert worst.width > 2 * worst.height * 0.8  # side by side
        colors = {color for _, color in worst.convert("RGB").getcolors(1 << 24)}
    assert len(colors) > 100


def test_bars_stand_in_the_order_of_their_cost_in_one_colour(tmp_path, monkeypatch):
    data = random_ground_truth(1, images=6)
    report = find_errors(
        read_ground_truth(write_json(tmp_path / "ann.json", data)), random_detections(data, 1, noise=0.3)
    )
    drawn = {}

    def keep(figure: Figure, path: Path, **_: object) -> None:
        (axis,) = figure.axes
        drawn["names"] = [label.get_text().split()[0] for label in axis.get_yticklabels()]
        drawn["bars"] = [(bar.get_width(), bar.get_facecolor()) for bar in axis.patches]
        drawn["reversed"] = axis.yaxis_inverted()

    with monkeypatch.context() as patched:
        patched.setattr(Figure, "savefig", keep)
        plot_errors(report, tmp_path / "errors.png")
    assert drawn["names"] == [k.name.lower() for k in sorted(ERRORS, key=lambda kind: -report.loss[kind])]
    assert drawn["names"] != [k.name.lower() for k in ERRORS]
    widths = [width for width, _ in drawn["bars"]]
    assert widths == sorted(widths, reverse=True)
    assert len({color for _, color in drawn["bars"]}) == 1
    assert drawn["reversed"]  # the first one on top
    assert Image.open(plot_errors(report, tmp_path / "errors.png")).width > 500
