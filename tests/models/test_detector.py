"""The detection model: equal to Ultralytics' own where widths agree, and stock again, bit for bit, whenever asked."""

from __future__ import annotations

import copy
import io
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn
from ultralytics.nn import tasks
from ultralytics.nn.tasks import DetectionModel, parse_model, torch_safe_load, yaml_model_load
from ultralytics.utils.torch_utils import get_flops, get_num_params

from kdyolo.errors import ModelError
from kdyolo.models.arch import UNCAPPED, Arch
from kdyolo.models.backbone import DistilledBackbone
from kdyolo.models.bn_folding import fold_bn_eps, output_difference, sample_outputs
from kdyolo.models.detector import KDDetectionModel, from_stock, resolve_description, to_stock
from kdyolo.models.model_yaml import is_nested
from kdyolo.models.yaml_layouts import describe_detector, to_stock_yaml
from kdyolo.utils.shipped_files import shipped
from tests.builders.detectors import (
    difference,
    foreign_classes,
    kd,
    outputs,
    rebuilt_by_ultralytics,
    stock,
    tensors_equal,
)

STRIDES = {
    "kdyolov8.yaml": [8, 16, 32],
    "kdyolov8-p2.yaml": [4, 8, 16, 32],
    "kdyolov8-p234.yaml": [4, 8, 16],
    "kdyolo11.yaml": [8, 16, 32],
    "kdyolo12.yaml": [8, 16, 32],
    "kdyolo26.yaml": [8, 16, 32],
}
UNCAPPED_P5 = {"n": 256, "s": 512, "m": 768, "l": 1024, "x": 1280}


def with_letter(file: str, scale: str) -> str:
    return re.sub(r"(yolov?\d+)", rf"\1{scale}", file)


