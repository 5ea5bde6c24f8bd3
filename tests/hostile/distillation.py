"""The corpus of distillations and probes: their settings, run folders, states and caches, and who opens them."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator, Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
import yaml

from tests.hostile.case import DataCase, Write, no_files, text_file
from tests.hostile.commands import Command, World
from tests.hostile.values import json_mutants, yaml_mutants

CONFIG: dict[str, Any] = {
    "images": ["WORLD/images/train", "WORLD/images/val"],
    "teacher": "BACKBONE",
    "model": "yolov8n",
    "epochs": 1,
    "batch": 2,
    "accumulate": 1,
    "imgsz": 32,
    "held_out": 2,
    "taps": "p3:P3,p5:-1",
    "loss": "cosine",
    "lr": 0.002,
    "warmup": 0.05,
    "crop": 0.5,
    "seed": 0,
    "teacher_size": 32,
    "work_dir": "new",
    "amp": False,
    "device": "cpu",
    "workers": 0,
}
TRAIN = {
    "data": "WORLD/coco.yaml",
    "backbone": "BACKBONE",
    "freeze_epochs": 1,
    "epochs": 1,
    "imgsz": 32,
    "batch": 4,
    "lr0": 0.01,
    "bn_eps": 0.001,
    "unfreeze_stages": 2,
    "backbone_lr": 0.5,
    "resize": "letterbox",
    "input_norm": "0-1",
    "recipe": "coco",
    "plots": False,
    "workers": 0,
    "device": "cpu",
    "work_dir": "new",
}
RECORD = {
    "versions": {"kdyolo": "0.1.0"},
    "settings": {"freeze_epochs": 1, "backbone": "BACKBONE", "resize": "letterbox", "backbone_lr": 1.0},
    "asked": {"epochs": 1, "imgsz": 32, "batch": 4, "workers": 0, "plots": False, "device": "cpu"},
    "data": "WORLD/coco.yaml",
    "model": "kdyolov8n.yaml",
}
STUDY: dict[str, Any] = {
    "name": "s",
    "data": "WORLD/coco.yaml",
    "base": {"epochs": 1, "imgsz": 32, "batch": 4, "plots": False, "workers": 0},
    "arms": {
        "random": {"model": "kdyolov8n.yaml", "random_init": True},
        "distilled": {"distill": {key: CONFIG[key] for key in ("images", "teacher", "epochs", "batch", "imgsz")}},
    },
    "labels": [0.5, 1.0],
    "seeds": [0],
    "devices": ["cpu"],
    "baseline": "random",
}
SHARD = {"sha256": "0" * 64, "images": [["000001.jpg", 100, 5]]}
EMPTY = ("empty object", "empty list", "empty text")
TAPS = (
    *("", ",", ":", "p3", "p3:", ":P3", "p9:P3", "p3:P3,p3:P4", "p3:99", "p3:--1", "p3:²", "p3:٣", "p3:" + "9" * 5000),
    *("p3:\x1b]0;evil\x07", "p3:{0.__class__}", "p3:P3;p4:P4", "x" * 9999, ",".join(["p3:P3"] * 9999)),
)
STATES = {  # of an interrupted run, by the command that goes on from it → its fields
    "distill: resume": (
        *("epoch", "options", "data", "teacher", "teacher_digest", "student", "optimizer", "scaler", "statistics"),
        *("floors", "best", "images", "threads", "ranks"),
    ),
    "train: resume": (
        *("epoch", "yaml", "settings", "args", "model", "ema", "updates", "optimizer", "scaler", "threads"),
        *("best_fitness", "stopper", "last_step", "stop", "ranks", "images", "batches", "train_images", "gradients"),
        *("frozen_tensors", "mosaic_buffer"),
    ),
}
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0.5, 10**30, float("nan"), "evil", "\x1b]0;evil\x07", [], [[1]], {}, {"a": 1}, {1: 2}),
    *(torch.zeros(()), torch.zeros(3), {"state": {}, "param_groups": []}, {"P3": [torch.zeros(1)]}),
)
USES_RUN = ("distill: resume", "distill: ps", "distill: card", "distill: compare", "distill: logs", "distill: config")


def cases() -> Iterator[DataCase]:
    """The whole corpus."""
    for kind, document, command in (
        ("distill config", CONFIG, "distill --config"),
        ("train config", TRAIN, "train --config"),
        ("record as config", RECORD, "train --config"),
        ("study that distils", STUDY, "study --dry-run, distills"),
    ):
        sized = ("imgsz", "epochs", "batch", "base", "asked", "model")  # the defaults cost what they cost
        left_out = {f"{key}: {how}" for key in sized for how in ("null", "missing", *EMPTY)}
        for name, text in yaml_mutants(document):
            if not name.endswith(tuple(left_out)):
                yield DataCase(kind, name, text_file(text), "config.yaml", (command,))
        yield from no_files(kind, "config.yaml", (command,), harmless=False)
    for number, taps in enumerate(TAPS):
        content = yaml.safe_dump({**CONFIG, "taps": taps}, allow_unicode=True)
        yield DataCase("taps", f"{number}", text_file(content), "config.yaml", ("distill --config",))
    yield from no_files("image list", "list.txt", ("distill --images", "predict --source"))
    for name, text in json_mutants(SHARD):
        yield DataCase("cache", name, text_file(text), "shard-0.json", ("distill --cache",))
    yield from no_files("cache", "shard-0.json", ("distill --cache",))
    yield from no_files("cache", "shard-0.safetensors", ("distill --cache",), prefix="shard, ")
    yield from _states()
    turns = cycle(USES_RUN)
    for file in ("args.yaml", "kdyolo.yaml"):
        for name, text in yaml_mutants(_RUN[file]):
            yield DataCase("distill run", f"{file}, {name}", text_file(text), file, (next(turns), next(turns)))
    for file in ("args.yaml", "kdyolo.yaml", "results.csv", "resume.pt", "last.pt"):
        yield from no_files("distill run", file, USES_RUN, prefix=f"{file}, ")


_RUN: dict[str, dict[str, Any]] = {
    "args.yaml": {"task": "distill", "data": "photos", "teacher": "vit", "epochs": 2, "batch": 2, "seed": 0},
    "kdyolo.yaml": {
        "versions": {"kdyolo": "0.1.0"},
        "settings": {"task": "distill", "teacher": "vit", "epoch": 0, "epochs": 2, "images": 4},
        "asked": {},
        "schedule": {"epochs": 2},
        "recipe": {"name": "distill", "values": {}},
        "data": "photos",
        "seed": 0,
        "model": "yolov8n.yaml",
        "batch": 2,
    },
}


def _states() -> Iterator[DataCase]:
    """States of an interrupted run in which one field is something else, or is not there."""
    for command, fields in STATES.items():
        kind = f"{command.partition(':')[0]} state"
        for field in fields:
            edits = {f"{field}: value {i}": {"CHANGES": {field: value}} for i, value in enumerate(VALUES)}
            for name, edit in {f"without {field}": {"LACKS": field}, **edits}.items():
                yield DataCase(kind, name, _saved(edit), "resume.pt", (command,))


def _saved(content: Mapping[str, Any]) -> Write:
    return lambda path, marker: torch.save(content, path)


# ---- commands --------------------------------------------------------------------------------------------------------


def put(world: World, file: Path, place: Path) -> None:
    """The file at a place, with the world's paths in it; what is no text by a link."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if file.is_file() and not file.is_symlink() and file.stat().st_size < 64 << 20:
        raw = file.read_bytes().replace(b"WORLD", str(world.data.parent).encode())
        place.write_bytes(raw.replace(b"BACKBONE", str(world.backbone).encode()))
    elif file.exists() or file.is_symlink():
        place.symlink_to(file)


