"""Model YAMLs: shipped ones equal Ultralytics' rows, users' mistakes are named, each layout gives the other back."""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from ultralytics.nn.tasks import yaml_model_load

from kdyolo.errors import ModelError
from kdyolo.models.arch import UNCAPPED, Arch
from kdyolo.models.backbone import DistilledBackbone
from kdyolo.models.model_yaml import BACKBONE, is_nested, load_model_yaml, resolve
from kdyolo.models.yaml_layouts import describe_detector, from_stock_yaml, to_stock_yaml
from kdyolo.utils.shipped_files import shipped

SCALES = "nsmlx"
SHIPPED = sorted(shipped("models"))
LEVELS = {
    "kdyolov8.yaml": ["P3", "P4", "P5"],
    "kdyolov8-p2.yaml": ["P2", "P3", "P4", "P5"],
    "kdyolov8-p234.yaml": ["P2", "P3", "P4"],
    "kdyolo11.yaml": ["P3", "P4", "P5"],
    "kdyolo12.yaml": ["P3", "P4", "P5"],
    "kdyolo26.yaml": ["P3", "P4", "P5"],
}
STOCK = ["yolov8.yaml", "yolov8-p2.yaml", "yolo11.yaml", "yolo12.yaml", "yolo26.yaml"]
# What describes a network; the rest is where the description came from.
NETWORK = ("nc", "scales", "scale", "backbone", "head", "end2end", "reg_max")


def with_letter(file: str, scale: str) -> str:
    return re.sub(r"(yolov?\d+)", rf"\1{scale}", file)


def network(description: dict[str, Any]) -> dict[str, Any]:
    return {key: description.get(key) for key in NETWORK}


def user_yaml(path: Path, **changes: Any) -> Path:
    """The shipped P3–P5 description with a user's changes, as a file; ``None`` removes a key."""
    content = yaml.safe_load(shipped("models")["kdyolov8.yaml"].read_text())
    content = {key: value for key, value in {**content, **changes}.items() if value is not None}
    path.write_text(yaml.safe_dump(content))
    return path


def index_rows(*args: list[Any], backbone: list[Any] | None = None) -> list[list[Any]]:
    """Backbone rows: the module with its arguments, and one pick for each list of arguments."""
    return [[-1, 1, BACKBONE, ["yolov8", 1024] if backbone is None else backbone], *([0, 1, "Index", a] for a in args)]


# ---- finding a description -------------------------------------------------------------------------------------------


def test_the_shipped_files_are_the_ones_tested_here() -> None:
    assert set(SHIPPED) == set(LEVELS)


@pytest.mark.parametrize("file", SHIPPED)
@pytest.mark.parametrize("scale", SCALES)
def test_a_shipped_file_is_found_by_bare_name_with_its_letter(file: str, scale: str) -> None:
    name = with_letter(file, scale)
    description = load_model_yaml(name)
    assert description == load_model_yaml(name.removesuffix(".yaml")) == load_model_yaml(Path(name))
    assert (description["scale"], description["yaml_file"]) == (scale, name)
    assert [row[3] for row in description["backbone"][1:]] == [[level] for level in LEVELS[file]]


def test_a_file_of_the_users_is_found_by_path_with_and_without_its_letter(tmp_path: Path) -> None:
    user_yaml(tmp_path / "my-kdyolov8.yaml", nc=3)
    for name, scale in (("my-kdyolov8m.yaml", "m"), ("my-kdyolov8.yaml", "")):
        description = load_model_yaml(tmp_path / name)
        assert (description["nc"], description["scale"]) == (3, scale)


def test_a_file_in_the_current_folder_precedes_the_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    user_yaml(tmp_path / "kdyolov8.yaml", nc=3)
    assert load_model_yaml("kdyolov8n.yaml")["nc"] == 3
    assert load_model_yaml("kdyolov8n-p2.yaml")["nc"] == 80


@pytest.mark.parametrize(
    ("name", "meant"),
    [("kdyolo8n.yaml", "kdyolov8n.yaml"), ("kdyolov8s-p3.yaml", "kdyolov8s-p2.yaml")],
)
def test_a_missing_file_says_what_was_probably_meant(name: str, meant: str) -> None:
    with pytest.raises(ModelError, match=rf"{name}: no such model YAML.*e\.g\. kdyolov8s\.yaml.*Did you mean.*{meant}"):
        load_model_yaml(name)