@pytest.fixture
def safe_globals() -> Iterator[None]:
    """Ultralytics' restricted loading widens torch's list of safe classes for good; put it back."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    yield
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(before)


# ---- building --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", sorted(f for f in shipped("models") if "v8" in f))
@pytest.mark.parametrize("scale", UNCAPPED_P5)
def test_every_shipped_yaml_builds_at_every_scale(file: str, scale: str) -> None:
    model = KDDetectionModel(with_letter(file, scale), verbose=False)
    assert model.stride.tolist() == model.model[-1].stride.tolist() == STRIDES[file]
    assert list(model.backbone.strides) == STRIDES[file]
    assert isinstance(model.model[0], DistilledBackbone)
    if STRIDES[file][-1] == 32:
        assert model.backbone.channels[-1] == UNCAPPED_P5[scale]


@pytest.mark.parametrize("family", ["yolo11", "yolo12", "yolo26"])
@pytest.mark.parametrize("scale", "nsmlx")
def test_every_scale_of_every_family_has_the_stock_detectors_tensors(family: str, scale: str) -> None:
    def shapes(layers: nn.Module, prefix: str = "") -> dict[str, torch.Size]:
        return {f"{prefix}{name}": tensor.shape for name, tensor in layers.state_dict().items()}

    description, theirs = describe_detector(f"kd{family}{scale}.yaml"), yaml_model_load(f"{family}{scale}.yaml")
    with torch.device("meta"):
        stock_layers = shapes(parse_model(theirs, ch=3, verbose=False)[0])
        assert shapes(parse_model(to_stock_yaml(description), ch=3, verbose=False)[0]) == stock_layers
        backbone = DistilledBackbone(*description["backbone"][0][3])
    assert shapes(backbone.layers).items() <= stock_layers.items()
    assert list(backbone.strides) == STRIDES[f"kd{family}.yaml"]


@pytest.mark.parametrize(
    "name",
    [
        *("yolov8n", "yolov8s", "yolov8n-p2", "yolov8s-p2"),
        *("yolo11n", "yolo11m", "yolo12n", "yolo12s", "yolo26n", "yolo26s"),
    ],
)
def test_these_are_exactly_ultralytics_models(name: str) -> None:
    ours, theirs = kd(f"kd{name}.yaml"), stock(f"{name}.yaml")
    for p in ours.parameters():
        nn.init.constant_(p, 0.0)  # nothing of its own initialisation may be left
    ours.load_state_dict(theirs.state_dict())
    assert difference(ours, theirs) < 1e-5
    assert get_num_params(ours) == get_num_params(theirs)
    assert get_flops(ours, 320) == get_flops(theirs, 320) > 0
    assert ours.stride.equal(theirs.stride)


@pytest.mark.parametrize("name", ["yolov8m", "yolov8m-p2"])
def test_stock_widths_are_ultralytics_models_at_other_scales_too(name: str) -> None:
    ours, theirs = kd(f"{name}.yaml"), stock(f"{name}.yaml")
    ours.load_state_dict(theirs.state_dict())
    assert difference(ours, theirs) < 1e-5
    assert get_num_params(ours) == get_num_params(theirs)


@pytest.mark.parametrize("nc", [1, 7])
def test_the_number_of_classes_can_be_given(nc: int) -> None:
    model = kd(nc=nc)
    assert model.model[-1].nc == model.yaml["nc"] == nc
    assert outputs(model).shape[1] == 4 + nc


def test_the_backbones_epsilon_survives_ultralytics_initialisation() -> None:
    model = kd(bn_eps=1e-5)
    in_backbone = {m.eps for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d)}
    elsewhere = {m.eps for m in model.model[1:].modules() if isinstance(m, nn.BatchNorm2d)}
    assert (in_backbone, elsewhere) == ({1e-5}, {1e-3})
    assert {m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {0.03}


def test_a_checkpoints_widths_are_built() -> None:
    wide = KDDetectionModel("yolov8m.yaml", verbose=False, arch=Arch("yolov8", "m", UNCAPPED))
    assert wide.backbone.channels == (192, 384, 768)
    narrow = KDDetectionModel("kdyolov8m.yaml", verbose=False, arch=Arch.parse("yolov8m"))
    assert narrow.backbone.channels == (192, 384, 576)


@pytest.mark.parametrize("ch", [1, 4])
def test_images_that_are_not_rgb_are_refused(ch: int) -> None:
    with pytest.raises(ModelError, match=rf"3 channels\); the data set says {ch}"):
        KDDetectionModel("kdyolov8n.yaml", ch=ch, verbose=False)


def test_building_leaves_nothing_behind_in_ultralytics() -> None:
    assert "DistilledBackbone" not in vars(tasks)
    before = set(vars(tasks))
    KDDetectionModel("kdyolov8n.yaml", verbose=False)
    assert set(vars(tasks)) == before


def test_building_that_fails_leaves_nothing_behind_either(tmp_path: Path) -> None:
    content = yaml.safe_load(shipped("models")["kdyolov8.yaml"].read_text())
    content["head"][2][2] = "NoSuchLayer"  # after the backbone has been built
    (tmp_path / "kdyolov8n.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises((KeyError, ModelError), match="NoSuchLayer"):
        KDDetectionModel(tmp_path / "kdyolov8n.yaml", verbose=False)
    assert "DistilledBackbone" not in vars(tasks)


def test_an_unknown_layer_in_the_head_is_an_error_of_ours(tmp_path: Path) -> None:
    content = yaml.safe_load(shipped("models")["kdyolov8.yaml"].read_text())
    content["head"][2][2] = "NoSuchLayer"
    (tmp_path / "kdyolov8n.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ModelError, match="NoSuchLayer"):
        KDDetectionModel(tmp_path / "kdyolov8n.yaml", verbose=False)


def stock_shapes(flat: DetectionModel) -> tuple[dict[str, torch.Size], dict[str, torch.Size]]:
    """A stock-layout model's shapes, and those that Ultralytics builds from its YAML."""
    with torch.device("meta"):
        layers, _ = tasks.parse_model(copy.deepcopy(flat.yaml), 3, False)
    built = {name: t.shape for name, t in layers.state_dict().items()}
    return {name: t.shape for name, t in flat.model.state_dict().items()}, built


