"""A weights file → the backbone's tensors under YOLOv8's layer names, and where each of them came from.

Nothing here knows Ultralytics or builds a model: it reads files, strips wrappers, renames, counts, and refuses what is
ambiguous or not finite. Which network the tensors fit is decided in :mod:`kdyolo.backbone`.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdyolo.errors import CheckpointError

# Containers and wrappers that may stand, in any nesting, before a backbone tensor's own name.
WRAPPERS = frozenset(
    {
        *("_orig_mod", "module", "backbone", "csp_darknet", "state_dict", "model_state_dict", "model"),
        *("wrapped_model", "_backbone"),  # LightlyTrain's exports
        "layers",  # DistilledBackbone's own state dict
    }
)

# The old system's stages → YOLOv8's layer numbers.
STAGES = {
    ("stem",): "0",
    ("stage1", "0"): "1",
    ("stage1", "1"): "2",
    ("stage2", "0"): "3",
    ("stage2", "1"): "4",
    ("stage3", "0"): "5",
    ("stage3", "1"): "6",
    ("stage4", "0"): "7",
    ("stage4", "1"): "8",
    ("stage4", "2"): "9",
}

# Older names inside a C2f block; whole dotted segments only.
SEGMENTS = {"main_conv": "cv1", "final_conv": "cv2", "blocks": "m"}

# Parts of a distillation run that are no backbone and are dropped on purpose, wherever they stand.
DROPPED = re.compile(
    r"^(.*adapter.*|.*head.*|neck.*|sam_.*|optimizer.*|scaler.*|.*scheduler.*|teacher.*|project.*|.*loss.*|ema.*)$"
)

VFMKD_BN_EPS = 1e-5  # PyTorch's default, which the old system's backbones were trained with
ULTRALYTICS_BN_EPS = 1e-3  # what Ultralytics sets on every BatchNorm2d it builds


@dataclass(frozen=True)
class BackboneCheckpoint:
    """What a file holds for a backbone.

    Attributes:
        path: The file.
        sha256: Hex digest of the whole file.
        source: Which layout was recognised, in words.
        tensors: YOLOv8 layer name (``"2.m.0.cv1.conv.weight"``) → tensor on the CPU; floats as float32.
        origin: YOLOv8 layer name → the tensor's full key in the file.
        unexpected: Keys that stand among the backbone's own tensors but are no backbone tensor.
        dropped: Part → number of tensors left out on purpose (adapters, heads, optimizer, …).
        bn_eps: BatchNorm epsilon the weights were trained with.
        epoch: Epoch recorded in the file, if any.
        meta: Other plain values the file records about itself.
    """

    path: Path
    sha256: str
    source: str
    tensors: dict[str, Tensor]
    origin: dict[str, str]
    unexpected: tuple[str, ...]
    dropped: dict[str, int]
    bn_eps: float
    epoch: int | None = None
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LoadReport:
    """How a file's tensors fit a backbone: the counts that make a partial load visible.

    ``missing``, ``unexpected`` and ``wrong_shape`` hold names (the last one with expected and found shape); ``fits`` is
    the scale that the file's shapes fit best, e.g. ``"yolov8s"``.
    """

    model: str
    matched: int
    total: int
    values: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    wrong_shape: tuple[str, ...]
    dropped: dict[str, int]
    fits: str
    path: str
    sha256: str
    source: str
    epoch: int | None
    bn_eps: float

    @property
    def complete(self) -> bool:
        """Whether every tensor of the backbone came from the file and nothing was left over."""
        return self.matched == self.total and not (self.missing or self.unexpected or self.wrong_shape)

    def summary(self) -> str:
        """One line: model, tensors, values, where from."""
        epoch = f"epoch {self.epoch} of " if self.epoch is not None else ""
        return (
            f"backbone: {self.model} · {self.matched}/{self.total} tensors · {self.values:,} values · "
            f"from {epoch}{Path(self.path).name}"
        )

    def table(self) -> str:
        """The summary and, below it, one line for each further fact."""
        lines = [
            self.summary(),
            f"  source      {self.source}, sha256 {self.sha256[:12]}…",
            f"  BatchNorm   eps {self.bn_eps:g} as the weights were trained with (--bn-eps overrides)",
        ]
        if self.dropped:
            parts = ", ".join(f"{part} ({count})" for part, count in self.dropped.items())
            lines.append(f"  dropped     {sum(self.dropped.values())} tensors that are not this backbone's: {parts}")
        for title, names in (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("wrong shape", self.wrong_shape),
        ):
            if names:
                lines.append(f"  {title:<11} {len(names)}: {_first(names)}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for YAML or JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def read_checkpoint(path: str | Path, bn_eps: float | None = None) -> BackboneCheckpoint:
    """Read the backbone's tensors from a ``.pt``, ``.pth`` or ``.safetensors`` file.

    The format is recognised from the content; the file name is never looked at. Only tensors and plain containers are
    unpickled (``weights_only=True``).

    Args:
        path: The file.
        bn_eps: BatchNorm epsilon of the network that was trained. Default: what the file records, else 1e-5 for the
            old system's names and 1e-3 for Ultralytics' names.

    Raises:
        CheckpointError: The file cannot be read, needs more than plain tensors, holds no backbone tensor, holds one
            twice, or holds one that is not finite.
    """
    path = Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises where this leaves "~nobody" alone
    if bn_eps == 0:
        raise CheckpointError("bn_eps must lie between 0 and 1, found 0.")
    content = _load(path)
    tensors, origin, unexpected, dropped = _sort_out(list(_walk(content, path)), path)
    _check_values(tensors, origin, path)
    meta = _recorded(content)
    epoch = meta.pop("epoch", None)
    vfmkd = any(re.search(r"(^|\.)(stem|stage\d)\.", key) for key in origin.values())
    eps = float(bn_eps or meta.get("bn_eps") or (VFMKD_BN_EPS if vfmkd else ULTRALYTICS_BN_EPS))
    if not 0 < eps < 1:
        raise CheckpointError(
            f"{path}: bn_eps must lie between 0 and 1, found {eps}. Give the right one with --bn-eps."
        )
    return BackboneCheckpoint(
        path=path,
        sha256=file_sha256(path),
        source=_source(content, vfmkd),
        tensors={
            name: t.detach().to("cpu", torch.float32 if t.is_floating_point() else t.dtype, copy=True).contiguous()
            for name, t in tensors.items()
        },
        origin=origin,
        unexpected=unexpected,
        dropped=dropped,
        bn_eps=eps,
        epoch=epoch if isinstance(epoch, int) else None,
        meta=meta,
    )


def file_sha256(path: Path) -> str:
    """Hex digest of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


