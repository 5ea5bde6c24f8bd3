"""``kdyolo val`` under torchrun: two processes share the evaluation, and give what one process gives."""

from __future__ import annotations

import json
import os

from kdyolo import KDYOLO, convert_coco
from kdyolo.data.synthetic import draw_dataset
from tests.hostile.stock import detector
from tests.system.test_distributed import run_ranks

WORKER = """
import json, sys
from ultralytics.utils import RANK
from kdyolo.cli import main
from kdyolo.engine.validator import KDValidator

seen, update = [], KDValidator.update_metrics

def counting(self, preds, batch):
    seen.extend(batch["im_file"])
    update(self, preds, batch)

KDValidator.update_metrics = counting
try:
    main(sys.argv[1:])
finally:
    print("seen", json.dumps(seen), flush=True)
"""


def seen_by(output: str) -> list[str]:
    line = next(line for line in output.splitlines() if line.startswith("seen "))
    return json.loads(line.removeprefix("seen "))


def test_processes_of_torchrun_share_an_evaluation_and_end_together(python, tmp_path):
    data = convert_coco(draw_dataset(tmp_path / "root", {"train": 2, "val": 7}, imgsz=64), tmp_path / "data").yaml
    (tmp_path / "best.pt").write_bytes(detector())
    (tmp_path / "worker.py").write_text(WORKER)
    options = ("--imgsz", 64, "--batch", 2, "--device", "cpu", "plots=False", "workers=0")
    options += ("conf=0.0001", f"project={tmp_path}/runs")
    call = (tmp_path / "worker.py", "val", "--model", "best.pt", "--data", data, *options)
    alone = python.run(*call, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert alone.returncode == 0, alone.stderr[-2000:]
    (tmp_path / "runs").rename(tmp_path / "alone")
    for cache in tmp_path.rglob("*.cache"):
        cache.unlink()  # which both would write

    ended = run_ranks(python, *call, folders=[tmp_path, tmp_path])
    assert [rank.code for rank in ended] == [0, 0], "\n".join(rank.output[-3000:] for rank in ended)
    images = [seen_by(rank.output) for rank in ended]
    assert sorted(images[0] + images[1]) == sorted(seen_by(alone.stdout))
    assert all(images)
    (folder,) = (tmp_path / "runs").iterdir()  # one for all of them
    (before,) = (tmp_path / "alone").iterdir()
    for name in ("coco_metrics.json", "predictions.json"):
        assert json.loads((folder / name).read_text()) == json.loads((before / name).read_text()), name
    assert len(json.loads((folder / "predictions.json").read_text())) > 7

    missing = (*call[:4], "--data", tmp_path / "none.yaml", *options)
    ended = run_ranks(python, *missing, folders=[tmp_path, tmp_path])
    assert [rank.code for rank in ended] == [2, 1] or all(rank.code for rank in ended)
    said = "".join(rank.output for rank in ended)
    assert said.count("Error: ") == 1
    assert "Traceback" not in said
    assert KDYOLO(tmp_path / "best.pt").val(data=str(data), imgsz=64, device="cpu", plots=False).coco
