"""read_checkpoint: every layout and prefix seen in the wild is read, everything doubtful is refused with a reason."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from kdyolo.checkpoints.reader import BackboneCheckpoint, backbone_name, read_checkpoint
from kdyolo.errors import CheckpointError, ConfigError
from tests.builders.checkpoints import (
    EXPECTED,
    NAMES,
    PREFIXES,
    TENSORS,
    WRAPPERS,
    adapter,
    clean_export,
    resume_file,
    same,
    weights,
    written,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.pth"


# ---- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "older", "yolov8"), NAMES)
def test_each_old_name_becomes_its_yolov8_layer(old: str, older: str, yolov8: str) -> None:
    for name in (old, older, yolov8):
        assert backbone_name(tuple(name.split(".")))[:2] == (0, yolov8)


@given(prefix=st.lists(st.sampled_from(WRAPPERS), max_size=6), names=st.sampled_from(NAMES), style=st.integers(0, 2))
def test_wrappers_are_stripped_in_any_nesting(prefix: list[str], names: tuple[str, ...], style: int) -> None:
    assert backbone_name((*prefix, *names[style].split(".")))[:2] == (len(prefix), names[2])


@pytest.mark.parametrize(
    "name",
    [
        "stage5.0.conv.weight",
        "stage1.2.conv.weight",
        "stage4.3.conv.weight",
        "stages.0.conv.weight",
        "stem_extra.conv.weight",
        "model_x.0.conv.weight",
        "stem",
        "backbone",
        "backbone.3",
    ],
)
def test_names_that_only_resemble_a_layer_are_none(name: str) -> None:
    assert backbone_name(tuple(name.split(".")))[1] is None


def test_older_names_are_replaced_as_whole_segments_only() -> None:
    key = ("stage1", "1", "main_conv_2", "blocks_x", "my_final_conv", "weight")
    assert backbone_name(key)[1] == "2.main_conv_2.blocks_x.my_final_conv.weight"


# ---- layouts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("style", [0, 1, 2], ids=["old", "older", "yolov8"])
@pytest.mark.parametrize("layout", [resume_file, clean_export, dict])
def test_every_layout_under_every_prefix_gives_the_same_tensors(
    path: Path, prefix: str, style: int, layout: Callable[..., Any]
) -> None:
    tensors = weights(prefix, style)
    checkpoint = read_checkpoint(written(path, layout(tensors)))
    assert same(checkpoint.tensors, EXPECTED)
    assert checkpoint.unexpected == ()
    inside = {resume_file: "backbone.", clean_export: "state_dict.", dict: ""}[layout]
    assert [checkpoint.origin[names[2]] for names in NAMES] == [inside + key for key in tensors]


def test_a_resume_file_says_what_it_is_and_what_was_left_out(path: Path) -> None:
    content = resume_file(weights(), sam_prompt_encoder=adapter(), sam_mask_decoder={"a": adapter(), "b": adapter()})
    checkpoint = read_checkpoint(written(path, content))
    assert checkpoint.source == "resume file (vfmkd names)"
    assert checkpoint.epoch == 4
    assert checkpoint.meta["model_size"] == "n"
    assert checkpoint.meta["image_size"] == 1024
    assert checkpoint.dropped == {
        "edge_adapter": 2,
        "edge_head": 2,
        "feature_adapter": 2,
        "optimizer": 3,  # AdamW's step and two moments of one parameter
        "sam_prompt_encoder": 2,
        "sam_mask_decoder": 4,
    }


def test_a_clean_export_says_what_it_is_and_what_was_left_out(path: Path) -> None:
    checkpoint = read_checkpoint(written(path, clean_export(weights())))
    assert checkpoint.source == "clean export (vfmkd names)"
    assert checkpoint.epoch == 9
    assert checkpoint.dropped == {"adapter_state_dict": 1}


def test_a_bare_state_dict_says_what_it_is(path: Path) -> None:
    checkpoint = read_checkpoint(written(path, weights(style=2)))
    assert checkpoint.source == "bare state dict (Ultralytics names)"
    assert checkpoint.epoch is None
    assert checkpoint.dropped == {}


@pytest.mark.parametrize("container", ["state_dict", "model_state_dict", "model", "module"])
def test_state_dicts_are_found_in_common_containers(path: Path, container: str) -> None:
    checkpoint = read_checkpoint(written(path, {container: weights("backbone."), "iteration": 5}))
    assert same(checkpoint.tensors, EXPECTED)


PARTS = ["edge_adapter", "adapter_state_dict", "edge_head", "sam_mask_decoder", "neck", "teacher", "project", "ema"]
PARTS += ["optimizer", "scaler", "lr_scheduler", "distill_loss"]


@pytest.mark.parametrize("part", PARTS)
def test_parts_inside_the_backbones_own_prefix_are_dropped_and_counted(path: Path, part: str) -> None:
    content = {**weights("module."), f"module.{part}.0.weight": torch.ones(2), f"module.{part}.0.bias": torch.ones(2)}
    checkpoint = read_checkpoint(written(path, content))
    assert checkpoint.dropped == {part: 2}
    assert checkpoint.unexpected == ()


def test_tensors_in_lists_are_counted_too(path: Path) -> None:
    content = {"backbone": weights(), "replay": [torch.ones(1), (torch.ones(2), {"a": torch.ones(3)})]}
    checkpoint = read_checkpoint(written(path, content))
    assert checkpoint.dropped == {"replay": 3}


def test_a_copy_kept_as_ema_or_teacher_is_no_second_backbone(path: Path) -> None:
    content = {"backbone": weights(), "ema": weights(), "teacher": {"backbone": weights()}}
    checkpoint = read_checkpoint(written(path, content))
    assert same(checkpoint.tensors, EXPECTED)
    assert checkpoint.dropped == {"ema": TENSORS, "teacher": TENSORS}


@pytest.mark.parametrize("name", ["stage5.0.conv.weight", "stage1.2.conv.weight", "attention.weight"])
@pytest.mark.parametrize("prefix", ["", "_orig_mod.backbone."])
def test_a_foreign_tensor_among_the_backbones_own_is_unexpected(path: Path, prefix: str, name: str) -> None:
    content = {"backbone": {**weights(prefix), prefix + name: torch.ones(2)}}
    checkpoint = read_checkpoint(written(path, content))
    assert checkpoint.unexpected == (f"backbone.{prefix}{name}",)
    assert checkpoint.dropped == {}


@pytest.mark.parametrize(
    "content",
    [
        {"backbone": weights(), "model": weights()},
        {**weights("module."), **weights("_orig_mod.")},
        {**weights(), **weights(style=2)},
        {**weights(), "stage1.1.main_conv.conv.weight": torch.ones(3, 2)},
    ],
    ids=["two parts", "two prefixes", "two namings", "old and older name"],
)
def test_the_same_layer_twice_is_refused(path: Path, content: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"ambiguous, two tensors claim to be backbone layer \d") as caught:
        read_checkpoint(written(path, content))
    assert str(path) in str(caught.value)


def test_the_same_full_name_twice_is_refused_too(path: Path) -> None:
    content = {"backbone": weights(), "backbone.stem.conv.weight": torch.ones(3, 2)}
    with pytest.raises(CheckpointError, match=r"ambiguous.*0\.conv\.weight"):
        read_checkpoint(written(path, content))


def test_the_refusal_of_two_tensors_names_both(path: Path) -> None:
    content = {**weights(), "stage1.1.main_conv.conv.weight": torch.ones(3, 2)}
    with pytest.raises(CheckpointError, match=r"2\.cv1\.conv\.weight: stage1\.1\.cv1.* and stage1\.1\.main_conv"):
        read_checkpoint(written(path, content))


@pytest.mark.parametrize(
    "content",
    [
        {},
        None,
        [],
        {"optimizer": adapter()},
        {"fc": adapter()},
        resume_file({}),
        pytest.param(torch.ones(3)),
    ],
)
def test_a_file_without_any_backbone_tensor_is_refused(path: Path, content: Any) -> None:
    with pytest.raises(CheckpointError, match=r"no backbone tensor found.*(stem\.conv\.weight|state of an optimizer)"):
        read_checkpoint(written(path, content))


def test_that_refusal_lists_what_is_there_instead(path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"found edge_adapter \(2\), fc \(1\)"):
        read_checkpoint(written(path, {"edge_adapter": adapter(), "fc": {"weight": torch.ones(1)}}))


# ---- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["stage2.0.conv.weight", "stage4.2.cv2.bn.running_var"])
def test_a_value_that_is_not_finite_names_its_tensor(path: Path, name: str, value: float) -> None:
    tensors = weights("_orig_mod.")
    tensors[f"_orig_mod.{name}"][-1, -1] = value
    with pytest.raises(CheckpointError, match=rf"backbone\._orig_mod\.{re.escape(name)} holds NaN or Inf"):
        read_checkpoint(written(path, resume_file(tensors)))


def test_parts_that_are_dropped_may_hold_anything(path: Path) -> None:
    content = resume_file(weights(), edge_head={"weight": torch.full((2,), float("nan"))})
    assert same(read_checkpoint(written(path, content)).tensors, EXPECTED)


NO_WEIGHTS: dict[str, Callable[[], Tensor]] = {
    "int8": lambda: torch.ones(3, 2, dtype=torch.int8),
    "uint16": lambda: torch.ones(3, 2, dtype=torch.uint16),
    "bool": lambda: torch.ones(3, 2, dtype=torch.bool),
    "complex": lambda: torch.ones(3, 2, dtype=torch.complex64),
    "float8": lambda: torch.ones(3, 2).to(torch.float8_e4m3fn),
    "float8 of the other kind": lambda: torch.ones(3, 2).to(torch.float8_e5m2),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "sparse by rows": lambda: torch.eye(3).to_sparse_csr(),
    "meta": lambda: torch.ones(3, 2, device="meta"),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "jagged": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(3, 2), 0.1, 0, torch.qint8),
}


@pytest.mark.parametrize("kind", NO_WEIGHTS)
@pytest.mark.parametrize("name", ["stem.conv.weight", "stem.bn.num_batches_tracked", "stage1.0.bn.bias"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_weights_that_are_no_dense_floats_are_refused(path: Path, kind: str, name: str) -> None:
    content = {**weights(), name: NO_WEIGHTS[kind]()}
    if kind == "int8" and name.endswith("tracked"):  # which a counter may be
        content[name] = torch.ones(3, 2, dtype=torch.uint32)
    with pytest.raises(CheckpointError, match=rf"{re.escape(name)} is .*expected dense weights|refused|damaged"):
        read_checkpoint(written(path, content))


def test_weights_with_attributes_in_their_methods_place_are_refused(path: Path) -> None:
    parameter = nn.Parameter(torch.ones(3, 2))
    parameter.tensor_parallel = True
    found = read_checkpoint(written(path, {**weights(), "stem.conv.weight": parameter}))
    assert torch.equal(found.tensors["0.conv.weight"], torch.ones(3, 2))  # a mark that other tools leave is harmless
    parameter.detach = 1
    content = {**weights(), "stem.conv.weight": parameter}
    with pytest.raises(CheckpointError, match="carries attributes"):
        read_checkpoint(written(path, content))


# ---- what the file says of itself ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("style", "eps"), [(0, 1e-5), (1, 1e-5), (2, 1e-3)])
@pytest.mark.parametrize("layout", [resume_file, clean_export, dict])
def test_the_epsilon_follows_from_whose_names_a_file_uses(
    path: Path, style: int, eps: float, layout: Callable[..., Any]
) -> None:
    assert read_checkpoint(written(path, layout(weights("backbone.", style)))).bn_eps == eps


def test_a_recorded_epsilon_is_used_and_a_given_one_wins(path: Path) -> None:
    written(path, clean_export(weights(), bn_eps=2e-3))
    assert read_checkpoint(path).bn_eps == 2e-3
    assert read_checkpoint(path, bn_eps=3e-4).bn_eps == 3e-4
    written(path, resume_file(weights(), config={"bn_eps": 5e-4}))
    assert read_checkpoint(path).bn_eps == 5e-4


@pytest.mark.parametrize("eps", [0.0, -1e-5, 1.0])
def test_an_impossible_epsilon_is_refused(path: Path, eps: float) -> None:
    with pytest.raises(CheckpointError, match="bn_eps must lie between 0 and 1"):
        read_checkpoint(written(path, weights()), bn_eps=eps)


def test_an_epsilon_that_is_no_number_is_refused(path: Path) -> None:
    with pytest.raises(ConfigError, match="bn_eps: expected a number, or None, found nan"):
        read_checkpoint(written(path, weights()), bn_eps=float("nan"))


@pytest.mark.parametrize("eps", [-1e-5, 5, float("nan")])
def test_an_impossible_recorded_epsilon_is_refused(path: Path, eps: float) -> None:
    with pytest.raises(CheckpointError, match="bn_eps"):
        read_checkpoint(written(path, clean_export(weights(), bn_eps=eps)))


def test_safetensors_metadata_is_text_and_read_as_numbers(path: Path) -> None:
    save_file(weights(style=2), path, metadata={"epoch": "7", "bn_eps": "0.0002", "teacher": "sam2"})
    checkpoint = read_checkpoint(path)
    assert (checkpoint.epoch, checkpoint.bn_eps) == (7, 2e-4)
    assert checkpoint.meta["teacher"] == "sam2"
    save_file(weights(style=2), path, metadata={"epoch": "last", "bn_eps": "small"})
    checkpoint = read_checkpoint(path)
    assert (checkpoint.epoch, checkpoint.bn_eps) == (None, 1e-3)


def test_epoch_zero_is_an_epoch(path: Path) -> None:
    assert read_checkpoint(written(path, resume_file(weights(), epoch=0))).epoch == 0


# ---- real files ------------------------------------------------------------------------------------------------------


def real(shared: Path, name: str) -> tuple[BackboneCheckpoint, dict[str, Any]]:
    path = shared / "checkpoints" / name
    return read_checkpoint(path), torch.load(path, map_location="cpu", weights_only=True)


def test_the_real_resume_file_is_read_bit_for_bit(shared: Path) -> None:
    checkpoint, content = real(shared, "vfmkd_n_resume.pth")
    assert len(checkpoint.tensors) == 162
    assert sum(t.numel() for t in checkpoint.tensors.values()) == 1_277_707
    assert (checkpoint.source, checkpoint.epoch, checkpoint.bn_eps) == ("resume file (vfmkd names)", 4, 1e-5)
    assert checkpoint.unexpected == ()
    assert {"edge_adapter": 2, "edge_head": 2, "feature_adapter": 2}.items() <= checkpoint.dropped.items()
    for name, key in checkpoint.origin.items():
        assert torch.equal(checkpoint.tensors[name], content["backbone"][key.removeprefix("backbone.")])


def test_the_real_clean_export_is_read_bit_for_bit(shared: Path) -> None:
    checkpoint, content = real(shared, "trained_n_clean.pth")
    assert len(checkpoint.tensors) == 162
    assert (checkpoint.source, checkpoint.epoch) == ("clean export (vfmkd names)", 140)
    assert checkpoint.dropped == {"adapter_state_dict": 1}
    for name, key in checkpoint.origin.items():
        assert torch.equal(checkpoint.tensors[name], content["state_dict"][key.removeprefix("state_dict.")])


# ---- where backbones stand in files of other tools -------------------------------------------------------------------


@pytest.mark.parametrize(
    "prefix",
    [
        "architecture.",
        "architecture.backbone.",
        "student_backbone.",
        "online_network.encoder.",
        "module.online_network.encoder.backbone.",
        "student.0.",
        "0.",
        "0.0.",
        "model.0.1.",
        "module.student.2.backbone.",
    ],
)
@pytest.mark.parametrize("style", [0, 2], ids=["vfmkd", "Ultralytics"])
def test_prefixes_of_other_tools_and_numbers_of_sequentials_are_stripped(path: Path, prefix: str, style: int) -> None:
    content = {prefix + names[style]: weights(style=2)[names[2]] for names in NAMES}
    beside = prefix.rstrip(".").rpartition(".")[0] + ".7." if prefix[-2].isdigit() else "projector.0."
    content |= {f"{beside.lstrip('.')}weight": torch.rand(4, 4), "teacher.0.conv.weight": torch.rand(2, 3, 3, 3)}
    checkpoint = read_checkpoint(written(path, content))
    assert same(checkpoint.tensors, EXPECTED)
    assert checkpoint.unexpected == ()
    assert sum(checkpoint.dropped.values()) == 2
    assert checkpoint.origin["0.conv.weight"] == prefix + NAMES[0][style]


def test_two_backbones_in_sequentials_are_ambiguous(path: Path) -> None:
    content = {f"{place}.{names[2]}": torch.ones(3, 2) for place in (0, 1) for names in NAMES}
    with pytest.raises(CheckpointError, match="ambiguous"):
        read_checkpoint(written(path, content))


# ---- blue first ------------------------------------------------------------------------------------------------------


def mmyolo_file(path: Path, bgr_to_rgb: bool | None, mean: str = "[103.53, 116.28, 123.675]") -> Path:
    """An MMYOLO checkpoint with a first layer that tells the colours apart, and its configuration."""
    generator = torch.Generator().manual_seed(3)
    tensors = {
        "backbone.stem.conv.weight": torch.rand(4, 3, 3, 3, generator=generator),
        "backbone.stem.bn.weight": torch.rand(4, generator=generator),
        "backbone.stem.bn.bias": torch.rand(4, generator=generator),
        "backbone.stem.bn.running_mean": torch.rand(4, generator=generator),
        "backbone.stem.bn.running_var": torch.rand(4, generator=generator),
        "backbone.stage1.1.blocks.0.conv1.conv.weight": torch.rand(2, 2, 3, 3, generator=generator),
    }
    flag = "" if bgr_to_rgb is None else f", bgr_to_rgb={bgr_to_rgb}"
    cfg = f"model = dict(data_preprocessor=dict(mean={mean}, std=[57.375, 57.12, 58.395]{flag}))"
    return written(path, {"state_dict": tensors, "meta": {"cfg": cfg}, "message_hub": {}})


def stem(tensors: dict[str, Tensor], images: Tensor, eps: float) -> Tensor:
    x = nn.functional.conv2d(images, tensors["0.conv.weight"])
    bn = (tensors[f"0.bn.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
    return nn.functional.batch_norm(x, *bn, eps=eps)


@pytest.mark.parametrize("bgr_to_rgb", [None, False, True])
def test_a_backbone_that_saw_blue_first_computes_the_same_from_red_first(path: Path, bgr_to_rgb: bool | None) -> None:
    raw = torch.load(mmyolo_file(path, bgr_to_rgb), weights_only=True)["state_dict"]
    raw = {name.replace("backbone.stem", "0"): tensor for name, tensor in raw.items()}
    checkpoint = read_checkpoint(path)
    rgb = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(4))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ([103.53, 116.28, 123.675], [57.375, 57.12, 58.395]))
    seen = ((rgb if bgr_to_rgb else rgb.flip(1)) * 255 - mean) / std
    assert torch.allclose(
        stem(checkpoint.tensors, rgb, checkpoint.bn_eps), stem(raw, seen, checkpoint.bn_eps), atol=1e-4
    )
    assert ("BGR" in checkpoint.source) is not bool(bgr_to_rgb)


def test_a_given_normalisation_does_not_skip_the_colours(path: Path) -> None:
    mmyolo_file(path, bgr_to_rgb=False, mean="[0.0, 0.0, 0.0]")
    raw = torch.load(path, weights_only=True)["state_dict"]["backbone.stem.conv.weight"]
    given = read_checkpoint(path, input_norm="0-1")
    assert torch.equal(given.tensors["0.conv.weight"], raw.flip(1))


def test_a_configuration_without_usable_numbers_asks_for_them(path: Path) -> None:
    mmyolo_file(path, bgr_to_rgb=True, mean="['a', 'b', 'c']")
    with pytest.raises(CheckpointError, match="no usable mean and std"):
        read_checkpoint(path)
    assert read_checkpoint(path, input_norm="0-1").tensors