# ---- reading ---------------------------------------------------------------------------------------------------------


def _load(path: Path) -> Any:
    """The file's content as nested plain containers with tensors, by what its first bytes say it is."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except FileNotFoundError as e:
        raise CheckpointError(f"{path}: no such file. Expected a .pt, .pth or .safetensors file.") from e
    except IsADirectoryError as e:
        raise CheckpointError(f"{path}: expected a weights file, found a folder.") from e
    except OSError as e:
        raise CheckpointError(f"{path}: cannot be read ({e.strerror}).") from e
    if not head:
        raise CheckpointError(f"{path}: the file is empty (0 bytes). Copy or download it again.")
    if len(head) > 8 and head[8:9] == b"{":  # safetensors: the header's length in 8 bytes, then JSON
        return _load_safetensors(path)
    if head[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):  # torch.save: zip, or a bare pickle
        return _load_torch(path, is_zip=head[:2] == b"PK")
    raise CheckpointError(
        f"{path}: not a weights file. Expected a file written by torch.save or safetensors, "
        f"found one that starts with {head!r}."
    )


def _load_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {**{key: file.get_tensor(key) for key in file.keys()}, "meta": file.metadata() or {}}  # noqa: SIM118
    except (SafetensorError, OSError) as e:
        raise CheckpointError(f"{path}: damaged safetensors file ({e}). Copy or download it again.") from e


def _load_torch(path: Path, is_zip: bool) -> Any:
    try:
        if path.suffix == ".safetensors":  # torch.load goes by this suffix when it is given a path
            with path.open("rb") as file:
                return torch.load(file, map_location="cpu", weights_only=True)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as e:
        blocked = _blocked_types(path, str(e)) if "eights only load failed" in str(e) else ""
        if not blocked:
            raise CheckpointError(
                f"{path}: damaged, or not a file that torch.save wrote. Copy it again, or save the state_dict() anew."
            ) from e
        raise CheckpointError(
            f"{path}: refused, because reading it would run code for {blocked}. Expected tensors in plain "
            "containers. Save only the backbone's state_dict(), e.g. torch.save(model.state_dict(), 'clean.pth'); "
            "a LightlyTrain .ckpt: run lightly_train.export first; a whole Ultralytics detector: pass it as --weights."
        ) from e
    except Exception as e:  # torch reports damaged files through many types; all of them mean the same here
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        if "TorchScript" in str(e):
            raise CheckpointError(
                f"{path}: a TorchScript archive, which is a program. Expected weights: save the state_dict() instead."
            ) from e
        raise CheckpointError(
            f"{path}: damaged, truncated or not a PyTorch weights file ({reason}). Copy or download it again."
        ) from e


def _blocked_types(path: Path, message: str) -> str:
    """Names of the classes that a restricted load refuses, from the file if it is a zip, else from the message."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except ValueError:  # not a zip: only the message knows
        names = []
    names = names or re.findall(r"(?:GLOBAL|global|class|type):? [`'<]*([\w.]+\.\w+)", message)
    telling_first = sorted(set(names), key=lambda name: (name.startswith("torch."), name.count("."), name))
    return ", ".join(telling_first[:5])


