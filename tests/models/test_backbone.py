"""load_backbone: the module computes what the distilled network computed, for every scale, or says why it cannot."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import LOGGER

from kdyolo.checkpoints.load_report import LoadReport
from kdyolo.checkpoints.loading import changed_tensors, checkpoint_arch, load_backbone, load_into, match
from kdyolo.checkpoints.reader import read_checkpoint
from kdyolo.errors import CheckpointError, ModelError
from kdyolo.models import arch, arch_matching
from kdyolo.models.arch import UNCAPPED, Arch, build_layers, layer_shapes, level_taps
from kdyolo.models.arch_matching import fit_arch
from kdyolo.models.backbone import DistilledBackbone

STAGES = ["stem", *(f"stage{stage}.{i}" for stage in (1, 2, 3) for i in (0, 1)), "stage4.0", "stage4.1", "stage4.2"]
OLDER = {"cv1": "main_conv", "cv2": "final_conv", "m": "blocks"}
# scale → tensors, P5 channels as distilled and as in stock YOLOv8
SCALES = {
    "n": (162, 256, 256),
    "s": (162, 512, 512),
    "m": (234, 768, 576),
    "l": (306, 1024, 512),
    "x": (306, 1280, 640),
}
COUNTER = "num_batches_tracked"


@cache
def stock_detector(scale: str) -> DetectionModel:
    """A stock detector whose BatchNorm statistics look trained; not to be changed."""
    torch.manual_seed(0)
    model = DetectionModel(f"yolov8{scale}.yaml", verbose=False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, 0.0, 0.1)
            nn.init.uniform_(module.running_var, 0.005, 1.0)
    return model.eval()


def yolov8_names(scale: str) -> dict[str, Tensor]:
    """The backbone's tensors of that detector under YOLOv8's names; not to be changed."""
    return stock_detector(scale).model[:10].state_dict()


def old_names(tensors: dict[str, Tensor], prefix: str = "", older: bool = False) -> dict[str, Tensor]:
    """YOLOv8's names → the old system's, or those of its older C2f."""
    renamed = {}
    for name, tensor in tensors.items():
        layer, *rest = name.split(".")
        if older and layer in "2468":  # the C2f blocks; bottlenecks inside them kept cv1 and cv2
            rest[0] = OLDER[rest[0]]
        renamed[".".join((prefix + STAGES[int(layer)], *rest))] = tensor
    return renamed


def resume_file(tensors: dict[str, Tensor], path: Path, **more: Any) -> Path:
    torch.save({"backbone": tensors, "edge_head": {"weight": torch.ones(2)}, "epoch": 4, "config": {}, **more}, path)
    return path


def layout_resume(tensors: dict[str, Tensor], path: Path) -> None:
    resume_file(old_names(tensors, "_orig_mod.backbone.csp_darknet."), path)


def layout_clean(tensors: dict[str, Tensor], path: Path) -> None:
    torch.save({"meta": {"epoch": 4}, "state_dict": old_names(tensors, older=True), "adapter_state_dict": {}}, path)


def layout_bare(tensors: dict[str, Tensor], path: Path) -> None:
    torch.save(old_names(tensors, "module.backbone.backbone."), path)


def layout_safetensors(tensors: dict[str, Tensor], path: Path) -> None:
    save_file({name: t.contiguous() for name, t in tensors.items()}, path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "epoch_4_model.pth"


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """What Ultralytics' logger, which does not propagate, warns of."""
    messages: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    handler = Collect(logging.WARNING)
    LOGGER.addHandler(handler)
    yield messages
    LOGGER.removeHandler(handler)


