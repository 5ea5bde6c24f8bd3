"""The commands and functions that open a file, with a place for it; and the sound files that they need beside."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import yaml

from tests.builders.checkpoints import old_names
from tests.builders.run_folders import write_run
from tests.hostile.stock import detector


@dataclass(frozen=True)
class World:
    """Sound files, written once; commands leave them alone.

    Attributes:
        folder: The folder of all of them.
        data: YAML of a converted data set of a few drawn shapes.
        root: The COCO data set that it was converted from.
        backbone: A distilled checkpoint that fits yolov8n.
        model: A stock detector.
        run: Run folder of an interrupted training, with ``resume.pt``.
        distilled: Run folder of an interrupted distillation on the data set's images.
        cache: Folder of the features of its teacher.
    """

    folder: Path
    data: Path
    root: Path
    backbone: Path
    model: Path
    run: Path
    distilled: Path
    cache: Path

    @property
    def names(self) -> dict[str, Path]:
        """What ``{data}`` and so on stand for in a command."""
        images = sorted((self.root / "val").glob("*.jpg"))
        truth = next(self.root.rglob("*val*.json"))
        named = {"data": self.data, "root": self.root, "backbone": self.backbone, "model": self.model, "run": self.run}
        folders = {"images": images[0].parent, "train": self.root / "train"}
        return {**named, **folders, "image": images[0], "truth": truth}


def build_world(folder: Path) -> World:
    """Write the sound files; trains for a second."""
    from kdyolo import KDYOLO, DistilledBackbone, convert_coco
    from kdyolo.data.synthetic import draw_dataset

    root = draw_dataset(folder / "root", {"train": 4, "val": 2}, imgsz=64)
    data = convert_coco(root, folder / "data").yaml
    torch.manual_seed(0)
    tensors = {f"_orig_mod.backbone.{n}": t for n, t in old_names(DistilledBackbone("yolov8n")).items()}
    backbone, model = folder / "backbone.pth", folder / "model.pt"
    torch.save({"backbone": tensors, "epoch": 4, "config": {"backbone": "yolov8", "model_size": "n"}}, backbone)
    model.write_bytes(detector())
    run = folder / "interrupted"

    def stop(trainer: Any) -> None:
        if trainer.epoch == 1:
            raise KeyboardInterrupt

    training = KDYOLO(backbone=backbone)
    training.add_callback("on_train_batch_start", stop)
    tiny = {"imgsz": 32, "batch": 4, "nbs": 4, "device": "cpu", "plots": False, "workers": 0, "epochs": 3, "val": False}
    with contextlib.suppress(KeyboardInterrupt):
        training.train(**tiny, data=str(data), work_dir=run, freeze_epochs=1)
    _distil(folder, root, backbone)
    return known_world(folder)


def _distil(folder: Path, root: Path, teacher: Path) -> None:
    """Interrupt a distillation in its second epoch."""
    from kdyolo import distill
    from kdyolo.distillation.run.loop import DistillLoop

    epoch = DistillLoop._train_epoch

    def once(self: DistillLoop) -> float:
        if self.epoch:
            raise KeyboardInterrupt
        return epoch(self)

    tiny = {"imgsz": 32, "batch": 2, "held_out": 2, "device": "cpu", "epochs": 2, "taps": "p3:P3"}
    with patch.object(DistillLoop, "_train_epoch", once), contextlib.suppress(KeyboardInterrupt):
        distill(
            [root / "train", root / "val"],
            teacher=teacher,
            model="yolov8n",
            cache=str(folder / "cache"),
            work_dir=str(folder / "distilled"),
            **tiny,
        )


def known_world(folder: Path) -> World:
    """The world that another process built there."""
    named = ("root", "backbone.pth", "model.pt", "interrupted", "distilled", "cache")
    return World(folder, folder / "data" / "coco.yaml", *(folder / name for name in named))


Setup = Callable[[World, Path, Path], None]  # the world, the file, the folder that the command starts in


@dataclass(frozen=True)
class Command:
    """A command, or a function of the Python face.

    Attributes:
        line: Arguments with ``{file}``, ``{data}`` and so on in them, blanks between; or a function of the file.
        setup: What is written before it starts.
        ignores: Whether it can do without the file, so that succeeding is right whatever is in it.
        leaves: Files that it writes, if it succeeds.
        runs: Trainings that it starts as processes of their own, if it succeeds; each has the time of a pair.
    """

    line: str | Callable[[World, Path], Any]
    setup: Setup = field(default=lambda world, file, here: None)
    ignores: bool = False
    leaves: Sequence[str] = ()
    runs: int = 0

    def call(self, world: World, file: Path) -> Callable[[], Any]:
        """What the child runs."""
        if not isinstance(self.line, str):
            function = self.line
            return lambda: _as_command(lambda: function(world, file))
        names = {"file": file, **world.names}
        arguments = [word.format(**names) for word in self.line.split()]

        def run() -> None:
            from kdyolo.cli import main

            main(arguments)

        return run


def _as_command(function: Callable[[], Any]) -> None:
    """Kdyolo's own errors as one line; others keep their traceback."""
    from kdyolo.errors import KDYOLOError

    try:
        function()
    except KDYOLOError as e:
        os.write(2, f"Error: {e}\n".encode(errors="surrogateescape"))
        raise SystemExit(1) from None


