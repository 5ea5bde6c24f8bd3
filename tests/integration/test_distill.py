"""Distillation in the test's own process: what is learned is shown, resumed bit for bit, and taken by --backbone."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from safetensors.torch import save_file

from kdyolo.checkpoints.loading import load_into
from kdyolo.checkpoints.reader import read_checkpoint
from kdyolo.data.coco_to_yolo import convert_coco
from kdyolo.data.synthetic import draw_dataset
from kdyolo.distillation.distill import check_place, distill, resume
from kdyolo.distillation.plan import plan_distillation
from kdyolo.distillation.run.loop import DistillLoop, Place
from kdyolo.distillation.run.state import DistillState
from kdyolo.distillation.run.verdict import kept_row
from kdyolo.distillation.teachers.projected_teacher import ProjectedTeacher
from kdyolo.errors import ConfigError, DatasetError, KDYOLOError, RunError
from kdyolo.models.backbone import DistilledBackbone
from kdyolo.runs.history import read_run
from tests.builders.commands import tree
from tests.builders.distillation import BlurTeacher, write_images
from tests.builders.run_folders import write_run
from tests.distillation.run.test_state import SOUND

OPTIONS: dict[str, Any] = {"model": "yolov8n", "imgsz": 64, "batch": 8, "device": "cpu", "held_out": 8}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), 32)


def blur() -> BlurTeacher:
    return BlurTeacher(64, (8, 16, 32))


@pytest.fixture(scope="module")
def learned(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("runs") / "run"
    return distill(images, teacher=blur(), epochs=12, work_dir=str(folder), **OPTIONS)


def test_a_student_learns_and_the_run_says_so(learned: Any) -> None:
    assert learned.columns["cosine/P3"][-1] > 0.1
    assert learned.columns["cosine/P3"][-1] > learned.columns["cosine/P3"][0]
    assert cv2.imread(str(learned.folder / "features.png")) is not None
    assert cv2.imread(str(learned.folder / "results.png")) is not None
    assert learned.verdict.startswith("learned")
    floor = learned.columns["floor/P3"]
    assert set(floor) == {floor[0]}
    cosine, content = (kept_row(learned.columns)[f"{what}/P3"] for what in ("cosine", "content"))
    told = f"P3 centred cosine {cosine:.2f} (position alone {floor[0]:.2f}, without position {content:.2f})"
    assert told in learned.verdict
    assert f"after epoch {read_checkpoint(learned.backbone).epoch})" in learned.verdict
    assert learned.to_frame()["cosine/P3"].tolist() == learned.columns["cosine/P3"]
    assert not (learned.folder / "weights" / "resume.pt").exists()
    assert read_run(learned.folder).phase(1) == ""  # of a freeze; kdyolo ps shows it


def test_the_file_is_taken_without_a_further_word(learned: Any) -> None:
    found = read_checkpoint(learned.backbone)
    assert (found.teacher, str(found.input_norm), found.bn_eps, found.untrained) == ("blur", "0-1", 1e-3, ())
    assert found.verified
    backbone = DistilledBackbone("yolov8n")
    report = load_into(backbone, found)
    assert report.complete
    assert (report.teacher, report.to_dict()["teacher_licence"]) == ("blur", "cc-by-nc-4.0")
    assert read_checkpoint(learned.folder / "weights" / "last.pt").teacher == "blur"


class Killed(BaseException):
    """Ends a run as a kill does, without any cleaning up by it."""


def test_resumed_it_gives_the_same_to_the_bit(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = distill(images, teacher=blur(), epochs=3, work_dir=str(tmp_path / "whole"), accumulate=2, **OPTIONS)
    train, calls = DistillLoop._train_epoch, []

    def once(self: DistillLoop) -> float:
        calls.append(1)
        if len(calls) == 2:
            raise Killed
        return train(self)

    monkeypatch.setattr(DistillLoop, "_train_epoch", once)
    with pytest.raises(Killed):
        distill(images, teacher=blur(), epochs=3, work_dir=str(tmp_path / "cut"), accumulate=2, **OPTIONS)
    again = resume(tmp_path / "cut", teacher=blur())
    first, second = (read_checkpoint(r.folder / "weights" / "last.pt").tensors for r in (whole, again))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(whole.columns[name] == again.columns[name] for name in whole.columns if name != "time")


def test_images_that_are_not_there_are_named_on_resume(tmp_path: Path) -> None:
    state = DistillState(**{**SOUND, "data": [str(tmp_path / "photos")]})
    (tmp_path / "weights").mkdir()
    state.save(tmp_path / "weights" / "resume.pt")
    with pytest.raises(
        RunError, match=r"cannot be resumed: there is no .*photos\. .*folder that the run was started in"
    ):
        resume(tmp_path)


def test_compiled_and_with_amp_a_cpu_computes_the_same(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AMP is of a GPU alone; the eager backend leaves out of a compilation what only takes time."""
    compile_model = torch.compile
    monkeypatch.setattr("torch.compile", lambda model, **words: compile_model(model, backend="eager", **words))
    told = [{}, {"amp": True}, {"compile": True}]
    runs = [
        distill(images, teacher=blur(), epochs=1, work_dir=str(tmp_path / str(number)), **OPTIONS, **words)
        for number, words in enumerate(told)
    ]
    plain, *others = (read_checkpoint(run.folder / "weights" / "last.pt").tensors for run in runs)
    assert all(torch.equal(plain[name], other[name]) for other in others for name in plain)