@pytest.mark.parametrize("name", ["kdyolo9.yaml", "kdyolov10n.yaml", "kdyolo.yaml"])
def test_no_other_network_is_suggested_for_one_that_is_not_there(name: str) -> None:
    with pytest.raises(ModelError, match=r"Expected a path or one of kdyolo11\.yaml") as caught:
        load_model_yaml(name)
    assert "Did you mean" not in str(caught.value)


def test_a_name_in_a_folder_is_not_looked_up_among_the_shipped() -> None:
    with pytest.raises(ModelError, match="no such model YAML"):
        load_model_yaml("elsewhere/kdyolov8s.yaml")


@pytest.mark.parametrize("content", ["a: [", "- a\n- b\n", "nc: 80\nbackbone: []\n", "just text", "", "\x00\x01"])
def test_a_file_that_describes_no_model_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "kdyolov8n.yaml"
    path.write_text(content)
    with pytest.raises(ModelError, match=r"kdyolov8n\.yaml: not a (YAML file|model YAML)"):
        load_model_yaml(path)


# ---- filling in what follows from the backbone -----------------------------------------------------------------------


@pytest.mark.parametrize("file", SHIPPED)
@pytest.mark.parametrize("scale", SCALES)
def test_channels_follow_from_the_module(file: str, scale: str) -> None:
    rows = describe_detector(with_letter(file, scale))["backbone"]
    arch, cap, eps, levels = rows[0][3]
    module = DistilledBackbone(arch, cap, eps, levels)
    family = re.match(r"kd(yolov?\d+)", file)[1]
    assert (arch, levels) == (f"{family}{scale}", LEVELS[file])
    assert cap == UNCAPPED if family == "yolov8" else Arch.parse(arch).max_channels
    assert [row[3] for row in rows[1:]] == [[channels, i] for i, channels in enumerate(module.channels)]


def test_no_channel_number_is_typed_in_a_shipped_file() -> None:
    for file in SHIPPED:
        for row in load_model_yaml(file)["backbone"][1:]:
            assert all(isinstance(value, str) for value in row[3])


@pytest.mark.parametrize(("scale", "capped", "uncapped"), [("m", 576, 768), ("l", 512, 1024), ("x", 640, 1280)])
def test_the_checkpoints_widths_win(scale: str, capped: int, uncapped: int) -> None:
    def p5(cfg: Any, arch: Arch | None = None) -> int:
        return describe_detector(cfg, arch)["backbone"][-1][3][0]

    stock_arch, wide_arch = Arch.parse(f"yolov8{scale}"), Arch.parse(f"yolov8{scale}", UNCAPPED)
    assert p5(f"kdyolov8{scale}.yaml") == p5(f"yolov8{scale}.yaml", wide_arch) == uncapped
    assert p5(f"kdyolov8{scale}.yaml", stock_arch) == p5(f"yolov8{scale}.yaml") == capped
    resolved = describe_detector(f"kdyolov8{scale}.yaml")
    assert p5(resolved, stock_arch) == capped
    assert p5(resolved) == uncapped


def test_a_checkpoint_of_another_scale_does_not_change_the_description() -> None:
    assert describe_detector("kdyolov8n.yaml", Arch.parse("yolov8s")) == describe_detector("kdyolov8n.yaml")


def test_the_checkpoint_gives_the_scale_where_the_name_has_none() -> None:
    expected = {**describe_detector("kdyolov8s.yaml"), "yaml_file": "kdyolov8.yaml"}
    assert describe_detector("kdyolov8.yaml", Arch.parse("yolov8s")) == expected


def test_the_epsilon_is_the_callers_then_the_descriptions_then_ultralytics() -> None:
    def eps(cfg: Any, bn_eps: float | None = None) -> float:
        return describe_detector(cfg, bn_eps=bn_eps)["backbone"][0][3][2]

    assert eps("kdyolov8n.yaml") == 1e-3
    resolved = describe_detector("kdyolov8n.yaml", bn_eps=1e-5)
    assert eps(resolved) == 1e-5
    assert eps(resolved, 2e-4) == 2e-4


@pytest.mark.parametrize("file", SHIPPED)
def test_resolving_twice_changes_nothing_and_resolving_once_leaves_the_argument_alone(file: str) -> None:
    description = load_model_yaml(with_letter(file, "m"))
    before = deepcopy(description)
    resolved = resolve(description)
    assert description == before
    assert resolve(resolved) == resolved


