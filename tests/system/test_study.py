"""Real studies on drawn shapes: killed half way and finished by a second call, stopped, with a run that fails."""

from __future__ import annotations

import html
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from rich.console import Console
from ultralytics.utils.torch_utils import unwrap_model

from kdyolo import KDTrainer, Study
from kdyolo.cli import main
from kdyolo.errors import RunError
from kdyolo.experiments.study.live_table import LiveTable
from kdyolo.experiments.study.local_backend import LocalBackend
from kdyolo.experiments.study.scheduler import drive
from tests.builders.commands import CHECKOUT, run_command, tree
from tests.builders.training import FAST
from tests.system.forkserver import ForkedPython

BASE = {k: v for k, v in FAST.items() if k != "device"}
PATIENCE = 120.0  # seconds; the machine may be busy


@pytest.fixture
def write(shapes: Path, checkpoint: Path) -> Callable[..., str]:
    """``write(base, **changes)`` → a study file: a random arm and a frozen one, two seeds, on the CPU."""

    def study(base: dict[str, Any] | None = None, **changes: Any) -> str:
        content = {
            "name": "shapes",
            "data": str(shapes),
            "base": {**BASE, **(base or {})},
            "arms": {"random": {"random_init": True}, "frozen": {"backbone": str(checkpoint), "freeze": 1}},
            "seeds": [0, 1],
            "devices": ["cpu"],
            "baseline": "random",
        }
        Path("study.yaml").write_text(yaml.safe_dump({**content, **changes}, sort_keys=False))
        return "study.yaml"

    return study


@pytest.fixture
def start(python, tmp_path) -> Callable[[str], ForkedPython]:
    """``start(file)``: ``kdyolo study`` as a person starts it; its trainings are processes that it starts itself."""
    return lambda file: python.start("-m", "kdyolo", "study", file, cwd=tmp_path)


def wait_for(what: Callable[[], Any], process: ForkedPython | None = None) -> Any:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if found := what():
            return found
        if process and process.poll() is not None:
            pytest.fail(f"ended with {process.returncode}: {process.stdout.read()}")
        time.sleep(0.05)
    pytest.fail("timed out")


def epochs(run: Path) -> int:
    results = run / "results.csv"
    return max(0, len(results.read_text().splitlines()) - 1) if results.is_file() else 0


def saved(run: Path) -> bool:
    """Whether an epoch can be resumed from."""
    return any(path.stat().st_size for path in run.glob("weights/resume.pt"))


def trainings(folder: Path) -> list[psutil.Process]:
    """Processes whose output goes to a file in a folder, as that of a study's trainings does."""

    def is_one(process: psutil.Process) -> bool:
        try:
            return any(folder in Path(file.path).parents for file in process.open_files() if file.fd in (1, 2))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return False

    return [process for process in psutil.process_iter() if is_one(process)]


@pytest.mark.usefixtures("forked_trainings")
def test_killed_half_way_and_finished_by_a_second_call(start, write, tmp_path, checkpoint):
    file = write({"epochs": 4})
    folder = tmp_path / "studies/shapes"
    victim = start(file)
    first, second = folder / "random/seed0", folder / "frozen/seed0"
    wait_for(lambda: saved(second) and epochs(second) >= 1, victim)
    victim.kill()
    victim.wait()
    wait_for(lambda: not trainings(folder))
    done = epochs(second)
    assert 1 <= done < 4
    before = tree(first)
    assert (folder / "study.yaml").read_bytes() == Path(file).read_bytes()
    assert Study.from_file(file).plan()["status"].tolist() == ["finished", "resumable", "new", "new"]

    Study.from_file(file).run()
    assert tree(first) == before
    resumed = re.findall(r"resuming after epoch (\d+) of 4", (second / "train.log").read_text())
    assert resumed in ([str(done)], [str(done - 1)])  # killed after the row, before the checkpoint
    study = Study.from_file(file)
    results = study.results()
    assert results["status"].tolist() == ["finished"] * 4
    assert results["epochs"].tolist() == [4] * 4
    assert results[["arm", "seed"]].apply(tuple, axis=1).is_unique
    for run in study.runs:
        files = {path.name for path in run.folder.rglob("*")}
        assert {"args.yaml", "best.pt", "kdyolo.yaml", "last.pt", "results.csv", "train.log"} <= files
        assert "resume.pt" not in files
        assert run.log.is_file()

    page = (folder / "report/report.html").read_text(encoding="utf-8")
    assert study.comparison().title == study.file.name
    verdict = study.comparison().differences[0]
    assert (verdict.arm, verdict.baseline, verdict.metric) == ("frozen", "random", "mAP50-95")
    assert verdict.words in html.unescape(page)

    # A third call trains nothing, in a moment, and says the same again.
    after = {run.name: tree(run.folder) for run in study.runs}
    study.run()
    assert {run.name: tree(run.folder) for run in study.runs} == after

    # The file changes: what does not belong to it any more is named, and nothing is touched.
    write({"epochs": 4, "lr0": 0.02})
    with pytest.raises(RunError, match=r"frozen/seed1: lr0: 0.01 there, 0.02 in the file") as error:
        Study.from_file(file).run()
    assert "random/seed0: lr0" in str(error.value)
    write({"epochs": 4}, seeds=[0], arms={"random": {"random_init": True}, "frozen": {"backbone": str(checkpoint)}})
    with pytest.raises(
        RunError, match=r"random/seed1: not in the file\n  frozen/seed0: freeze_epochs: 1 there, 0 in"
    ) as error:
        Study.from_file(file).plan()
    assert "random/seed0" not in str(error.value)
    assert {run.name: tree(run.folder) for run in study.runs} == after
    # More seeds and more arms are the same study, longer.
    arms = {**yaml.safe_load((folder / "study.yaml").read_text())["arms"], "new": {"random_init": True, "lr0": 0.005}}
    write({"epochs": 4}, seeds=[1, 0, 2], arms=arms)
    assert Study.from_file(file).plan()["status"].value_counts().to_dict() == {"new": 5, "finished": 4}


