"""Detection model with a distilled backbone in row 0, turned into stock Ultralytics layers and back.

Training uses :class:`KDDetectionModel`. Everything written to disk is stock: :func:`to_stock` lists the backbone's
layers one by one, so a checkpoint holds only Ultralytics' own classes and opens wherever Ultralytics does.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.nn.modules import Index
from ultralytics.nn.tasks import DetectionModel

from kdyolo.errors import ModelError
from kdyolo.models.arch import FAMILIES, Arch
from kdyolo.models.arch_matching import fit_arch, foreign_detector
from kdyolo.models.backbone import DistilledBackbone
from kdyolo.models.model_yaml import BackboneRow, Yaml
from kdyolo.models.yaml_layouts import describe_detector, family_of, from_stock_yaml, to_stock_yaml
from kdyolo.utils.ultralytics_patches import module_registered


class KDDetectionModel(DetectionModel):  # type: ignore[misc]
    """Ultralytics' ``DetectionModel`` with a :class:`~kdyolo.models.backbone.DistilledBackbone` in row 0.

    Args:
        cfg: Model YAML (name, path or description, in the kdyolo or the stock layout).
        ch: Image channels; 3.
        nc: Number of classes, instead of the YAML's.
        verbose: Log the model table.
        arch: Arch that a checkpoint's shapes fit; see :func:`kdyolo.models.model_yaml.resolve`.
        bn_eps: Epsilon of the backbone's BatchNorms.

    Raises:
        ModelError: The YAML cannot be found or resolved, or images do not have 3 channels.
    """

    def __init__(
        self,
        cfg: str | Path | Yaml,
        ch: int = 3,
        nc: int | None = None,
        verbose: bool = True,
        *,
        arch: Arch | None = None,
        bn_eps: float | None = None,
    ) -> None:
        if ch != 3:
            raise ModelError(f"distilled backbones take RGB images (3 channels); the data set says {ch}.")
        description = describe_detector(cfg, arch, bn_eps)
        try:
            with module_registered(DistilledBackbone):
                super().__init__(description, ch=ch, nc=nc, verbose=verbose)
        except Exception as e:  # the parser's errors are of any type, and all about the YAML
            where = description.get("yaml_file")
            raise ModelError(f"{where}: this model cannot be built ({type(e).__name__}: {e}). Check its rows.") from e
        self.backbone.set_bn_eps(BackboneRow.from_yaml(description).bn_eps)  # Ultralytics has just set 1e-3 everywhere

    @property
    def backbone(self) -> DistilledBackbone:
        """The distilled backbone, layer 0 of the model."""
        return self.model[0]  # type: ignore[no-any-return]

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> Any:
        """Load weights by name, from either layout: checkpoints on disk are in the stock layout."""
        if not any(name.startswith("model.0.layers.") for name in state_dict):
            state_dict = {self.nested_name(name): tensor for name, tensor in state_dict.items()}
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def nested_name(self, name: str) -> str:
        """A tensor's name in the stock layout → its name here (``model.3.conv.weight`` → ``model.0.layers.3.…``)."""
        root, _, rest = name.partition(".")
        number, dot, tensor = rest.partition(".")
        if root != "model" or not number.isdigit():
            return name
        return f"{root}.{self.nested_layer(int(number))}{dot}{tensor}"

    def nested_layer(self, number: int) -> str:
        """A layer's number in the stock layout → its dotted place here, without the leading ``model``."""
        built = len(self.backbone.layers)
        return f"0.layers.{number}" if number < built else str(number - built + 1 + len(self.backbone.levels))

    def load(self, weights: DetectionModel | dict[str, Any], verbose: bool = True) -> None:
        """Start from another detector's weights, as Ultralytics does, and refuse to do so partially.

        Only tensors of the head whose shape depends on the number of classes may stay as they were initialised.

        Raises:
            ModelError: The weights are of another architecture or scale, or no checkpoint.
        """
        if isinstance(weights, dict) and not (weights.get("ema") or weights.get("model")):
            raise ModelError("expected a detector or the content of a checkpoint; load_state_dict takes a state dict.")
        source = (weights.get("ema") or weights["model"]) if isinstance(weights, dict) else weights
        if not isinstance(source, KDDetectionModel):
            source = from_stock(source, self.yaml)
        own, given = self.state_dict(), source.state_dict()
        head = f"model.{len(self.model) - 1}."
        lost = [
            name
            for name, tensor in own.items()
            if not name.startswith(head) and (name not in given or given[name].shape != tensor.shape)
        ]
        if lost:
            shapes = {n: t.shape for n, t in source.backbone.layers.state_dict().items()}
            arch = fit_arch(shapes, source.backbone.arch.family)[0]
            raise ModelError(
                f"weights do not fit {self.yaml.get('yaml_file')}: {len(lost)} of {len(own)} tensors outside the head "
                f"differ, e.g. {lost[0]}. Their backbone fits {arch.name}: use --model {arch.yaml_name}."
            )
        super().load(source, verbose=verbose)
        self.backbone.set_bn_eps(source.backbone.bn_eps)  # part of what the weights compute
        replace(BackboneRow.from_yaml(self.yaml), bn_eps=source.backbone.bn_eps).to_yaml(self.yaml)


def weights_arch(model: nn.Module) -> tuple[Arch, int]:
    """The backbone that a stock detector's weights fit best, and how many tensors agree.

    Raises:
        ModelError: The detector is of another family.
    """
    shapes = {name.partition(".")[2]: tensor.shape for name, tensor in model.state_dict().items()}
    arch, agreeing = fit_arch(shapes, family_of(getattr(model, "yaml", None) or None))
    if name := foreign_detector(shapes, arch):
        raise ModelError(f"the weights are those of {name}. Expected a detector of {', '.join(FAMILIES)}.")
    return arch, agreeing


