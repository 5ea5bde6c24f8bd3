"""read_checkpoint: every layout and prefix seen in the wild is read, everything doubtful is refused with a reason."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from ultralytics.nn.tasks import DetectionModel

from kdyolo.checkpoint import BackboneCheckpoint, backbone_name, read_checkpoint
from kdyolo.errors import CheckpointError
from kdyolo.report import LoadReport
from kdyolo.safe_load import file_sha256

# The old system's names, the names of its older C2f, and YOLOv8's: written out, so that the code's table is not
# compared with itself.
NAMES = [
    ("stem.conv.weight", "stem.conv.weight", "0.conv.weight"),
    ("stem.bn.num_batches_tracked", "stem.bn.num_batches_tracked", "0.bn.num_batches_tracked"),
    ("stage1.0.bn.bias", "stage1.0.bn.bias", "1.bn.bias"),
    ("stage1.1.cv1.conv.weight", "stage1.1.main_conv.conv.weight", "2.cv1.conv.weight"),
    ("stage1.1.cv2.bn.weight", "stage1.1.final_conv.bn.weight", "2.cv2.bn.weight"),
    ("stage1.1.m.0.cv1.conv.weight", "stage1.1.blocks.0.cv1.conv.weight", "2.m.0.cv1.conv.weight"),
    ("stage2.0.conv.weight", "stage2.0.conv.weight", "3.conv.weight"),
    ("stage2.1.m.1.cv2.bn.running_var", "stage2.1.blocks.1.cv2.bn.running_var", "4.m.1.cv2.bn.running_var"),
    ("stage3.0.bn.running_mean", "stage3.0.bn.running_mean", "5.bn.running_mean"),
    ("stage3.1.cv2.bn.bias", "stage3.1.final_conv.bn.bias", "6.cv2.bn.bias"),
    ("stage4.0.conv.weight", "stage4.0.conv.weight", "7.conv.weight"),
    ("stage4.1.m.0.cv2.bn.weight", "stage4.1.blocks.0.cv2.bn.weight", "8.m.0.cv2.bn.weight"),
    ("stage4.2.cv1.conv.weight", "stage4.2.cv1.conv.weight", "9.cv1.conv.weight"),
    ("stage4.2.cv2.bn.running_var", "stage4.2.cv2.bn.running_var", "9.cv2.bn.running_var"),
]
WRAPPERS = ["_orig_mod", "module", "backbone", "csp_darknet"]
PREFIXES = [
    "",
    "_orig_mod.",
    "module.",
    "backbone.",
    "backbone.backbone.",
    "csp_darknet.",
    "_orig_mod.backbone.csp_darknet.",
    "module._orig_mod.backbone.",
    "_orig_mod.module.backbone.backbone.csp_darknet.",
    "backbone.csp_darknet._orig_mod.module.",
]
# Reading never asks how many tensors a network has, so a few small ones stand for a file.
TENSORS = 14


def weights(prefix: str = "", style: int = 0) -> dict[str, Tensor]:
    """Small random tensors under the old system's names (style 0), its older names (1) or YOLOv8's (2)."""
    generator = torch.Generator().manual_seed(7)
    return {
        prefix + names[style]: torch.tensor(12)
        if names[0].endswith("num_batches_tracked")
        else torch.rand(3, 2, generator=generator)
        for names in NAMES
    }


EXPECTED = weights(style=2)


def adapter() -> dict[str, Tensor]:
    return {"weight": torch.rand(4, 2), "bias": torch.rand(4)}


def resume_file(tensors: dict[str, Tensor], **more: Any) -> dict[str, Any]:
    """What the old system's training saved, with an optimizer that has really stepped."""
    parameter = nn.Parameter(torch.rand(3))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    return {
        "backbone": tensors,
        "edge_adapter": adapter(),
        "edge_head": adapter(),
        "feature_adapter": adapter(),
        "optimizer": optimizer.state_dict(),
        "scaler": {"scale": 65536.0, "_growth_tracker": 3},
        "epoch": 4,
        "config": {"backbone": "yolov8", "model_size": "n", "image_size": 1024, "layers": [1, 2]},
        **more,
    }


def clean_export(tensors: dict[str, Tensor], **meta: Any) -> dict[str, Any]:
    return {
        "meta": {"epoch": 9, "backbone": "yolov8", "model_size": "n", **meta},
        "state_dict": tensors,
        "adapter_state_dict": {"conv.weight": torch.rand(2, 2)},
    }


def written(path: Path, content: Any, legacy: bool = False) -> Path:
    """The content in torch's zip format, or in the one before it."""
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


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