def in_run(*names: str) -> Setup:
    """A copy of the run, with the file in place of these of its own."""

    def setup(world: World, file: Path, here: Path) -> None:
        shutil.copytree(world.run, here / "run")
        for name in names:
            place = here / "run" / name
            place.unlink(missing_ok=True)
            place.symlink_to(file)

    return setup


def in_finished_run(world: World, file: Path, here: Path) -> None:
    """Two finished runs without a training; the file is the first one's best.pt and last.pt."""
    for name in ("run", "other"):
        write_run(here / name, data=world.data, seed=len(name), settings=OWN_SETTINGS)
    for name in ("best.pt", "last.pt"):
        (here / "run/weights" / name).unlink(missing_ok=True)
        (here / "run/weights" / name).symlink_to(file)


def study_with(**arm: Any) -> Setup:
    """A study whose second arm uses the file."""

    def setup(world: World, file: Path, here: Path) -> None:
        own = {key: str(file) if value == "FILE" else value for key, value in arm.items()}
        base = {"epochs": 1, "imgsz": 32, "batch": 4, "plots": False, "workers": 0}
        content: Mapping[str, Any] = {
            "name": "s",
            "data": str(world.data),
            "base": base,
            "arms": {"random": {"random_init": True}, "file": own},
            "seeds": [0],
            "devices": ["cpu"],
            "baseline": "random",
        }
        (here / "study.yaml").write_text(yaml.safe_dump(dict(content), sort_keys=False))

    return setup


# What every run of kdyolo records of its options, beside what differs.
OWN_SETTINGS = {"backbone_lr": 1.0, "backbone_weight_decay": None, "thaw_warmup": 1.0, "unfreeze_stages": None}

_TRAIN = "train --data {data} --epochs 1 --imgsz 32 --batch 4 --device cpu --work-dir new plots=False workers=0"
_NEW = ("new",)


