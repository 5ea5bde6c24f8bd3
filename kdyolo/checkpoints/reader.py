"""Checkpoint reader: a weights file → the backbone's tensors under Ultralytics' layer numbers, with their origins.

Nothing here builds a model: it strips wrappers, renames, counts, and refuses what is ambiguous or not finite. Reading
the file is :mod:`kdyolo.checkpoints.safe_load`, naming schemes are in :mod:`kdyolo.checkpoints.key_naming`, and which
network the tensors fit is decided in :mod:`kdyolo.models.arch_matching`.
While a file is being looked at it is being hashed, and of a damaged file only the damage is reported.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from kdyolo.arguments import checked
from kdyolo.checkpoints import metadata
from kdyolo.checkpoints.checks.stock_modules import has_attributes
from kdyolo.checkpoints.input_norm import InputNorm, NormOrigin, feed_red_first, fold_input_norm
from kdyolo.checkpoints.key_naming import (
    SCHEMES,
    WRAPPERS,
    Key,
    NamingScheme,
    load_key_map,
    scheme_named,
    sequential_places,
    without_place,
)
from kdyolo.checkpoints.safe_load import Content, load_content
from kdyolo.errors import CheckpointError
from kdyolo.models.arch import BN_COUNTER
from kdyolo.utils.tables import ShownInOneLine
from kdyolo.utils.text import plural

MAX_DEPTH, MAX_NODES = 100, 100_000  # segments of a key, containers and tensors: far beyond any checkpoint
SMALL = 16 << 20  # bytes
WEIGHT_TYPES = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
COUNTER_TYPES = WEIGHT_TYPES | {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8}
SPPF = "9"  # in the families that have one; LightlyTrain's YOLOv8 ends before it


@dataclass(frozen=True, repr=False)
class BackboneCheckpoint(ShownInOneLine):
    """What a file holds for a backbone.

    Attributes:
        path: The file.
        sha256: Hex digest of the whole file.
        source: Container and naming scheme that were recognised, in words.
        kind: Name of the file's :class:`kdyolo.checkpoints.key_naming.NamingScheme`.
        tensors: Layer name (``"2.m.0.cv1.conv.weight"``) → tensor on the CPU; floats as float32. Neck and head are
            among them where the file has them; layers that never trained are not.
        shapes: Layer name → shape, of every tensor, those of untrained layers too.
        dtypes: Layer name → type in the file, e.g. ``"float16"``, of every tensor.
        origin: Layer name → the tensor's full key in the file.
        unexpected: Keys that stand among the backbone's own tensors but are no backbone tensor.
        dropped: Part → number of tensors left out on purpose (adapters, heads, optimizer, …).
        bn_eps: BatchNorm epsilon that the weights were trained with.
        untrained: Layers (``"9"``) that are in the file but never saw data.
        untrained_tail: Whether the tool that wrote the file leaves the last layers out, so that they are not missed.
        input_norm: Normalisation of the images that it was trained with; already folded into ``tensors``.
        norm_origin: What the normalisation is known from.
        verified: Whether checksums cover every tensor.
        epoch: Epoch recorded in the file, if any.
        meta: Other plain values that the file records about itself.
    """

    path: Path
    sha256: str
    source: str
    kind: str
    tensors: dict[str, Tensor]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    origin: dict[str, str]
    unexpected: tuple[str, ...]
    dropped: dict[str, int]
    bn_eps: float
    untrained: tuple[str, ...] = ()
    untrained_tail: bool = False
    input_norm: InputNorm = field(default_factory=InputNorm)
    norm_origin: NormOrigin = NormOrigin.SOURCE_DEFAULT
    verified: bool = False
    epoch: int | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def headline(self) -> str:
        """The file, what it was recognised as, and how much is in it."""
        return f"{self.path}, {self.source}, {plural(len(self.tensors), 'tensor')}"

    @property
    def norm_doubtful(self) -> bool:
        """Whether the normalisation is assumed although the file looks like one of a tool that normalises otherwise."""
        return self.norm_origin is NormOrigin.ASSUMED

    @property
    def teacher(self) -> str | None:
        """Model that the backbone was distilled from, if the file says so."""
        return next((str(self.meta[key]) for key in metadata.TEACHER_KEYS if self.meta.get(key)), None)

    @property
    def teacher_licence(self) -> str | None:
        """Licence of that model's weights, if the file records it."""
        recorded = str(self.meta.get("teacher_licence") or "unknown")
        return None if recorded == "unknown" else recorded

    @property
    def family(self) -> str | None:
        """The YOLO family that the file names, e.g. ``"yolo11"``, if it names one."""
        return metadata.family(self.meta)


