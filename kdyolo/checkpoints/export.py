"""Export of checkpoints: stock ones from any of a run's, also from its middle, and the trained backbone alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.torch_utils import strip_optimizer

from kdyolo.arguments import checked
from kdyolo.checkpoints.safe_load import TENSORS_SHA256, read_detector, tensors_sha256
from kdyolo.errors import CheckpointError, ConfigError, RunError, collect_mistakes
from kdyolo.models.bn_folding import fold_bn_eps, largest_difference, output_difference, sample_outputs
from kdyolo.models.detector import KDDetectionModel, to_stock, weights_arch
from kdyolo.utils.atomic import replacing, write_tensors
from kdyolo.utils.progress import details
from kdyolo.utils.yaml_files import read_mapping


class _Epochs(msgspec.Struct):
    """What is relied on in ``args.yaml``."""

    epochs: int = 0


@checked
def export_stock(source: str | Path, out: str | Path | None = None, exist_ok: bool = False) -> Path:
    """Write a checkpoint that plain Ultralytics opens, evaluates, exports and fine-tunes from.

    Args:
        source: A run folder, whose ``best.pt`` or else ``last.pt`` is taken, or a checkpoint of a run, finished or not.
        out: File to write. Default: ``<name>-stock.pt`` beside the checkpoint.
        exist_ok: Allow ``out`` to be replaced.

    Returns:
        The file: weights in fp16 but for BatchNorm scales with a folded epsilon, no optimizer.

    Raises:
        ConfigError: ``out`` exists.
        CheckpointError: ``source`` is no detector checkpoint.
        RunError: The stock model would not compute what the source does; nothing is written.
    """
    with collect_mistakes() as mistakes:
        path = mistakes.result(lambda: _checkpoint_file(source))
        if target := Path(out) if out else path and path.with_name(f"{path.stem}-stock.pt"):
            mistakes.result(lambda: _may_write(target, path, exist_ok))
    assert path is not None  # else there were mistakes
    assert target is not None
    content, model = _read(path)
    with _writing(target), replacing(target, name=f"{target.stem}.partial.pt") as partial:  # Ultralytics reads .pt only
        torch.save(content, partial)
        if content.get("ema") is not None:  # unfinished; it also rounds to fp16, which a finished one must not be again
            strip_optimizer(partial)
        finish_checkpoint(partial, train_args=_epochs_of(path))
        difference = largest_difference(model, _read(partial)[1])
        if difference > 1e-4:
            raise RunError(f"{path}: the stock model differs from it by {difference:.1e}; not written.")
    return target


@checked
def extract_backbone(source: str | Path, out: str | Path, exist_ok: bool = False) -> Path:
    """Write the trained backbone of a detector as a safetensors file that ``--backbone`` takes, bit for bit.

    Args:
        source: A run folder, whose ``best.pt`` or else ``last.pt`` is taken, or a checkpoint, also a stock one.
        out: File to write, ending in ``.safetensors``.
        exist_ok: Allow ``out`` to be replaced.

    Returns:
        The file: Ultralytics' tensor names (``model.0.conv.weight``) in the dtypes of the checkpoint, and as metadata
        arch, BatchNorm epsilon, epoch and where the detector came from.

    Raises:
        ConfigError: ``out`` exists or has another suffix.
        CheckpointError: ``source`` is no detector checkpoint.
    """
    target = Path(out)
    with collect_mistakes() as mistakes:
        path = mistakes.result(lambda: _checkpoint_file(source))
        if target.suffix != ".safetensors":
            mistakes.add(f"--out {target}: expected a name that ends in .safetensors.")
        mistakes.result(lambda: _may_write(target, path, exist_ok))
    assert path is not None  # else there were mistakes
    content, model = _read(path)
    layers: nn.Sequential = model.model[: len(model.yaml["backbone"])]
    epsilons = {module.eps for module in layers.modules() if isinstance(module, nn.BatchNorm2d)}
    if len(epsilons) != 1:
        raise CheckpointError(f"{path}: its backbone has BatchNorms with epsilons {sorted(epsilons)}; expected one.")
    metadata = {
        "format": "pt",
        "arch": weights_arch(model)[0].name,
        "bn_eps": repr(epsilons.pop()),
        "extracted_from": path.name,
        "kd": json.dumps(model.yaml.get("kd")),
    }
    if content.get("epoch", -1) >= 0:
        metadata["epoch"] = str(content["epoch"])
    tensors = {f"model.{name}": tensor.contiguous() for name, tensor in layers.state_dict().items()}
    metadata[TENSORS_SHA256] = tensors_sha256(tensors)
    with _writing(target):
        write_tensors(target, tensors, metadata)
    return target


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """One error for a disk that is full or read-only, of which torch speaks in a way of its own."""
    try:
        yield
    except (OSError, RuntimeError) as e:
        if isinstance(e, RuntimeError) and "inline_container" not in str(e):  # torch's writer of archives
            raise
        reason = getattr(e, "strerror", None) or str(e).splitlines()[0]
        raise CheckpointError(f"{path}: cannot be written ({reason}). Check free space and permissions.") from e


def _checkpoint_file(source: str | Path) -> Path:
    path = Path(source)
    if path.is_file():
        return path
    for name in ("best.pt", "last.pt"):
        if (path / "weights" / name).is_file():
            return path / "weights" / name
    raise CheckpointError(f"{path}: expected a checkpoint, or a run folder with weights/best.pt or last.pt in it.")


def _may_write(target: Path, source: Path | None, exist_ok: bool) -> None:
    if source is not None and target.resolve() == source.resolve():
        raise ConfigError(f"--out {target} is the checkpoint itself. Choose another name.")
    if target.exists() and not exist_ok:
        raise ConfigError(f"{target} exists. Choose another --out, or replace it with --exist-ok.")
    if not target.parent.is_dir():
        raise ConfigError(f"--out {target}: there is no folder {target.parent}.")


def _read(path: Path) -> tuple[dict[str, Any], Any]:
    """A checkpoint's content, read without running code from it, and its detector (the EMA's while training)."""
    content = read_detector(path)
    model = content.get("ema") or content.get("model")
    if not isinstance(model, DetectionModel):
        raise CheckpointError(f"{path}: expected a checkpoint with a detector in it, found {type(model).__name__}.")
    return content, model


def _epochs_of(path: Path) -> dict[str, Any]:
    """The run's number of epochs, which its unfinished checkpoints replace by advice on how to resume."""
    arguments = read_mapping(path.resolve().parent.parent / "args.yaml", _Epochs) or {}
    return {"epochs": arguments["epochs"]} if "epochs" in arguments else {}


