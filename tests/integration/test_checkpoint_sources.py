"""Every source that is recognised, written by its tool's own layout; what it leaves untrained; how it fed images."""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel

from kdyolo import KDYOLO, load_backbone, read_checkpoint
from kdyolo.checkpoints.input_norm import InputNorm
from kdyolo.checkpoints.key_naming import load_key_map
from kdyolo.checkpoints.loading import checkpoint_arch, load_into, match
from kdyolo.errors import CheckpointError, ConfigError
from kdyolo.models.backbone import DistilledBackbone
from tests.builders.checkpoints import old_names

FAMILIES = ["yolov8", "yolo11", "yolo12", "yolo26"]
BACKBONE_LAYERS = {"yolov8": 10, "yolo11": 11, "yolo12": 9, "yolo26": 11}


@pytest.fixture(autouse=True)
def _safe_globals() -> Iterator[None]:
    """Ultralytics' restricted loader widens torch's list of safe classes for good; put it back."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    yield
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(before)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.pth"


def train_a_little(modules: nn.Module) -> None:
    """BatchNorms as training leaves them: statistics moved, batches counted."""
    generator = torch.Generator().manual_seed(3)
    for module in modules.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            assert module.num_batches_tracked is not None
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.running_mean, 0.0, 0.2, generator=generator)
            nn.init.uniform_(module.running_var, 0.1, 1.0, generator=generator)
            module.num_batches_tracked.fill_(12)


@cache
def detector(family: str = "yolov8") -> DetectionModel:
    """A stock detector that has been trained as a whole; not to be changed."""
    torch.manual_seed(0)
    model = DetectionModel(f"{family}n.yaml", verbose=False)
    train_a_little(model)
    return model.eval()


def backbone_of(model: DetectionModel, prefix: str = "", layers: int | None = None) -> dict[str, Tensor]:
    """A stock detector's backbone tensors, renamed ``<prefix>N.…``."""
    count = layers if layers is not None else BACKBONE_LAYERS[re.match(r"yolov?\d+", model.yaml["yaml_file"])[0]]  # type: ignore[index]
    numbered = {k.removeprefix("model."): v.clone() for k, v in model.state_dict().items()}
    return {f"{prefix}{k}": v for k, v in numbered.items() if int(k.partition(".")[0]) < count}


@torch.no_grad()
def features(model: DetectionModel, images: Tensor) -> list[Tensor]:
    """What a stock detector's own backbone layers give at P3, P4 and P5."""
    layers = BACKBONE_LAYERS[re.match(r"yolov?\d+", model.yaml["yaml_file"])[0]]  # type: ignore[index]
    maps: list[Tensor] = []
    for layer in model.model[:layers]:
        images = layer(images)
        maps.append(images)
    return [maps[4], maps[6], maps[-1]]


@contextlib.contextmanager
def foreign_module(name: str, **classes: Any) -> Iterator[None]:
    """A module of a package that is not installed, for as long as something of it is being pickled."""
    parts = name.split(".")
    parents = {".".join(parts[:i]): types.ModuleType(".".join(parts[:i])) for i in range(1, len(parts) + 1)}
    for attribute, thing in classes.items():
        thing.__module__, thing.__qualname__ = name, attribute
        setattr(parents[name], attribute, thing)
    sys.modules.update(parents)
    try:
        yield
    finally:
        for parent in parents:
            del sys.modules[parent]


def images(size: int = 64) -> Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def same_features(backbone: DistilledBackbone, model: DetectionModel) -> bool:
    return all(torch.equal(a, b) for a, b in zip(backbone(images()), features(model, images()), strict=True))


# ---- Ultralytics -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trained_ultralytics_checkpoint_gives_its_averaged_backbone(path: Path, family: str) -> None:
    # as BaseTrainer.save_model writes it: `model` None and the EMA in half precision, whose counters stand still
    model = DetectionModel(f"{family}n.yaml", verbose=False)
    train_a_little(model)
    for name, buffer in model.named_buffers():
        if name.endswith("num_batches_tracked") and ".9." in name:
            buffer.zero_()
    model = model.half().eval()
    torch.save({"epoch": 7, "model": None, "ema": model, "optimizer": None, "train_args": {"epochs": 9}}, path)
    checkpoint = read_checkpoint(path)
    assert checkpoint.source == "Ultralytics checkpoint (Ultralytics names)"
    assert (checkpoint.epoch, checkpoint.bn_eps, checkpoint.untrained) == (7, 1e-3, ())
    assert checkpoint.family == family
    backbone = load_backbone(path)
    assert backbone.arch.name == f"{family}n"
    assert same_features(backbone, model.float())
    report = match(backbone, checkpoint)
    assert report.dropped["neck and head"] > 0
    assert report.complete


