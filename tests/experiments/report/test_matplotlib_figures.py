"""Pictures for papers: the same data as the report, as PNG and as SVG."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from click.testing import CliRunner
from PIL import Image

from kdyolo.cli import cli
from kdyolo.errors import ConfigError
from kdyolo.experiments.report.matplotlib_figures import write_plots
from tests.builders.run_folders import write_full_run
from tests.builders.studies import comparison_of, write_study

SVG = "{http://www.w3.org/2000/svg}"
ODD = "_<b>$a_b$ & {x}"


@pytest.fixture(scope="module")
def study(shapes, tmp_path_factory):
    arms = {"random": (0, 0.36, 0.5), ODD: (5, 0.38, 0.8)}
    return comparison_of(write_study(tmp_path_factory.mktemp("study"), shapes, arms, seeds=2, epochs=10), "random")


def test_svg_has_its_text_as_text(study, tmp_path):
    written = write_plots(study, tmp_path / "plots", "svg")
    assert {path.name for path in written} == {path.name for path in (tmp_path / "plots").iterdir()}
    assert [path.stem for path in written][:3] == ["differences", "mAP50-95", "mAP50"]
    assert "learning-rate-head-weight-head-bn-head-bias.svg" in {path.name for path in written}
    for path in written:
        texts = ["".join(t.itertext()) for t in ElementTree.parse(path).iter(f"{SVG}text")]
        assert ODD in texts, path
    names = [p.name for p in written]
    again = write_plots(study, tmp_path / "again", "svg")
    assert [p.read_bytes() for p in again] == [(tmp_path / "plots" / name).read_bytes() for name in names]


def test_png_is_sharp_enough_for_print(study, tmp_path):
    for path in write_plots(study, tmp_path, "png"):
        with Image.open(path) as picture:
            assert picture.width == 4.5 * 300
            assert len(picture.convert("RGB").resize((60, 40)).getcolors(60 * 40)) > 10  # something is drawn


def test_by_command(tmp_path):
    for arm in ("a", "b"):
        write_full_run(tmp_path / arm, epochs=4, freeze=2 * (arm == "b"))
    runs = [*(str(tmp_path / arm) for arm in ("a", "b")), "--baseline", "a"]
    done = CliRunner().invoke(cli, ["compare", *runs, "--out", "paper", "--plots", "svg"], catch_exceptions=False)
    assert done.exit_code == 0
    assert {"report.html", "plots"} == {path.name for path in (tmp_path / "paper").iterdir()}
    assert (tmp_path / "paper" / "plots" / "mAP50-95.svg").is_file()
    with pytest.raises(ConfigError, match="--plots and --watch: expected --out"):
        CliRunner().invoke(cli, ["compare", *runs, "--plots", "png", "--watch"], catch_exceptions=False)
