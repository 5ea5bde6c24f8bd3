"""Strict loading of a checkpoint into a backbone, with a report; tensors that changed since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor
from ultralytics.utils import LOGGER

from kdyolo.arguments import checked
from kdyolo.checkpoints.load_report import LoadReport
from kdyolo.checkpoints.reader import BackboneCheckpoint, read_checkpoint
from kdyolo.errors import CheckpointError
from kdyolo.models.arch import BN_COUNTER, FAMILIES, SCALES, Arch, backbone_rows
from kdyolo.models.arch_matching import fitting_archs, foreign_detector
from kdyolo.models.backbone import LEVELS, DistilledBackbone
from kdyolo.utils.text import quoted


class ReadKeywords(TypedDict, total=False):
    """How a checkpoint is read, as :func:`kdyolo.read_checkpoint` takes it."""

    bn_eps: float | None  # BatchNorm epsilon, where the recognised one is wrong.
    key_map: str | Path | None  # YAML file with the names of an unknown checkpoint.
    input_norm: str | None  # Images that the backbone knows: 0-1, imagenet, or MEANS/STDS.
    trust: bool  # Unpickle completely: runs any code that the file brings.


# ---- loading ---------------------------------------------------------------------------------------------------------


def checkpoint_arch(checkpoint: BackboneCheckpoint, family: str | None = None, matched: Arch | None = None) -> Arch:
    """The arch that a checkpoint's shapes fit.

    Args:
        checkpoint: The checkpoint.
        family: Family to take where the shapes fit several equally and the file does not say which.
        matched: An arch whose every tensor the checkpoint is known to have.

    Raises:
        CheckpointError: Hardly any tensor has the shape that some known backbone expects; or several fit.
    """
    if matched is not None and matched.family == checkpoint.family:
        return matched
    best, agreeing = fitting_archs(checkpoint.shapes, matched)
    foreign = foreign_detector(checkpoint.shapes, best[0])
    if agreeing == 0 and not foreign:
        name, shape = next(iter(checkpoint.shapes.items()))
        raise CheckpointError(
            f"{checkpoint.path}: nothing matched. Expected a {' / '.join(FAMILIES)} backbone of scale "
            f"{', '.join(SCALES)}; found e.g. {quoted(checkpoint.origin[name])} with shape {list(shape)}."
        )
    if foreign:
        raise CheckpointError(
            f"{checkpoint.path}: the backbone of {foreign}, whose layers are others. Expected one of "
            f"{', '.join(FAMILIES)}; no part of it is loaded into these."
        )
    for wanted in (checkpoint.family, family):
        if arch := next((arch for arch in best if arch.family == wanted), None):
            return arch
    if len(best) > 1:
        raise CheckpointError(
            f"{checkpoint.path}: ambiguous, its shapes are those of {' and of '.join(a.name for a in best)}, and "
            f"the file does not say which. Say --model {' or --model '.join(f'kd{a.name}.yaml' for a in best)}."
        )
    return best[0]


def load_into(backbone: DistilledBackbone, checkpoint: BackboneCheckpoint, allow_partial: bool = False) -> LoadReport:
    """Copy a checkpoint's tensors into a backbone, set its BatchNorm epsilon and note what was left out.

    Args:
        backbone: The backbone, changed in place.
        checkpoint: The checkpoint, as :func:`kdyolo.checkpoints.reader.read_checkpoint` returned it.
        allow_partial: Accept missing, unexpected and misshapen tensors; they are listed in the report.

    Returns:
        The report.

    Raises:
        CheckpointError: A tensor is missing, unexpected or of another shape and ``allow_partial`` is false; or nothing
            matched at all; or the file is of another family with tensors of the same shapes.
    """
    report = match(backbone, checkpoint)
    own = backbone.layers.state_dict()
    matching = _matching(own, checkpoint.tensors)
    nothing = all(name.endswith(BN_COUNTER) for name in matching)
    if nothing or not (report.complete or allow_partial) or (report.complete and report.fits != report.model):
        raise CheckpointError(_why_not(report, nothing))
    with torch.no_grad():
        for name in matching:
            own[name].copy_(checkpoint.tensors[name])
    backbone.set_bn_eps(checkpoint.bn_eps)
    backbone.left_out = report.left_out
    return report


def match(backbone: DistilledBackbone, checkpoint: BackboneCheckpoint) -> LoadReport:
    """How a checkpoint's names and shapes fit a backbone; nothing is loaded."""
    own = backbone.layers.state_dict()
    matching = _matching(own, checkpoint.tensors)
    untrained = _untrained(own, checkpoint)
    matched = backbone.arch if len(matching) == len(own) else None
    unexpected, dropped = _beyond(backbone, own, checkpoint)
    wrong = [
        f"{checkpoint.origin[name]} (expected {list(tensor.shape)}, found {list(checkpoint.shapes[name])})"
        for name, tensor in own.items()
        if name in checkpoint.shapes and checkpoint.shapes[name] != tuple(tensor.shape)
    ]
    return LoadReport(
        model=backbone.arch.name,
        matched=len(matching),
        total=len(own),
        values=sum(own[name].numel() for name in matching),
        missing=tuple(name for name in own if name not in checkpoint.shapes and name not in untrained),
        unexpected=(*checkpoint.unexpected, *unexpected),
        wrong_shape=tuple(wrong),
        dropped=dropped,
        untrained=untrained,
        left_out=_collapsed(own, set(own) - set(matching)),
        fits=checkpoint_arch(checkpoint, backbone.arch.family, matched).name,
        path=str(checkpoint.path),
        sha256=checkpoint.sha256,
        source=checkpoint.source,
        kind=checkpoint.kind,
        epoch=checkpoint.epoch,
        teacher=checkpoint.teacher,
        bn_eps=checkpoint.bn_eps,
        norm=checkpoint.input_norm,
        norm_origin=checkpoint.norm_origin,
        verified=checkpoint.verified,
        teacher_licence=checkpoint.teacher_licence,
    )