def test_a_batch_is_shared_equally(images: Path) -> None:
    plan = plan_distillation(images, blur(), {**OPTIONS, "batch": 9})
    check_place(plan, Place(torch.device("cpu"), 0, 3))
    single = plan_distillation(images, blur(), {**OPTIONS, "batch": 1, "imgsz": 32})
    with pytest.raises(ConfigError, match="too little for BatchNorm's statistics"):
        check_place(single, Place(torch.device("cpu")))
    with pytest.raises(ConfigError, match="batch: expected a multiple of 2, the number of processes that share it"):
        check_place(plan, Place(torch.device("cpu"), 0, 2))


def test_a_folder_of_another_run_or_of_a_running_one_stays_as_it_is(
    learned: Any, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> None:
        raise RunError(f"{folder}: this run is going on")

    again = {**OPTIONS, "epochs": 1, "exist_ok": True}
    training = write_run(tmp_path / "training", [0.1])
    finished = Path(shutil.copytree(learned.folder, tmp_path / "finished"))
    before = tree(tmp_path)
    with pytest.raises(ConfigError, match="a run of something else than a distillation"):
        distill(images, teacher=blur(), work_dir=str(training), **again)
    monkeypatch.setattr("kdyolo.runs.pid_file.refuse_running", refuse)
    with pytest.raises(RunError, match="this run is going on"):
        distill(images, teacher=blur(), work_dir=str(finished), **again)
    assert tree(tmp_path) == before


def test_without_a_compiler_nothing_is_begun(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nand more")

    monkeypatch.setattr("torch.compile", fails)
    with pytest.raises(ConfigError, match=r"cannot compile here .*No working C\+\+ compiler found'\)\. .*or leave out"):
        distill(images, teacher=blur(), compile=True, work_dir=str(tmp_path / "run"), **OPTIONS)
    assert not (tmp_path / "run").exists()


def test_from_a_cache_it_learns_and_a_second_run_computes_nothing(images: Path, tmp_path: Path) -> None:
    options = {**OPTIONS, "epochs": 2, "cache": str(tmp_path / "cache")}
    first = distill(images, teacher=blur(), work_dir=str(tmp_path / "a"), **options)
    again = distill(images, teacher=blur(), work_dir=str(tmp_path / "b"), **options)
    assert "0 are added" in (again.folder / "train.log").read_text()
    one, other = (read_checkpoint(r.folder / "weights" / "last.pt").tensors for r in (first, again))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert first.columns["cosine/P3"][-1] > first.columns["cosine/P3"][0]


def test_from_a_projected_cache_it_learns_and_resumes_and_knows_its_projection(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**OPTIONS, "epochs": 3, "cache": str(tmp_path / "cache"), "cache_pca": 2}
    whole = distill(images, teacher=blur(), work_dir=str(tmp_path / "whole"), **options)
    log = (whole.folder / "train.log").read_text()
    assert re.search(r"cache: PCA to 2 channels keeps \d\d\.\d% of the variance of s8, ", log)
    assert whole.columns["cosine/P3"][-1] > whole.columns["cosine/P3"][0]
    (kept,) = (tmp_path / "cache").iterdir()
    train = DistillLoop._train_epoch

    def once(loop: DistillLoop) -> float:
        if loop.epoch == 1:
            raise Killed
        return train(loop)

    monkeypatch.setattr(DistillLoop, "_train_epoch", once)
    with pytest.raises(Killed):
        distill(images, teacher=blur(), work_dir=str(tmp_path / "cut"), **options)
    monkeypatch.undo()
    projection = (kept / "pca.safetensors").read_bytes()
    other = ProjectedTeacher(blur(), [0, 1, 2], 2)
    save_file(other.tensors(), kept / "pca.safetensors", {"explained": "{}"})
    with pytest.raises(RunError, match=r"PCA in .* is not the one that it began with"):
        resume(tmp_path / "cut", teacher=blur())
    (kept / "pca.safetensors").write_bytes(projection)
    again = resume(tmp_path / "cut", teacher=blur())
    first, second = (read_checkpoint(r.folder / "weights" / "last.pt").tensors for r in (whole, again))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_layers_that_no_tap_reaches_are_marked_as_untrained(images: Path, tmp_path: Path) -> None:
    found = distill(images, teacher=blur(), epochs=1, work_dir=str(tmp_path / "run"), taps="p4:s16", **OPTIONS)
    assert read_checkpoint(found.backbone).untrained == ("7", "8", "9")


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ({"imgsz": 100}, ConfigError, "multiple of 32"),
        ({"batch": 64}, DatasetError, "too few images"),
        ({"epoch": 3}, ConfigError, "epochs"),
        ({"taps": "p3:nothing"}, ConfigError, "has no map"),
        ({"cache": "cache", "mixup": 0.1}, ConfigError, "cache and mixup exclude each other"),
        ({"cache_pca": 2}, ConfigError, "no cache is given"),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(
    images: Path, tmp_path: Path, options: dict[str, Any], kind: type[KDYOLOError], says: str
) -> None:
    with pytest.raises(kind, match=says):
        distill(images, teacher=blur(), **{**OPTIONS, "work_dir": str(tmp_path / "run"), **options})
    assert not (tmp_path / "run").exists()


def test_labelled_objects_of_held_out_images_are_told_apart(tmp_path: Path) -> None:
    data = convert_coco(draw_dataset(tmp_path / "root", {"train": 24}, imgsz=64), tmp_path / "data").yaml
    pictures = data.parent / "images" / "train"
    options = {**OPTIONS, "held_out": 16, "work_dir": str(tmp_path / "run")}
    found = distill(pictures, teacher=blur(), epochs=1, **options)
    levels = ["P3", "P4", "P5", "joined"]
    assert [name for name in found.columns if name.startswith("knn/")] == [f"knn/{level}" for level in levels]
    assert all(0 <= found.columns[f"knn/{level}"][0] <= 1 for level in levels)


def test_too_many_unreadable_images_are_refused_and_few_are_left_out(images: Path, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "images")
    (tmp_path / "images" / "000.png").write_bytes(b"nothing")
    done = distill(tmp_path / "images", teacher=blur(), epochs=1, work_dir=str(tmp_path / "run"), **OPTIONS)
    assert "1 unreadable" in (done.folder / "train.log").read_text()
    for n in range(1, 5):
        (tmp_path / "images" / f"00{n}.png").write_bytes(b"nothing")
    with pytest.raises(DatasetError, match="5 of 32 images cannot be read"):
        distill(tmp_path / "images", teacher=blur(), work_dir=str(tmp_path / "other"), **OPTIONS)
