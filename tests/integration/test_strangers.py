"""Run folders, checkpoints and data sets of strangers: nothing that they bring runs, whatever trains or evaluates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from kdyolo import KDYOLO
from kdyolo.cli import main
from kdyolo.errors import CheckpointError, DatasetError, KDYOLOError, ModelError, RunError
from tests.builders.training import FAST, Enough

CODE = "__import__('pathlib').Path('RAN').touch()"
SCRIPT = "from pathlib import Path\nPath('RAN').touch()"


class Runs:
    """Unpickling it creates the file ``RAN``."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (SCRIPT,)


@pytest.fixture(autouse=True)
def nothing_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    yield
    assert not Path("RAN").exists()


def rewritten(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = torch.load(path, weights_only=False)
    change(content)
    torch.save(content, path)


def missing_images(run: Path, state: dict[str, Any]) -> None:
    data = run / "data.yaml"
    data.write_text(yaml.safe_dump({"path": "nowhere", "train": "a", "val": "b", "names": ["x"], "download": SCRIPT}))
    state["args"]["data"] = str(data)
    state["settings"].update(run_download=True, trust=True)


def evil_teacher(run: Path, state: dict[str, Any]) -> None:
    torch.save({"model": Runs()}, run / "teacher.pt")
    state["args"]["distill_model"] = str(run / "teacher.pt")


STATES: dict[str, tuple[Callable[[Path, dict[str, Any]], Any], type[KDYOLOError]]] = {
    "activation": (lambda _, state: state["yaml"].update(activation=CODE), ModelError),
    "layer": (lambda _, state: state["yaml"]["head"][2].__setitem__(2, "load_checkpoint"), ModelError),
    "download": (missing_images, DatasetError),
    "teacher": (evil_teacher, RunError),
    "pickle": (lambda _, state: state.update(scaler=Runs()), RunError),
}


@pytest.mark.parametrize("kind", STATES)
def test_a_run_of_a_stranger_is_not_resumed(interrupted_copy: Path, kind: str) -> None:
    change, error = STATES[kind]
    rewritten(interrupted_copy / "weights/resume.pt", lambda state: change(interrupted_copy, state))
    with pytest.raises(error):
        KDYOLO(interrupted_copy / "weights/last.pt").train(resume=True)
    assert (interrupted_copy / "weights/last.pt").is_file()


@pytest.mark.parametrize("name", ["last.pt", "best.pt"])
def test_nor_one_with_code_in_a_checkpoint_that_is_opened_when_it_ends(interrupted_copy: Path, name: str) -> None:
    rewritten(interrupted_copy / "weights" / name, lambda content: content.update(git=Runs()))
    with pytest.raises(SystemExit) as caught:
        main(["train", "--resume", str(interrupted_copy)])
    assert caught.value.code == 1


def test_a_checkpoint_with_code_trains_nothing(interrupted_copy: Path, shapes: Path) -> None:
    weights = interrupted_copy / "weights/last.pt"
    rewritten(weights, lambda content: content["ema"].yaml.update(activation=CODE))
    for command in (
        ["train", "--model", str(weights), "--data", str(shapes), "epochs=1"],
        ["train", "--weights", str(weights), "--data", str(shapes), "epochs=1"],
        ["train", "--backbone", str(weights), "--data", str(shapes), "epochs=1"],
        ["val", "--model", str(weights), "--data", str(shapes)],
        ["predict", "--model", str(weights), "--source", "."],
        ["inspect", str(weights)],
        ["export-stock", str(weights), "--out", "out.pt"],
    ):
        with pytest.raises(SystemExit) as caught:
            main(command)
        assert caught.value.code == 1
    assert not Path("out.pt").exists()


def test_a_data_set_that_names_a_script_is_only_shown(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = {"path": "nowhere", "train": "a", "val": "b", "names": ["x"], "download": SCRIPT}
    Path("data.yaml").write_text(yaml.safe_dump(content))
    given = ["--data", "data.yaml", "--backbone", str(checkpoint)]
    for command in (["doctor", *given], ["train", *given], ["train", *given, "--dry-run", "--run-download"]):
        with pytest.raises(SystemExit):
            main(command)
        assert "Path('RAN').touch()" in capsys.readouterr().err


def test_a_data_set_in_a_checkpoint_is_not_fetched_either(interrupted_copy: Path) -> None:
    Path("data.yaml").write_text(
        yaml.safe_dump({"path": "nowhere", "train": "a", "val": "b", "names": ["x"], "download": SCRIPT})
    )
    weights = interrupted_copy / "weights/last.pt"
    rewritten(weights, lambda content: content["train_args"].update(data="data.yaml"))
    with pytest.raises(DatasetError, match="not run unless you say so"):
        KDYOLO(weights).val(device="cpu", plots=False)


def test_training_runs_the_script_when_it_is_asked_to(checkpoint: Path, shapes: Path) -> None:
    """The script links the folder of images that are missing."""
    root = yaml.safe_load(shapes.read_text())["path"]
    script = f"import os\nos.symlink({str(root)!r}, 'there')"
    content = yaml.safe_load(shapes.read_text()) | {"path": str(Path("there").absolute()), "download": script}
    Path("data.yaml").write_text(yaml.safe_dump(content))
    model = KDYOLO(backbone=checkpoint)

    def stop(trainer: Any) -> None:
        raise Enough

    model.add_callback("on_train_start", stop)
    with pytest.raises(DatasetError):
        model.train(**FAST, data="data.yaml")
    with pytest.raises(Enough):
        model.train(**FAST, data="data.yaml", run_download=True)
    assert Path("there").is_dir()


def test_trust_opens_what_is_refused(interrupted_copy: Path) -> None:
    weights = interrupted_copy / "weights/last.pt"
    rewritten(weights, lambda content: content.update(git=Path))  # a class, where stock checkpoints have text
    with pytest.raises(CheckpointError):
        KDYOLO(weights)
    assert KDYOLO(weights, trust=True).ckpt["git"] is Path