# ---- files -----------------------------------------------------------------------------------------------------------


def write_zip(path: Path) -> None:
    torch.save(weights(), path)


def write_legacy(path: Path) -> None:
    torch.save(weights(), path, _use_new_zipfile_serialization=False)


def write_safetensors(path: Path) -> None:
    save_file(weights(), path)


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.safetensors", "w.bin", "weights", "w.tar.gz"])
@pytest.mark.parametrize("write", [write_zip, write_legacy, write_safetensors])
def test_the_format_is_read_from_the_content_not_the_name(
    tmp_path: Path, name: str, write: Callable[[Path], None]
) -> None:
    write(tmp_path / name)
    assert same(read_checkpoint(tmp_path / name).tensors, EXPECTED)
    assert same(read_checkpoint(str(tmp_path / name)).tensors, EXPECTED)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("safetensors", [False, True], ids=["torch", "safetensors"])
def test_every_float_becomes_exactly_its_float32(path: Path, dtype: torch.dtype, safetensors: bool) -> None:
    low = {name: t.to(dtype) if t.is_floating_point() else t for name, t in weights().items()}
    if safetensors:
        save_file(low, path)
    else:
        torch.save(low, path)
    tensors = read_checkpoint(path).tensors
    for old, _, name in NAMES:
        counter = name.endswith("num_batches_tracked")
        assert tensors[name].dtype == (torch.int64 if counter else torch.float32)
        assert torch.equal(tensors[name].double(), low[old].double())


def test_views_and_other_memory_formats_arrive_contiguous(path: Path) -> None:
    wide = torch.rand(8, 6, 3, 3, generator=torch.Generator().manual_seed(0))
    content = {**weights(), "stem.conv.weight": wide.to(memory_format=torch.channels_last)[::2]}
    tensor = read_checkpoint(written(path, content)).tensors["0.conv.weight"]
    assert tensor.is_contiguous()
    assert torch.equal(tensor, wide[::2])


def test_parameters_and_their_graph_are_left_behind(path: Path) -> None:
    content = {name: nn.Parameter(t) if t.is_floating_point() else t for name, t in weights().items()}
    checkpoint = read_checkpoint(written(path, content))
    assert not any(t.requires_grad or isinstance(t, nn.Parameter) for t in checkpoint.tensors.values())


def test_tensors_are_independent_of_the_file_once_read(path: Path) -> None:
    checkpoint = read_checkpoint(written(path, weights()))
    with path.open("r+b") as file:  # in place: a memory map would show it
        file.write(bytes(path.stat().st_size))
    assert same(checkpoint.tensors, EXPECTED)


def test_the_digest_is_that_of_the_bytes(path: Path) -> None:
    content = os.urandom(3_000_000)
    path.write_bytes(content)
    assert file_sha256(path) == hashlib.sha256(content).hexdigest()
    write_zip(path)
    assert read_checkpoint(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_that_was_refused_is_not_hashed_to_the_end(path: Path) -> None:
    path.write_bytes(bytes(9))
    refused = threading.Event()
    assert file_sha256(path, stop=refused) == hashlib.sha256(bytes(9)).hexdigest()
    refused.set()
    assert file_sha256(path, stop=refused) == hashlib.sha256().hexdigest()


def test_of_a_damaged_file_the_damage_is_told_and_not_what_follows_from_it(path: Path) -> None:
    written(path, {**weights(), "stem.conv.weight": torch.full((3, 2), float("nan"))})
    path.with_name(f"{path.name}.sha256").write_text("0" * 64)
    with pytest.raises(CheckpointError, match="damaged or exchanged"):
        read_checkpoint(path)


def damaged_files() -> Iterator[tuple[str, Callable[[Path], object], str]]:
    def cut(write: Callable[[Path], None], keep: float) -> Callable[[Path], object]:
        def damage(path: Path) -> None:
            write(path)
            path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])

        return damage

    def zip_of_text(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme.txt", "no weights")

    def header_lies(path: Path) -> None:
        path.write_bytes((2**40).to_bytes(8, "little") + b'{"a":1}')

    yield "missing", lambda path: None, "no such file"
    yield "folder", lambda path: path.mkdir(), "found a folder"
    yield "empty", lambda path: path.touch(), "empty"
    yield "text", lambda path: path.write_text("these are my weights\n"), "not a weights file.*these are my"
    yield "one byte", lambda path: path.write_bytes(b"P"), "not a weights file"
    yield (
        "html",
        lambda path: path.write_text("<!DOCTYPE html>\n<title>Sign in</title>"),
        "not a weights file.*a web page",
    )
    yield "json", lambda path: path.write_text(json.dumps({"a": 1})), "not a weights file"
    yield "git lfs", lambda path: path.write_text("version https://git-lfs.github.com/spec/v1"), "git lfs pull"
    yield "zip of text", zip_of_text, "not a (PyTorch|file that torch.save wrote)"
    yield (
        "zip magic",
        lambda path: path.write_bytes(b"PK\x03\x04 and nothing else"),
        "not a (PyTorch|file that torch.save wrote)",
    )
    yield (
        "pickle magic",
        lambda path: path.write_bytes(b"\x80\x02 and nothing else"),
        "not a (PyTorch|file that torch.save wrote)",
    )
    yield "safetensors magic", header_lies, "damaged safetensors"
    for keep in (0.05, 0.5, 0.99):
        yield f"zip cut at {keep}", cut(write_zip, keep), "damaged"
        yield f"legacy cut at {keep}", cut(write_legacy, keep), "damaged"
        yield f"safetensors cut at {keep}", cut(write_safetensors, keep), "damaged safetensors"


@pytest.mark.parametrize(("damage", "reason"), [pytest.param(d, r, id=name) for name, d, r in damaged_files()])
def test_what_is_no_weights_file_is_refused_with_its_path_and_the_reason(
    path: Path, damage: Callable[[Path], object], reason: str
) -> None:
    damage(path)
    with pytest.raises(CheckpointError, match=reason) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)


