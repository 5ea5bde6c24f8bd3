"""Detection heads on frozen backbones: each trained for a few epochs on the same images, and judged by the official AP.

The way is the public one, a training with ``freeze_epochs="all"``; of one seed all backbones see the same images in the
same order, so that differences are paired by seeds.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from kdyolo.data.dataset_yaml import load_dataset
from kdyolo.data.image_names import image_files
from kdyolo.data.training_subset import LabelSubset
from kdyolo.distillation.run.backbone_file import backbone_tensors
from kdyolo.engine.model import KDYOLO
from kdyolo.errors import ConfigError, RunError, collect_mistakes
from kdyolo.models.arch import BN_COUNTER
from kdyolo.models.backbone import DistilledBackbone
from kdyolo.runs.history import read_run
from kdyolo.utils.progress import Progress, details, verbosity


@dataclass(frozen=True)
class HeadOptions:
    """How detection heads are trained.

    Attributes:
        epochs: Length of each training.
        images: Number of training images, drawn by the seed of the training.
        seeds: A training of each backbone for each of them.
        work_dir: Folder that keeps the runs; None: they are gone afterwards.
    """

    epochs: int = 5
    images: int = 1000
    seeds: tuple[int, ...] = (0,)
    work_dir: Path | None = None

    def check(self, data: str | Path) -> None:
        """Refuse what no head can be trained with, before anything is computed.

        Raises:
            ConfigError: Options are wrong; the error names all of them.
            DatasetError: The data set has no training or no validation images.
        """
        with collect_mistakes() as mistakes:
            if self.epochs < 1:
                mistakes.add(f"detect_epochs must be at least 1; found {self.epochs}.")
            if self.images < 2:
                mistakes.add(f"detect_images must be at least 2; found {self.images}.")
            if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
                mistakes.add(f"detect_seeds: expected different numbers from 0, found {list(self.seeds)}.")
            if self.work_dir and self.work_dir.exists() and not (self.work_dir.is_dir() and _is_empty(self.work_dir)):
                mistakes.add(f"work_dir {self.work_dir} is there already. Expected a new or an empty folder.")
            for role in ("train", "val"):
                with mistakes.gathered():
                    image_files(load_dataset(Path(data)).places(role))


def train_heads(
    sources: Mapping[str, Path | DistilledBackbone],
    data: str | Path,
    options: HeadOptions,
    how: Mapping[str, Any],
    **settings: Any,
) -> dict[str, tuple[float, ...]]:
    """Official AP in 0–1 on the validation images of each backbone, one for each seed.

    Args:
        sources: Name → checkpoint, or a network that is in no file.
        data: Data set YAML.
        options: Length, images and seeds.
        how: How checkpoints are read.
        **settings: ``imgsz``, ``batch``, ``device`` and ``resize`` of the trainings.

    Raises:
        KDYOLOError: A training cannot start; the ones before it are kept in ``work_dir``, if there is one.
    """
    count = len(image_files(load_dataset(Path(data)).places("train"))[1])
    found: dict[str, list[float]] = {name: [] for name in sources}
    epochs = len(options.seeds) * len(sources) * options.epochs
    with (
        _folder(options.work_dir) as folder,
        Progress("training detection heads", epochs, "epochs") as progress,
        _told_when_asked(),
    ):
        for seed in options.seeds:
            share = min(1.0, options.images / count)
            subset = LabelSubset(Path(data).resolve(), share, seed, folder / "images" / f"seed{seed}")
            subset.write()
            for number, (name, source) in enumerate(sources.items()):
                file, reading = (source, how) if isinstance(source, Path) else (_saved(source, folder, number), {})
                run = folder / f"{number}-{Path(name).name.replace(' ', '-')}" / f"seed{seed}"
                model = KDYOLO(backbone=file, **reading)
                model.add_callback("on_train_epoch_end", lambda trainer: progress.advance())
                model.train(
                    data=str(subset.yaml),
                    epochs=options.epochs,
                    freeze_epochs="all",
                    seed=seed,
                    plots=False,
                    work_dir=str(run),
                    **settings,
                )
                found[name].append(_official_ap(run))
    return {name: tuple(values) for name, values in found.items()}


@contextmanager
def _told_when_asked() -> Iterator[None]:
    """Keep what trainings print to their logs, but for warnings, unless all is to be told."""
    if verbosity() == "verbose":
        yield
        return
    with details(), Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        yield


def _official_ap(run: Path) -> float:
    scores = read_run(run).scores
    if scores is None:
        raise RunError(f"{run}: has no coco_metrics.json. Expected the official metrics of a finished training.")
    return float(scores["AP"])


def _saved(backbone: DistilledBackbone, folder: Path, number: int) -> Path:
    """A file of a network that is in none, which freezes as a trained one does."""
    file = folder / f"{number}.safetensors"
    tensors = backbone_tensors(backbone, ())
    for name in tensors:
        if name.endswith(BN_COUNTER):  # BatchNorms that count no batch are taken for untrained, and would not be frozen
            tensors[name] = torch.ones_like(tensors[name])
    arch = backbone.arch.name
    save_file(tensors, file, {"format": "pt", "arch": arch, "bn_eps": str(backbone.bn_eps), "input_norm": "0-1"})
    return file


def _is_empty(folder: Path) -> bool:
    try:
        return not any(folder.iterdir())
    except OSError as e:
        raise ConfigError(f"work_dir {folder} cannot be read ({e}).") from e


@contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    """The folder of the runs; a temporary one is gone afterwards."""
    if kept is None:
        with tempfile.TemporaryDirectory(prefix="kdyolo-probe-") as folder:
            yield Path(folder)
        return
    try:
        kept.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise RunError(f"{kept}: cannot be made ({e}). Give --work-dir a place that can be written to.") from e
    yield kept.absolute()