@checked
def read_checkpoint(
    path: str | Path,
    bn_eps: float | None = None,
    *,
    key_map: str | Path | None = None,
    input_norm: str | None = None,
    trust: bool = False,
) -> BackboneCheckpoint:
    """Read the backbone's tensors from a ``.pt``, ``.pth`` or ``.safetensors`` file.

    The format is recognised from the content; the file name is never looked at. Only tensors and plain containers are
    unpickled, and Ultralytics' own model classes by its restricted loader.

    Args:
        path: The file.
        bn_eps: BatchNorm epsilon of the network that was trained. Default: what the file records, else 1e-5 for the
            old system's names and 1e-3 for the others.
        key_map: YAML file with a naming scheme of its own; see :func:`kdyolo.checkpoints.key_naming.load_key_map`.
        input_norm: Normalisation of the images that it was trained with: ``"0-1"``, ``"imagenet"`` or
            ``"MEAN,MEAN,MEAN/STD,STD,STD"``. Default: what the file records, else its naming scheme's.
        trust: Unpickle completely, which runs whatever code the file's author put in.

    Raises:
        CheckpointError: The file cannot be read, needs more than plain tensors, holds no backbone tensor, holds one
            twice, or holds one that is not finite.
        ConfigError: ``key_map`` or ``input_norm`` cannot be understood.

    Examples:
        >>> from kdyolo import read_checkpoint
        >>> checkpoint = read_checkpoint("ckpt.pth")
        >>> len(checkpoint.tensors)
        162
    """
    path = Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises where this leaves "~nobody" alone
    if bn_eps == 0:
        raise CheckpointError("bn_eps must lie between 0 and 1, found 0.")
    own = load_key_map(key_map) if key_map is not None else None
    if input_norm is not None:
        InputNorm.parse(input_norm)  # a mistake in it is reported before a large file is read

    def understand(content: Content) -> partial[BackboneCheckpoint]:
        modules: dict[str, nn.Module] = {}
        content = replace(content, data=_averaged(content.data))
        found = list(_walk(content.data, path, modules))
        names = _sort_out(found, [own] if own else _considered(found), path)
        _check_values(names, content, path)
        return _described(path, content, names, modules, (bn_eps, input_norm))

    with_digest, digest = load_content(path, understand, trust)
    return with_digest(sha256=digest.sha256, verified=digest.verified)


def _described(
    path: Path,
    content: Content,
    names: _Names,
    modules: Mapping[str, nn.Module],
    given: tuple[float | None, str | None],
) -> partial[BackboneCheckpoint]:
    """Everything but the file's digest, which is still being computed; tensors become independent of the file."""
    data, meta = content.data, metadata.recorded(content.data)
    epoch, scheme = meta.pop("epoch", None), names.scheme
    trained_there = isinstance(data, Mapping) and "train_args" in data  # by Ultralytics' trainer
    by_count = scheme.name in {"Ultralytics", "LightlyTrain"} and not trained_there
    untrained = metadata.untrained_layers(names.tensors, by_count)
    if scheme.name == "Ultralytics" and by_count and SPPF in untrained and str(int(SPPF) - 1) not in untrained:
        scheme = scheme_named("LightlyTrain")  # the only tool that trains up to SPPF
    configured = metadata.mmengine_model(meta, scheme, str(path))
    norm, norm_origin = metadata.input_norm(given[1], meta, scheme, configured, str(path))
    unsaid = norm_origin is NormOrigin.SOURCE_DEFAULT and scheme.name == "Ultralytics" and by_count
    if unsaid and metadata.only_a_backbone_trained(names.tensors, untrained):
        norm_origin = NormOrigin.ASSUMED
    eps = metadata.bn_eps(given[0], meta, modules, scheme, configured)
    if not 0 < eps < 1:
        raise CheckpointError(f"{path}: bn_eps must lie between 0 and 1, found {eps}. Give the right one as --bn-eps.")
    trained = {name: each for name, each in names.tensors.items() if name.partition(".")[0] not in untrained}
    tensors = {name: _owned(tensor, content.mapped) for name, tensor in trained.items()}
    if blue_first := metadata.sees_bgr(configured):  # of the file's weights, whatever the user says of their scale
        feed_red_first(tensors, str(path))
    fold_input_norm(tensors, norm, eps, str(path))
    return partial(
        BackboneCheckpoint,
        path=path,
        source=f"{metadata.container(data, meta, modules)} ({scheme.name} names{', BGR → RGB' if blue_first else ''})",
        kind=scheme.name,
        tensors=tensors,
        shapes={name: tuple(t.shape) for name, t in names.tensors.items()},
        dtypes={name: str(t.dtype).removeprefix("torch.") for name, t in names.tensors.items()},
        origin=names.origin,
        unexpected=names.unexpected,
        dropped=names.dropped,
        bn_eps=eps,
        untrained=untrained,
        untrained_tail=scheme.untrained_tail,
        input_norm=norm,
        norm_origin=norm_origin,
        epoch=epoch if isinstance(epoch, int) else None,
        meta=meta,
    )