P3, P4, P5 = ["P3"], ["P4"], ["P5"]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        pytest.param(index_rows(P3, P4, [256]), r"Index rows name a level.*256", id="typed channels"),
        pytest.param(index_rows([64, 0], [128, 1], [256, 2]), r"Index rows name a level.*64", id="typed rows"),
        pytest.param(index_rows(P3, P4, ["P6"]), r"no level \['P6'\].*'P5'", id="unknown level"),
        pytest.param(index_rows(P3, P4, ["p5"]), r"no level \['p5'\]", id="level in lower case"),
        pytest.param(index_rows(P3, P5, P4), "shallow to deep", id="wrong order"),
        pytest.param(index_rows(P3, P4, P4), "each once", id="level twice"),
        pytest.param(index_rows(P3, P4, P5, backbone=["yolov5"]), r"family one of.*yolov8.*yolov5", id="family"),
        pytest.param(index_rows(P3, P4, P5, backbone=[]), r"takes \[family, max_channels\]", id="no family"),
        pytest.param(index_rows(P3, P4, P5, backbone=["yolov8", 1024, 3]), r"takes \[family", id="three arguments"),
        pytest.param(index_rows(P3, P4, P5, backbone=["yolov8", 512]), "at least 1024", id="below the stock cap"),
        pytest.param(index_rows(), "expected a backbone of one", id="no level"),
        pytest.param([*index_rows(P3), [-1, 1, "Conv", [64, 3, 2]]], "expected a backbone of one", id="other row"),
        pytest.param([*index_rows(P3, P4), [1, 1, "Index", ["P5"]]], "expected a backbone of one", id="other source"),
        pytest.param([], r"backbone (takes rows|rows|layers)", id="no row"),
        pytest.param([[-1, 1, "Conv", [64, 3, 2]]] * 2, "backbone rows are not those of yolov8", id="foreign backbone"),
    ],
)
def test_a_users_mistake_in_the_backbone_is_named(tmp_path: Path, rows: list[Any], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        describe_detector(user_yaml(tmp_path / "kdyolov8n.yaml", backbone=rows))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"backbone": [*index_rows(P3, P4), [0, 1, "Index"]]}, id="row without arguments"),
        pytest.param({"head": [[0, 1, "Detect", ["nc"]]]}, id="head on the list of maps"),
        pytest.param({"backbone": [[-1, 1], *index_rows(P3, P4, P5)[1:]]}, id="row without a module"),
        pytest.param({"backbone": index_rows(P3, P4, [])}, id="pick without a level"),
        pytest.param({"backbone": "yolov8"}, id="no rows at all"),
        pytest.param({"backbone": index_rows(P3, P4, P5, backbone=["yolov8", "wide"])}, id="cap is text"),
        pytest.param({"backbone": index_rows(P3, P4, P5, backbone=["yolov8", -3])}, id="cap is negative"),
        pytest.param({"scales": None}, id="no scales"),
    ],
)
def test_a_malformed_description_is_an_error_of_ours(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = user_yaml(tmp_path / "kdyolov8n.yaml", **changes)
    with pytest.raises(ModelError, match=r"kdyolov8n\.yaml"):
        to_stock_yaml(describe_detector(path))


@pytest.mark.parametrize("name", ["kdyolov8.yaml", "kdyolov8-p2", "yolov8.yaml"])
def test_without_a_scale_letter_there_is_no_model(name: str) -> None:
    with pytest.raises(ModelError, match=r"no scale letter.*n, s, m, l, x, e\.g\. kdyolov8s\.yaml"):
        describe_detector(name)


@pytest.mark.parametrize("name", ["yolov5n.yaml", "yolov10n.yaml", "yolov8n-seg.yaml", "rtdetr-l.yaml"])
def test_families_that_are_not_supported_are_refused(name: str) -> None:
    with pytest.raises(ModelError, match="no such model YAML"):
        describe_detector(name)
    with pytest.raises(ModelError):
        from_stock_yaml(yaml_model_load("yolov5n.yaml"))


# ---- kdyolo layout ⇄ stock layout ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STOCK)
@pytest.mark.parametrize("scale", SCALES)
def test_with_stock_widths_the_stock_layout_is_ultralytics_own_file(name: str, scale: str) -> None:
    name = with_letter(name, scale)
    stock = yaml_model_load(name)
    flat = to_stock_yaml(describe_detector(name))
    assert network(flat) == network(stock)
    assert flat["yaml_file"] == name
    if scale in "ns" or "v8" not in name:  # their P5 is below every cap
        assert flat == to_stock_yaml(describe_detector(f"kd{name}"))


@pytest.mark.parametrize("name", STOCK)
@pytest.mark.parametrize("scale", SCALES)
def test_from_stock_is_the_inverse_of_to_stock(name: str, scale: str) -> None:
    name = with_letter(name, scale)
    nested = describe_detector(name)
    assert from_stock_yaml(to_stock_yaml(nested)) == nested
    stock = yaml_model_load(name)
    assert network(to_stock_yaml(from_stock_yaml(stock))) == network(stock)


@pytest.mark.parametrize("file", SHIPPED)
@pytest.mark.parametrize("scale", SCALES)
def test_the_stock_layout_survives_the_way_there_and_back(file: str, scale: str) -> None:
    # Uncapped widths rewrite the neck's numbers once; from then on nothing changes, and neither do levels and widths.
    nested = describe_detector(with_letter(file, scale))
    flat = to_stock_yaml(nested)
    assert not is_nested(flat)
    back = from_stock_yaml(flat)
    assert is_nested(back)
    assert back["backbone"][0][3][::3] == nested["backbone"][0][3][::3]  # arch and levels
    assert back["backbone"][1:] == nested["backbone"][1:]  # channels
    assert to_stock_yaml(back) == flat


def test_backbone_layers_below_the_last_level_are_left_out_of_the_stock_layout() -> None:
    flat = to_stock_yaml(describe_detector("kdyolov8n-p234.yaml"))
    assert flat["backbone"] == yaml_model_load("yolov8n.yaml")["backbone"][:7]
    assert flat["head"][-1] == [[12, 15, 18], 1, "Detect", ["nc"]]


def test_both_directions_leave_their_argument_alone() -> None:
    nested = describe_detector("kdyolov8l-p2.yaml")
    before = deepcopy(nested)
    flat = to_stock_yaml(nested)
    assert nested == before
    before = deepcopy(flat)
    from_stock_yaml(flat)
    assert flat == before


def test_further_keys_travel_along() -> None:
    nested = {**describe_detector("kdyolov8n.yaml"), "kd": {"freeze_epochs": 3}, "activation": "nn.ReLU()"}
    flat = to_stock_yaml(nested)
    assert (flat["kd"], flat["activation"]) == ({"freeze_epochs": 3}, "nn.ReLU()")
    assert from_stock_yaml(flat) == nested


def test_the_recorded_epsilon_comes_back_into_the_kdyolo_layout() -> None:
    flat = {**yaml_model_load("yolov8n.yaml"), "kd": {"bn_eps": 1e-5}}
    assert from_stock_yaml(flat)["backbone"][0][3][2] == 1e-5


def test_negative_sources_mean_the_same_rows_in_both_layouts(tmp_path: Path) -> None:
    # Counted back from the row itself; the same distance is another row once the backbone's layers are listed.
    nested = describe_detector("kdyolov8n.yaml")
    head = deepcopy(nested["head"])
    head[1][0], head[4][0] = [-1, -3], [-1, -7]  # rows 5 and 8 of the kdyolo layout: P4 in row 2, P3 in row 1
    relative = describe_detector(user_yaml(tmp_path / "kdyolov8n.yaml", head=head))
    assert to_stock_yaml(relative) == to_stock_yaml(nested)


def test_a_stock_file_of_the_users_is_laid_out_like_the_shipped_one(tmp_path: Path) -> None:
    stock = yaml_model_load("yolov8s-p2.yaml")
    path = tmp_path / "yolov8s-mine.yaml"
    path.write_text(yaml.safe_dump({key: stock[key] for key in ("nc", "scales", "backbone", "head")}))
    assert network(describe_detector(path)) == network(describe_detector("kdyolov8s-p2.yaml"))
    assert network(describe_detector(stock)) == network(describe_detector("kdyolov8s-p2.yaml"))


def test_backbone_layers_that_the_head_leaves_unused_are_kept() -> None:
    stock = yaml_model_load("yolov8n.yaml")
    stock["head"] = [
        [6, 1, "nn.Upsample", ["None", 2, "nearest"]],
        [[-1, 4], 1, "Concat", [1]],
        [-1, 3, "C2f", [256]],
        [[12], 1, "Detect", ["nc"]],
    ]
    assert network(to_stock_yaml(from_stock_yaml(stock))) == network(stock)


def test_a_head_that_taps_the_middle_of_a_stage_is_refused() -> None:
    stock = yaml_model_load("yolov8n.yaml")
    stock["head"][1][0] = [-1, 5]  # the Conv of stage 3, not its C2f
    with pytest.raises(ModelError, match=r"backbone layers \[4, 5, 9\], which are not the ends of pyramid levels"):
        from_stock_yaml(stock)


@pytest.mark.parametrize("change", [{"scale": ""}, {"scale": "q"}, {"scales": None}])
def test_a_stock_description_without_a_known_scale_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="with a scale letter"):
        from_stock_yaml({**yaml_model_load("yolov8n.yaml"), **change})