def _face() -> dict[str, Command]:
    """Functions that open a checkpoint, of the Python face."""
    import kdyolo

    def loaded(world: World, file: Path) -> Any:
        return kdyolo.load_backbone(file)

    return {
        "read_checkpoint": Command(lambda w, f: kdyolo.read_checkpoint(f)),
        "inspect_checkpoint": Command(lambda w, f: kdyolo.inspect_checkpoint(f).table()),
        "compare_checkpoints": Command(lambda w, f: kdyolo.compare_checkpoints(f, w.backbone).table()),
        "load_backbone": Command(loaded),
        "draw_features": Command(
            lambda w, f: kdyolo.draw_features(f, w.names["image"], "f.png", 64), leaves=("f.png",)
        ),
        "KDYOLO(model)": Command(lambda w, f: kdyolo.KDYOLO(str(f))),
        "KDYOLO(weights)": Command(lambda w, f: kdyolo.KDYOLO(weights=str(f))),
        "KDYOLO(backbone)": Command(lambda w, f: kdyolo.KDYOLO(backbone=str(f))),
        "export_stock": Command(lambda w, f: kdyolo.export_stock(f, "o.pt"), leaves=("o.pt",)),
        "extract_backbone": Command(
            lambda w, f: kdyolo.extract_backbone(f, "o.safetensors"), leaves=("o.safetensors",)
        ),
        "preflight": Command(
            lambda w, f: kdyolo.preflight({"data": str(w.data), "backbone": str(f), "imgsz": 32, "workers": 0})
        ),
    }


def checkpoint_commands() -> dict[str, Command]:
    """Every command that opens a checkpoint, every way that it is given one."""
    from tests.hostile import distillation

    cli = {
        "inspect": Command("inspect {file}"),
        "inspect --json": Command("inspect {file} --json"),
        "inspect GOOD FILE": Command("inspect {backbone} {file}"),
        "inspect --image": Command("inspect {file} --image {image} --out f.png --imgsz 64", leaves=("f.png",)),
        "train --backbone": Command(f"{_TRAIN} --backbone {{file}}", leaves=_NEW),
        "train --backbone --allow-partial": Command(
            f"{_TRAIN} --backbone {{file}} --allow-partial --dry-run", leaves=_NEW
        ),
        "train --weights": Command(f"{_TRAIN} --weights {{file}}", leaves=_NEW),
        "train --weights --backbone": Command(f"{_TRAIN} --weights {{file}} --backbone {{backbone}}", leaves=_NEW),
        "train --model": Command(f"{_TRAIN} --model {{file}}", leaves=_NEW),
        "train --dry-run": Command(f"{_TRAIN} --backbone {{file}} --dry-run", leaves=_NEW),
        "train --weights --dry-run": Command(f"{_TRAIN} --weights {{file}} --dry-run", leaves=_NEW),
        "train --resume FILE": Command("train --resume {file}"),
        "train --resume RUN": Command("train --resume run", in_run("weights/resume.pt", "weights/last.pt")),
        "train --resume RUN, last.pt": Command("train --resume run", in_run("weights/last.pt"), ignores=True),
        "val": Command("val --model {file} --data {data} --imgsz 32 --batch 2 --device cpu workers=0 plots=False"),
        "predict": Command("predict --model {file} --source {image} --imgsz 32 --device cpu"),
        "score FILE": Command("score {file} {truth}"),
        "score of FILE": Command("score {file} {file}"),
        "export-stock": Command("export-stock {file} --out o.pt", leaves=("o.pt",)),
        "export-stock RUN": Command("export-stock run --out o.pt", in_finished_run, leaves=("o.pt",)),
        "extract": Command("extract {file} --out o.safetensors", leaves=("o.safetensors",)),
        "extract RUN": Command(
            "extract run --out o.safetensors", in_run("weights/best.pt", "weights/last.pt"), leaves=("o.safetensors",)
        ),
        "compare": Command("compare run other --baseline other --out report --anyway", in_finished_run, ignores=True),
        "compare FILE": Command("compare {file} other --baseline other", in_finished_run, ignores=True),
        "card": Command("card run", in_finished_run, ignores=True),
        "doctor --backbone": Command("doctor --backbone {file}"),
        "doctor --model": Command("doctor --model {file} --data {data}"),
        "study, backbone": Command("study study.yaml --dry-run", study_with(backbone="FILE")),
        "study, weights": Command("study study.yaml", study_with(weights="FILE"), runs=2),
        "study, model": Command("study study.yaml --dry-run", study_with(model="FILE", random_init=True)),
    }
    return cli | _face() | distillation.checkpoint_commands()