def test_a_fused_model_is_named_as_such(path: Path) -> None:
    model = DetectionModel("yolov8n.yaml", verbose=False).fuse(verbose=False)
    torch.save({"model": model, "ema": None}, path)
    with pytest.raises(CheckpointError, match=r"fused into the convolutions: save the model before fuse"):
        load_backbone(path)


# ---- LightlyTrain ----------------------------------------------------------------------------------------------------


def lightly_trained(family: str = "yolov8") -> YOLO:
    """What LightlyTrain leaves: the layers before SPPF trained (YOLOv8), the others as they were initialised."""
    torch.manual_seed(0)
    yolo = YOLO(f"{family}n.yaml")
    train_a_little(yolo.model.model[: 9 if family == "yolov8" else BACKBONE_LAYERS[family]])
    return yolo


def lightly_file(kind: str, path: Path) -> YOLO:
    yolo = lightly_trained()
    if kind == "exported_last.pt":
        yolo.save(path)
    elif kind == "torch_state_dict":
        torch.save(yolo.state_dict(), path)
    else:
        torch.save(backbone_of(yolo.model, "wrapped_model._backbone.", 9), path)
    return yolo


@pytest.mark.parametrize("kind", ["exported_last.pt", "torch_state_dict", "embedding_model"])
def test_lightly_trains_exports_are_known_to_lack_sppf(path: Path, kind: str) -> None:
    yolo = lightly_file(kind, path)
    checkpoint = read_checkpoint(path, input_norm="0-1")
    assert checkpoint.kind == "LightlyTrain"
    backbone = DistilledBackbone("yolov8n")
    sppf = {k: v.clone() for k, v in backbone.layers.state_dict().items() if k.startswith("9.")}
    report = load_into(backbone, checkpoint)
    assert (report.matched, report.total, len(report.untrained)) == (150, 162, 12)
    assert report.left_out == backbone.left_out == ("9",)
    assert "untrained   12: layer 9" in report.table()
    half = kind == "exported_last.pt"
    expected = backbone_of(yolo.model.half().float() if half else yolo.model, layers=9)
    own = backbone.layers.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in (expected | sppf).items())


def test_lightly_trains_images_are_normalised_unless_told_otherwise(path: Path) -> None:
    lightly_file("torch_state_dict", path)
    assert read_checkpoint(path).input_norm == InputNorm.parse("imagenet")
    assert "imagenet mean and std, LightlyTrain's default" in load_report(path).table()
    assert read_checkpoint(path, input_norm="0-1").input_norm == InputNorm()


def load_report(path: Path, **keywords: Any) -> Any:
    checkpoint = read_checkpoint(path, **keywords)
    return load_into(DistilledBackbone(checkpoint_arch(checkpoint).name), checkpoint)


@pytest.mark.parametrize("family", ["yolo11", "yolo12", "yolo26"])
def test_of_the_other_families_the_whole_backbone_was_trained(path: Path, family: str) -> None:
    lightly_trained(family).save(path)
    report = load_report(path)
    assert report.complete
    assert report.untrained == ()
    torch.save(backbone_of(detector(family), "wrapped_model._backbone."), path)
    assert read_checkpoint(path).input_norm == InputNorm.parse("imagenet")  # certainly its own