@pytest.mark.parametrize(
    ("scale", "change"),
    [
        pytest.param("l", {"cap": 1024}, id="as shipped"),
        pytest.param("l", {"cap": 512}, id="stock cap"),
        pytest.param("m", {"cap": 900}, id="cap between stock's and none"),
        pytest.param("m", {"classes": 1203}, id="typed classes"),
    ],
)
def test_a_users_widths_and_classes_survive_the_stock_layout(
    tmp_path: Path, scale: str, change: dict[str, int]
) -> None:
    content = yaml.safe_load(shipped("models")["kdyolov8.yaml"].read_text())
    content["backbone"][0][3][1] = change.get("cap", 1024)
    content["head"][-1][3] = [change.get("classes", "nc")]
    (tmp_path / f"mine-yolov8{scale}.yaml").write_text(yaml.safe_dump(content))
    ours, theirs = stock_shapes(to_stock(KDDetectionModel(tmp_path / f"mine-yolov8{scale}.yaml", verbose=False)))
    assert ours == theirs


def test_the_model_can_be_copied_and_pickled() -> None:
    model = kd()
    assert difference(copy.deepcopy(model), model) == 0.0
    assert difference(pickle.loads(pickle.dumps(model)), model) == 0.0


# ---- kdyolo layout ⇄ stock layout ------------------------------------------------------------------------------------


def shared_memory(a: nn.Module, b: nn.Module) -> bool:
    """Whether two models have the same tensors, not only equal ones."""

    def places(model: nn.Module) -> list[int]:
        return sorted(t.data_ptr() for t in (*model.parameters(), *model.buffers()))

    return places(a) == places(b)


NAMES = ["kdyolov8n.yaml", "kdyolov8n-p2.yaml", "kdyolov8n-p234.yaml", "kdyolov8m.yaml"]


@pytest.mark.parametrize("name", NAMES)
def test_the_stock_model_is_the_same_network_in_stock_classes(name: str) -> None:
    model = kd(name, bn_eps=1e-5)
    flat = to_stock(model)
    assert type(flat) is DetectionModel
    assert foreign_classes(flat) == set()
    assert foreign_classes(model) == {
        "kdyolo.models.detector.KDDetectionModel",
        "kdyolo.models.backbone.DistilledBackbone",
    }
    assert difference(flat, model) == 0.0
    assert shared_memory(flat, model)
    assert not is_nested(flat.yaml)
    assert flat.stride.equal(model.stride)
    assert [layer.i for layer in flat.model] == list(range(len(flat.model)))
    assert type(model) is KDDetectionModel  # the original is what it was
    assert is_nested(model.yaml)
    assert isinstance(model.model[0], DistilledBackbone)


@pytest.mark.parametrize("name", NAMES)
def test_the_way_back_gives_the_same_model(name: str) -> None:
    model = kd(name, bn_eps=1e-5)
    back = from_stock(to_stock(model), model.yaml)
    assert type(back) is KDDetectionModel
    assert shared_memory(back, model)
    assert tensors_equal(back.state_dict(), model.state_dict())
    assert difference(back, model) == 0.0
    assert back.yaml == model.yaml
    assert (back.backbone.bn_eps, back.backbone.levels) == (1e-5, model.backbone.levels)
    assert (back.backbone.channels, back.backbone.strides) == (model.backbone.channels, model.backbone.strides)


@pytest.mark.parametrize("name", ["yolov8n.yaml", "yolov8s-p2.yaml", "yolov8m.yaml"])
def test_a_stock_detector_gets_the_kdyolo_layout_from_its_own_yaml(name: str) -> None:
    theirs = stock(name)
    before = set(theirs.state_dict())
    nested = from_stock(theirs)
    assert isinstance(nested.backbone, DistilledBackbone)
    assert shared_memory(nested, theirs)
    assert difference(nested, theirs) == 0.0
    assert tensors_equal(to_stock(nested).state_dict(), theirs.state_dict())
    assert set(theirs.state_dict()) == before
    assert type(theirs) is DetectionModel


def test_weights_of_another_scale_keep_their_own_widths() -> None:
    # KDDetectionModel.load compares shapes afterwards, and can then say which scale the weights are of.
    nested = from_stock(stock("yolov8s.yaml"), kd("kdyolov8n.yaml").yaml)
    assert nested.backbone.arch.name == "yolov8s"
    assert [row[3][0] for row in nested.yaml["backbone"][1:]] == list(nested.backbone.channels) == [128, 256, 512]


