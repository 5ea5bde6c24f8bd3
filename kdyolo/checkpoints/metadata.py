"""Metadata of a checkpoint, beside its tensors: container, epoch, epsilon, normalisation, untrained layers."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from torch import Tensor, nn

from kdyolo.checkpoints.input_norm import InputNorm, NormOrigin
from kdyolo.checkpoints.key_naming import VFMKD_BN_EPS, NamingScheme
from kdyolo.errors import CheckpointError, ConfigError
from kdyolo.models.arch import BN_COUNTER

TEACHER_KEYS = ("teacher", "teacher_name", "teacher_model", "foundation_model")
PLAIN = (str, int, float, bool)
MAX_CONFIGURATION = 300_000  # characters; with the names of a thousand classes there are some sixty thousand
BACKBONE_ENDS = {8, 10}  # last layer: of YOLO12; of YOLO11 and YOLO26. Of YOLOv8, LightlyTrain leaves SPPF untrained
FAMILY = re.compile(r"yolo(v8|11|12|26)(?!\d)", re.IGNORECASE)

# Containers by the keys that give them away; the first that fits names the file.
CONTAINERS: tuple[tuple[str, frozenset[str]], ...] = tuple(
    (what, frozenset(keys))
    for what, keys in (
        ("Lightning checkpoint", {"state_dict", "pytorch-lightning_version"}),
        ("MMEngine checkpoint", {"state_dict", "meta", "message_hub"}),
        ("torchdistill checkpoint", {"model", "optimizer", "best_value", "lr_scheduler"}),
    )
)


def container(data: Any, meta: Mapping[str, Any], modules: Mapping[str, nn.Module]) -> str:
    """The container that the tensors stand in, in words.

    Args:
        data: Content of the file.
        meta: What the file records of itself.
        modules: Pickled modules in the file.
    """
    if modules:
        return "Ultralytics checkpoint" if "yaml_file" in meta else "pickled model"
    if not isinstance(data, Mapping):
        return "bare state dict"
    for what, keys in CONTAINERS:
        if keys <= data.keys():
            return what
    if isinstance(data.get("backbone"), Mapping):
        return "resume file"
    if isinstance(data.get("state_dict"), Mapping):
        return "clean export" if "meta" in data else "state_dict file"
    return "bare state dict"


def recorded(data: Any) -> dict[str, Any]:
    """Plain values (text, numbers) that the file records about its training, also inside ``config`` and ``meta``.

    Of an Ultralytics checkpoint also its model YAML's name (``yaml_file``) and kdyolo's own record (``kd``).
    """
    if not isinstance(data, Mapping):
        return {}
    found: dict[str, Any] = {}
    for level in (data.get("hyper_parameters"), data.get("config"), data.get("meta"), data):
        if isinstance(level, Mapping):
            found.update({str(k): v for k, v in level.items() if isinstance(v, PLAIN)})
    for key, cast in (("epoch", int), ("bn_eps", float)):  # safetensors keeps text only
        if isinstance(found.get(key), str):
            try:
                found[key] = cast(found[key])
            except ValueError:
                found.pop(key)
    if found.get("epoch") == -1:  # Ultralytics: finished
        found.pop("epoch")
    description = getattr(data.get("model"), "yaml", None)
    if isinstance(description, Mapping):
        found["yaml_file"] = str(description.get("yaml_file", ""))
        if isinstance(description.get("kd"), Mapping):
            found["kd"] = dict(description["kd"])
    return found


def family(meta: Mapping[str, Any]) -> str | None:
    """The YOLO family that a file names, e.g. ``"yolo11"``; some families' tensors have equal shapes."""
    for key in ("yaml_file", "backbone", "model_name", "model", "arch", "architecture", "family"):
        if found := FAMILY.search(str(meta.get(key, ""))):
            return found.group().lower()
    return None


def module_eps(modules: Mapping[str, nn.Module]) -> float | None:
    """Epsilon of the first BatchNorm of pickled modules, which stands in the backbone's first layer."""
    for module in modules.values():
        for child in module.modules():
            if isinstance(child, nn.BatchNorm2d):
                return child.eps
    return None


def mmengine_model(meta: Mapping[str, Any], scheme: NamingScheme, where: str) -> dict[str, Any]:
    """The ``model`` of the configuration, Python text, that MMEngine keeps in ``meta.cfg``; empty if there is none.

    Args:
        meta: What the file records of itself.
        scheme: Naming scheme of the file; only MMYOLO's have a configuration.
        where: The file, for the error.

    Raises:
        CheckpointError: The configuration is longer or more deeply nested than any that was written by MMEngine.
    """
    text = str(meta.get("cfg", "")) if scheme.name == "MMYOLO" else ""
    too_much = f"{where}: the file's MMEngine configuration (meta.cfg)"
    if len(text) > MAX_CONFIGURATION:
        raise CheckpointError(f"{too_much} has {len(text):,} characters; expected at most {MAX_CONFIGURATION:,}.")
    try:
        for node in ast.parse(text).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "model":
                model = _literal(node.value)
                return model if isinstance(model, dict) else {}
    except (MemoryError, RecursionError, SyntaxError, ValueError) as e:
        # Python's parser raises the first for nesting, however little memory it took.
        if isinstance(e, (MemoryError, RecursionError)) or "nested" in str(e):
            raise CheckpointError(f"{too_much} is nested too deeply to be read.") from e
    return {}  # a configuration that is no plain data: the naming scheme's own defaults stand


