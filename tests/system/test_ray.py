"""Studies on a Ray cluster of two workers, on this machine: shared folders, and folders that travel."""

from __future__ import annotations

import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml

from kdyolo import Study
from kdyolo.errors import ConfigError, RunError
from kdyolo.experiments.study.ray_backend import RayBackend
from tests.builders.commands import tree
from tests.cli.test_cli import fails
from tests.system.forkserver import environment
from tests.system.test_study import BASE, PATIENCE, epochs, saved


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two nodes that take one run each."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    place = tempfile.mkdtemp(prefix="kd-ray-")  # short: Ray's sockets lie below it
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    patch.setenv("RAY_TMPDIR", place)
    patch.setenv("OMP_WAIT_POLICY", environment()["OMP_WAIT_POLICY"])
    handler = signal.getsignal(signal.SIGTERM)  # Ray puts one of its own there, and leaves it
    head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 100 << 20}
    nodes = Cluster(initialize_head=True, head_node_args=head)
    nodes.add_node(num_cpus=1, object_store_memory=100 << 20)
    ray.init(address=nodes.address, log_to_driver=False)
    yield ray
    ray.shutdown()
    nodes.shutdown()
    signal.signal(signal.SIGTERM, handler)
    patch.undo()
    shutil.rmtree(place, ignore_errors=True)


def study_of(shapes: Path, epochs: int, **arms: dict[str, float]) -> Study:
    arms = arms or {"slow": {"lr0": 0.001}, "fast": {"lr0": 0.01}}
    content = {"data": str(shapes), "base": {**BASE, "model": "kdyolov8n.yaml", "epochs": epochs}, "arms": arms}
    Path("study.yaml").write_text(yaml.safe_dump({**content, "seeds": [0], "devices": ["cpu"]}))
    return Study.from_file("study.yaml", engine="ray")


def test_a_study_over_two_workers(cluster, shapes, capfd):
    study = study_of(shapes, 1)
    results = study.run("ray", report=False)
    assert results["status"].tolist() == ["finished", "finished"]
    shown = capfd.readouterr().out
    assert "seed0: runs on ray 1" in shown
    assert "seed0: runs on ray 2" in shown  # both at once
    assert not list(study.folder.glob(".shared-*"))
    before = tree(study.folder / "slow/seed0")
    study.run("ray", report=False)
    assert tree(study.folder / "slow/seed0") == before


def stopped_on_the_way(shapes: Path, total: int) -> Study | None:
    """A study whose one run was stopped after its first epochs, in a folder that travels; None if it was faster."""
    study = study_of(shapes, total, slow={"lr0": 0.001})
    run = study.runs[0]
    run.folder.parent.mkdir(parents=True)
    handle = RayBackend(study.devices, study.folder, shared=False).start(run, 0)
    until = time.monotonic() + PATIENCE
    while epochs(run.folder) < 1:  # progress arrives while it goes on
        if (code := handle.poll()) is not None:
            assert code == 0, run.log.read_text()
            shutil.rmtree(study.folder)
            return None
        assert time.monotonic() < until
        time.sleep(0.2)
    assert not saved(run.folder)
    handle.stop()
    return study


def test_folders_travel_where_they_are_not_shared(cluster, shapes):
    # On a busy machine a short run can end while this process waits for its turn.
    total, study = next((total, study) for total in (10, 40, 320) if (study := stopped_on_the_way(shapes, total)))
    run = study.runs[0]
    assert run.state() == "resumable"
    done = epochs(run.folder)
    assert 1 <= done < total
    assert "Interrupted. Resume with" in run.log.read_text()
    study.run(RayBackend(study.devices, study.folder, shared=False), report=False)
    assert study.results()["status"].tolist() == ["finished"]
    resumed = re.findall(r"resuming after epoch (\d+) of \d+", (run.folder / "train.log").read_text())
    assert resumed in ([str(done)], [str(done - 1)])  # stopped after the row, before the checkpoint
    assert not list(run.folder.rglob("resume.pt"))
    assert {path.name for path in run.folder.parent.iterdir()} == {"seed0", "seed0.log"}


def test_more_than_the_cluster_has(cluster, tmp_path):
    with pytest.raises(RunError, match=r"a run needs 2 GPU\(s\)"):
        RayBackend(["0,1"], tmp_path / "study")
    with pytest.raises(ConfigError, match="all entries need the same"):
        RayBackend(["0,1", "2"], tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_without_ray_the_extra_is_named(shapes, capsys, monkeypatch, tmp_path):
    study_of(shapes, 2)
    monkeypatch.setitem(sys.modules, "ray", None)
    code, error = fails(capsys, "study", "study.yaml", "--engine", "ray")
    assert code == 2
    assert "pip install 'kdyolo[ray]'" in error
    assert not (tmp_path / "studies").exists()