# ---- files that want to run code -------------------------------------------------------------------------------------


class Custom:
    """Any class of somebody's project."""


class Payload:
    """Unpickling it creates the file ``ran``."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch ran",)


@pytest.fixture
def stock_model(tmp_path: Path) -> Iterator[Path]:
    """A whole Ultralytics detector as its trainer saves it; torch's list of safe classes is restored afterwards."""
    before = torch.serialization.get_safe_globals()
    file = tmp_path / "yolov8n.pt"
    model = DetectionModel("yolov8n.yaml", nc=1, verbose=False)
    model.args, model.task = {}, "detect"
    torch.save({"epoch": -1, "model": model.half(), "ema": None, "optimizer": None}, file)
    yield file
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(before)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_an_object_of_a_foreign_class_is_refused_by_name(path: Path, legacy: bool) -> None:
    written(path, resume_file(weights(), config=Custom()), legacy)
    with pytest.raises(CheckpointError, match=rf"refused.*{re.escape(__name__)}\.Custom.*state_dict\(\)"):
        read_checkpoint(path)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_payload_is_refused_by_name_and_does_not_run(path: Path, legacy: bool) -> None:
    written(path, resume_file(weights(), config=Payload()), legacy)
    with pytest.raises(CheckpointError, match=rf"refused.*{os.system.__module__}\.system"):
        read_checkpoint(path)
    assert not Path("ran").exists()
    with path.open("rb") if legacy else zipfile.ZipFile(path).open("weights/data.pkl") as file:
        assert b"touch ran" in file.read()  # the file really holds the payload


def test_a_plain_pickle_of_arrays_is_refused(path: Path) -> None:
    path.write_bytes(pickle.dumps({name: t.numpy() for name, t in weights().items()}, protocol=2))
    with pytest.raises(CheckpointError, match=r"refused.*numpy"):
        read_checkpoint(path)


def test_a_whole_detector_is_read_by_ultralytics_restricted_loader(stock_model: Path) -> None:
    torch.serialization.clear_safe_globals()
    content = torch.load(stock_model, weights_only=False)["model"].state_dict()
    checkpoint = read_checkpoint(stock_model)
    assert checkpoint.source == "Ultralytics checkpoint (Ultralytics names)"
    assert (checkpoint.bn_eps, checkpoint.epoch, checkpoint.family) == (1e-3, None, "yolov8")
    assert same(
        checkpoint.tensors,
        {k.removeprefix("model."): v.float() if v.is_floating_point() else v for k, v in content.items()},
    )
    assert same(read_checkpoint(stock_model).tensors, checkpoint.tensors)  # now that torch knows the classes


def test_a_payload_in_a_detector_does_not_run(stock_model: Path) -> None:
    torch.serialization.clear_safe_globals()
    content = torch.load(stock_model, weights_only=False)
    torch.save({**content, "train_args": Payload()}, stock_model)
    with pytest.raises(CheckpointError, match=rf"refused.*{os.system.__module__}\.system") as caught:
        read_checkpoint(stock_model)
    assert str(stock_model) in str(caught.value)
    assert not Path("ran").exists()


