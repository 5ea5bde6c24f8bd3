"""The commands that open data, settings and run folders, and how a file gets into its place for them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from tests.builders.run_folders import write_run
from tests.hostile import distillation
from tests.hostile.commands import OWN_SETTINGS, Command, World
from tests.hostile.data_files import DETECTIONS
from tests.hostile.run_files import RUN_FILES


def _in_world(world: World, file: Path, here: Path) -> None:
    """The file under its name, where WORLD is the folder of the sound data set; what is no text, by a link."""
    target = here / file.name
    if file.is_file() and not file.is_symlink() and file.stat().st_size < 64 << 20:
        raw = file.read_bytes().replace(b"WORLD", os.fsencode(world.data.parent))
        target.write_bytes(raw)
    elif file.exists() or file.is_symlink():
        target.symlink_to(file)


def _copy_of_data(world: World, here: Path) -> Path:
    folder = here / "data"
    shutil.copytree(world.data.parent, folder, symlinks=True, ignore=shutil.ignore_patterns("*.cache"))
    for path in (folder / "coco.yaml", *folder.glob("*.txt")):
        path.write_text(path.read_text().replace(str(world.data.parent), str(folder)))
    return folder


def _put(file: Path, *places: Path) -> None:
    for place in places:
        place.unlink(missing_ok=True)
        if file.exists() or file.is_symlink():
            place.symlink_to(file)


def _as_list(world: World, file: Path, here: Path) -> None:
    _put(file, _copy_of_data(world, here) / "val.txt")


def _as_label(world: World, file: Path, here: Path) -> None:
    folder = _copy_of_data(world, here)
    _put(file, *(folder / "labels" / split / "000001.txt" for split in ("train", "val")))


def _as_image(world: World, file: Path, here: Path) -> None:
    folder = _copy_of_data(world, here)
    _put(file, *(folder / "images" / split / "000001.jpg" for split in ("train", "val")))
    (here / "pictures").mkdir()
    shutil.copy(world.root / "val" / "000002.jpg", here / "pictures")
    _put(file, here / "pictures" / "000001.jpg")


def _as_run(world: World, file: Path, here: Path) -> None:
    """Two runs beside each other; the first has the file in place of its own, or is called as it is."""
    import socket

    for name in ("bad", "good"):
        write_run(
            here / "runs" / name,
            data=world.data,
            seed=len(name),
            settings=OWN_SETTINGS,
            ap=0.3,
            per_class={"disc": 0.3},
        )
        (here / "runs" / name / "train.log").write_text("Epoch 1\n")
    bad = here / "runs" / "bad"
    if file.name not in RUN_FILES:
        bad.rename(here / "runs" / file.name)
        (here / "bad").symlink_to(here / "runs" / file.name)
        return
    place = bad / file.name
    shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    if file.name == "process.json" and file.is_file() and file.stat().st_size < 64 << 20:
        place.write_bytes(file.read_bytes().replace(b"HOST", socket.gethostname().encode()))
        (bad / "pid.txt").write_text("999999\n")
    else:
        _put(file, place)


def _list_runs(world: World, file: Path) -> None:
    import kdyolo

    found = kdyolo.list_runs([Path("runs")])
    assert len(found) >= 1, "the good run beside it is hidden"


_TINY = "--epochs 1 --imgsz 32 --batch 4 --device cpu --random-init --work-dir new plots=False workers=0"
_DRY = "train --data {data} --device cpu --work-dir new --dry-run"
_VAL = "--imgsz 32 --batch 2 --device cpu workers=0 plots=False"


def commands() -> dict[str, Command]:
    """The commands that open such files, by the names that cases have for them."""
    convert = "convert --annotations {file} --images {images} --split val --out out"
    return {
        "convert": Command(convert, leaves=("out",)),
        **{
            f"convert {flag}": Command(f"{convert} {flag}", leaves=("out",))
            for flag in ("--segments", "--skip-invalid", "--verify-images", "--include-crowd")
        },
        "score, truth": Command("score predictions.json {file}", _results),
        "score --ci": Command("score predictions.json {file} --ci --resamples 20 --per-class", _results),
        "score, results": Command("score {file} {truth}"),
        "score, two": Command("score {file} predictions.json {truth} --resamples 20", _results),
        "val --annotations": Command(f"val --model {{model}} --data {{data}} --annotations {{file}} {_VAL}"),
        "doctor --data": Command("doctor --data data.yaml", _as_yaml),
        "val --data": Command(f"val --model {{model}} --data data.yaml {_VAL}", _as_yaml),
        "train --dry-run": Command(f"train --data data.yaml {_TINY} --dry-run", _as_yaml, leaves=("new",)),
        "train": Command(f"train --data data.yaml {_TINY}", _as_yaml),
        "to-coco": Command("to-coco data.yaml --out o.json", _as_yaml, leaves=("o.json",)),
        "labels: to-coco": Command("to-coco data/coco.yaml --out o.json", _as_label, leaves=("o.json",)),
        "labels: val": Command(f"val --model {{model}} --data data/coco.yaml {_VAL}", _as_label),
        "labels: train --dry-run": Command(
            f"train --data data/coco.yaml {_TINY} --dry-run", _as_label, leaves=("new",)
        ),
        "labels: train": Command(f"train --data data/coco.yaml {_TINY} val=False", _as_label),
        "labels: doctor": Command("doctor --data data/coco.yaml", _as_label),
        "image: convert --verify-images": Command(
            "convert --annotations {truth} --images pictures --split val --out out --verify-images",
            _as_image,
            leaves=("out",),
        ),
        "image: predict": Command("predict --model {model} --source pictures --imgsz 32 --device cpu", _as_image),
        "image: val": Command(f"val --model {{model}} --data data/coco.yaml {_VAL}", _as_image),
        "image: train --dry-run": Command(f"train --data data/coco.yaml {_TINY} --dry-run", _as_image, leaves=("new",)),
        "image: inspect": Command("inspect {backbone} --image {file} --out f.png --imgsz 64", leaves=("f.png",)),
        "image: doctor": Command("doctor --data data/coco.yaml", _as_image),
        "image: to-coco": Command("to-coco data/coco.yaml --out o.json", _as_image, leaves=("o.json",)),
        "study --dry-run": Command("study study.yaml --dry-run", _in_world),
        "train --recipe": Command(f"{_DRY} --random-init --recipe {{file}}", leaves=("new",)),
        "train --recipe, sized": Command(
            f"{_DRY} --random-init --imgsz 32 --batch 4 --recipe {{file}} workers=0", leaves=("new",)
        ),
        "inspect --key-map": Command("inspect {backbone} --key-map {file}"),
        "train --key-map": Command(
            f"{_DRY} --imgsz 32 --backbone {{backbone}} --key-map {{file}} workers=0",
            leaves=("new",),
        ),
        "model: train": Command(
            f"{_DRY} --imgsz 32 --random-init --model {{file}} workers=0",
            leaves=("new",),
        ),
        "model: doctor": Command("doctor --model {file} --backbone {backbone}"),
        "ps": Command("ps runs", _as_run),
        "ps --json": Command("ps runs --json", _as_run),
        "stop": Command("stop runs/bad --timeout 1", _as_run),
        "logs": Command("logs runs/bad", _as_run),
        "compare": Command("compare runs/bad runs/good --baseline runs/good --anyway", _as_run),
        "compare --out": Command(
            "compare runs/good runs/bad --baseline runs/good --anyway --out report --format md", _as_run
        ),
        "card": Command("card runs/bad", _as_run),
        "export-stock RUN": Command("export-stock runs/bad --out o.pt", _as_run, leaves=("o.pt",)),
        "extract RUN": Command("extract runs/bad --out o.safetensors", _as_run, leaves=("o.safetensors",)),
        "resume RUN": Command("train --resume runs/bad", _as_run),
        "list_runs": Command(_list_runs, _as_run),
        **distillation.commands(),
    }


def _as_yaml(world: World, file: Path, here: Path) -> None:
    if file.name == "val.txt":
        _as_list(world, file, here)
        (here / "data.yaml").symlink_to(here / "data" / "coco.yaml")
    else:
        _in_world(world, file, here)


def _results(world: World, file: Path, here: Path) -> None:
    (here / "predictions.json").write_text(json.dumps(DETECTIONS))