def _walk(content: Any, path: Path, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """Every tensor in nested containers with its full path; dotted keys count as several segments."""
    if isinstance(content, Tensor):
        yield prefix, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _walk(value, path, (*prefix, *str(key).split(".")))
    elif isinstance(content, (list, tuple)):
        for i, value in enumerate(content):
            yield from _walk(value, path, (*prefix, f"[{i}]"))
    elif isinstance(content, torch.nn.Module):  # only where another library has widened torch's allow-list
        kind = f"{type(content).__module__}.{type(content).__qualname__}"
        raise CheckpointError(
            f"{path}: {'.'.join(prefix) or 'the file'} is a pickled {kind}; expected tensors in plain containers. "
            "Save its state_dict() instead, or pass a whole Ultralytics detector as --weights."
        )


# ---- names -----------------------------------------------------------------------------------------------------------


def backbone_name(key: tuple[str, ...]) -> tuple[tuple[str, ...], str | None]:
    """Split a full key into its wrappers and the YOLOv8 layer name of what remains (``None``: not a backbone's name).

    >>> backbone_name(("_orig_mod", "backbone", "stage1", "1", "main_conv", "conv", "weight"))
    (('_orig_mod', 'backbone'), '2.cv1.conv.weight')
    """
    depth = next((i for i, segment in enumerate(key) if segment not in WRAPPERS), len(key))
    prefix, rest = key[:depth], key[depth:]
    if len(rest) > 1 and rest[0].isdigit():
        return prefix, ".".join(rest)
    for length in (1, 2):
        layer = STAGES.get(rest[:length])
        if layer is not None and len(rest) > length:
            return prefix, ".".join((layer, *(SEGMENTS.get(s, s) for s in rest[length:])))
    return prefix, None


def _sort_out(
    found: Sequence[tuple[tuple[str, ...], Tensor]], path: Path
) -> tuple[dict[str, Tensor], dict[str, str], tuple[str, ...], dict[str, int]]:
    """Backbone tensors by YOLOv8 name, their keys, what should not be there, and what is dropped on purpose."""
    tensors: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    prefixes: set[tuple[str, ...]] = set()
    others: list[tuple[str, ...]] = []
    for key, tensor in found:
        prefix, name = backbone_name(key)
        if name is None:
            others.append(key)
            continue
        if name in tensors:
            raise CheckpointError(
                f"{path}: ambiguous, two tensors claim to be backbone layer {name}: {origin[name]} and "
                f"{'.'.join(key)}. Save only the one you mean."
            )
        tensors[name], origin[name] = tensor, ".".join(key)
        prefixes.add(prefix)
    unexpected, dropped = [], Counter[str]()
    for key in others:
        prefix, _ = backbone_name(key)
        part = key[len(prefix)] if len(key) > len(prefix) else ".".join(key) or "one tensor without a name"
        if prefix in prefixes and not DROPPED.match(part):
            unexpected.append(".".join(key))
        else:
            dropped[part] += 1
    if not tensors:
        parts = ", ".join(f"{part} ({n})" for part, n in dropped.items()) or "no tensors at all"
        raise CheckpointError(
            f"{path}: no backbone tensor found. Expected names like 'stem.conv.weight' or '0.conv.weight', "
            f"with any of the wrappers {', '.join(sorted(WRAPPERS))} before them; found {parts}."
        )
    return tensors, origin, tuple(unexpected), dict(dropped)


def _check_values(tensors: dict[str, Tensor], origin: dict[str, str], path: Path) -> None:
    for name, tensor in tensors.items():
        counter = name.endswith("num_batches_tracked")
        dense = tensor.layout == torch.strided and not tensor.is_meta
        if not dense or (not tensor.is_floating_point() and not counter):
            raise CheckpointError(
                f"{path}: {origin[name]} is {tensor.dtype} ({tensor.layout}); expected dense floating-point weights. "
                "Quantised or sparse backbones must be converted first."
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.float()).all()):
            raise CheckpointError(
                f"{path}: {origin[name]} holds NaN or Inf. The distillation run diverged; use an earlier epoch."
            )


# ---- what the file says of itself ------------------------------------------------------------------------------------


def _recorded(content: Any) -> dict[str, Any]:
    """Plain values (text, numbers) that the file records about its training, also inside ``config`` and ``meta``."""
    if not isinstance(content, Mapping):
        return {}
    found: dict[str, Any] = {}
    for source in (content.get("config"), content.get("meta"), content):
        if isinstance(source, Mapping):
            found.update({str(k): v for k, v in source.items() if isinstance(v, (str, int, float, bool))})
    for key, cast in (("epoch", int), ("bn_eps", float)):  # safetensors keeps text only
        if isinstance(found.get(key), str):
            try:
                found[key] = cast(found[key])
            except ValueError:
                found.pop(key)
    return found


def _source(content: Any, vfmkd: bool) -> str:
    names = "vfmkd" if vfmkd else "Ultralytics"
    if isinstance(content, Mapping):
        if isinstance(content.get("backbone"), Mapping):
            return f"resume file ({names} names)"
        if isinstance(content.get("state_dict"), Mapping):
            return f"clean export ({names} names)" if "meta" in content else f"state_dict file ({names} names)"
    return f"bare state dict ({names} names)"


def _first(names: tuple[str, ...], count: int = 4) -> str:
    return ", ".join(names[:count]) + (f", … ({len(names) - count} more)" if len(names) > count else "")