def _owned(tensor: Tensor, mapped: bool) -> Tensor:
    """Contiguous, in float32 (counters as they are), and independent of the file, which may change or go."""
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    whole = tensor.untyped_storage().nbytes() == tensor.nbytes  # not a view of a map of the whole file
    return tensor.detach().to("cpu", dtype, copy=mapped or not whole).contiguous()


# ---- names -----------------------------------------------------------------------------------------------------------


class _Names(NamedTuple):
    """Tensors sorted by name: the backbone's own, what should not be among them, and what is dropped.

    Attributes:
        tensors: Layer name → tensor.
        origin: Layer name → the tensor's full key in the file.
        unexpected: Keys that stand among the backbone's own tensors but are no backbone tensor.
        dropped: Part → number of its tensors.
        scheme: Naming scheme of the backbone's tensors.
    """

    tensors: dict[str, Tensor]
    origin: dict[str, str]
    unexpected: tuple[str, ...]
    dropped: dict[str, int]
    scheme: NamingScheme


def _averaged(data: Any) -> Any:
    """The content with the EMA in place of the model, where an Ultralytics checkpoint has both, as Ultralytics does."""
    if isinstance(data, nn.Module):
        return {"model": data}
    if isinstance(data, dict) and isinstance(data.get("ema"), nn.Module):
        return {**data, "model": data["ema"], "ema": None}
    return data


def _walk(
    content: Any, path: Path, modules: dict[str, nn.Module], prefix: Key = (), nodes: list[int] | None = None
) -> Iterator[tuple[Key, Tensor]]:
    """Every tensor in nested containers with its full key; dotted keys count as several segments."""
    nodes = [0] if nodes is None else nodes
    nodes[0] += isinstance(content, (Tensor, Mapping, list, tuple))
    if len(prefix) > MAX_DEPTH or nodes[0] > MAX_NODES:
        raise CheckpointError(f"{path}: refused, its containers are nested without end. This is no checkpoint.")
    if isinstance(content, Tensor):
        yield prefix, content
    elif isinstance(content, nn.Module):
        modules[".".join(prefix)] = content
        yield from _walk(content.state_dict(), path, modules, prefix, nodes)
    elif isinstance(content, Mapping):
        for key, value in content.items():
            segments = str(key).split(".") if isinstance(key, (str, int)) else [type(key).__name__]
            yield from _walk(value, path, modules, (*prefix, *segments), nodes)
    elif isinstance(content, (list, tuple)):
        for i, value in enumerate(content):
            yield from _walk(value, path, modules, (*prefix, f"[{i}]"), nodes)


def _considered(found: Sequence[tuple[Key, Tensor]]) -> list[NamingScheme]:
    keys = [".".join(key) for key, _ in found]
    return [scheme for scheme in SCHEMES if scheme.considered(keys)]


def backbone_name(key: Key, schemes: Sequence[NamingScheme] = SCHEMES) -> tuple[int, str | None, NamingScheme | None]:
    """Split a full key: number of wrappers, Ultralytics' name of the rest (``None``: not a backbone's), its scheme.

    >>> backbone_name(("_orig_mod", "backbone", "stage1", "1", "main_conv", "conv", "weight"))[:2]
    (2, '2.cv1.conv.weight')
    """
    for scheme in schemes:
        depth = scheme.unwrap(key)
        name = scheme.rename(key[depth:])
        if name is None:
            return depth, None, scheme
        if name:
            return depth, name, scheme
    return min(scheme.unwrap(key) for scheme in schemes), None, None