def test_trust_unpickles_whatever_there_is(path: Path) -> None:
    written(path, resume_file(weights(), config=Payload()))
    assert same(read_checkpoint(path, trust=True).tensors, EXPECTED)
    assert Path("ran").exists()


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


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(3, 2, dtype=torch.int8),
        torch.ones(3, 2, dtype=torch.complex64),
        torch.eye(3).to_sparse(),
        pytest.param(torch.ones(3, 2, device="meta")),
    ],
    ids=["int8", "complex", "sparse", "meta"],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_weights_that_are_no_dense_floats_are_refused(path: Path, tensor: Tensor) -> None:
    with pytest.raises(CheckpointError, match=r"stem\.conv\.weight is torch\.\w+.*expected dense floating-point"):
        read_checkpoint(written(path, {**weights(), "stem.conv.weight": tensor}))


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


@pytest.mark.parametrize("eps", [0.0, -1e-5, 1.0, float("nan")])
def test_an_impossible_epsilon_is_refused(path: Path, eps: float) -> None:
    with pytest.raises(CheckpointError, match="bn_eps must lie between 0 and 1"):
        read_checkpoint(written(path, weights()), bn_eps=eps)


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


# ---- the report ------------------------------------------------------------------------------------------------------

FULL: dict[str, Any] = {
    "model": "yolov8n",
    "matched": 162,
    "total": 162,
    "values": 1_277_707,
    "missing": (),
    "unexpected": (),
    "wrong_shape": (),
    "dropped": {},
    "untrained": (),
    "left_out": (),
    "fits": "yolov8n",
    "path": "/data/epoch_4_model.pth",
    "sha256": "0123456789abcdef" * 4,
    "source": "resume file (vfmkd names)",
    "kind": "vfmkd",
    "epoch": 4,
    "teacher": None,
    "bn_eps": 1e-5,
    "input_norm": "0-1",
    "verified": True,
}


def test_the_summary_is_one_line_with_counts_and_origin() -> None:
    expected = "backbone: yolov8n · 162/162 tensors · 1,277,707 values · from epoch 4 of epoch_4_model.pth"
    assert LoadReport(**FULL).summary() == expected
    assert LoadReport(**{**FULL, "epoch": None}).summary().endswith("values · from epoch_4_model.pth")
    assert "from epoch 0 of" in LoadReport(**{**FULL, "epoch": 0}).summary()


def test_the_table_adds_a_line_for_each_further_fact() -> None:
    lines = LoadReport(**FULL).table().splitlines()
    assert lines[0] == LoadReport(**FULL).summary()
    assert [line.split()[0] for line in lines[1:]] == ["source", "BatchNorm"]
    assert "0123456789ab…" in lines[1]
    assert "1e-05" in lines[2]
    faults = {
        "dropped": {"edge_head": 2, "neck and head": 193},
        "missing": tuple(f"{i}.conv.weight" for i in range(6)),
        "unexpected": ("stage5.x",),
        "wrong_shape": ("stem.conv.weight (expected [1], found [2])",),
    }
    table = LoadReport(**{**FULL, **faults}).table()
    assert re.search(r"dropped +195 tensors .*edge_head \(2\), neck and head \(193\)", table)
    assert re.search(r"missing +6: 0\.conv\.weight, 1\.\S+, 2\.\S+, 3\.conv\.weight, … \(2 more\)\n", table)
    assert re.search(r"unexpected +1: stage5\.x\n", table)
    assert re.search(r"wrong shape +1: stem\.conv\.weight \(expected \[1\], found \[2\]\)$", table)


@pytest.mark.parametrize(
    ("fault", "complete"),
    [
        ({}, True),
        ({"dropped": {"edge_head": 2}}, True),
        ({"matched": 161}, False),
        ({"missing": ("a",)}, False),
        ({"unexpected": ("a",)}, False),
        ({"wrong_shape": ("a",)}, False),
    ],
)
def test_complete_means_everything_matched_and_nothing_was_left_over(fault: dict[str, Any], complete: bool) -> None:
    assert LoadReport(**{**FULL, **fault}).complete is complete


def test_the_dictionary_is_plain_data_that_json_gives_back() -> None:
    report = LoadReport(**{**FULL, "missing": ("a", "b")})
    plain = report.to_dict()
    assert plain["missing"] == ["a", "b"]
    assert json.loads(json.dumps(plain)) == plain
    assert plain.keys() == FULL.keys()


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


def test_a_checksum_file_that_cannot_be_read_is_no_missing_one(path: Path) -> None:
    written(path, weights())
    path.with_name(f"{path.name}.sha256").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match="cannot be read as the checksum"):
        read_checkpoint(path)
