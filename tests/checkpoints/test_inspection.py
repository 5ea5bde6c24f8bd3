"""Looking into a checkpoint: what it is, what it fits, where two differ, what it sees."""

from __future__ import annotations

import json
import struct

import cv2
import numpy as np
import pytest
import torch
from ultralytics import YOLO

from kdyolo import compare_checkpoints, inspect_checkpoint
from kdyolo.checkpoints.feature_maps import PADDED, draw_features, principal_colours
from kdyolo.cli import main
from kdyolo.errors import CheckpointError, DatasetError
from kdyolo.models.backbone import DistilledBackbone
from tests.builders.checkpoints import old_names


def test_what_a_resume_file_is(shared):
    found = inspect_checkpoint(shared / "checkpoints/vfmkd_n_resume.pth")
    assert (found.family, found.scale, found.model) == ("yolov8", "n", "kdyolov8n.yaml")
    assert (found.report.kind, found.report.epoch, found.report.complete) == ("vfmkd", 4, True)
    assert [stage.name for stage in found.stages] == ["stem", "p2", "p3", "p4", "p5"]
    assert sum(stage.tensors for stage in found.stages) == 162
    assert sum(stage.values for stage in found.stages) == 1_277_707
    assert found.kd is None


def test_stages_in_numbers(tmp_path):
    torch.manual_seed(0)
    backbone = DistilledBackbone("yolov8n")
    conv, norm = backbone.layers[0].conv.weight.detach(), backbone.layers[0].bn
    with torch.no_grad():
        norm.weight[:3] = 0  # dead: nothing but the bias comes out
        norm.running_var[2:5] = 0  # dead: nothing ever came in; channel 2 is counted once
    content = {"state_dict": {n: t.half() if t.is_floating_point() else t for n, t in old_names(backbone).items()}}
    torch.save({**content, "teacher": "dinov3_vits16", "loss": 0.25}, tmp_path / "half.pth")
    found = inspect_checkpoint(tmp_path / "half.pth")
    stem, p2, *_ = found.stages
    assert (stem.layers, stem.tensors, stem.channels, stem.dead) == ((0,), 6, 16, 5 / 16)
    assert stem.values == sum(t.numel() for t in backbone.layers[0].state_dict().values())
    assert (stem.mean, stem.std) == pytest.approx((float(conv.mean()), float(conv.std())), abs=1e-4)
    assert stem.dtypes == ("float16", "int64")
    assert (p2.layers, p2.dead) == ((1, 2), 0)
    assert (found.teacher, found.loss) == ("dinov3_vits16", 0.25)


def test_what_is_missing_is_said_and_no_error(tmp_path):
    names = old_names(DistilledBackbone("yolov8s"))
    torch.save({n: t for n, t in names.items() if not n.startswith("stage4.2")}, tmp_path / "partial.pth")
    found = inspect_checkpoint(tmp_path / "partial.pth")
    assert (found.scale, found.report.complete, len(found.report.missing)) == ("s", False, 12)
    assert "missing     12: 9.cv1.conv.weight" in found.table()


def test_the_record_of_a_run(train, checkpoint, tmp_path):
    train({"backbone": checkpoint}, freeze_epochs=1, epochs=2, seed=5)
    found = inspect_checkpoint(tmp_path / "run/weights/best.pt")
    assert found.kd is not None
    assert (found.kd["seed"], found.kd["settings"]["freeze_epochs"]) == (5, 1)
    assert found.kd["sha256"] == inspect_checkpoint(checkpoint).report.sha256
    assert "made by kdyolo" in found.table()
    json.dumps(found.to_dict())


def test_two_files(tmp_path):
    torch.manual_seed(0)
    backbone = DistilledBackbone("yolov8n")
    torch.save(old_names(backbone), tmp_path / "a.pth")
    torch.save({f"model.{n}": t for n, t in backbone.layers.state_dict().items()}, tmp_path / "b.pth")
    same = compare_checkpoints(tmp_path / "a.pth", tmp_path / "b.pth", bn_eps=1e-3)
    assert same.equal
    assert "equal to the last bit" in same.table()
    with torch.no_grad():
        backbone.layers[5].conv.weight[0, 0, 0, 0] += 0.5
    del (tensors := dict(backbone.layers.state_dict()))["9.cv1.conv.weight"]
    torch.save({f"model.{n}": t for n, t in tensors.items()}, tmp_path / "c.pth")
    found = compare_checkpoints(tmp_path / "a.pth", tmp_path / "c.pth")
    assert not found.equal
    assert found.only_first == ("9.cv1.conv.weight",)
    assert found.bn_eps == (1e-5, 1e-3)
    by_part = {part.name: part for part in found.parts}
    assert [name for name, part in by_part.items() if part.differing] == ["p4"]
    assert (by_part["p4"].differing, by_part["p4"].worst) == (1, "5.conv.weight")
    assert by_part["p4"].largest == pytest.approx(0.5)
    norm = sum(float(t.double().square().sum()) for n, t in backbone.layers.state_dict().items() if n[0] in "56") ** 0.5
    assert by_part["p4"].relative == pytest.approx(0.5 / norm, rel=1e-2)


