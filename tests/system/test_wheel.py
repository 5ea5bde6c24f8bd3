"""The wheel carries everything: run from an empty folder, without the checkout."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.builders.commands import CHECKOUT, run_command

PAGE = [f"kdyolo/experiments/report/templates/{name}" for name in ("report.html.j2", "style.css", "charts.js")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    subprocess.run([*pip, "--wheel-dir", out, CHECKOUT], check=True)
    return next(out.glob("kdyolo-*.whl"))


def test_contents(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "kdyolo/__init__.pyi" in names  # the public names, also for the lazy loader
    for name in ("kdyolo/py.typed", "kdyolo/cfg/models/kdyolov8.yaml", "kdyolo/cfg/recipes/coco.yaml", *PAGE):
        assert name in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "scripts/", "cfg/"))]


def test_the_main_job_from_an_empty_folder(wheel, bare_python, checkpoint, shapes, tmp_path):
    site = tmp_path / "site"
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site)
    subprocess.run([*pip, wheel], check=True)
    empty = tmp_path / "empty"
    empty.mkdir()

    def kdyolo(command: str) -> str:
        script = site / "bin" / "kdyolo"  # the console script itself; its packages come from PYTHONPATH
        return run_command(bare_python, script, *command.split(), cwd=empty, PYTHONPATH=str(site)).stdout

    kdyolo(f"convert {shapes.parent.parent / 'root'} --out data")
    options = "--imgsz 64 --batch 4 --device cpu --epochs 2 plots=False"
    kdyolo(f"train --data data/coco.yaml --backbone {checkpoint} --freeze 1 --work-dir run {options}")
    # The script is known to work by now: two more of its commands, in a process that says where its kdyolo lies.
    shipped = f"train --data data/coco.yaml --model kdyolov8n-p2.yaml --recipe coco-mosaic --work-dir second {options}"
    val = "val --model run/weights/best.pt --data data/coco.yaml --imgsz 64 --device cpu plots=False save_dir=val"
    code = "import sys, kdyolo; from kdyolo.cli import main; print(kdyolo.__file__)"
    code += "".join(f"; main({command.split()!r})" for command in (shipped, val))
    assert str(site) in run_command(bare_python, "-c", code, cwd=empty, PYTHONPATH=str(site)).stdout
    assert sorted(p.name for p in empty.iterdir()) == ["data", "run", "second", "val"]