@pytest.mark.parametrize("family", ["yolo11", "yolo12", "yolo26"])
def test_of_the_other_families_the_images_normalisation_is_said_to_be_assumed(path: Path, family: str) -> None:
    """Its exports look like those of anybody who trains an Ultralytics model's backbone alone."""
    yolo = lightly_trained(family)
    for save in (lambda: yolo.save(path), lambda: torch.save(yolo.state_dict(), path)):
        save()
        report = load_report(path)
        assert report.input_norm == "0-1 ASSUMED"
        assert re.search(r"images +0-1 ASSUMED.*LightlyTrain(.|\n)*say --input-norm imagenet", report.table())
        assert load_report(path, input_norm="0-1").input_norm == "0-1"
        assert load_report(path, input_norm="imagenet").input_norm == "imagenet mean and std, as given"
    torch.save({**yolo.state_dict(), "meta": {"input_norm": "0-1"}}, path)
    assert load_report(path).input_norm == "0-1"
    for certain in (detector(family).state_dict(), backbone_of(detector(family))):  # all trained, or nothing else in it
        torch.save({"state_dict": certain, "model_name": family}, path)
        assert load_report(path).input_norm == "0-1"
    train_a_little(yolo.model.model[BACKBONE_LAYERS[family] :])
    yolo.model.model[0].bn.num_batches_tracked.zero_()  # a part that is no tail says nothing
    torch.save(yolo.state_dict(), path)
    assert not read_checkpoint(path).norm_doubtful


def test_a_yolov8_whose_sppf_trained_is_not_lightly_trains(path: Path) -> None:
    yolo = lightly_trained()
    train_a_little(yolo.model.model[9])
    torch.save(yolo.state_dict(), path)
    report = load_report(path)
    assert (report.kind, report.input_norm, report.untrained) == ("Ultralytics", "0-1", ())


def test_lightly_trains_training_checkpoint_is_refused_with_the_way_out(path: Path) -> None:
    config = type("Config", (), {})
    with foreign_module("lightly_train._checkpoint", Config=config):
        torch.save({"state_dict": {}, "pytorch-lightning_version": "2.5", "lightly_train": config()}, path)
    with pytest.raises(CheckpointError, match=r"lightly_train\._checkpoint\.Config.*run lightly_train\.export"):
        read_checkpoint(path)


# ---- MMYOLO, MMDetection ---------------------------------------------------------------------------------------------

MM_LAYERS = ["stem", "stage1.0", "stage1.1", "stage2.0", "stage2.1", "stage3.0", "stage3.1"]
MM_LAYERS += ["stage4.0", "stage4.1", "stage4.2"]


def mm_names(tensors: dict[str, Tensor], prefix: str = "backbone.") -> dict[str, Tensor]:
    """Names as MMYOLO's own ``tools/model_converters/yolov8_to_mmyolo.py`` makes them."""
    out = {}
    for key, tensor in tensors.items():
        number, _, rest = key.partition(".")
        name = f"{MM_LAYERS[int(number)]}.{rest}"
        if ".m." in name:
            name = name.replace(".m.", ".blocks.").replace(".cv", ".conv")
        elif name.startswith("stage4.2"):
            name = name.replace(".cv", ".conv")
        else:
            name = name.replace(".cv1", ".main_conv").replace(".cv2", ".final_conv")
        out[prefix + name] = tensor
    return out


MM_CFG = """
default_scope = 'mmyolo'
model = dict(
    backbone=dict(norm_cfg=dict({eps}momentum=0.03, type='BN'), type='YOLOv8CSPDarknet', widen_factor=0.25),
    data_preprocessor=dict(bgr_to_rgb={rgb}, mean={mean}, std={std}, type='YOLOv5DetDataPreprocessor'),
    type='YOLODetector')
"""


def mm_checkpoint(path: Path, **cfg: Any) -> None:
    """What MMEngine's runner and EMA hook save: averaged weights as state_dict, objects beside them."""
    averaged = backbone_of(detector())
    raw = {k: v + 1 if v.is_floating_point() else v for k, v in averaged.items()}

    class HistoryBuffer:
        def __init__(self) -> None:
            self._log_history = np.arange(3.0)
            self._statistics_methods = OrderedDict(mean=mean)

    def mean(buffer: HistoryBuffer) -> float:
        return 0.0

    values = {"eps": "eps=0.001, ", "rgb": True, "mean": [0.0, 0.0, 0.0], "std": [255.0, 255.0, 255.0], **cfg}
    neck = {"neck.top_down_layers.0.main_conv.conv.weight": torch.ones(2), "bbox_head.head_module.x": torch.ones(2)}
    content = {
        "meta": {"epoch": 300, "iter": 9, "cfg": MM_CFG.format(**values), "dataset_meta": {"classes": ("a", "b")}},
        "state_dict": OrderedDict({**mm_names(averaged), **neck}),
        "ema_state_dict": OrderedDict({"steps": torch.tensor(4), **mm_names(raw, "module.backbone.")}),
        "message_hub": {"log_scalars": OrderedDict(loss=HistoryBuffer()), "runtime_info": {"lr": np.float64(0.1)}},
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": []},
        "param_schedulers": [{"last_step": 3}],
    }
    with foreign_module("mmengine.logging.history_buffer", HistoryBuffer=HistoryBuffer, mean=mean):
        torch.save(content, path)


