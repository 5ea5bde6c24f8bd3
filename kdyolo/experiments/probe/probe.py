"""Probe: checkpoints side by side by what simple classifiers tell of objects from their frozen features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdyolo.arguments import checked
from kdyolo.checkpoints.loading import checkpoint_arch, load_into
from kdyolo.checkpoints.reader import read_checkpoint
from kdyolo.distillation.geometry import LETTERBOX, STRETCH
from kdyolo.distillation.proof.labelled_objects import LabelledObjects, find_objects
from kdyolo.distillation.proof.object_features import join_levels, knn_predictions, pool_objects
from kdyolo.errors import ConfigError, collect_mistakes
from kdyolo.experiments.probe.classification import frequencies, image_folds, information, linear_log_probabilities
from kdyolo.experiments.probe.detection import HeadOptions, train_heads
from kdyolo.experiments.probe.objectness import Background, draw_background
from kdyolo.experiments.probe.result import OBJECTNESS, ProbeResult, ProbeScore, Told, score_all, score_heads
from kdyolo.models.backbone import DistilledBackbone
from kdyolo.runs.lifecycle.devices import Machine, one_torch_device

RESAMPLES = 2000


@checked
def probe(
    checkpoints: Sequence[str | Path],
    data: str | Path,
    *,
    split: str = "val",
    imgsz: int = 640,
    resize: str = LETTERBOX,
    images: int | None = 1000,
    batch: int = 16,
    seed: int = 0,
    device: int | str = "cpu",
    detect: bool = False,
    detect_epochs: int = 5,
    detect_images: int = 1000,
    detect_seeds: Sequence[int] = (0,),
    work_dir: str | Path | None = None,
    key_map: str | Path | None = None,
    bn_eps: float | None = None,
    input_norm: str | None = None,
    trust: bool = False,
) -> ProbeResult:
    """Compare backbones, before a detector is trained, by how well their features tell objects apart.

    Features are pooled in the boxes of labelled objects, at each level and joined, and classified by 5 nearest
    neighbours in other images and by a linear classifier, cross-validated by images: no object is ever told by another
    one of its image. Of the linear classifier the bits are measured as well that it learns of an object's class beyond
    how frequent each class is, which tells backbones apart that the same share of right classes does not. The same for
    objectness: a linear classifier of objects and of background boxes of their size in the same images, which needs
    fewer objects than many classes do. A random network of each scale is always among them.

    Args:
        checkpoints: Any files that ``--backbone`` takes, also trained detectors; others are compared with the first.
        data: Dataset YAML.
        split: Split whose objects are classified; images that a backbone has learned from flatter it.
        imgsz: Side of the square that images are put in, in pixels, a multiple of 32.
        resize: ``letterbox`` or ``stretch``, as in training.
        images: Number of images to draw by the seed; None: all.
        batch: Images in a forward pass.
        seed: Seed of that draw, of folds, intervals and random networks.
        device: Device of the forward passes, in any form that Ultralytics takes.
        detect: Also train a detection head on each frozen backbone, evaluated on ``val`` by the official AP.
        detect_epochs: Length of each of these trainings.
        detect_images: Number of training images, drawn by the training's seed; the same for all backbones.
        detect_seeds: Seeds to train with; with one, differences have no interval.
        work_dir: Folder that keeps the heads' runs. Default: they are gone afterwards.
        key_map: YAML file with the names of unknown checkpoints, as in training.
        bn_eps: BatchNorm epsilon of all, if the recognised one is wrong.
        input_norm: Images that the backbones know: ``0-1``, ``imagenet``, or means and deviations.
        trust: Unpickle the files completely, which runs any code that they bring.

    Returns:
        Accuracies and bits with intervals, to print or to read by :meth:`ProbeResult.to_frame`.

    Raises:
        ConfigError: Options are wrong; the error names all of them.
        CheckpointError: A file cannot be read or does not fill a backbone.
        DatasetError: The data set is not what it should be, or has too few objects.

    Examples:
        >>> from kdyolo import probe
        >>> probe(["ckpt.pth"], "datasets/coco/coco.yaml", split="train", imgsz=64).images
        8
    """
    device = _check(checkpoints, imgsz, resize, images, batch, seed, device)
    heads = HeadOptions(detect_epochs, detect_images, tuple(detect_seeds), Path(work_dir) if work_dir else None)
    if detect:
        heads.check(data)
    elif heads != HeadOptions():
        raise ConfigError("detect_epochs, detect_images, detect_seeds and work_dir are of detection heads. Add detect.")
    how: dict[str, Any] = {"key_map": key_map, "bn_eps": bn_eps, "input_norm": input_norm, "trust": trust}
    backbones = dict(_open_all(checkpoints, seed, how))
    objects = find_objects(Path(data), split, imgsz, resize, images, seed)
    background = draw_background(objects, Path(data), imgsz, resize, seed)
    pooled = _pool_all(list(backbones.values()), objects, background, imgsz, resize, batch, device)
    features: Features = {}
    for (name, backbone), levels in zip(backbones.items(), pooled, strict=True):
        features |= {(name, kind): [level] for kind, level in zip(backbone.levels, levels, strict=True)}
        features[name, "joined"] = levels
    scores = _score_classes(features, background.are_objects, objects.classes, objects.images, seed)
    if background.are_enough:
        scores += _score_objectness(features, background, seed)
    settings: dict[str, Any] = {"data": str(data), "split": split, "imgsz": imgsz, "resize": resize, "seed": seed}
    found: dict[str, tuple[float, ...]] = {}
    if detect:
        sources: dict[str, Path | DistilledBackbone] = dict(backbones)
        sources.update(zip(backbones, map(Path, checkpoints), strict=False))  # random networks come last, and stay
        found = train_heads(sources, data, heads, how, imgsz=imgsz, batch=batch, device=device, resize=resize)
        settings |= {"detect_epochs": detect_epochs, "detect_images": detect_images, "detect_seeds": list(heads.seeds)}
    return ProbeResult(
        scores=scores,
        objects=len(objects.classes),
        images=len(objects.files),
        classes=len(objects.class_names),
        majority=float(objects.classes.bincount().max()) / len(objects.classes),
        pairs=sum(map(len, background.boxes)) if background.are_enough else 0,
        settings=settings,
        heads=score_heads(found) if found else (),
        notes=tuple(_left_random(backbones)),
    )


Features = dict[tuple[str, str], list[Tensor]]  # (checkpoint, kind of features) → features [N, C] of its levels


def _score_classes(
    features: Features, objects: Tensor, classes: Tensor, images: Tensor, seed: int
) -> tuple[ProbeScore, ...]:
    """Scores of both classifiers of the objects' classes; ``objects`` [N] says which of all boxes are objects."""
    folds, told = image_folds(images, seed), {}
    frequent = frequencies(classes, folds)
    for (name, kind), levels in features.items():
        parts = [level[objects] for level in levels]
        joined = parts[0] if len(parts) == 1 else join_levels(parts)
        told[name, "knn", kind] = Told((knn_predictions(joined, classes, images) == classes).numpy())
        told[name, "linear", kind] = _told_linearly(parts, classes, folds, frequent)
    return score_all(told, images.numpy(), RESAMPLES, seed)