def test_ctrl_c_stops_every_run_so_that_it_can_be_resumed(start, write, tmp_path):
    file = write({"epochs": 500}, devices=["cpu", "cpu"], seeds=[0])
    folder = tmp_path / "studies/shapes"
    study = start(file)
    runs = [folder / "random/seed0", folder / "frozen/seed0"]
    wait_for(lambda: all(saved(run) for run in runs), study)
    children = trainings(folder)
    assert len(children) == 2
    cores = [set(child.cpu_affinity()) for child in children]
    if len(os.sched_getaffinity(0)) > 1:
        assert not cores[0] & cores[1]  # each has its own
    study.send_signal(signal.SIGINT)
    output, _ = study.communicate(timeout=PATIENCE)
    assert study.returncode == 130, output
    assert f"Go on with: kdyolo study {file}" in output
    assert not any(child.is_running() for child in children)
    for run in runs:
        assert "Interrupted. Resume with" in (run / "train.log").read_text()
    assert Study.from_file(file).plan()["status"].tolist() == ["resumable", "resumable"]


def test_a_failing_run_does_not_stop_the_others_and_a_killed_one_is_resumed(start, write, tmp_path, shapes):
    """The data set names no annotations, so the arm that asks for official metrics fails when its run is set up."""
    without = {k: v for k, v in yaml.safe_load(shapes.read_text()).items() if k != "annotations"}
    data = tmp_path / "plain.yaml"
    data.write_text(yaml.safe_dump(without))
    arms = {"asks": {"coco_eval_period": 1}, "fine": {"lr0": 0.02}}
    study = start(write({"epochs": 6}, data=str(data), arms=arms, seeds=[0], baseline="fine"))
    folder = tmp_path / "studies/shapes"
    wait_for(lambda: saved(folder / "fine/seed0"), study)
    for child in trainings(folder):
        child.kill()
    output, _ = study.communicate(timeout=PATIENCE)
    assert study.returncode == 1
    assert "Traceback" not in output
    assert "1 of 2 runs failed" in output
    assert "asks/seed0: ended with exit code 2" in output
    assert "annotations" in output.split("ends with:")[1]
    table = Study.from_file("study.yaml").results().set_index("arm")
    assert table["status"].to_dict() == {"asks": "new", "fine": "finished"}
    assert "resumed on cpu" in (folder / "fine/seed0.log").read_text()


def test_arms_see_the_same_images_and_start_from_the_same_head(train, checkpoint, tmp_path, monkeypatch):
    batches: list[torch.Tensor] = []
    preprocess = KDTrainer.preprocess_batch

    def recorded(self, batch):
        found = preprocess(self, batch)
        batches.append(found["img"].clone())
        return found

    monkeypatch.setattr(KDTrainer, "preprocess_batch", recorded)
    seen, heads, backbones = [], [], []

    def remember(trainer):
        model = unwrap_model(trainer.model)
        backbones.append([t.clone() for t in model.model[0].state_dict().values()])
        heads.append({n: t.clone() for n, t in model.state_dict().items() if not n.startswith("model.0.")})

    starts = {"random": {"model": "kdyolov8n.yaml", "random_init": True}, "distilled": {"backbone": checkpoint}}
    for name, begin in starts.items():
        for seed in (0, 1):
            options = {"freeze_epochs": 1} if name == "distilled" else {}
            train(
                begin,
                {"on_train_start": remember},
                seed=seed,
                mosaic=1.0,
                work_dir=tmp_path / f"{name}{seed}",
                **options,
            )
            seen.append(torch.stack(batches))
            batches.clear()
    same_seed, other_seed = (0, 2), (0, 1)
    assert seen[0].shape[0] == 4  # two batches in each of two epochs
    assert torch.equal(seen[same_seed[0]], seen[same_seed[1]])
    assert not torch.equal(seen[other_seed[0]], seen[other_seed[1]])
    assert heads[0].keys() == heads[2].keys()
    assert all(torch.equal(heads[0][name], heads[2][name]) for name in heads[0])
    assert not all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])
    assert not all(torch.equal(a, b) for a, b in zip(backbones[0], backbones[2], strict=True))