def test_mmyolos_training_checkpoint_gives_the_averaged_backbone(path: Path) -> None:
    mm_checkpoint(path)
    checkpoint = read_checkpoint(path)
    assert checkpoint.source == "MMEngine checkpoint (MMYOLO names)"
    assert (checkpoint.epoch, checkpoint.bn_eps, checkpoint.input_norm) == (300, 1e-3, InputNorm())
    assert checkpoint.dropped == {"neck": 1, "bbox_head": 1, "ema_state_dict": 163, "optimizer": 1}
    assert same_features(load_backbone(path), detector())
    assert "mmengine" not in sys.modules


def test_mmyolos_published_weights_are_read(path: Path) -> None:
    torch.save({"meta": {"epoch": 500}, "state_dict": mm_names(backbone_of(detector()))}, path)
    assert same_features(load_backbone(path), detector())


def test_older_mmdetection_keeps_flattened_averages_in_the_state_dict(path: Path) -> None:
    tensors = mm_names(backbone_of(detector()))
    averages = {"ema_" + name.replace(".", "_"): tensor for name, tensor in tensors.items()}
    torch.save({"meta": {}, "state_dict": {**tensors, **averages}}, path)
    assert read_checkpoint(path).dropped == {"ema": 162}
    assert same_features(load_backbone(path), detector())