def test_training_the_one_trains_the_other() -> None:
    model = kd()
    flat = to_stock(model)
    with torch.no_grad():
        model.backbone.layers[4].cv1.conv.weight.mul_(2.0)
        flat.model[-1].cv2[0][2].bias.add_(1.0)
    assert torch.equal(flat.model[4].cv1.conv.weight, model.backbone.layers[4].cv1.conv.weight)
    assert difference(flat, model) == 0.0


def test_what_ultralytics_attaches_to_a_model_travels_along() -> None:
    model = kd(nc=2)
    model.names, model.args, model.task = {0: "cat", 1: "dog"}, {"imgsz": 64}, "detect"
    model.yaml["kd"] = {"freeze_epochs": 3}
    model.train()
    flat = to_stock(model)
    assert (flat.names, flat.args, flat.task) == (model.names, model.args, "detect")
    assert flat.yaml["kd"] == {"freeze_epochs": 3}
    assert flat.training
    assert all(m.training for m in flat.modules())
    assert from_stock(flat).yaml["kd"] == {"freeze_epochs": 3}


def test_requires_grad_is_kept() -> None:
    model = kd()
    for p in model.backbone.parameters():
        p.requires_grad = False
    flat = to_stock(model)
    assert not any(p.requires_grad for p in flat.model[:10].parameters())
    assert any(p.requires_grad for p in flat.model[10:].parameters())


@pytest.mark.parametrize("name", [*NAMES, "kdyolov8m-p2.yaml", "kdyolov8m-p234.yaml", "kdyolov8l.yaml"])
def test_a_stock_rebuild_from_the_stock_yaml_is_the_same_network(name: str) -> None:
    # Fine-tuning and YOLO("x.pt").train() do this. Widths of m, l and x are not the stock scale's.
    flat = to_stock(kd(name))
    rebuilt = DetectionModel(copy.deepcopy(flat.yaml), verbose=False)
    rebuilt.load_state_dict(flat.state_dict())
    assert difference(rebuilt, flat) == 0.0
    assert rebuilt.stride.equal(flat.stride)


def test_the_widest_backbone_is_rebuilt_too() -> None:
    ours, theirs = stock_shapes(to_stock(KDDetectionModel("kdyolov8x.yaml", nc=3, verbose=False)))
    assert ours == theirs
    assert theirs["9.cv2.conv.weight"][0] == UNCAPPED_P5["x"]


@pytest.mark.parametrize("name", ["yolov5n.yaml", "yolov8n-ghost.yaml"])
def test_a_detector_of_another_family_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="backbone rows are not those of yolov8"):
        from_stock(DetectionModel(name, verbose=False))


@pytest.mark.usefixtures("safe_globals")
def test_a_saved_stock_model_opens_under_ultralytics_restricted_loading(tmp_path: Path) -> None:
    model = kd("kdyolov8n-p2.yaml", nc=3)
    model.yaml["kd"] = {"freeze_epochs": 3, "bn_eps": 1e-3, "backbone": "ckpt.pth"}
    torch.save({"epoch": -1, "model": to_stock(model), "ema": None}, tmp_path / "stock.pt")
    torch.save({"epoch": -1, "model": model, "ema": None}, tmp_path / "nested.pt")
    loaded = torch_safe_load(tmp_path / "stock.pt", safe_only=True)[0]["model"]
    assert type(loaded) is DetectionModel
    assert difference(loaded, model) == 0.0
    assert loaded.yaml["kd"] == model.yaml["kd"]
    with pytest.raises(TypeError, match="outside the supported Ultralytics checkpoint format"):
        torch_safe_load(tmp_path / "nested.pt", safe_only=True)  # which is why everything written is stock


# ---- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["yolov8n", "yolov8n-p2"])
def test_a_state_dict_of_either_layout_is_loaded(name: str) -> None:
    source = kd(f"kd{name}.yaml")
    for state in (source.state_dict(), to_stock(source).state_dict()):
        target = KDDetectionModel(f"kd{name}.yaml", verbose=False)
        result = target.load_state_dict(state)
        assert (result.missing_keys, result.unexpected_keys) == ([], [])
        assert tensors_equal(target.state_dict(), source.state_dict())