def _as_config(world: World, file: Path, here: Path) -> None:
    put(world, file, here / "config.yaml")


def _as_list(world: World, file: Path, here: Path) -> None:
    put(world, file, here / "list.txt")


def _in_cache(world: World, file: Path, here: Path) -> None:
    """A cache of the world's images, with the file in the place of that of its first shard."""
    shutil.copytree(world.cache, here / "cache")
    shard = next((here / "cache").glob("*/shard-*.json")).with_suffix(file.suffix)
    shard.unlink()
    put(world, file, shard)


def _in_run(world: World, file: Path, here: Path) -> None:
    """A copy of the interrupted distillation, with the file in place of its own."""
    _replaced(world, file, here, world.distilled)


def _in_training(world: World, file: Path, here: Path) -> None:
    _replaced(world, file, here, world.run)


def _replaced(world: World, file: Path, here: Path, run: Path) -> None:
    shutil.copytree(run, here / "run")
    place = next((here / "run").rglob(file.name), here / "run" / file.name)
    state = torch.load(place, weights_only=True) if file.name == "resume.pt" else {}
    place.unlink(missing_ok=True)
    put(world, file, place)
    if file.name == "resume.pt" and place.is_file() and not place.is_symlink() and zipfile.is_zipfile(place):
        edit = torch.load(file, weights_only=True)
        state |= edit.get("CHANGES", {})
        state.pop(edit.get("LACKS"), None)
        torch.save(state, place)