def _untrained(own: Mapping[str, Tensor], checkpoint: BackboneCheckpoint) -> tuple[str, ...]:
    """Names of the tensors of layers that the checkpoint is known to leave untrained, in the file or not."""
    layers = set(checkpoint.untrained)
    if checkpoint.untrained_tail:  # the layers after the last one in the file
        last = max((int(name.partition(".")[0]) for name in checkpoint.tensors if name in own), default=-1)
        layers |= {name.partition(".")[0] for name in own if int(name.partition(".")[0]) > last}
    return tuple(name for name in own if name.partition(".")[0] in layers)


def _beyond(
    backbone: DistilledBackbone, own: Mapping[str, Tensor], checkpoint: BackboneCheckpoint
) -> tuple[list[str], dict[str, int]]:
    """Keys of the file that the backbone does not know, and what is dropped because it lies deeper."""
    all_layers, built = len(backbone_rows(backbone.arch.family)), len(backbone.layers)
    dropped, unexpected = dict(checkpoint.dropped), []
    for name in checkpoint.shapes:
        layer = int(name.partition(".")[0])
        if layer >= built:
            part = "neck and head" if layer >= all_layers else f"layers deeper than {backbone.levels[-1]}"
            dropped[part] = dropped.get(part, 0) + 1
        elif name not in own:
            unexpected.append(checkpoint.origin[name])
    return unexpected, dropped


def _collapsed(own: Mapping[str, Tensor], names: set[str]) -> tuple[str, ...]:
    """Tensor names, with the number of a layer instead of all of its names."""
    whole = {name.partition(".")[0] for name in own} - {name.partition(".")[0] for name in set(own) - names}
    return tuple(dict.fromkeys(n.partition(".")[0] if n.partition(".")[0] in whole else n for n in own if n in names))


def changed_tensors(backbone: DistilledBackbone, tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the backbone's tensors that are not, bit for bit, the given ones of equal name and shape."""
    own = backbone.layers.state_dict()
    return [name for name in _matching(own, tensors) if not torch.equal(own[name].cpu(), tensors[name])]


@checked
def load_backbone(
    path: str | Path,
    *,
    levels: Sequence[str] = LEVELS,
    allow_partial: bool = False,
    bn_eps: float | None = None,
    family: str | None = None,
    key_map: str | Path | None = None,
    input_norm: str | None = None,
    trust: bool = False,
) -> DistilledBackbone:
    """Read a distilled backbone from a file, as an ``nn.Module`` in eval mode that reproduces the original network.

    Args:
        path: ``.pt``, ``.pth`` or ``.safetensors`` file in any supported layout.
        levels: Pyramid levels that ``forward`` returns.
        allow_partial: Accept a file that lacks some of the backbone's tensors; the report is logged.
        bn_eps: BatchNorm epsilon, where the file's own (or its format's) is not right.
        family: Family, e.g. ``"yolo26"``, where the shapes fit several and the file does not say which.
        key_map: YAML file with the names that the file uses, if no known naming scheme does.
        input_norm: Normalisation of the images it was trained with.
        trust: Unpickle completely, which runs whatever code the file's author put in.

    Returns:
        The backbone; ``forward(images [B, 3, H, W] in 0–1)`` gives ``[P3, P4, P5]`` of strides 8, 16, 32.

    Raises:
        CheckpointError: See :func:`kdyolo.checkpoints.reader.read_checkpoint` and :func:`load_into`.

    Examples:
        >>> import torch
        >>> from kdyolo import load_backbone
        >>> backbone = load_backbone("ckpt.pth")
        >>> [tuple(level.shape) for level in backbone(torch.rand(1, 3, 64, 64))]
        [(1, 64, 8, 8), (1, 128, 4, 4), (1, 256, 2, 2)]
    """
    checkpoint = read_checkpoint(path, bn_eps, key_map=key_map, input_norm=input_norm, trust=trust)
    arch = checkpoint_arch(checkpoint, family)
    backbone = DistilledBackbone(arch.name, arch.max_channels, checkpoint.bn_eps, levels)
    report = load_into(backbone, checkpoint, allow_partial)
    if report.left_out or not report.complete or checkpoint.norm_doubtful:
        LOGGER.warning(report.table())
    return backbone.eval()


def _matching(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    return [name for name in own if name in tensors and tensors[name].shape == own[name].shape]


def _why_not(report: LoadReport, nothing: bool) -> str:
    counts = (
        f"matched {report.matched} of {report.total}, missing {len(report.missing)}, "
        f"unexpected {len(report.unexpected)}, wrong shape {len(report.wrong_shape)}"
    )
    if nothing:
        problem = "nothing matched, so the backbone would stay random"
    elif report.complete:
        problem = (
            f"is {report.fits}'s, whose tensors have the same shapes as {report.model}'s but compute something else"
        )
    else:
        problem = f"does not fill the backbone of {report.model}"
    if any(name.endswith("conv.bias") for name in report.unexpected):
        advice = "Its BatchNorms have been fused into the convolutions: save the model before fuse() or export."
    elif report.fits != report.model:
        advice = f"The shapes fit {report.fits}: use --model kd{report.fits}.yaml."
    else:
        advice = "Check that the whole backbone was exported, or accept the rest random with --allow-partial."
    if report.wrong_shape and report.fits != report.model:  # before all else, since it explains the rest
        problem = f"a checkpoint of {report.fits}, the model is {report.model}; {problem}"
    return f"{report.path}: {problem} ({counts}).\n{report.table()}\n{advice}"