def _score_objectness(features: Features, background: Background, seed: int) -> tuple[ProbeScore, ...]:
    """Scores of the linear classifier of objects and background."""
    pairs, images = background.in_pairs, background.images
    classes, folds = background.are_objects[pairs].long(), image_folds(images, seed)
    frequent = frequencies(classes, folds)
    told = {
        (name, OBJECTNESS, kind): _told_linearly([level[pairs] for level in levels], classes, folds, frequent)
        for (name, kind), levels in features.items()
    }
    return score_all(told, images.numpy(), RESAMPLES, seed)


def _told_linearly(levels: Sequence[Tensor], classes: Tensor, folds: Tensor, frequent: Tensor) -> Told:
    said = linear_log_probabilities(levels, classes, folds)
    return Told((said.argmax(1) == classes).numpy(), information(said, frequent, classes).double().numpy())


def _check(
    checkpoints: Sequence[str | Path],
    imgsz: int,
    resize: str,
    images: int | None,
    batch: int,
    seed: int,
    device: int | str,
) -> str:
    """Refuse wrong options; the device as PyTorch names it."""
    if isinstance(checkpoints, (str, Path)):
        raise ConfigError("checkpoints is a list of files; found one file alone. Put it in brackets.")
    with collect_mistakes() as mistakes:
        if not checkpoints:
            mistakes.add("expected at least one checkpoint, found none.")
        if imgsz < 32 or imgsz % 32:
            mistakes.add(f"imgsz must be a multiple of 32; found {imgsz}.")
        if resize not in (LETTERBOX, STRETCH):
            mistakes.add(f"resize must be {LETTERBOX} or {STRETCH}; found {resize!r}.")
        if images is not None and images < 1:
            mistakes.add(f"images must be at least 1; found {images}.")
        if batch < 1:
            mistakes.add(f"batch must be at least 1; found {batch}.")
        if seed < 0:
            mistakes.add(f"seed must be at least 0; found {seed}.")
        return mistakes.result(lambda: one_torch_device(device, "a probe", Machine.here())) or ""