def test_mmyolos_configuration_is_believed(path: Path) -> None:
    mm_checkpoint(path, eps="", mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
    checkpoint = read_checkpoint(path)
    assert checkpoint.bn_eps == 1e-5  # PyTorch's, where the configuration sets none
    assert str(checkpoint.input_norm) == "imagenet"
    mm_checkpoint(path)
    rgb = read_checkpoint(path).tensors["0.conv.weight"]
    mm_checkpoint(path, rgb=False)
    assert torch.equal(read_checkpoint(path).tensors["0.conv.weight"], rgb.flip(1))


# ---- other loops -----------------------------------------------------------------------------------------------------


def test_a_lightning_modules_student_is_found_beside_its_teacher(path: Path) -> None:
    student = backbone_of(detector(), "model.student.model.")
    teacher = {f"model.teacher.blocks.{i}.attn.qkv.weight": torch.ones(2) for i in range(3)}
    attributes = type("AttributeDict", (dict,), {})
    with foreign_module("lightning_fabric.utilities.data", AttributeDict=attributes):
        content = {
            "epoch": 3,
            "global_step": 99,
            "pytorch-lightning_version": "2.5.0",
            "state_dict": OrderedDict({**student, **teacher, "model.projector.weight": torch.ones(2)}),
            "loops": {"fit_loop": {"state_dict": {}}},
            "callbacks": {"ModelCheckpoint": {"best_model_path": "a"}},
            "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}],
            "lr_schedulers": [],
            "hparams_name": "kwargs",
            "hyper_parameters": attributes(lr=0.1, bn_eps=2e-3, out=Path("runs")),
        }
        torch.save(content, path)
    checkpoint = read_checkpoint(path)
    assert checkpoint.source == "Lightning checkpoint (Ultralytics names)"
    assert checkpoint.dropped == {"teacher": 3, "projector": 1, "optimizer_states": 1}
    assert (checkpoint.epoch, checkpoint.bn_eps) == (3, 2e-3)
    assert same_features(load_backbone(path, bn_eps=1e-3), detector())


def test_torchdistills_checkpoint_is_read(path: Path) -> None:
    content = {
        "model": {**backbone_of(detector(), "module.")},
        "optimizer": {"state": {}, "param_groups": []},
        "best_value": 0.4,
        "lr_scheduler": {"last_epoch": 3},
        "args": argparse.Namespace(config="a.yaml", device=torch.device("cpu")),
    }
    torch.save(content, path)
    assert read_checkpoint(path).source == "torchdistill checkpoint (Ultralytics names)"
    assert same_features(load_backbone(path), detector())


def test_safetensors_metadata_goes_along(path: Path) -> None:
    meta = {"epoch": "12", "teacher": "dinov3", "family": "yolo26", "input_norm": "0-1"}
    save_file(backbone_of(detector("yolo26")), path, metadata=meta)
    checkpoint = read_checkpoint(path)
    assert (checkpoint.epoch, checkpoint.meta["teacher"]) == (12, "dinov3")
    assert same_features(load_backbone(path), detector("yolo26"))


# ---- a user's own names ----------------------------------------------------------------------------------------------

MAP = """
strip: [encoder]
layers:
  input: 0
  level#.down: null
  down1: 1
  {rest}
segments: {{bottlenecks: m, reduce: cv1, merge: cv2}}
bn_eps: 1.0e-3
"""


@pytest.fixture
def own_names(tmp_path: Path) -> tuple[Path, Path]:
    """A checkpoint with names of nobody's, and the map to them."""
    names = {str(i): f"block{i}" for i in range(2, 10)} | {"0": "input", "1": "down1"}
    inner = {"m": "bottlenecks", "cv1": "reduce", "cv2": "merge"}
    tensors = {}
    for key, tensor in backbone_of(detector()).items():
        layer, *rest = key.split(".")
        tensors[".".join(["encoder", names[layer], *(inner.get(s, s) for s in rest)])] = tensor
    torch.save({**tensors, "encoder.level3.down.weight": torch.ones(2)}, tmp_path / "own.pth")
    rest = "\n  ".join(f"block{i}: {i}" for i in range(2, 10))
    (tmp_path / "map.yaml").write_text(MAP.format(rest=rest))
    return tmp_path / "own.pth", tmp_path / "map.yaml"


def test_a_users_key_map_names_any_checkpoint(own_names: tuple[Path, Path]) -> None:
    file, key_map = own_names
    with pytest.raises(CheckpointError, match=r"no backbone tensor found.*--key-map"):
        read_checkpoint(file)
    # `level3.down` is no `level#`: patterns match whole segments, and it stands among the backbone's own
    with pytest.raises(CheckpointError, match=r"unexpected +1: encoder\.level3\.down\.weight"):
        load_backbone(file, key_map=key_map)
    key_map.write_text(key_map.read_text().replace("level#.down", "level*.down"))
    assert same_features(load_backbone(file, key_map=key_map), detector())
    assert read_checkpoint(file, key_map=key_map).kind == "map"


@pytest.mark.parametrize(
    ("text", "mistakes"),
    [
        ("[1, 2]", ["expected 'layers:'"]),
        ("layers: {a: b}", ["expected layer numbers.*a: b"]),
        ("layers: {a: 0}\nbn_eps: 7\ntypo: 1\nsegments: 3", ["bn_eps: must lie", "typo: unknown key", "segments: exp"]),
        ("layers: {a: 0}\ninput_norm: sometimes", ["input_norm must be 0-1, imagenet"]),
        ("layers: {a: 0}\nuntrained_tail: perhaps", ["untrained_tail: expected true or false; found 'perhaps'"]),
        ("a: [", ["not a YAML file"]),
        (f"layers: {{a: 0}}\ntelltale: '{'(' * 500}{')' * 500}'", ["telltale: "]),
        (f"layers: {{a: {'n' * 99_999}}}", ["expected layer numbers"]),
    ],
)
def test_mistakes_in_a_key_map_are_named_all_at_once(tmp_path: Path, text: str, mistakes: list[str]) -> None:
    (tmp_path / "map.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_key_map(tmp_path / "map.yaml")
    for mistake in mistakes:
        assert re.search(mistake, str(caught.value))
    assert len(str(caught.value)) < 1000


# ---- families --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["yolov8", "yolo12"])
def test_family_and_scale_are_found_from_bare_tensors(path: Path, family: str) -> None:
    torch.save(backbone_of(detector(family)), path)
    assert load_backbone(path).arch.name == f"{family}n"


@pytest.mark.parametrize("family", ["yolo11", "yolo26"])
def test_families_of_equal_shapes_are_told_apart_or_refused(path: Path, family: str) -> None:
    other = {"yolo11": "yolo26", "yolo26": "yolo11"}[family]
    torch.save(backbone_of(detector(family)), path)
    with pytest.raises(CheckpointError, match=r"ambiguous.*yolo11n and of yolo26n.*--model kdyolo11n\.yaml or"):
        load_backbone(path)
    assert same_features(load_backbone(path, family=family), detector(family))
    assert KDYOLO(f"kd{family}n.yaml", backbone=path).report.complete
    torch.save({"state_dict": backbone_of(detector(family)), "meta": {"model_name": f"{family}n"}}, path)
    assert same_features(load_backbone(path), detector(family))
    with pytest.raises(CheckpointError, match=rf"(?s)is {family}n's.*use --model kd{family}n\.yaml"):
        KDYOLO(f"kd{other}n.yaml", backbone=path)
    torch.save(detector(family).state_dict(), path)  # a neck and head say it too
    assert same_features(load_backbone(path), detector(family))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_wrong_model_is_told_which_one_fits(path: Path, family: str) -> None:
    torch.save(detector(family).state_dict(), path)
    wrong = "kdyolov8s.yaml" if family != "yolov8" else "kdyolo12n.yaml"
    with pytest.raises(CheckpointError, match=rf"use --model kd{family}n\.yaml"):
        KDYOLO(wrong, backbone=path)


# ---- input normalisation ---------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_folded_normalisation_is_exact_but_for_what_the_border_reaches(path: Path) -> None:
    torch.save(backbone_of(detector()), path)
    norm = InputNorm.parse("imagenet")
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (norm.mean, norm.std))
    x = images(128)
    original = detector().model[0]((x - mean) / std)
    folded = load_backbone(path, input_norm="imagenet").layers[0](x)
    assert torch.allclose(folded[..., 1:, 1:], original[..., 1:, 1:], atol=2e-5)
    assert not torch.allclose(folded[..., :1, :], original[..., :1, :], atol=1e-2)
    padded = nn.functional.pad(x - mean, (1, 1, 1, 1)) + mean  # a border of the mean colour is what it was trained with
    assert torch.allclose(detector_conv(path, padded), original, atol=2e-5)


def detector_conv(path: Path, padded: Tensor) -> Tensor:
    """The folded first layer on images that bring their own border."""
    layer = load_backbone(path, input_norm="imagenet").layers[0]
    layer.conv.padding = (0, 0)
    return layer(padded)  # type: ignore[no-any-return]


@torch.no_grad()
def test_a_folded_normalisation_is_exact_at_every_level_beyond_the_borders_reach(path: Path) -> None:
    torch.save(backbone_of(detector()), path)
    norm = InputNorm.parse("imagenet")
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (norm.mean, norm.std))
    x = images(320)
    original = load_backbone(path)((x - mean) / std)
    folded = load_backbone(path, input_norm="imagenet")(x)
    border = load_backbone(path)  # NaN spreads to whatever the border has a part in
    border.layers[0].conv.padding = (0, 0)
    reached = [f.isnan().any(1) for f in border(nn.functional.pad(x, (1, 1, 1, 1), value=float("nan")))]
    for level in (0, 1):  # P3 and P4; at P5, SPPF's pooling reaches across the whole of a small image
        inside = ~reached[level][:, None].expand_as(original[level])
        a, b = original[level], folded[level]
        assert 0.1 < inside.float().mean() < 0.9
        assert torch.allclose(a[inside], b[inside], atol=1e-4 * float(a.std()))
        assert not torch.allclose(a[~inside], b[~inside], atol=1e-2 * float(a.std()))
    assert reached[2].all()


