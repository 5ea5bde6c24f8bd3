"""Teachers from timm: any network that gives feature maps, with downloaded or local weights, loaded strictly."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import init
from torch.overrides import TorchFunctionMode

from kdyolo.checkpoints.safe_load import Content, load_content, tensors_sha256
from kdyolo.distillation.teachers.folding import folded
from kdyolo.distillation.teachers.protocol import TeacherMap
from kdyolo.errors import CheckpointError, ConfigError
from kdyolo.utils.progress import waiting
from kdyolo.utils.text import did_you_mean, quoted

_CONTAINERS = ("state_dict", "model", "teacher", "student")  # what training tools keep a network's tensors under
_PREFIXES = ("module.", "_orig_mod.")  # wrappers of the whole
_PARTS = ("image_encoder.trunk.", "backbone.")  # the network among others: SAM2's, and that of DINO beside its heads
_NAMED = 5  # tensors that an error names
_DRAWING = {Tensor.uniform_, Tensor.normal_, Tensor.erfinv_, init.uniform_, init.normal_, init.kaiming_uniform_}
_NO_LICENCE = ("", "unknown", "other")  # words of timm for a licence that it does not know


class TimmTeacher(nn.Module):
    """A network of timm as a teacher: every feature map that it has, from images in 0–1.

    Attributes:
        licence: Licence of the weights, as timm records it.
        size: Side of its images, in pixels.
        report: How its weights were loaded, in a line.
    """

    _mean: Tensor
    _std: Tensor

    def __init__(
        self, getter: nn.Module, config: Mapping[str, Any], name: str, size: int, digest: str, report: str
    ) -> None:
        super().__init__()
        self.net = getter.eval().requires_grad_(False)
        self.name, self.size, self.digest, self.report = name, size, digest, report
        licence = config.get("license")
        self.licence: str | None = None if licence in _NO_LICENCE else licence
        self.mean: tuple[float, ...] = tuple(config.get("mean") or (0.0, 0.0, 0.0))
        self.std: tuple[float, ...] = tuple(config.get("std") or (1.0, 1.0, 1.0))
        info: Any = getter.feature_info
        described = zip(info.module_name(), info.channels(), info.reduction(), strict=True)
        self.maps = tuple(TeacherMap(*found) for found in described)
        self.register_buffer("_mean", torch.tensor(self.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(self.std).view(1, -1, 1, 1), persistent=False)
        self._layout = torch.contiguous_format

    def train(self, mode: bool = True) -> TimmTeacher:
        """Stay in evaluation mode, whatever is asked: a teacher is frozen."""
        return super().train(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images [B, 3, size, size] in 0–1 → its maps [B, channels, height, width], shallow to deep."""
        normalised = (images - self._mean) / self._std
        maps: list[Tensor] = self.net(normalised.contiguous(memory_format=self._layout))
        return maps

    def fold(self) -> None:
        """Compute as fast as a CPU can, see :func:`kdyolo.distillation.teachers.folding.folded`; its maps stay."""
        if (net := folded(self.net, self.size)) is not None:
            self.net, self._layout = net, torch.channels_last