def _sort_out(found: Sequence[tuple[Key, Tensor]], schemes: Sequence[NamingScheme], path: Path) -> _Names:
    tensors: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    prefixes: set[Key] = set()
    used: dict[str, NamingScheme] = {}
    others: list[tuple[Key, int, NamingScheme | None]] = []
    dropped = Counter[str]()
    places = sequential_places(key for key, _ in found)
    for full_key, tensor in found:
        key = without_place(full_key, places)
        if key is None:  # stands beside the backbone in the same nn.Sequential
            dropped[".".join(full_key[: len(next(iter(places)))])] += 1
            continue
        depth, name, scheme = backbone_name(key, schemes)
        if name is None or scheme is None:
            others.append((key, depth, scheme))
            continue
        if name in tensors:
            raise CheckpointError(
                f"{path}: ambiguous, two tensors claim to be backbone layer {name}: {origin[name]} and "
                f"{'.'.join(full_key)}. Save only the one you mean."
            )
        tensors[name], origin[name] = tensor, ".".join(full_key)
        prefixes.add(key[:depth])
        used[scheme.name] = scheme
    unexpected = []
    for key, depth, scheme in others:
        part = key[depth] if len(key) > depth else ".".join(key) or "one tensor without a name"
        if scheme is None and key[:depth] in prefixes:
            unexpected.append(".".join(key))
        else:
            flattened = part.startswith("ema_") and len(key) == depth + 1  # older MMDetection's averages, each a part
            dropped["ema" if flattened else part] += 1
    if not tensors:
        raise CheckpointError(_nothing(path, dropped))
    if len(used) > 1:
        raise CheckpointError(f"{path}: ambiguous, it mixes the names of {' and '.join(used)}. Save only one backbone.")
    return _Names(tensors, origin, tuple(unexpected), dict(dropped), next(iter(used.values())))


def _nothing(path: Path, dropped: Mapping[str, int]) -> str:
    parts = ", ".join(f"{part} ({n})" for part, n in dropped.items())
    if dropped and all(part.startswith(("optim", "state")) or "scheduler" in part for part in dropped):
        return (
            f"{path}: no backbone tensor found, it holds the state of an optimizer ({parts}). Expected weights: "
            "give the model's file that was saved beside it."
        )
    return (
        f"{path}: no backbone tensor found. Expected names like 'stem.conv.weight' or '0.conv.weight', with any of the "
        f"wrappers {', '.join(sorted(WRAPPERS))} before them; found {parts or 'no tensors at all'}. If these are a "
        "backbone's, describe its names in a YAML file and give it as --key-map."
    )


# ---- values ----------------------------------------------------------------------------------------------------------


def _check_values(names: _Names, content: Content, path: Path) -> None:
    """Refuse tensors that are no weights: not dense, not finite, repeating themselves, or larger than the file."""
    claimed = 0
    for name, tensor in names.tensors.items():
        key, counter = names.origin[name], name.endswith(BN_COUNTER)
        if not _is_dense(tensor) or tensor.dtype not in (COUNTER_TYPES if counter else WEIGHT_TYPES):
            kind = "nested" if tensor.is_nested else f"{tensor.dtype}, {tensor.layout}"
            raise CheckpointError(
                f"{path}: {key} is {kind}; expected dense weights of float16, bfloat16, float32 or float64. Quantised, "
                "float8, sparse or nested backbones must be converted first."
            )
        if has_attributes(tensor):
            raise CheckpointError(f"{path}: refused, {key} carries attributes or hooks, which no weights need.")
        claimed += tensor.numel() * tensor.element_size()
        if claimed > max(content.size, SMALL):  # views of one storage may add up to more
            raise CheckpointError(
                f"{path}: refused, {key} and others claim more values than the file's {content.size:,} bytes can hold."
            )
        if tensor.is_floating_point() and not _finite(tensor):
            raise CheckpointError(
                f"{path}: {key} holds NaN or Inf. The distillation run diverged; use an earlier epoch."
            )
        if name.endswith("running_var") and bool((tensor < 0).any()):
            raise CheckpointError(
                f"{path}: {key} is negative, which no variance is. The file is damaged: copy it again."
            )


def _is_dense(tensor: Tensor) -> bool:
    plain = type(tensor) in (Tensor, nn.Parameter) and not tensor.is_nested
    return plain and tensor.layout == torch.strided and not tensor.is_meta and not tensor.is_quantized


def _finite(tensor: Tensor) -> bool:
    """Whether all values are finite; NaN and Inf survive a sum, which is many times cheaper than looking at each value.

    The sum is NumPy's: for hundreds of small tensors, waking torch's threads takes far longer than adding up.
    """
    values = tensor.detach().float()
    with np.errstate(all="ignore"):
        return bool(np.isfinite(values.numpy().sum())) or bool(values.isfinite().all())