def test_a_dry_run_prints_the_plan_and_the_time(write, tmp_path, capsys):
    file = write({"epochs": 3})
    main(["study", file, "--dry-run"])
    output = capsys.readouterr().out
    assert "plan of shapes: 4 runs" in output
    assert "the first:\n  kdyolo train --data" in output
    assert "with 1 at once, evaluation" in output
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]
    study = Study.from_file(file)
    estimate = {"random": [1.0] * 3, "frozen": [0.5, 1.0, 1.0]}
    assert study.time_left(estimate) == 11.0
    study.devices = ("cpu", "cpu")
    assert study.time_left(estimate) == 5.5
    study.devices = ("7",)
    with pytest.raises(RunError, match="cannot be timed here"):
        study.estimate()


def test_a_folder_with_something_else_in_it_is_left_alone(write, tmp_path):
    study = Study.from_file(write())
    letters = study.runs[0].folder / "letters.txt"
    letters.parent.mkdir(parents=True)
    letters.write_text("dear")
    with pytest.raises(RunError, match="not a run folder"):
        study.runs[0].clear()
    stray = study.runs[1].folder / "weights/best.pt"
    stray.parent.mkdir(parents=True)
    stray.touch()
    with pytest.raises(RunError, match="neither finished nor can it be resumed"):
        study.runs[1].clear()
    assert letters.is_file()
    assert stray.is_file()


def test_two_calls_at_once_do_not_share_a_folder(write, tmp_path):
    study = Study.from_file(write())
    study.folder.mkdir(parents=True)
    code = "import sys, time; from pathlib import Path; from kdyolo.runs.pid_file import claimed_folder\n"
    code += "with claimed_folder(Path(sys.argv[1])): print('in', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", code, str(study.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "in\n"
        with pytest.raises(RunError, match="going on"):
            study.run()
        other.kill()
    assert not (study.folder / "random").exists()


def test_detached_it_goes_on_without_the_terminal_and_is_stopped_from_another(write, tmp_path):
    file = write({"epochs": 500}, seeds=[0])
    folder, run = tmp_path / "studies/shapes", tmp_path / "studies/shapes/random/seed0"
    kdyolo = (sys.executable, "-m", "kdyolo")
    told = run_command(*kdyolo, "study", file, "--detach", cwd=tmp_path, PYTHONPATH=str(CHECKOUT))
    assert "kdyolo stop studies/shapes" in told.stdout
    wait_for(lambda: saved(run))
    assert "random/seed0: runs on cpu" in (folder / "train.log").read_text()
    listed = run_command(*kdyolo, "ps", "studies", cwd=tmp_path, PYTHONPATH=str(CHECKOUT)).stdout
    assert "running" in listed
    run_command(*kdyolo, "stop", "studies/shapes", cwd=tmp_path, PYTHONPATH=str(CHECKOUT))
    assert not trainings(folder)
    assert not (folder / "pid.txt").exists()
    assert "Go on with: kdyolo study" in (folder / "train.log").read_text()
    assert Study.from_file(file).plan()["status"].tolist() == ["resumable", "new"]


def test_mistakes_of_a_detached_study_reach_the_terminal(write, tmp_path):
    file = write(devices=[9])
    kdyolo = (sys.executable, "-m", "kdyolo")
    told = run_command(*kdyolo, "study", file, "--detach", cwd=tmp_path, ok=False, PYTHONPATH=str(CHECKOUT))
    assert told.returncode == 2
    assert "GPU 9 does not exist" in told.stderr
    assert not (tmp_path / "studies").exists()


def test_a_run_that_somebody_else_has_started_is_left_alone(write, monkeypatch):
    """Its first epoch is not saved yet, so it looks like one to start again."""
    monkeypatch.setattr("kdyolo.experiments.study.scheduler.PATIENCE", 0.5)
    study = Study.from_file(write(seeds=[0]))
    run = study.runs[0]
    run.folder.mkdir(parents=True)
    (run.folder / "args.yaml").write_text("epochs: 2\n")
    code = "import sys, time; from pathlib import Path; from kdyolo.runs.pid_file import claimed_folder\n"
    code += "with claimed_folder(Path(sys.argv[1])): print('in', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, run.folder], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "in\n"
        with LiveTable("", {run.name: run.folder}, Console(file=io.StringIO())) as table:
            (failure,) = drive([run], LocalBackend(["cpu"]), table).failures
        other.kill()
    assert "this run is going on, as process" in failure.reason
    assert (run.folder / "args.yaml").is_file()