def test_a_state_dict_that_does_not_fit_is_refused() -> None:
    state = stock().state_dict()
    with pytest.raises(RuntimeError, match=r"Missing key.*model\.0\.layers\.3\.conv\.weight"):
        kd().load_state_dict({k: v for k, v in state.items() if k != "model.3.conv.weight"})
    with pytest.raises(RuntimeError, match="size mismatch"):
        kd().load_state_dict(stock("yolov8s.yaml").state_dict())


@pytest.mark.parametrize("name", ["model.40.weight", "criterion.weight", "anchors"])
def test_a_state_dict_with_a_foreign_tensor_is_refused(name: str) -> None:
    with pytest.raises(RuntimeError, match="Unexpected key"):
        kd().load_state_dict({**stock().state_dict(), name: torch.ones(1)})


@pytest.mark.parametrize(
    ("number", "place"), [(0, "0.layers.0"), (9, "0.layers.9"), (10, "4"), (12, "6"), (15, "9"), (22, "16")]
)
def test_every_stock_layer_has_its_place(number: int, place: str) -> None:
    model = kd()
    assert model.nested_layer(number) == place
    assert model.nested_name(f"model.{number}.x.weight") == f"model.{place}.x.weight"
    stock_class = type(stock().model[number])
    assert type(model.get_submodule(f"model.{place}")) is stock_class


@pytest.mark.parametrize("kind", ["stock", "kdyolo", "checkpoint", "ema"])
def test_a_whole_detectors_weights_are_taken_completely(kind: str) -> None:
    source = stock()
    expected = outputs(source)
    weights: Any = {
        "stock": source,
        "kdyolo": from_stock(source),
        "checkpoint": {"model": source, "ema": None},
        "ema": {"model": None, "ema": source},
    }[kind]
    model = KDDetectionModel("kdyolov8n.yaml", verbose=False)
    model.load(weights, verbose=False)
    assert torch.equal(outputs(model), expected)
    with torch.no_grad():  # taken, not shared: training must not change the source
        model.backbone.layers[0].conv.weight.zero_()
    assert torch.equal(outputs(source), expected)


def test_with_another_number_of_classes_all_but_the_class_head_is_taken() -> None:
    source, model = stock("yolov8n.yaml", nc=80), KDDetectionModel("kdyolov8n.yaml", nc=3, verbose=False)
    model.load(source, verbose=False)
    given, loaded = source.state_dict(), to_stock(model).state_dict()
    kept = [name for name in given if ".cv3." not in name]
    assert any(name.startswith("model.22.cv2.") for name in kept)
    assert [name for name in kept if not torch.equal(loaded[name], given[name])] == []
    assert outputs(model).shape[1] == 4 + 3


@pytest.mark.parametrize("weights", ["kdyolov8m.yaml", "yolov8m.yaml"])
def test_weights_of_equal_scale_but_other_widths_are_pointed_to_the_yaml_that_fits(weights: str) -> None:
    """kdyolov8m.yaml is wider at P5 than yolov8m.yaml: naming the scale alone would send users in a circle."""
    other = {"yolov8m.yaml": "kdyolov8m.yaml", "kdyolov8m.yaml": "yolov8m.yaml"}[weights]
    with pytest.raises(ModelError, match=rf"use --model {re.escape(weights)}"):
        KDDetectionModel(other, verbose=False).load(KDDetectionModel(weights, verbose=False), verbose=False)


@pytest.mark.parametrize(("model", "weights"), [("n", "s"), ("s", "n")])
def test_weights_of_another_scale_are_refused_and_the_fitting_scale_named(model: str, weights: str) -> None:
    target = KDDetectionModel(f"kdyolov8{model}.yaml", verbose=False)
    before, description = {name: t.clone() for name, t in target.state_dict().items()}, copy.deepcopy(target.yaml)
    with pytest.raises(ModelError, match=rf"do not fit.*fits yolov8{weights}: use --model kdyolov8{weights}\.yaml"):
        target.load(stock(f"yolov8{weights}.yaml"), verbose=False)
    assert tensors_equal(target.state_dict(), before)
    assert target.yaml == description


def test_weights_of_another_structure_are_refused() -> None:
    with pytest.raises(ModelError, match=r"weights of another structure: yolov8n\.yaml has 23 layers.*these have 29"):
        kd().load(stock("yolov8n-p2.yaml"), verbose=False)


