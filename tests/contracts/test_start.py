"""What must start at once: names, help, shell completion, lists and logs of runs come without torch and Ultralytics.

One process does it all in turn and says after which step something heavy had been imported. Another trains: PyTorch's
compiler takes a second to import, and the first batch does not wait for it.
"""

from __future__ import annotations

import json
import sys

import pytest

from kdyolo.cli import cli
from tests.builders.commands import CHECKOUT, run_command
from tests.builders.run_folders import write_run
from tests.builders.training import FAST
from tests.contracts.source import PACKAGE

HEAVY = ("torch", "torchvision", "ultralytics")
HEAVY_FOR_HELP = (*HEAVY, "numpy", "cv2")

CODE = """
import contextlib, importlib, io, json, os, sys

outputs = {}

def step(name, heavy, function):
    with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), encoding="utf-8")) as out:
        try:
            function()
        except SystemExit as end:
            assert not end.code, (name, end.code)
    found = sorted({module.partition(".")[0] for module in sys.modules} & set(heavy))
    out.flush()
    outputs[name] = out.buffer.getvalue().decode()
    if found:
        print(json.dumps([name, found]), file=sys.stderr)
        sys.exit(3)

def command(*arguments):
    from kdyolo.cli import main
    return lambda: main(list(arguments))

def complete():
    os.environ.update(_KDYOLO_COMPLETE="bash_complete", COMP_WORDS="kdyolo tr", COMP_CWORD="1")
    try:
        command()()
    finally:
        del os.environ["_KDYOLO_COMPLETE"]

def package():
    import kdyolo
    assert set(kdyolo.__all__) <= set(dir(kdyolo))

commands, modules, heavy, heavy_for_help = json.loads(sys.argv[1])
step("import kdyolo", heavy_for_help, package)
step("kdyolo --version", heavy_for_help, command("--version"))
for name in ["", *commands]:
    step(f"kdyolo {name} --help", heavy_for_help, command(*name.split(), "--help"))
step("completion", heavy_for_help, complete)
step("kdyolo ps", heavy, command("ps", "empty"))
step("kdyolo ps with runs", heavy, command("ps", "runs"))
step("kdyolo logs", heavy, command("logs", "runs/one"))
for name in modules:
    step(f"import {name}", heavy, lambda: importlib.import_module(name))
print(json.dumps(outputs))
"""


TRAINING = """
import json, random, sys
import torch
from torch.optim import Optimizer

options = json.loads(sys.argv[1])
methods = {name: getattr(Optimizer, name) for name in ("add_param_group", "zero_grad", "load_state_dict")}
found = {}

def state():
    drawn = random.random(), torch.rand(1).item()
    return [*drawn, torch.get_deterministic_debug_mode(), torch.backends.cudnn.deterministic]

def heavy():
    return sorted({"torch._dynamo", "torch._inductor", "sympy", "torchvision", "matplotlib"} & set(sys.modules))

from kdyolo.engine.trainer import KDTrainer
trainer = KDTrainer(overrides=options)
found["seeded"] = state()
trainer.add_callback("on_train_batch_start", lambda trainer: found.setdefault("before the first batch", heavy()))
trainer.train()
found["after"] = heavy()
found["restored"] = all(getattr(Optimizer, name) is method for name, method in methods.items())

from ultralytics.utils.torch_utils import init_seeds
init_seeds(options["seed"], deterministic=True)
found["stock"] = state()
print(json.dumps(found))
"""


def light_modules() -> list[str]:
    """Modules that the torch-free contract in pyproject.toml is about, but the command ``demo``, which trains."""
    folders = [PACKAGE / "cli", PACKAGE / "runs", PACKAGE / "experiments" / "comparison"]
    files = [file for folder in folders for file in sorted(folder.rglob("*.py")) if file.stem != "demo"]
    more = ("data/coco_to_yolo.py", "engine/options/train_options.py", "experiments/study/ray_mailbox.py")
    files += [PACKAGE / file for file in more]
    return [".".join(file.relative_to(CHECKOUT).with_suffix("").parts).removesuffix(".__init__") for file in files]


def test_what_starts_at_once_imports_neither_torch_nor_ultralytics(tmp_path):
    (tmp_path / "empty").mkdir()
    run = write_run(tmp_path / "runs" / "one", planned=5)
    (run / "train.log").write_text("first line\nlast line\n")
    given = json.dumps([cli.list_commands(None), light_modules(), HEAVY, HEAVY_FOR_HELP])
    done = run_command(sys.executable, "-c", CODE, given, cwd=tmp_path, fresh=True)
    outputs = json.loads(done.stdout)
    assert outputs["completion"] == "plain,train\n"
    assert outputs["kdyolo ps"] == "no runs in empty\n"
    assert "runs/one" in outputs["kdyolo ps with runs"]
    assert outputs["kdyolo logs"].endswith("last line\n")
    assert all(f"kdyolo {name}" in outputs[f"kdyolo {name} --help"] for name in cli.list_commands(None))


@pytest.mark.integration
def test_the_first_batch_does_not_wait_for_the_compiler(shapes, tmp_path):
    """The seeds and switches are those of Ultralytics all the same, and what was replaced for them is put back."""
    options = {
        **FAST,
        "model": "kdyolov8n.yaml",
        "data": str(shapes),
        "epochs": 1,
        "seed": 5,
        "imgsz": 32,
        "workers": 0,
    }
    done = run_command(sys.executable, "-c", TRAINING, json.dumps(options), cwd=tmp_path, fresh=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["before the first batch"] == []
    assert "torchvision" in found["after"], "Ultralytics' non-maximum suppression is another one without it"
    assert found["restored"]
    assert found["seeded"] == found["stock"]