def _open_all(
    checkpoints: Sequence[str | Path], seed: int, how: dict[str, Any]
) -> Iterator[tuple[str, DistilledBackbone]]:
    """Name → backbone, of each file, then a random network of each architecture among them."""
    archs: dict[str, DistilledBackbone] = {}
    names = _short_names([Path(path) for path in checkpoints])
    for path, name in zip(checkpoints, names, strict=True):
        checkpoint = read_checkpoint(path, **how)
        arch = checkpoint_arch(checkpoint)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # of what the file leaves random
            backbone = DistilledBackbone(arch.name, arch.max_channels, checkpoint.bn_eps)
        load_into(backbone, checkpoint)
        archs.setdefault(f"random {arch.name}", backbone)
        yield name, backbone
    for name, like in archs.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield name, DistilledBackbone(like.arch.name, like.arch.max_channels)


def _left_random(backbones: Mapping[str, DistilledBackbone]) -> Iterator[str]:
    """A sentence on each backbone of whose layers some never trained: its deeper levels say nothing of the others."""
    for name, backbone in backbones.items():
        if backbone.left_out:
            layers = dict.fromkeys(part.partition(".")[0] for part in backbone.left_out)
            first = min(map(int, layers))
            levels = [level for level, tap in zip(backbone.levels, backbone.taps, strict=True) if tap >= first]
            what = f"layers {', '.join(layers)} never trained and are random"
            yield f"{name}: {what}, and so {', '.join(levels)} and joined"


def _short_names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of paths that differ from each other.

    Raises:
        ConfigError: A file is given twice.
    """
    wholes = [path.expanduser().absolute() for path in paths]
    if twice := {str(path) for path in wholes if wholes.count(path) > 1}:
        raise ConfigError(f"given more than once: {', '.join(sorted(twice))}.")
    for depth in range(1, max((len(path.parts) for path in wholes), default=0) + 1):
        names = ["/".join(path.parts[-depth:]) for path in wholes]
        if len(set(names)) == len(names):
            return names
    return list(map(str, wholes))


@torch.inference_mode()
def _pool_all(
    backbones: Sequence[DistilledBackbone],
    objects: LabelledObjects,
    background: Background,
    imgsz: int,
    resize: str,
    batch: int,
    device: str,
) -> list[list[Tensor]]:
    """Features [N, C] of all boxes, each image's objects before its background, of each level of each backbone.

    Every image is read and passed once.
    """
    for backbone in backbones:
        backbone.to(device).eval()
    parts: list[list[list[Tensor]]] = [[[] for _ in backbone.levels] for backbone in backbones]
    besides = iter(background.boxes)
    for images, boxes in objects.batches(imgsz, resize, batch):
        asked = [torch.cat([of_image, next(besides)]) for of_image in boxes]
        images = images.to(device, memory_format=torch.channels_last)  # half the time on a CPU, the same to 1e-6
        for backbone, kept in zip(backbones, parts, strict=True):
            found = pool_objects(backbone(images), backbone.strides, asked)
            for level, features in zip(kept, found, strict=True):
                level.append(features.float().cpu())
    return [[torch.cat(level) for level in kept] for kept in parts]