# ---- the epsilon -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["kdyolov8n.yaml", "kdyolov8n-p234.yaml"])
def test_a_folded_epsilon_changes_no_output_and_survives_a_stock_rebuild(name: str) -> None:
    flat = to_stock(kd(name, bn_eps=1e-5))
    flat.yaml["kd"] = {"bn_eps": 1e-5}
    folded = copy.deepcopy(flat)
    fold_bn_eps(folded)
    assert difference(folded, flat) < 1e-5
    assert {m.eps for m in folded.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-3}
    assert folded.yaml["kd"]["bn_eps"] == 1e-3
    assert difference(rebuilt_by_ultralytics(folded), flat) < 1e-5
    assert difference(rebuilt_by_ultralytics(flat), flat) > 1e-4  # without folding, the rebuild is another network


def test_folding_touches_scales_of_the_backbone_only() -> None:
    flat = to_stock(kd(bn_eps=1e-5))
    folded = copy.deepcopy(flat).half()
    before = {name: t.clone() for name, t in folded.state_dict().items()}
    fold_bn_eps(folded)
    for name, tensor in folded.state_dict().items():
        if re.fullmatch(r"model\.\d\..*bn\.weight", name):
            assert tensor.dtype == torch.float32  # a second rounding to half would lose what the factor says
            assert not torch.equal(tensor, before[name].float())
        else:
            assert tensor.dtype == before[name].dtype
            assert torch.equal(tensor, before[name])


def test_folding_twice_or_without_need_changes_nothing() -> None:
    flat = to_stock(kd(bn_eps=1e-5))
    fold_bn_eps(flat)
    before = {name: t.clone() for name, t in flat.state_dict().items()}
    fold_bn_eps(flat)
    assert tensors_equal(flat.state_dict(), before)


def test_folding_keeps_frozen_parameters_frozen() -> None:
    flat = to_stock(kd(bn_eps=1e-5))
    for p in flat.model[:10].parameters():
        p.requires_grad = False
    fold_bn_eps(flat)
    assert not any(p.requires_grad for p in flat.model[:10].parameters())


def test_a_difference_of_outputs_sees_small_and_impossible_ones() -> None:
    def largest_difference(a: nn.Module, b: nn.Module) -> float:
        return output_difference(sample_outputs(a), sample_outputs(b))

    model = kd()
    other = copy.deepcopy(model)
    assert largest_difference(model, other) == 0.0
    assert largest_difference(copy.deepcopy(model).half(), other) < 1e-2  # compared in float32
    with torch.no_grad():
        other.backbone.layers[9].cv2.bn.bias.add_(0.1)
    assert largest_difference(model, other) > 1e-4
    with torch.no_grad():
        other.backbone.layers[0].conv.weight.fill_(float("nan"))
    assert largest_difference(model, other) == float("inf")


@pytest.mark.parametrize("half", [False, True])
def test_sampling_outputs_leaves_no_trace_in_a_model(half: bool) -> None:
    def saved() -> bytes:
        torch.save(model, content := io.BytesIO())
        return content.getvalue()

    model = to_stock(kd(bn_eps=1e-5)).train()
    model = model.half() if half else model
    next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
    before, tensors = saved(), [t.data_ptr() for t in model.state_dict().values()]
    assert sample_outputs(model, imgsz=96)[0].dtype == torch.float32
    assert saved() == before
    assert [t.data_ptr() for t in model.state_dict().values()] == tensors
    assert [p.grad.dtype for p in model.parameters() if p.grad is not None] == [next(model.parameters()).dtype]


def test_a_detector_of_nothing_is_refused() -> None:
    with pytest.raises(ModelError, match="no model: expected a model YAML"):
        resolve_description(None, None, None, None)


def test_a_description_without_a_known_backbone_whose_weights_fit_none_is_refused() -> None:
    rows = {"backbone": [[-1, 1, "nn.Conv2d", [3, 3, 3, 2]]], "head": [[[0], 1, "Detect", ["nc"]]]}
    weights = DetectionModel({"nc": 2, **rows}, nc=2, verbose=False)
    with pytest.raises(ModelError, match="model YAML: expected scales"):
        resolve_description(dict(weights.yaml), weights, None, None)