@pytest.mark.parametrize("text", ["imagenet2", "1,2,3", "1,2,3/0,1,1", "a,b,c/1,1,1", "1,2/1,1", "nan,0,0/1,1,1"])
def test_a_normalisation_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="input_norm must be 0-1, imagenet, or three means"):
        InputNorm.parse(text)


# ---- training with what was injected, and nothing else, frozen -------------------------------------------------------


def test_only_what_was_injected_is_frozen(path: Path, train: Callable[..., KDYOLO]) -> None:
    lightly_file("torch_state_dict", path)
    expected = read_checkpoint(path).tensors
    seen: dict[int, dict[str, Tensor]] = {}
    groups: list[dict[str, Any]] = []

    def look(trainer: Any) -> None:
        layers = trainer.model.backbone.layers
        seen[trainer.epoch] = {k: v.clone() for k, v in layers.state_dict().items()}
        if trainer.epoch == 0:
            assert not any(p.requires_grad for p in layers[:9].parameters())
            assert all(p.requires_grad for p in layers[9].parameters())
            assert layers[9].training
            assert not layers[8].training
            sppf = {id(p) for p in layers[9].parameters()}
            groups.extend(g for g in trainer.optimizer.param_groups if sppf & {id(p) for p in g["params"]})

    train({"model": "kdyolov8n.yaml", "backbone": path}, {"on_train_epoch_end": look}, freeze_epochs=1)
    first, second = seen[0], seen[1]
    frozen = [name for name in first if not name.startswith("9.")]
    assert all(torch.equal(first[name], expected[name]) for name in frozen)
    assert int(first["9.cv1.bn.num_batches_tracked"]) > 0
    assert not torch.equal(first["9.cv1.conv.weight"], second["9.cv1.conv.weight"])
    assert not torch.equal(first["8.cv1.conv.weight"], second["8.cv1.conv.weight"])
    assert {g["part"] for g in groups} == {"head"}  # it learns at the head's rate
    kd = torch.load("run/weights/best.pt", weights_only=False)["model"].yaml["kd"]
    assert (kd["injected"], kd["left_out"], kd["source_kind"]) == ("150/162", ["9"], "LightlyTrain")