def strip_completely(path: Path, updates: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Take the optimizer out of a checkpoint of a run that has ended, completely or not at all.

    Ultralytics' ``strip_optimizer`` writes over the file in place. A full disk or a kill at that moment would leave
    half a file, which the next attempt passes over with a warning.

    Args:
        path: The checkpoint.
        updates: Entries to set in it.

    Returns:
        What is in the file now.

    Raises:
        CheckpointError: The file is damaged.
    """
    partial_name = f"{path.stem}.partial"  # torch writes its stem into the file; Ultralytics tells it, with -v alone
    with replacing(path, name=partial_name) as partial, details("Optimizer stripped"):
        content: dict[str, Any] = strip_optimizer(path, partial, dict(updates) if updates else None)
        if not content:
            raise CheckpointError(f"{path}: damaged, so that the run cannot be finished with it.")
    return content


def finish_checkpoint(path: Path, train_args: Mapping[str, Any]) -> None:
    """Finish a checkpoint written during training: fold the epsilon, check that outputs are unchanged, write it back.

    Args:
        path: The checkpoint.
        train_args: Entries of its ``train_args`` to set.

    Raises:
        RunError: The finished model would not compute what the trained one does; the file is left as it was.
    """
    checkpoint = torch.load(path, map_location="cpu", weights_only=False)  # written by this very run
    for key in ("ema", "model"):
        trained = checkpoint.get(key)
        if trained is None:
            continue
        if isinstance(trained, KDDetectionModel):
            trained = to_stock(trained)
        outputs = sample_outputs(trained)
        fold_bn_eps(trained)
        difference = output_difference(outputs, sample_outputs(trained))
        if difference > 1e-4:
            raise RunError(f"{path}: the stock model differs from the trained one by {difference:.1e}; not converted.")
        checkpoint[key] = trained
    checkpoint["train_args"].update(train_args)
    with replacing(path, name=f"{path.stem}.partial") as partial:  # torch writes the stem into the file
        torch.save(checkpoint, partial)