_DISTILL = "distill --images {train} --images {images} --model yolov8n --imgsz 32 --batch 2 --held-out 2 --device cpu"


def commands() -> dict[str, Command]:
    """The commands that open such files."""
    return {
        "distill --config": Command("distill --config config.yaml --dry-run", _as_config, leaves=("new",)),
        "train --config": Command("train --config config.yaml --dry-run", _as_config, leaves=("new",)),
        "study --dry-run, distills": Command("study config.yaml --dry-run", _as_config),
        "distill --images": Command(
            "distill --images list.txt --teacher {backbone} --model yolov8n --imgsz 32 --batch 2 --dry-run", _as_list
        ),
        "predict --source": Command("predict --model {model} --source list.txt --imgsz 32 --device cpu", _as_list),
        "distill --cache": Command(
            f"{_DISTILL} --teacher {{backbone}} --epochs 1 --taps p3:P3 --cache cache --work-dir new",
            _in_cache,
            leaves=("new",),
        ),
        "distill: resume": Command("distill --resume run", _in_run),
        "train: resume": Command("train --resume run", _in_training),
        "distill: ps": Command("ps .", _in_run),
        "distill: card": Command("card run", _in_run),
        "distill: compare": Command("compare run run --anyway", _in_run),
        "distill: logs": Command("logs run", _in_run),
        "distill: config": Command("distill --config run --work-dir new --dry-run", _in_run, leaves=("new",)),
    }


def checkpoint_commands() -> dict[str, Command]:
    """The commands of distillations and probes that open a checkpoint."""
    dry = f"{_DISTILL} --dry-run"
    return {
        "distill --teacher FILE": Command(f"{dry} --teacher {{file}}"),
        "distill --teacher NAME:FILE": Command(f"{dry} --teacher test_resnet:{{file}}"),
        "distill --backbone": Command(f"{dry} --teacher {{backbone}} --backbone {{file}}"),
        "distill --resume": Command("distill --resume run", in_distillation),
        "probe": Command("probe {file} --data {data} --imgsz 32"),
        "study, teacher": Command("study study.yaml --dry-run", study_that_distils),
    }


def in_distillation(world: World, file: Path, here: Path) -> None:
    """A copy of the interrupted distillation, with the file as its state."""
    shutil.copytree(world.distilled, here / "run")
    place = here / "run/weights/resume.pt"
    place.unlink()
    place.symlink_to(file)


def study_that_distils(world: World, file: Path, here: Path) -> None:
    """A study one of whose arms distils from the file."""
    text = yaml.safe_dump(STUDY, sort_keys=False)
    text = text.replace("BACKBONE", str(file)).replace("WORLD", str(world.data.parent))
    (here / "study.yaml").write_text(text)