def error_of(call: Callable[..., object], *args: Any, **keywords: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        call(*args, **keywords)
    return str(caught.value)


# ---- the original network is reproduced ------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def original(shared: Path) -> tuple[Path, dict[str, Tensor]]:
    """The real resume file, and an input with the features that the original network gives for it."""
    with np.load(shared / "checkpoints" / "vfmkd_n_expected.npz") as file:
        return shared / "checkpoints" / "vfmkd_n_resume.pth", {k: torch.from_numpy(file[k]) for k in file.files}


def relative_error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


@torch.no_grad()
def test_the_real_backbone_gives_the_original_features(original: tuple[Path, dict[str, Tensor]]) -> None:
    path, expected = original
    levels = ("P2", "P3", "P4", "P5")
    backbone = load_backbone(path, levels=levels)
    for level, feature in zip(levels, backbone(expected["x"]), strict=True):
        assert relative_error(feature, expected[level.lower()]) < 1e-4, level
    assert relative_error(backbone.layers[1](backbone.layers[0](expected["x"])), expected["p2_conv"]) < 1e-4
    assert backbone.bn_eps == 1e-5


@torch.no_grad()
def test_with_ultralytics_epsilon_it_would_not(original: tuple[Path, dict[str, Tensor]]) -> None:
    path, expected = original
    for level, feature in zip(("p3", "p4", "p5"), load_backbone(path, bn_eps=1e-3)(expected["x"]), strict=True):
        assert relative_error(feature, expected[level]) > 1e-3, level


@torch.no_grad()
@pytest.mark.parametrize("scale", ["n", "s", "m"])
def test_features_equal_those_inside_the_stock_detector(path: Path, scale: str) -> None:
    # Ultralytics' names stand for weights trained by Ultralytics: eps 1e-3.
    torch.save({f"model.model.{k}": v for k, v in yolov8_names(scale).items()}, path)
    x = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    features, inside = load_backbone(path)(x), x
    for i, layer in enumerate(stock_detector(scale).model[:10]):
        inside = layer(inside)
        if i in (4, 6, 9):
            assert torch.equal(features.pop(0), inside)
    assert features == []


# ---- every layout and scale ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["n", "s"])
@pytest.mark.parametrize("layout", [layout_resume, layout_clean, layout_bare, layout_safetensors])
def test_every_layout_fills_the_backbone_bit_for_bit(
    path: Path, scale: str, layout: Callable[[dict[str, Tensor], Path], None]
) -> None:
    tensors = yolov8_names(scale)
    layout(tensors, path)
    backbone = load_backbone(path)
    loaded = backbone.layers.state_dict()
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    assert backbone.arch.name == f"yolov8{scale}"


@pytest.mark.parametrize(("scale", "capped"), [("m", False), ("m", True), ("l", False), ("l", True), ("x", False)])
def test_wide_scales_are_recognised_with_and_without_the_cap(path: Path, scale: str, capped: bool) -> None:
    torch.manual_seed(0)
    arch = Arch.parse(f"yolov8{scale}", None if capped else UNCAPPED)
    tensors = {k: v.half() for k, v in build_layers(arch).state_dict().items()}
    layout_resume(tensors, path)
    backbone = load_backbone(path)
    count, uncapped_p5, capped_p5 = SCALES[scale]
    assert backbone.arch.name == f"yolov8{scale}"
    assert backbone.channels[-1] == (capped_p5 if capped else uncapped_p5)
    loaded = backbone.layers.state_dict()
    assert len(loaded) == count
    assert all(torch.equal(loaded[name], tensors[name].to(loaded[name].dtype)) for name in tensors)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("capped", [True, False])
def test_each_scale_is_told_from_its_shapes(scale: str, capped: bool) -> None:
    arch = Arch.parse(f"yolov8{scale}", None if capped else UNCAPPED)
    with torch.device("meta"):
        shapes = {name: t.shape for name, t in build_layers(arch).state_dict().items()}
    found, agreeing = fit_arch(shapes)
    count, *channels = SCALES[scale]
    assert found == arch
    assert len(shapes) == count
    assert agreeing == sum(not name.endswith(COUNTER) for name in shapes)
    assert layer_shapes(found)[-1].channels == channels[capped]


@pytest.mark.parametrize("scale", SCALES)
def test_a_scale_is_told_from_a_part_of_its_shapes(scale: str) -> None:
    # Bottlenecks missing, as in a partial export: l and m differ only in depth and width.
    with torch.device("meta"):
        state = build_layers(Arch("yolov8", scale, UNCAPPED)).state_dict()
    assert fit_arch({k: v.shape for k, v in state.items() if ".m." not in k})[0].name == f"yolov8{scale}"


def test_loading_in_half_precision_gives_float32_weights(path: Path) -> None:
    tensors = {k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in yolov8_names("n").items()}
    layout_resume(tensors, path)
    for name, tensor in load_backbone(path).layers.state_dict().items():
        assert tensor.dtype == (torch.int64 if name.endswith(COUNTER) else torch.float32)
        assert torch.equal(tensor.double(), tensors[name].double())


def test_the_module_is_ready_to_use(path: Path) -> None:
    layout_resume(yolov8_names("s"), path)
    backbone = load_backbone(path)
    assert isinstance(backbone, nn.Module)
    assert not any(module.training for module in backbone.modules())
    assert (backbone.channels, backbone.strides) == ((128, 256, 512), (8, 16, 32))
    features = backbone(torch.rand(2, 3, 96, 64))
    assert [tuple(f.shape) for f in features] == [(2, 128, 12, 8), (2, 256, 6, 4), (2, 512, 3, 2)]
    assert all(m.momentum == 0.03 for m in backbone.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize(
    ("levels", "channels", "strides"),
    [
        (["P2", "P3", "P4"], (32, 64, 128), (4, 8, 16)),
        (["P2", "P3", "P4", "P5"], (32, 64, 128, 256), (4, 8, 16, 32)),
        (("P4",), (128,), (16,)),
    ],
)
def test_levels_choose_what_forward_returns(
    path: Path, levels: list[str], channels: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    layout_resume(yolov8_names("n"), path)
    backbone = load_backbone(path, levels=levels)
    assert (backbone.channels, backbone.strides) == (channels, strides)
    shapes = [tuple(f.shape) for f in backbone(torch.rand(1, 3, 64, 64))]
    assert shapes == [(1, c, 64 // s, 64 // s) for c, s in zip(channels, strides, strict=True)]


@pytest.mark.parametrize(("recorded", "given", "used"), [(None, None, 1e-5), (2e-3, None, 2e-3), (2e-3, 4e-4, 4e-4)])
def test_the_epsilon_of_the_file_or_the_caller_is_on_every_batchnorm(
    path: Path, recorded: float | None, given: float | None, used: float
) -> None:
    resume_file(old_names(yolov8_names("n")), path, config={"bn_eps": recorded} if recorded else {})
    backbone = load_backbone(path, bn_eps=given)
    assert {m.eps for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)} == {used}
    assert backbone.bn_eps == used


# ---- reports ---------------------------------------------------------------------------------------------------------


def test_the_summary_of_the_real_file(original: tuple[Path, dict[str, Tensor]]) -> None:
    path, _ = original
    report = load_into(DistilledBackbone("yolov8n"), read_checkpoint(path))
    assert report.summary() == (
        "backbone: yolov8n · 162/162 tensors · 1,277,707 values · from epoch 4 of vfmkd_n_resume.pth"
    )
    assert report.complete
    assert re.search(r"dropped .*edge_adapter \(2\), edge_head \(2\), feature_adapter \(2\)", report.table())


def test_the_summary_of_scale_s(path: Path) -> None:
    layout_resume(yolov8_names("s"), path)
    report = load_into(DistilledBackbone("yolov8s"), read_checkpoint(path))
    assert report.summary() == (
        "backbone: yolov8s · 162/162 tensors · 5,089,787 values · from epoch 4 of epoch_4_model.pth"
    )
    assert (report.to_dict()["matched"], report.to_dict()["missing"]) == (162, [])


def test_layers_that_are_not_built_are_dropped_and_counted(path: Path) -> None:
    resume_file(old_names(yolov8_names("n")), path)
    report = load_into(DistilledBackbone("yolov8n", levels=("P2", "P3", "P4")), read_checkpoint(path))
    deeper = sum(int(name.split(".")[0]) > 6 for name in yolov8_names("n"))
    assert report.dropped == {"edge_head": 1, "layers deeper than P4": deeper}
    assert report.matched == report.total == 162 - deeper
    assert report.complete


# ---- LightlyTrain ----------------------------------------------------------------------------------------------------


def test_lightly_train_torch_state_dict_drops_and_counts_neck_and_head(path: Path) -> None:
    state = {f"model.{name}": t for name, t in stock_detector("n").state_dict().items()}
    assert {"model.model.0.conv.weight", "model.model.22.dfl.conv.weight"} <= state.keys()
    torch.save(state, path)
    backbone = load_backbone(path)
    report = match(backbone, read_checkpoint(path))
    assert report.complete
    assert report.dropped == {"neck and head": len(state) - 162}
    assert (report.matched, report.bn_eps) == (162, 1e-3)
    assert changed_tensors(backbone, read_checkpoint(path).tensors) == []


@pytest.fixture
def embedding_model(path: Path) -> Path:
    """LightlyTrain's ``part="embedding_model"``: layers 0–8, no SPPF."""
    tensors = {k: v for k, v in yolov8_names("n").items() if not k.startswith("9.")}
    torch.save({f"wrapped_model._backbone.{name}": t for name, t in tensors.items()}, path)
    return path


def test_lightly_trains_embedding_model_lacks_the_sppf_which_is_known(
    embedding_model: Path, warnings: list[str]
) -> None:
    backbone = load_backbone(embedding_model, input_norm="0-1")
    loaded = backbone.layers.state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in yolov8_names("n").items() if not k.startswith("9."))
    assert backbone.left_out == ("9",)
    assert any("150/162 tensors" in message and "untrained   12: layer 9" in message for message in warnings)


def test_other_layers_that_it_lacks_are_missed(embedding_model: Path, path: Path) -> None:
    tensors = torch.load(embedding_model, weights_only=True)
    torch.save({k: v for k, v in tensors.items() if "_backbone.4." not in k}, path)
    message = error_of(load_backbone, path)
    assert "missing 36" in message
    assert "--allow-partial" in message


def test_a_complete_load_warns_of_nothing(path: Path, warnings: list[str]) -> None:
    layout_resume(yolov8_names("n"), path)
    load_backbone(path)
    assert warnings == []


# ---- strict ----------------------------------------------------------------------------------------------------------

PREFIX = "_orig_mod.backbone.csp_darknet."


def without(tensors: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {k: v for k, v in tensors.items() if k not in {PREFIX + name for name in names}}


def faulty(kind: str) -> dict[str, Tensor]:
    tensors = old_names(yolov8_names("n"), PREFIX)
    if kind == "missing":
        return without(tensors, "stage2.0.conv.weight", "stage4.2.cv1.bn.bias")
    if kind == "unexpected":
        return {**tensors, f"{PREFIX}stage1.1.attention.weight": torch.ones(2), f"{PREFIX}stage5.x": torch.ones(2)}
    return {**tensors, f"{PREFIX}stage2.0.conv.weight": torch.ones(64, 32, 1, 1)}


FAULTS = {
    "missing": (
        "matched 160 of 162, missing 2, unexpected 0, wrong shape 0",
        r"missing +2: 3\.conv\.weight, 9\.cv1\.bn\.bias$",
    ),
    "unexpected": (
        "matched 162 of 162, missing 0, unexpected 2, wrong shape 0",
        r"unexpected +2: backbone\.\S+csp_darknet\.stage5\.x, backbone\.\S+csp_darknet\.stage1\.1\.attention\.weight$",
    ),
    "wrong shape": (
        "matched 161 of 162, missing 0, unexpected 0, wrong shape 1",
        r"wrong shape +1: \S+stage2\.0\.conv\.weight \(expected \[64, 32, 3, 3\], found \[64, 32, 1, 1\]\)$",
    ),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_every_fault_is_an_error_that_counts_and_names(path: Path, kind: str) -> None:
    counts, names = FAULTS[kind]
    message = error_of(load_backbone, resume_file(faulty(kind), path))
    assert message.startswith(f"{path}: does not fill the backbone of yolov8n")
    assert counts in message
    assert re.search(names, message, re.MULTILINE)


@pytest.mark.parametrize("kind", FAULTS)
def test_allow_partial_turns_every_fault_into_a_report(path: Path, kind: str) -> None:
    checkpoint = read_checkpoint(resume_file(faulty(kind), path))
    backbone = DistilledBackbone("yolov8n")
    report = load_into(backbone, checkpoint, allow_partial=True)
    assert not report.complete
    assert report.matched == {"missing": 160, "unexpected": 162, "wrong shape": 161}[kind]
    assert re.search(FAULTS[kind][1], report.table(), re.MULTILINE)
    own = backbone.layers.state_dict()
    loaded = [k for k, v in checkpoint.tensors.items() if k in own and torch.equal(own[k], v)]
    assert len(loaded) == report.matched
    assert backbone.bn_eps == 1e-5


def test_a_refused_file_changes_nothing(path: Path) -> None:
    backbone = DistilledBackbone("yolov8n")
    before = {k: v.clone() for k, v in backbone.layers.state_dict().items()}
    error_of(load_into, backbone, read_checkpoint(resume_file(faulty("missing"), path)))
    assert all(torch.equal(v, before[k]) for k, v in backbone.layers.state_dict().items())
    assert backbone.bn_eps == 1e-3


def test_long_lists_of_names_are_cut(path: Path) -> None:
    tensors = {k: v for k, v in yolov8_names("n").items() if not k.startswith(("8.", "9."))}
    message = error_of(load_backbone, resume_file(old_names(tensors), path))
    assert re.search(r"missing +\d+: 8\.cv1\.conv\.weight, \S+ \S+ \S+, … \(\d+ more\)", message)


@pytest.mark.parametrize("allow_partial", [False, True])
@pytest.mark.parametrize(("file", "model"), [("s", "n"), ("n", "s"), ("n", "m")])
def test_another_scale_is_always_an_error_that_says_which_fits(
    path: Path, file: str, model: str, allow_partial: bool
) -> None:
    checkpoint = read_checkpoint(resume_file(old_names(yolov8_names(file)), path))
    message = error_of(load_into, DistilledBackbone(f"yolov8{model}"), checkpoint, allow_partial)
    assert "nothing matched" in message
    assert f"The shapes fit yolov8{file}: use --model kdyolov8{file}.yaml." in message


@pytest.mark.parametrize("allow_partial", [False, True])
@pytest.mark.parametrize("kind", ["counters only", "no shape fits", "another network"])
def test_nothing_matched_is_always_an_error(path: Path, kind: str, allow_partial: bool) -> None:
    tensors = yolov8_names("n")
    content = {
        "counters only": {k: v for k, v in tensors.items() if k.endswith(COUNTER)},
        "no shape fits": dict.fromkeys(tensors, torch.ones(7, 5)),
        "another network": {"0.weight": torch.ones(3, 2), "2.bias": torch.ones(3)},
    }
    torch.save(content[kind], path)
    assert "nothing matched" in error_of(load_backbone, path, allow_partial=allow_partial)


def test_a_foreign_network_is_described_by_one_of_its_tensors(path: Path) -> None:
    torch.save({"module.0.weight": torch.ones(3, 2)}, path)
    with pytest.raises(
        CheckpointError,
        match=r"yolov8 / yolo11 / yolo12 / yolo26 backbone of scale n, s.*module\.0\.weight' with shape \[3, 2\]",
    ):
        checkpoint_arch(read_checkpoint(path))


def test_counters_alone_do_not_count_as_a_match(path: Path) -> None:
    # Every weight is of scale s; the counters, being scalars, fit scale n as well.
    checkpoint = read_checkpoint(resume_file(old_names(yolov8_names("s")), path))
    report: LoadReport = match(DistilledBackbone("yolov8n"), checkpoint)
    assert report.matched == sum(name.endswith(COUNTER) for name in yolov8_names("s"))
    assert "nothing matched" in error_of(load_into, DistilledBackbone("yolov8n"), checkpoint, allow_partial=True)


def test_checkpoint_arch_is_what_the_shapes_say_not_what_the_file_says(path: Path) -> None:
    resume_file(old_names(yolov8_names("s")), path, config={"backbone": "yolov8", "model_size": "n"})
    assert checkpoint_arch(read_checkpoint(path)) == Arch.parse("yolov8s")


def test_differing_names_the_tensors_that_are_not_the_files(path: Path) -> None:
    layout_resume(yolov8_names("n"), path)
    checkpoint, backbone = read_checkpoint(path), load_backbone(path)
    assert changed_tensors(backbone, checkpoint.tensors) == []
    with torch.no_grad():
        backbone.layers[3].conv.weight[0, 0, 0, 0] += 1e-6
        backbone.layers[9].cv2.bn.running_mean += 1.0
    assert changed_tensors(backbone, checkpoint.tensors) == ["3.conv.weight", "9.cv2.bn.running_mean"]


# ---- the architecture ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["n", "s", "m"])
def test_layers_are_ultralytics_own(scale: str) -> None:
    stock = stock_detector(scale).model[:10]
    built = build_layers(Arch.parse(f"yolov8{scale}"))
    assert [type(a) for a in built.modules()] == [type(b) for b in stock.modules()]
    built.load_state_dict(stock.state_dict())
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        backbone = DistilledBackbone(f"yolov8{scale}").eval()
        backbone.layers.load_state_dict(stock.state_dict())
        assert torch.equal(backbone(x)[-1], stock(x))


def test_layers_deeper_than_the_last_level_are_not_built() -> None:
    assert len(DistilledBackbone("yolov8n", levels=("P2", "P3", "P4")).layers) == 7
    assert len(DistilledBackbone("yolov8n").layers) == 10


@pytest.mark.parametrize("levels", [("P3", "P4", "P5"), ("P2", "P3", "P4")])
def test_parts_group_the_layers_by_what_they_lead_to(levels: tuple[str, ...]) -> None:
    backbone = DistilledBackbone("yolov8n", levels=levels)
    number = {layer: i for i, layer in enumerate(backbone.layers)}
    expected = {"stem": [0], "p2": [1, 2], "p3": [3, 4], "p4": [5, 6], "p5": [7, 8, 9]}
    if "P5" not in levels:
        del expected["p5"]
    assert {part: [number[layer] for layer in layers] for part, layers in backbone.parts.items()} == expected


def test_shapes_of_layers_are_those_of_a_real_pass() -> None:
    arch = Arch("yolov8", "m", UNCAPPED)
    x = torch.rand(1, 3, 128, 64)
    with torch.no_grad():
        for layer, shape in zip(build_layers(arch).eval(), layer_shapes(arch), strict=True):
            x = layer(x)
            assert tuple(x.shape[1:]) == (shape.channels, 128 // shape.stride, 64 // shape.stride)


@pytest.mark.parametrize("name", ["yolov8", "yolov8q", "yolov5n", "kdyolov8n", "", "n"])
def test_an_unknown_arch_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match=r"unknown backbone.*yolov8.*n, s, m, l, x"):
        DistilledBackbone(name)


@pytest.mark.parametrize(
    ("levels", "reason"),
    [
        (("P3", "P6"), r"no level \['P6'\]: expected some of \['P1', 'P2', 'P3', 'P4', 'P5'\]"),
        ((), "none given"),
        (("P5", "P3"), "shallow to deep"),
        (("P3", "P3"), "each once"),
    ],
)
def test_unknown_or_disordered_levels_are_refused(levels: tuple[str, ...], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        level_taps(Arch.parse("yolov8n"), levels)


def test_looking_at_shapes_leaves_the_random_state_alone() -> None:
    # Seeded runs would otherwise depend on whether a shape had been looked up, and cached, before.
    arch.layer_shapes.cache_clear()
    arch_matching._expected_shapes.cache_clear()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    layer_shapes(Arch("yolov8", "n", UNCAPPED))
    assert torch.equal(torch.get_rng_state(), before)
    fit_arch({"0.conv.weight": (16, 3, 3, 3)})
    assert torch.equal(torch.get_rng_state(), before)


def test_two_backbones_of_one_seed_are_equal_whatever_was_cached() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(DistilledBackbone("yolov8n").state_dict())
        arch.layer_shapes.cache_clear()
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))


def test_folded_backbone_computes_the_same_and_changes_nothing() -> None:
    torch.manual_seed(0)
    backbone = DistilledBackbone("yolov8n", bn_eps=1e-5).eval()
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.01, 2)
    images, state = torch.rand(2, 3, 64, 96), {n: t.clone() for n, t in backbone.state_dict().items()}
    with torch.no_grad():
        before = backbone(images)
    backbone.set_folded(True)
    during = backbone(images)
    assert list(backbone.state_dict()) == list(state)
    assert sum(p.numel() for p in backbone.parameters()) == sum(p.numel() for p in backbone.layers.parameters())
    backbone.set_folded(False)
    after = backbone(images)
    for a, b, c in zip(before, during, after, strict=True):
        assert b.is_contiguous(memory_format=torch.channels_last)
        assert not b.requires_grad
        assert c.requires_grad
        assert not torch.equal(a, b)  # it is another computation
        assert float((a - b).abs().max() / a.abs().max()) < 1e-5
        assert torch.equal(a, c)
    assert all(torch.equal(tensor, state[name]) for name, tensor in backbone.state_dict().items())