def test_principal_components_as_colours():
    """Against scikit-learn's definition, by numpy: centred rows projected on the eigenvectors of their covariance."""
    torch.manual_seed(0)
    features = torch.randn(7, 6, 9)
    features[0] *= 5  # one clear first component
    image = principal_colours(features)
    assert image.shape == (6, 9, 3)
    rows = features.reshape(7, -1).T.double().numpy()
    rows = rows - rows.mean(0)
    values, vectors = np.linalg.eigh(np.cov(rows.T))
    first = rows @ vectors[:, values.argmax()]
    assert abs(np.corrcoef(first, image[..., 0].flatten().astype(float))[0, 1]) > 0.99
    constant = principal_colours(torch.ones(4, 3, 3))
    assert constant.shape == (3, 3, 3)


def test_padding_has_no_say_in_the_colours():
    torch.manual_seed(0)
    features = torch.randn(7, 6, 9)
    inside = torch.zeros(6, 9, dtype=torch.bool)
    inside[1:5] = True
    image = principal_colours(features, inside)
    assert (image[[0, 5]] == PADDED).all()
    assert (image[1:5] == principal_colours(features[:, 1:5])).all()
    features[:, [0, 5]] = 1e6
    assert (principal_colours(features, inside) == image).all()
    assert principal_colours(torch.randn(5, 1, 2)).shape == (1, 2, 3)  # fewer positions than components


def test_the_picture(checkpoint, tmp_path):
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[10:30, 20:60] = (40, 200, 90)
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    drawn = cv2.imread(str(draw_features(checkpoint, tmp_path / "a.png", tmp_path / "out.png", imgsz=64)))
    assert drawn.shape == (28 + 64 + 48, 5 * 64, 3)  # titles, pictures, how to read them
    panels = [drawn[28 : 28 + 64, i * 64 : (i + 1) * 64] for i in range(5)]
    assert len({panel[16:48].std() > 10 for panel in panels}) == 1  # every panel shows something
    for panel in panels[1:4]:  # the image lies in rows 16–48 of the square; P5 has two rows of cells, of half an image
        assert (panel[:16] == PADDED).all()
        assert (panel[48:] == PADDED).all()
    assert drawn[28 + 64 :].min() < 200  # the line is there
    with pytest.raises(DatasetError, match="not an image"):
        draw_features(checkpoint, checkpoint, tmp_path / "out2.png")
    huge = cv2.imencode(".bmp", np.zeros((1, 1, 3), np.uint8))[1].tobytes()
    (tmp_path / "huge.bmp").write_bytes(huge[:18] + struct.pack("<ii", 65_500, 65_500) + huge[26:])
    with pytest.raises(DatasetError, match="not an image"):
        draw_features(checkpoint, tmp_path / "huge.bmp", tmp_path / "out2.png")
    with pytest.raises(DatasetError, match="cannot be written"):
        draw_features(checkpoint, tmp_path / "a.png", tmp_path / "no/out.png")
    assert not (tmp_path / "out2.png").exists()


def test_the_command(checkpoint, tmp_path, capsys):
    main(["inspect", str(checkpoint)])
    assert "yolov8n · 162/162 tensors" in capsys.readouterr().out
    main(["inspect", str(checkpoint), "--json"])
    assert json.loads(capsys.readouterr().out)["report"]["matched"] == 162
    main(["inspect", str(checkpoint), str(checkpoint), "--json"])
    assert json.loads(capsys.readouterr().out)["equal"] is True
    YOLO("yolov8n.yaml").save(tmp_path / "stock.pt")
    main(["inspect", str(checkpoint), str(tmp_path / "stock.pt")])
    assert "not equal" in capsys.readouterr().out
    for arguments, code in ((["a.pth", "b.pth", "--image", "c.jpg"], 2), (["nowhere.pth"], 1), (["a", "b", "c"], 2)):
        with pytest.raises(SystemExit) as end:
            main(["inspect", *arguments])
        assert end.value.code == code


def test_a_file_without_a_backbone(tmp_path):
    torch.save({"optimizer": {"state": {}}}, tmp_path / "optimizer.pth")
    with pytest.raises(CheckpointError):
        inspect_checkpoint(tmp_path / "optimizer.pth")
