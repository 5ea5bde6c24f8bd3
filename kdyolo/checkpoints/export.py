"""Export of checkpoints: stock ones from any of a run's, also from its middle, and the trained backbone alone."""

from __future__ import annotations

import filecmp
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

import msgspec
import torch
from torch import nn
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.torch_utils import strip_optimizer

from kdyolo.arguments import checked
from kdyolo.checkpoints.safe_load import TENSORS_SHA256, read_detector, tensors_sha256
from kdyolo.errors import CheckpointError, ConfigError, RunError, collect_mistakes
from kdyolo.models.bn_folding import fold_bn_eps, output_difference, sample_outputs
from kdyolo.models.detector import KDDetectionModel, to_stock, weights_arch
from kdyolo.utils.atomic import replacing, write_tensors
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
        reference = sample_outputs(model)  # what is finished is changed
        torch.save(finished(content, path, _epochs_of(path), {}), partial)
        difference = output_difference(reference, sample_outputs(_read(partial)[1]))
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


def finish_checkpoints(last: Path, best: Path, epochs: int) -> None:
    """Make the checkpoints of a run that has ended those of plain Ultralytics, each completely or not at all.

    Args:
        last: The checkpoint of the last epoch.
        best: The checkpoint of the best epoch, which gets the history of metrics of the last. Either may be missing.
        epochs: The run's number of epochs, which unfinished checkpoints replace by advice on how to resume.

    Raises:
        CheckpointError: A file is damaged.
        RunError: A finished model would not compute what the trained one does; its file is left as it was.
    """
    same = last.exists() and best.exists() and filecmp.cmp(last, best, shallow=False)  # the last epoch was the best
    results = None
    for path in (last, best):
        if not path.exists():
            continue
        with replacing(path, name=f"{path.stem}.partial") as partial:  # torch writes the stem into the file
            if same and path == best:
                shutil.copyfile(last, partial)
                continue
            try:
                content = torch.load(path, map_location="cpu", weights_only=False)  # written by this very run
            except Exception as e:  # torch reports damaged files through many types
                raise CheckpointError(f"{path}: damaged, so that the run cannot be finished with it.") from e
            results = results or content.get("train_results")
            content = finished(content, path, {"epochs": epochs}, {"train_results": results})
            torch.save(content, partial)


def finished(
    content: Mapping[str, Any], path: Path, train_args: Mapping[str, Any], updates: Mapping[str, Any]
) -> dict[str, Any]:
    """What is in a checkpoint of a run that has ended: no optimizer, half precision, and the epsilon folded.

    What is finished already is not rounded again: folded scales are in float32.

    Args:
        content: What is in it now; its models are changed.
        path: The file, for messages.
        train_args: Entries of its ``train_args`` to set.
        updates: Other entries to set.

    Raises:
        RunError: The finished model would not compute what the trained one does.
    """
    unfinished = content.get("ema") is not None
    new = _stripped(content) if unfinished else dict(content)
    trained = to_stock(new["model"]) if isinstance(new["model"], KDDetectionModel) else new["model"]
    outputs = sample_outputs(trained)
    fold_bn_eps(trained)
    difference = output_difference(outputs, sample_outputs(trained))
    if difference > 1e-4:
        raise RunError(f"{path}: the stock model differs from the trained one by {difference:.1e}; not converted.")
    return {**new, **updates, "model": trained, "train_args": {**new["train_args"], **train_args}}


def _stripped(content: Mapping[str, Any]) -> dict[str, Any]:
    """What Ultralytics' ``strip_optimizer`` makes of a checkpoint, which is in memory here.

    It reads a file, and writes over it in place: a full disk or a kill at that moment would leave half a file, and what
    is done next would read and write it again. So it is called with other names for what reads, writes and speaks.
    """
    names = {
        "torch_load": lambda *_, **__: {"model": None, **content},
        "torch": SimpleNamespace(device=torch.device, save=lambda *_: None),
        "LOGGER": logging.getLogger(__name__),
    }
    strip = FunctionType(strip_optimizer.__code__, {**strip_optimizer.__globals__, **names})
    stripped: dict[str, Any] = strip(os.devnull, "", None)
    return stripped