def timm_teacher(name: str, file: Path | None, size: int) -> TimmTeacher:
    """A network of timm with weights.

    Args:
        name: Name in timm, with or without the tag of its weights, e.g. ``"vit_small_patch16_dinov3.lvd1689m"``.
        file: Local weights, timm's or the author's original ones; None: those that timm downloads or has kept.
        size: Side of the images that it will get, in pixels; rounded up to a multiple of its strides.

    Raises:
        ConfigError: The package is missing, knows no such network, or the network gives no feature maps.
        CheckpointError: The weights cannot be had, are not those of this network, or are refused.
    """
    model = _build(name, size, pretrained=file is None)
    getter = _getter(model, name)
    side = max(int(stride) for stride in getter.feature_info.reduction())
    rounded = -(-size // side) * side
    if rounded != size and model.pretrained_cfg.get("fixed_input_size"):
        model = _build(name, rounded, pretrained=file is None)
        getter = _getter(model, name)
    report, digest = _load(model, file, name, rounded) if file else ("timm's own weights", "")
    config: dict[str, Any] = dict(model.pretrained_cfg)
    if file and "." not in name:
        config["license"], hint = _of_unnamed_weights(name, config)
        report += hint
    return TimmTeacher(getter, config, name, rounded, digest or tensors_sha256(model.state_dict()), report)


def check_name(name: str) -> None:
    """Refuse a name that timm does not know.

    Raises:
        ConfigError: The package timm is missing, or knows no such network.
    """
    try:
        import timm
    except ImportError as e:
        raise ConfigError("a teacher from timm needs timm. Install it with: pip install 'kdyolo[distill]'") from e
    bare, dot, tag = name.partition(".")
    if bare not in timm.list_models():
        raise ConfigError(f"unknown teacher {quoted(name)}.{did_you_mean(bare, timm.list_models())} "
                          "Expected a name of timm.list_models(), NAME:FILE, or an Ultralytics .pt.")  # fmt: skip
    tags = [known.partition(".")[2] for known in _weights(bare)]
    if dot and tag not in tags:
        raise ConfigError(
            f"teacher {quoted(name)}: timm knows no weights {quoted(tag)} of {bare}.{did_you_mean(tag, tags)} "
            f"Expected one of {', '.join(tags) or 'none'}, or the name alone."
        )


def _weights(bare: str) -> dict[str, Any]:
    """Name with tag → configuration, of each weights that timm knows of a network."""
    from timm.models import get_arch_pretrained_cfgs

    return {name: config for name, config in get_arch_pretrained_cfgs(bare).items() if "." in name}


def _of_unnamed_weights(name: str, config: Mapping[str, Any]) -> tuple[str | None, str]:
    """Licence of a file's weights where the network's name leaves open which of timm's they are, and a hint.

    A licence that is taken for another one, and images that are normalised otherwise, show in no number.
    """
    known = _weights(name)
    licences = {other.license for other in known.values()} or {config.get("license")}
    licence = config.get("license") if len(licences) == 1 else None
    if len({(other.license, tuple(other.mean), tuple(other.std)) for other in known.values()}) < 2:
        return licence, ""
    tags = ", ".join(key.partition(".")[2] for key in known)
    return licence, f"; mean and std are those of {config.get('tag')}, another is named as {name}.TAG:FILE: {tags}"


class _NothingDrawn(TorchFunctionMode):
    """While networks are made, their weights are zeros where they would be random: a file's take their place.

    Drawing them takes seconds of a core for a ViT-L, for each time that it is made.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if func in _DRAWING:
            with torch.no_grad():
                return (args[0] if args else named["tensor"]).zero_()
        return func(*args, **named)


def _build(name: str, size: int, **weights: Any) -> Any:
    check_name(name)
    import timm

    hub = logging.getLogger("huggingface_hub")  # tells each of its attempts; the error says it once
    told = hub.level
    hub.setLevel(logging.ERROR)
    try:
        from_file = not weights["pretrained"] or "pretrained_cfg_overlay" in weights
        with waiting(f"making {name}"), _NothingDrawn() if from_file else nullcontext():
            try:
                return timm.create_model(name, num_classes=0, img_size=size, **weights)
            except TypeError as e:  # convolutional networks take images of any size
                if "img_size" not in str(e):
                    raise
                return timm.create_model(name, num_classes=0, **weights)
    except (OSError, RuntimeError, ValueError, AssertionError) as e:  # each hub, and timm, fails in ways of its own
        reason = (str(e).splitlines() or [type(e).__name__])[0]
        raise CheckpointError(
            f"teacher {name}: cannot be made ({quoted(reason)}). Without network give its weights: {name}:FILE."
        ) from e
    finally:
        hub.setLevel(told)


def _getter(model: nn.Module, name: str) -> Any:
    from timm.models._features import FeatureGetterNet

    info = getattr(model, "feature_info", None)
    if not info or not hasattr(model, "forward_intermediates"):
        raise ConfigError(f"teacher {name}: it gives no feature maps. Choose another, e.g. a ViT, a Hiera, a ConvNeXt.")
    return FeatureGetterNet(model, out_indices=tuple(range(len(info))), prune=False)


# ---- local weights ---------------------------------------------------------------------------------------------------


def _load(model: nn.Module, file: Path, name: str, size: int) -> tuple[str, str]:
    """Fill a network with a file's tensors, all of them or none; a report in a line, and the file's digest."""
    tensors, digest = load_content(file, _tensors)
    if not tensors:
        raise CheckpointError(f"{file}: expected weights of {name}, found no tensors in it.")
    own = model.state_dict()
    found = _filtered(model, tensors, file, name)
    missing = [key for key in own if key not in found]
    shapes = [key for key in own if key in found and found[key].shape != own[key].shape]
    classifier = _classifier(model)
    extra = [key for key in found if key not in own and not key.startswith(classifier)]
    if missing or shapes or extra:
        counts = f"{len(own) - len(missing) - len(shapes)} of {len(own)} tensors fit"
        parts = (("missing", missing), ("of another shape", shapes), ("unexpected", extra))
        listed = "; ".join(f"{len(keys)} {what}, e.g. {', '.join(keys[:_NAMED])}" for what, keys in parts if keys)
        raise CheckpointError(f"{file}: not the weights of {name} ({counts}; {listed}). Give the file of that network.")
    if not _fits(model, tensors):  # only timm knows how each network's embedding of positions is interpolated
        with redirect_stdout(io.StringIO()):
            filled = _build(name, size, pretrained=True, pretrained_cfg_overlay={"state_dict": dict(tensors)})
        found |= filled.state_dict()
    model.load_state_dict({key: found[key] for key in own})
    dropped = len(found) - len(own)
    return f"{len(own)} of {len(own)} tensors from {file.name}, {dropped} of its classifier left out", digest.sha256


def _tensors(content: Content) -> dict[str, Tensor]:
    """Tensors by name, out of what training tools put around them."""
    data = content.data
    while isinstance(data, Mapping) and (inner := next((data[k] for k in _CONTAINERS if k in data), None)) is not None:
        data = inner
    if isinstance(data, nn.Module):
        data = data.state_dict()
    tensors = {k: v for k, v in data.items() if isinstance(v, Tensor)} if isinstance(data, Mapping) else {}
    for prefix in (*_PREFIXES, *_PARTS):
        inside = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if inside and (prefix in _PARTS or len(inside) == len(tensors)):
            tensors = inside
    return tensors


def _filtered(model: nn.Module, tensors: dict[str, Tensor], file: Path, name: str) -> dict[str, Tensor]:
    """The tensors as they fit a network, by timm's own filter where it has one.

    It gives the author's tensors timm's names, and brings embeddings of positions to the size of the images.
    """
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None or _fits(model, tensors):
        return tensors
    try:
        with redirect_stdout(io.StringIO()):  # timm's filters print what they leave out
            return {key: value for key, value in convert(dict(tensors), model).items() if isinstance(value, Tensor)}
    except (KeyError, IndexError, AttributeError, RuntimeError, TypeError, ValueError, AssertionError) as e:
        raise CheckpointError(
            f"{file}: not the weights of {name}: timm's filter for its original files stops at {quoted(e)}."
        ) from e


def _fits(model: nn.Module, tensors: Mapping[str, Tensor]) -> bool:
    """Whether the tensors are those of a network, with or without its classifier, in its names and shapes."""
    own = {key: value.shape for key, value in model.state_dict().items()}
    others = [key for key in tensors if key not in own and not key.startswith(_classifier(model))]
    return not others and all(key in tensors and tensors[key].shape == shape for key, shape in own.items())


def _classifier(model: Any) -> tuple[str, ...]:
    """Prefixes of the classifier's tensors, which a teacher needs not."""
    named = model.pretrained_cfg.get("classifier") or ()
    return tuple(f"{part}." for part in ((named,) if isinstance(named, str) else named)) or ("head.",)