def resolve_description(cfg: Any, weights: nn.Module | None, arch: Arch | None, eps: float | None) -> Yaml:
    """The kdyolo-layout description to build; weights with an old or foreign YAML are recognised by their shapes.

    Args:
        cfg: Name of a YAML, or the description inside a checkpoint, as Ultralytics' trainer gives it.
        weights: Detector to start from, if any.
        arch: Arch that a backbone checkpoint's shapes fit, if one is given.
        eps: BatchNorm epsilon of the backbone checkpoint.

    Raises:
        ModelError: Neither the description nor the weights are of a known family.
    """
    if isinstance(cfg, dict) and weights is not None:
        try:
            return describe_detector(cfg, arch, eps)
        except ModelError:
            own, agreeing = weights_arch(weights)
            if not agreeing:
                raise
            return describe_detector(own.yaml_name, own, eps)
    if cfg is None:
        raise ModelError("no model: expected a model YAML, e.g. kdyolov8s.yaml.")
    if weights is not None and arch is None:  # widths follow from the weights, as they would from a checkpoint
        arch, _ = weights_arch(weights)
    return describe_detector(cfg, arch, eps)


# ---- kdyolo layout ⇄ stock layout ------------------------------------------------------------------------------------


def to_stock(model: KDDetectionModel) -> DetectionModel:
    """The same network with stock layers only, as a stock ``DetectionModel``; parameters and buffers are shared."""
    description = to_stock_yaml(model.yaml)
    twin = _shallow_twin(model)
    layers = [*twin.model[0].layers, *twin.model[1 + len(model.backbone.levels) :]]
    return _assemble(twin, DetectionModel, layers, description)


def from_stock(model: DetectionModel, like: Yaml | None = None) -> KDDetectionModel:
    """A stock detector in the kdyolo layout; parameters and buffers are shared.

    Args:
        model: Stock layers.
        like: Resolved kdyolo-layout description to lay it out as. Default: worked out from the model's own YAML.

    Raises:
        ModelError: The model has another structure.
    """
    description = deepcopy(like) if like is not None else from_stock_yaml(model.yaml)
    stock = to_stock_yaml(description)
    rows = stock["backbone"] + stock["head"]
    found = [type(layer).__name__ for layer in model.model]
    expected = [row[2].rpartition(".")[2] for row in rows]
    if found != expected:
        raise ModelError(
            f"weights of another structure: {stock['yaml_file']} has {len(expected)} layers ({expected[-1]} last), "
            f"these have {len(found)} ({found[-1]} last). Choose the --model that they were made with."
        )
    twin, built = _shallow_twin(model), len(stock["backbone"])
    # Weights of another scale than `like` keep their own: KDDetectionModel.load compares shapes and says what fits.
    row = BackboneRow.from_yaml(description)
    family = Arch.parse(row.arch).family
    arch, _ = fit_arch({k: v.shape for k, v in twin.model[:built].state_dict().items()}, family)
    with torch.device("meta"):  # a shell: its own layers are replaced at once
        backbone = DistilledBackbone(arch.name, arch.max_channels, levels=row.levels)
    backbone.layers = nn.Sequential(*twin.model[:built])
    backbone.bn_eps = next((m.eps for m in backbone.layers.modules() if isinstance(m, nn.BatchNorm2d)), 1e-3)
    picks = [Index(i) for i in range(len(backbone.levels))]
    BackboneRow(arch.name, arch.max_channels, backbone.bn_eps, backbone.levels).to_yaml(description)
    for pick, channels in zip(description["backbone"][1:], backbone.channels, strict=True):
        pick[3][0] = channels
    nested: KDDetectionModel = _assemble(twin, KDDetectionModel, [backbone, *picks, *twin.model[built:]], description)
    return nested


def _shallow_twin(model: nn.Module) -> Any:
    """A copy of the modules whose tensors, and whatever else they hold, are the original's own."""
    twins: dict[int, nn.Module] = {}

    def twin_of(module: nn.Module) -> nn.Module:
        if (twin := twins.get(id(module))) is None:
            twin = twins[id(module)] = module.__class__.__new__(module.__class__)
            held = {
                name: value.copy() if isinstance(value, (dict, list)) else value for name, value in vars(module).items()
            }
            children = module._modules.items()
            held["_modules"] = {name: None if child is None else twin_of(child) for name, child in children}
            vars(twin).update(held)
        return twin

    return twin_of(model)


def _assemble(twin: Any, cls: type[nn.Module], layers: list[Any], description: Yaml) -> Any:
    """Give a model another class, layer list and YAML, with the wiring that the YAML's rows prescribe."""
    rows = description["backbone"] + description["head"]
    save: set[int] = set()
    for i, (layer, row) in enumerate(zip(layers, rows, strict=True)):
        layer.i, layer.f = i, row[0]
        layer.type = f"{type(layer).__module__}.{type(layer).__name__}"
        layer.np = sum(p.numel() for p in layer.parameters())
        save.update(j % i for j in (row[0] if isinstance(row[0], list) else [row[0]]) if j != -1)
    twin.__class__ = cls
    twin.model, twin.save, twin.yaml = nn.Sequential(*layers), sorted(save), description
    return twin


def load_whole_state(model: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Load a state dict of all tensors into a model, or leave it as it was.

    Args:
        model: The model.
        state: Name → tensor.
        name: Name of the model for the message.

    Raises:
        ModelError: The state dict is another model's.
    """
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    try:
        model.load_state_dict(state)
    except RuntimeError as e:
        model.load_state_dict(before)  # PyTorch has copied what fitted
        raise ModelError(f"this state dict is not that of {name}: {e}") from e