def test_within_a_layer_that_is_partly_filled_only_whole_modules_freeze(path: Path) -> None:
    tensors = backbone_of(detector())
    del tensors["4.m.0.cv1.bn.weight"]
    torch.save(tensors, path)
    backbone = DistilledBackbone("yolov8n")
    assert load_into(backbone, read_checkpoint(path), allow_partial=True).left_out == ("4.m.0.cv1.bn.weight",)
    p3 = backbone.names_in(["p3"])
    bn = {name for name in backbone.layers.state_dict() if name.startswith("4.m.0.cv1.bn.")}
    everything = {name for name in backbone.layers.state_dict() if name.partition(".")[0] in {"3", "4"}}
    assert p3 == everything - bn


def test_a_backbone_with_a_random_part_never_runs_folded() -> None:
    backbone = DistilledBackbone("yolov8n").eval()
    backbone.left_out = ("9",)
    backbone.set_folded(True)
    with torch.no_grad():
        before = backbone(images())[-1]
        nn.init.zeros_(backbone.layers[9].cv2.bn.weight)
        assert not torch.equal(backbone(images())[-1], before)


@pytest.mark.parametrize("family", ["yolo11", "yolo12", "yolo26"])
@torch.no_grad()
def test_frozen_backbones_of_every_family_give_the_same_folded(path: Path, family: str) -> None:
    torch.save({"state_dict": backbone_of(detector(family)), "meta": {"model_name": family}}, path)
    backbone = load_backbone(path)
    plain = backbone(images())
    backbone.set_folded(True)
    for a, b in zip(plain, backbone(images()), strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_old_systems_names_still_mean_the_old_systems_epsilon(path: Path) -> None:
    torch.save(old_names(DistilledBackbone("yolov8n")), path)
    assert (read_checkpoint(path).kind, read_checkpoint(path).bn_eps) == ("vfmkd", 1e-5)


@pytest.mark.parametrize("family", ["yolo11", "yolo12", "yolo26"])
def test_every_family_trains_frozen_and_leaves_a_stock_checkpoint(
    path: Path, train: Callable[..., KDYOLO], family: str
) -> None:
    torch.save({"state_dict": backbone_of(detector(family)), "meta": {"model_name": f"{family}n"}}, path)
    model = train({"backbone": path}, freeze_epochs="all")
    content = torch.load("run/weights/best.pt", weights_only=False)["model"]
    assert type(content) is DetectionModel
    assert content.yaml["yaml_file"] == f"{family}n.yaml"
    expected = backbone_of(detector(family))
    assert all(
        torch.equal(content.state_dict()[f"model.{k}"], v.to(torch.float16)) for k, v in expected.items() if "conv" in k
    )
    assert type(model.model.model[-1]).__name__ == "Detect"
    assert hasattr(model.model.model[-1], "one2one_cv2") is (family == "yolo26")