def _literal(node: ast.expr) -> Any:
    """Plain data written with ``dict(a=1)`` calls, which ``ast.literal_eval`` does not take."""
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "dict":
        return {str(k.arg): _literal(k.value) for k in node.keywords}
    if isinstance(node, ast.Dict):
        return {str(ast.literal_eval(k)): _literal(v) for k, v in zip(node.keys, node.values, strict=True) if k}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_literal(item) for item in node.elts]
    return ast.literal_eval(node)


def bn_eps(
    given: float | None,
    meta: Mapping[str, Any],
    modules: Mapping[str, nn.Module],
    scheme: NamingScheme,
    configured_model: Mapping[str, Any],
) -> float:
    """BatchNorm epsilon: what was given, else what the file records, else its naming scheme's."""
    backbone = configured_model.get("backbone")
    norm = backbone.get("norm_cfg") if isinstance(backbone, dict) else None
    configured = norm.get("eps", VFMKD_BN_EPS) if isinstance(norm, dict) else None  # PyTorch's default where not set
    return float(given or meta.get("bn_eps") or module_eps(modules) or configured or scheme.bn_eps)


def sees_bgr(configured_model: Mapping[str, Any]) -> bool:
    """Whether a configuration feeds images as OpenCV reads them, blue first, where Ultralytics feeds red first."""
    images = configured_model.get("data_preprocessor")
    return isinstance(images, dict) and "mean" in images and "std" in images and not images.get("bgr_to_rgb")


def input_norm(
    given: str | None,
    meta: Mapping[str, Any],
    scheme: NamingScheme,
    configured_model: Mapping[str, Any],
    where: str,
) -> tuple[InputNorm, NormOrigin]:
    """Normalisation of the images, red first, and what it is known from.

    Args:
        given: What the user said, if anything.
        meta: What the file records of itself.
        scheme: Naming scheme of the file.
        configured_model: What :func:`mmengine_model` found.
        where: The file, for errors.

    Raises:
        CheckpointError: What the file records cannot be understood.
        ConfigError: What was given cannot be.
    """
    if given is not None:
        return InputNorm.parse(given), NormOrigin.GIVEN
    if isinstance(meta.get("input_norm"), str):
        try:
            return InputNorm.parse(meta["input_norm"]), NormOrigin.RECORDED
        except ConfigError as e:
            raise CheckpointError(f"{where}: recorded {e} Give the right one with --input-norm.") from e
    images = configured_model.get("data_preprocessor")
    if isinstance(images, dict) and "mean" in images and "std" in images:
        try:
            mean, std = ([float(v) / 255 for v in images[k]] for k in ("mean", "std"))
            if sees_bgr(configured_model):
                mean, std = mean[::-1], std[::-1]
            texts = (",".join(f"{v:.9g}" for v in values) for values in (mean, std))
            return InputNorm.parse("/".join(texts)), NormOrigin.RECORDED
        except (ConfigError, TypeError, ValueError) as e:
            raise CheckpointError(f"{where}: its configuration has no usable mean and std. Say --input-norm.") from e
    return scheme.input_norm, NormOrigin.SOURCE_DEFAULT


# ---- layers that never trained ---------------------------------------------------------------------------------------


def untrained_layers(tensors: Mapping[str, Tensor], by_count: bool) -> tuple[str, ...]:
    """Numbers of layers whose BatchNorms never saw a batch, while others of the file did.

    Args:
        tensors: Layer name → tensor.
        by_count: Whether a count of 0 batches is proof enough. Where weights were averaged over training (Ultralytics'
            EMA copies no counts) it is not: statistics must also stand where they start, at mean 0 and variance 1.
    """
    counts = {
        name: int(tensor) for name, tensor in tensors.items() if name.endswith(BN_COUNTER) and tensor.numel() == 1
    }
    if not any(counts.values()):
        return ()
    idle = {
        name: n == 0 and (by_count or _at_start(tensors, name.removesuffix(BN_COUNTER))) for name, n in counts.items()
    }
    layers = groupby(sorted(idle, key=_layer), key=_layer)
    return tuple(sorted((str(n) for n, names in layers if all(idle[name] for name in names)), key=int))


def only_a_backbone_trained(tensors: Mapping[str, Tensor], untrained: Iterable[str]) -> bool:
    """Whether everything up to the end of a YOLO11, YOLO12 or YOLO26 backbone saw batches, and nothing after it.

    LightlyTrain's exports of these are so (it trains what stands before the first ``Upsample``), but any training
    loop over the backbone of an Ultralytics model gives the same, so that nothing follows for certain.
    """
    trained = {_layer(name) for name in tensors if name.endswith(BN_COUNTER)} - {int(n) for n in untrained}
    return bool(trained) and max(trained) in BACKBONE_ENDS and any(int(n) > max(trained) for n in untrained)


def _layer(name: str) -> int:
    return int(name.partition(".")[0])


def _at_start(tensors: Mapping[str, Tensor], bn: str) -> bool:
    mean, var = tensors.get(f"{bn}running_mean"), tensors.get(f"{bn}running_var")
    return mean is not None and var is not None and bool((mean == 0).all()) and bool((var == 1).all())
