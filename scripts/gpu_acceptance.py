"""Acceptance on GPUs: what only they can show, in one command, each line with its limit, beside stock Ultralytics.

Usage:
    python scripts/gpu_acceptance.py                         # all GPUs that are there; ten minutes with one of them
    python scripts/gpu_acceptance.py --device 0,1 --out acceptance
    python scripts/gpu_acceptance.py --device cpu --tiny     # what a CPU can run, to see that the script itself works

Every run is a command of its own, as a person would type it, on the same drawn images; `yolo train` gets the same
settings, starts random from a YAML and downloads nothing. Blocks that need a GPU, or two, are skipped where there is
none, but their commands are built and their options checked. Exit code 1 if a line fails; logs are in the folder.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import click
import psutil
import torch
from ultralytics.cfg import get_cfg, parse_key_value_pair
from ultralytics.utils import DEFAULT_CFG_DICT

from kdyolo.cli import cli
from kdyolo.cli.base import key_values
from kdyolo.data.coco_to_yolo import convert_coco
from kdyolo.data.synthetic import draw_dataset
from kdyolo.engine.options.recipes import load_recipe
from kdyolo.engine.options.validation import split_options
from kdyolo.errors import collect_mistakes
from kdyolo.runs.files import (
    BEST_NAME,
    MEMORY_COLUMN,
    RESULTS_NAME,
    SCORES_NAME,
    STATE_NAME,
    resumable,
    weights_file,
)
from kdyolo.utils.tables import aligned

TIMEOUT = 400.0  # seconds of one command
GRACE = 60.0  # seconds for a command to end after SIGTERM
AS_FAST = 1.05  # times stock's seconds
AS_FAST_ON_SEVERAL = 1.10
SAME_LOSS = 0.02  # of the loss of an uninterrupted run: GPUs sum in no fixed order
SAME_AP = 0.003  # between fp16 and fp32
REFUSED = (1, 2)  # exit codes of kdyolo after a message of its own
INTERRUPTED = (130, 143)  # exit codes after Ctrl-C and SIGTERM, as shells have them
STOCK = "import sys; from ultralytics.cfg import entrypoint; entrypoint()"  # `yolo`, of this very interpreter
# `kdyolo` that is killed without warning when the epoch with this number, counted from 0, has its first batch.
KILLED = """
import os, signal, sys
from kdyolo.cli import main
from ultralytics.utils import callbacks
epoch, *arguments = sys.argv[1:]
def kill(trainer):
    if trainer.epoch == int(epoch):
        os.kill(os.getpid(), signal.SIGKILL)
callbacks.default_callbacks["on_train_batch_start"].append(kill)
main(arguments)
"""


@dataclass(frozen=True)
class Sizes:
    """How much is trained.

    Attributes:
        model: Scale of yolov8.
        imgsz: Side of the images in pixels.
        batch: Images per batch on one device.
        train: Number of training images.
        val: Number of validation images.
        workers: Data loader workers of one device.
        epochs: Epochs of a run whose last one is timed.
        judged: Whether times and memory are held to their limits.
    """

    model: str = "s"
    imgsz: int = 640
    batch: int = 16
    train: int = 2000
    val: int = 200
    workers: int = 8
    epochs: int = 3
    judged: bool = True


TINY = Sizes("n", 32, 2, 6, 2, 0, epochs=2, judged=False)


@dataclass(frozen=True)
class Command:
    """A command to run.

    Attributes:
        name: Name of its log and of its run folder.
        words: The command and its arguments.
        ours: What of these ``kdyolo`` gets; None for a command that is not kdyolo's.
        stock: What of these ``yolo train`` gets; None for a command that is not Ultralytics'.
        killed: Whether it is to end by SIGKILL.
        refused: Whether it is to end with a message of its own.
        stopped: Whether SIGTERM is sent to it once its first epoch is saved.
        keep: File of its run folder that is copied before another command changes it.
    """

    name: str
    words: tuple[str, ...]
    ours: tuple[str, ...] | None = None
    stock: tuple[str, ...] | None = None
    killed: bool = False
    refused: bool = False
    stopped: bool = False
    keep: str = ""

    def check(self) -> None:
        """Check the options as the command itself would, without running it.

        Raises:
            KDYOLOError: kdyolo would refuse them.
            click.ClickException: So would the parser of its options.
            SyntaxError: Ultralytics would refuse them.
        """
        if self.ours is not None:
            name, *rest = self.ours
            given = cli.get_command(None, name).make_context(name, rest, resilient_parsing=False).params
            settings = given.pop("settings", ())
            if name == "train":
                options = {k: v for k, v in given.items() if v not in (None, False) and k not in ("dry_run", "resume")}
                with collect_mistakes() as mistakes:
                    options |= key_values(settings, options, mistakes)
                    mistakes.result(lambda: split_options(options))
        elif self.stock is not None:
            get_cfg(DEFAULT_CFG_DICT, dict(map(parse_key_value_pair, self.stock)))
        elif missing := [word for word in self.words if word.endswith(".py") and not Path(word).is_file()]:
            raise click.UsageError(f"{missing[0]}: no such file")


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: Exit code; None: it had to be killed after :data:`TIMEOUT`.
        left: Number of its processes that were still there some seconds later.
    """

    code: int | None
    left: int = 0


@dataclass(frozen=True)
class Check:
    """One line of the table.

    Attributes:
        name: What was looked at.
        value: What was found, in words.
        ok: Whether it is as it should be; None for what is only told, or not judged at these sizes.
        limit: What it should be.
        stock: The same of stock Ultralytics.
    """

    name: str
    value: str
    ok: bool | None = None
    limit: str = ""
    stock: str = ""

    @property
    def verdict(self) -> str:
        """``PASS``, ``FAIL``, or ``-`` for what is only told."""
        return {True: "PASS", False: "FAIL", None: "-"}[self.ok]


class Process(Protocol):
    """A command that runs, as :class:`subprocess.Popen` has it."""

    pid: int

    def poll(self) -> int | None:
        """Exit code; None while it runs."""

    def send_signal(self, sig: int) -> None:
        """Send a signal to it."""

    def kill(self) -> None:
        """End it by force."""


Start = Callable[[Sequence[str], Path, Path, Mapping[str, str]], Process]


def start_process(words: Sequence[str], folder: Path, log: Path, env: Mapping[str, str]) -> Process:
    """Start a command in a folder, with a session and a log of its own."""
    with log.open("wb") as output:
        return subprocess.Popen(
            words, cwd=folder, env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )


@dataclass
class Lab:
    """Where commands are built and run.

    Attributes:
        sizes: How much is trained.
        devices: Indices of the GPUs; empty for the CPU.
        out: Folder of all runs and logs.
        data: Data set YAML.
        start: What starts a command.
        ended: Name of a command → how it ended.
    """

    sizes: Sizes
    devices: tuple[str, ...]
    out: Path
    data: Path
    start: Start = start_process
    ended: dict[str, Ended] = field(default_factory=dict)

    # ---- commands ----------------------------------------------------------------------------------------------------

    @property
    def first(self) -> str:
        """The device of a run on one."""
        return self.devices[0] if self.devices else "cpu"

    @property
    def all(self) -> str:
        """The devices of a run on all of them, of two where there are fewer."""
        return ",".join(self.devices if len(self.devices) > 1 else ("0", "1"))

    @property
    def count(self) -> int:
        """Number of devices of a run on all of them."""
        return self.all.count(",") + 1

    @property
    def model(self) -> str:
        """Stock model YAML; kdyolo's has ``kd`` before it."""
        return f"yolov8{self.sizes.model}.yaml"

    def settings(self, **changes: Any) -> dict[str, Any]:
        """Settings that kdyolo and stock Ultralytics get alike: those of the recipe, and those of this script."""
        ours = {
            "epochs": self.sizes.epochs,
            "imgsz": self.sizes.imgsz,
            "batch": self.sizes.batch,
            "nbs": self.sizes.batch,
            "workers": self.sizes.workers,
            "amp": bool(self.devices),
            "warmup_epochs": 0.0,
            "plots": False,
            "seed": 0,
            "deterministic": True,
        }
        return {**load_recipe("coco"), **ours, **changes}

    def kdyolo(self, name: str, *flags: str, device: str | None = None, **changes: Any) -> Command:
        """``kdyolo train`` from random weights, into a folder of this name; ``device=""`` gives none."""
        where = self.first if device is None else device
        start = ("--data", str(self.data), "--model", f"kd{self.model}", "--random-init", "--work-dir", name)
        placed = ("--device", where) if where else ()
        return self.ours(name, "train", *start, *placed, *flags, *_words(self.settings(**changes)))

    def ours(self, name: str, *arguments: str) -> Command:
        """Any ``kdyolo`` command."""
        return Command(name, (sys.executable, "-m", "kdyolo", *arguments), ours=arguments)

    def stock(self, name: str, device: str | None = None, **changes: Any) -> Command:
        """``yolo train`` from random weights, into a folder of this name."""
        own = {"model": self.model, "data": self.data, "device": device or self.first, "pretrained": False}
        place = {"project": self.out, "name": name, "exist_ok": True}
        words = _words({**self.settings(**changes), **own, **place})
        return Command(name, (sys.executable, "-c", STOCK, "train", *words), stock=words)

    def on_all(self, command: Command) -> Command:
        """A ``kdyolo`` command started by torchrun, with a process for each device."""
        assert command.ours is not None
        launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(self.count))
        return Command(command.name, (sys.executable, *launch, "-m", "kdyolo", *command.ours), ours=command.ours)

    # ---- running them ------------------------------------------------------------------------------------------------

    def run(self, command: Command) -> Ended:
        """Run a command to its end, or to the end that it is meant to have."""
        env = {**os.environ, "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "OMP_WAIT_POLICY": "passive"}
        process = self.start(command.words, self.out, self.log(command.name), env)
        family: set[psutil.Process] = set()
        until, signalled = time.monotonic() + TIMEOUT, False
        while (code := process.poll()) is None and time.monotonic() < until:
            with contextlib.suppress(psutil.Error):
                family |= {(root := psutil.Process(process.pid)), *root.children(recursive=True)}
            if command.stopped and not signalled and resumable(self.out / command.name):
                process.send_signal(signal.SIGTERM)
                until, signalled = time.monotonic() + GRACE, True
            time.sleep(0.2)
        left = psutil.wait_procs(family, timeout=10 if code is not None else 0)[1]
        for straggler in left:
            with contextlib.suppress(psutil.Error):
                straggler.kill()
        if command.keep:
            shutil.copy(self.out / command.name / command.keep, self.kept(command))
        self.ended[command.name] = Ended(code, len(left))
        return self.ended[command.name]

    def kept(self, command: Command) -> Path:
        """Where the file that a command keeps is copied to."""
        return self.out / f"{command.name}-{Path(command.keep).name}"

    def log(self, name: str) -> Path:
        """Log of a command."""
        return self.out / f"{name}.log"

    # ---- what runs left ----------------------------------------------------------------------------------------------

    def rows(self, name: str) -> list[dict[str, float]]:
        """The rows of a run's ``results.csv``; none if there is none."""
        path = self.out / name / RESULTS_NAME
        if not path.is_file():
            return []
        with path.open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return [{k.strip(): float(v) for k, v in row.items() if k and v and v.strip()} for row in rows]

    def seconds(self, name: str) -> float:
        """Seconds of a run's last epoch, its evaluation included."""
        rows = self.rows(name)
        return rows[-1]["time"] - rows[-2]["time"]

    def memory(self, name: str) -> float:
        """Peak memory of a run's last epoch in GiB; of stock runs what their progress bar says, NaN on a CPU."""
        if found := self.rows(name)[-1].get(MEMORY_COLUMN):
            return found
        said = re.findall(r"\b\d+/\d+\s+([\d.]+)G\b", self.log(name).read_text(encoding="utf-8", errors="replace"))
        return float(said[-1]) if said and self.devices else float("nan")

    def ap(self, name: str) -> float:
        """Official AP that a run or an evaluation wrote."""
        return float(json.loads((self.out / name / SCORES_NAME).read_text(encoding="utf-8"))["AP"])


def _words(settings: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(f"{key}={value}" for key, value in settings.items())


# ---- blocks ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """Commands that run one after the other, and what is looked at afterwards.

    Attributes:
        name: What it is about.
        commands: Builds the commands.
        judge: Looks at what they left, if all of them ended as they should.
        gpus: Number of GPUs that it takes; 0: a CPU will do.
    """

    name: str
    commands: Callable[[Lab], list[Command]]
    judge: Callable[[Lab], Iterator[Check]]
    gpus: int = 0


def nothing_more(lab: Lab) -> Iterator[Check]:
    """That the commands ended well is all there is to see."""
    yield from ()


def speed_commands(lab: Lab) -> list[Command]:
    """Unfrozen and frozen, ours and stock's in turn, so that a busy machine is busy for both."""
    return [
        lab.kdyolo("unfrozen"),
        lab.stock("stock-unfrozen"),
        lab.kdyolo("frozen", "--freeze", "all"),
        lab.stock("stock-frozen", freeze=10),
    ]


def judge_speed(lab: Lab) -> Iterator[Check]:
    """Seconds, images per second and memory of an epoch, frozen and not."""
    for name in ("unfrozen", "frozen"):
        yield against_stock(lab, f"seconds per epoch, {name}", name, f"stock-{name}", AS_FAST)
        rates = [f"{lab.sizes.train / lab.seconds(run):.1f}" for run in (name, f"stock-{name}")]
        yield Check(f"images per second, {name}", rates[0], stock=rates[1])
        yield Check(f"GiB, {name}", f"{lab.memory(name):.2f}", stock=f"{lab.memory(f'stock-{name}'):.2f}")
    ratio = lab.memory("frozen") / lab.memory("unfrozen")
    yield Check("GiB frozen / unfrozen", f"{ratio:.2f}", ratio < 1 if lab.sizes.judged else None, "< 1")


def against_stock(lab: Lab, name: str, run: str, stock: str, limit: float) -> Check:
    """Seconds of an epoch beside those of stock."""
    ours, theirs = lab.seconds(run), lab.seconds(stock)
    ok = ours <= limit * theirs if lab.sizes.judged else None
    return Check(name, f"{ours:.3f} ({ours / theirs:.2f} ×)", ok, f"<= {limit} ×", f"{theirs:.3f}")


def across_a_thaw(name: str, **changes: Any) -> Block:
    """A run with a frozen epoch and one after it; that frozen tensors stay bit for bit, the run itself checks."""

    def commands(lab: Lab) -> list[Command]:
        return [lab.kdyolo(name.replace("=", "-"), "--freeze", "1", **{"epochs": 2, **changes})]

    return Block(f"{name} across a thaw", commands, nothing_more, 1)


def resume_commands(lab: Lab) -> list[Command]:
    """A run, the same killed while gradients wait for a step, and its resume."""
    uneven = {"nbs": 4 * lab.sizes.batch, "fraction": 0.3 if lab.sizes.judged else 1.0}
    whole, cut = (lab.kdyolo(name, "--freeze", "1", **uneven) for name in ("whole", "cut"))
    assert cut.ours is not None
    killed = (sys.executable, "-c", KILLED, str(lab.sizes.epochs - 1), *cut.ours)
    return [
        whole,
        Command("cut", killed, ours=cut.ours, killed=True, keep=str(weights_file(Path(), STATE_NAME))),
        lab.ours("resumed", "train", "--resume", "cut"),
    ]


def judge_resume(lab: Lab) -> Iterator[Check]:
    """Gradients were waiting, and the run ended where the uninterrupted one did."""
    held = torch.load(lab.out / f"cut-{STATE_NAME}", map_location="cpu", weights_only=True)["gradients"]
    yield Check("gradients that waited when the run was killed", str(len(held)), len(held) > 0, "> 0")
    whole, resumed = (lab.rows(name)[-1] for name in ("whole", "cut"))
    epochs = lab.sizes.epochs
    yield Check("epochs after the resume", f"{resumed['epoch']:.0f}", resumed["epoch"] == epochs, str(epochs))
    for loss in ("train/box_loss", "train/cls_loss"):
        a, b = whole[loss], resumed[loss]
        yield Check(f"{loss} uninterrupted / resumed", f"{a:.5f} / {b:.5f}", abs(a - b) <= SAME_LOSS * a, "2 %")


def too_large_commands(lab: Lab) -> list[Command]:
    """All images in one batch, which no GPU of today holds."""
    command = lab.kdyolo("too-large", "--freeze", "1", batch=lab.sizes.train, nbs=lab.sizes.train)
    return [Command("too-large", command.words, ours=command.ours, refused=True)]


def judge_too_large(lab: Lab) -> Iterator[Check]:
    """The batch was not made smaller in silence, and the message says what to do."""
    said = lab.log("too-large").read_text(encoding="utf-8", errors="replace").splitlines()
    last = next((line for line in reversed(said) if "batch" in line), "")
    yield Check("what it says", last, "batch" in last and not any("Traceback" in line for line in said), "a --batch")
    there = (lab.out / "too-large").exists()
    yield Check("its run folder", "there" if there else "gone", not there, "gone")


def dry_commands(lab: Lab) -> list[Command]:
    """What the run with a thaw would take."""
    return [lab.kdyolo("dry", "--freeze", "1", "--dry-run", epochs=2)]


def judge_dry(lab: Lab) -> Iterator[Check]:
    """Nothing was trained, and each phase was measured."""
    said = lab.log("dry").read_text(encoding="utf-8", errors="replace")
    phases = re.findall(r"^.*? epochs? × .*$", said, re.MULTILINE)
    yield Check(
        "phases that the dry run measured", "; ".join(" ".join(p.split()) for p in phases), len(phases) == 2, "2"
    )
    yield Check("run folder of the dry run", str((lab.out / "dry").exists()), not (lab.out / "dry").exists(), "False")


def precision_commands(lab: Lab) -> list[Command]:
    """Evaluate the unfrozen run's checkpoint on its own."""
    best = str(weights_file(Path("unfrozen"), BEST_NAME))
    where = ("--device", lab.first, f"save_dir={lab.out / 'val'}", f"batch={lab.sizes.batch}", "plots=False")
    return [lab.ours("val", "val", "--model", best, "--data", str(lab.data), *where)]


def judge_precision(lab: Lab) -> Iterator[Check]:
    """The end of a training evaluates as ``kdyolo val`` does."""
    end, alone = lab.ap("unfrozen"), lab.ap("val")
    yield Check("official AP, end of training / kdyolo val", f"{end:.4f} / {alone:.4f}", abs(end - alone) < SAME_AP,
                f"within {SAME_AP}")  # fmt: skip


def stop_commands(name: str, lab: Lab) -> list[Command]:
    """A run that would take for ever, and is sent SIGTERM after its first epoch."""
    several = name == "stopped-on-all"
    batch = lab.sizes.batch * (lab.count if several else 1)
    command = lab.kdyolo(name, device=lab.all if several else None, epochs=100_000, batch=batch, nbs=batch)
    return [Command(name, command.words, ours=command.ours, stopped=True)]


def judge_stop(name: str, lab: Lab) -> Iterator[Check]:
    """No process is left, and the run can go on."""
    left, goes_on = lab.ended[name].left, resumable(lab.out / name)
    yield Check("processes left after SIGTERM", str(left), left == 0, "0")
    yield Check("it can be resumed", str(goes_on), goes_on, "True")


def test_commands(lab: Lab) -> list[Command]:
    """The tests that are skipped without a GPU."""
    tests = Path(__file__).resolve().parents[1] / "tests/system/test_gpu.py"
    root = ("--rootdir", str(tests.parents[2]), "-c", str(tests.parents[2] / "pyproject.toml"))
    return [Command("tests", (sys.executable, "-m", "pytest", "-n", "0", *root, str(tests)))]


def torchrun_commands(lab: Lab) -> list[Command]:
    """Started by torchrun without a device, with one, and with all of them."""
    batch = lab.sizes.batch * lab.count
    forms = {"torchrun": "", "torchrun-first": lab.first, "torchrun-all": lab.all}
    many = {"batch": batch, "nbs": batch, "epochs": 2}
    return [lab.on_all(lab.kdyolo(name, "--freeze", "1", device=device, **many)) for name, device in forms.items()]


def several_commands(lab: Lab) -> list[Command]:
    """One command on all GPUs, ours and stock's."""
    many = {"batch": lab.sizes.batch * lab.count, "nbs": lab.sizes.batch * lab.count}
    return [lab.kdyolo("all-gpus", "--freeze", "1", device=lab.all, **many), lab.stock("stock-all", lab.all, **many)]


def judge_several(lab: Lab) -> Iterator[Check]:
    """Speed on all GPUs beside stock's, and beside that on one."""
    name = "seconds per epoch, thawed, all GPUs"
    yield against_stock(lab, name, "all-gpus", "stock-all", AS_FAST_ON_SEVERAL)
    pairs = (("unfrozen", "all-gpus"), ("stock-unfrozen", "stock-all"))
    speedup = [lab.seconds(one) / lab.seconds(many) for one, many in pairs]
    yield Check("speed-up over one GPU", f"{speedup[0]:.2f} of {lab.count}", stock=f"{speedup[1]:.2f}")


BLOCKS = (
    Block("speed and memory", speed_commands, judge_speed),
    across_a_thaw("amp=False", amp=False),
    across_a_thaw("amp=True", amp=True),
    across_a_thaw("amp=bf16", amp="bf16"),
    across_a_thaw("compile=True", compile=True),
    across_a_thaw("compile=reduce-overhead", compile="reduce-overhead"),
    across_a_thaw("batch=0.6", batch=0.6),
    Block("a batch that does not fit", too_large_commands, judge_too_large, 1),
    Block("kill -9 and resume", resume_commands, judge_resume),
    Block("dry run", dry_commands, judge_dry),
    Block("precision", precision_commands, judge_precision),
    Block("SIGTERM", partial(stop_commands, "stopped"), partial(judge_stop, "stopped")),
    Block("tests for a GPU", test_commands, nothing_more, 1),
    Block("torchrun", torchrun_commands, nothing_more, 2),
    Block("all GPUs by one command", several_commands, judge_several, 2),
    Block("SIGTERM on all GPUs", partial(stop_commands, "stopped-on-all"), partial(judge_stop, "stopped-on-all"), 2),
)


def expected_codes(command: Command) -> tuple[int, ...]:
    """Exit codes with which a command ends as it should."""
    if command.killed:
        return (-signal.SIGKILL,)
    return INTERRUPTED if command.stopped else REFUSED if command.refused else (0,)


def checks_of(block: Block, lab: Lab) -> Iterator[Check]:
    """Run a block's commands, and look at what they left unless one of them ended otherwise than it should."""
    well = True
    for command in block.commands(lab):
        command.check()
        found = lab.run(command)
        expected = expected_codes(command)
        ok = found.code in expected and not (found.left and not command.stopped)
        well &= ok
        said = "timed out" if found.code is None else f"exit code {found.code}"
        value = f"{said}, {found.left} processes left" if found.left else said
        yield Check(f"{block.name}: {command.name}", value, ok, " or ".join(str(int(code)) for code in expected))
    if well:
        for check in block.judge(lab):
            yield Check(f"{block.name}: {check.name}", check.value, check.ok, check.limit, check.stock)


# ---- the command -----------------------------------------------------------------------------------------------------


def accept(lab: Lab, told: Callable[[str], None] = print) -> bool:
    """Run every block that the devices allow, print its lines at once and all of them as a table at the end.

    Args:
        lab: Where commands run.
        told: What prints a line.

    Returns:
        Whether no line failed.
    """
    table = [("", "check", "kdyolo", "stock", "limit")]
    for block in BLOCKS:
        if block.gpus > len(lab.devices):
            for command in block.commands(lab):
                command.check()
            rows = [("SKIP", block.name, f"needs {block.gpus} GPU{'s' if block.gpus > 1 else ''}", "", "")]
        else:
            rows = [(c.verdict, c.name, c.value, c.stock, c.limit) for c in checks_of(block, lab)]
        for row in rows:
            told("  ".join(filter(None, row)))
        table += rows
    failed = [name for verdict, name, *_ in table if verdict == "FAIL"]
    told("\n" + "\n".join(aligned(table)))
    told(f"\nFAILED: {', '.join(failed)}; logs: {lab.out}" if failed else f"\nall passed; logs: {lab.out}")
    return not failed


def main(argv: Sequence[str] | None = None, start: Start = start_process) -> int:
    """Draw the data set and accept.

    Args:
        argv: Arguments; None: those of this process.
        start: What starts a command.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="cpu, or indices of GPUs: 0,1; default: all that are there")
    parser.add_argument("--out", type=Path, default=Path("gpu-acceptance"), help="folder of all runs, new or empty")
    parser.add_argument("--tiny", action="store_true", help="sizes for a CPU; times are told, not judged")
    options = parser.parse_args(argv)
    there = ",".join(map(str, range(torch.cuda.device_count()))) or "cpu"
    devices = tuple(d for d in (options.device or there).split(",") if d != "cpu")
    sizes = TINY if options.tiny else Sizes(workers=min(Sizes.workers, os.cpu_count() or 1))
    out = options.out.resolve()
    if out.is_dir() and any(out.iterdir()):
        parser.error(f"{out} is not empty; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    root = draw_dataset(out / "coco", {"train": sizes.train, "val": sizes.val}, imgsz=max(sizes.imgsz, 64))
    data = convert_coco(root, out / "data").yaml.resolve()
    return 0 if accept(Lab(sizes, devices, out, data, start)) else 1


if __name__ == "__main__":
    sys.exit(main())
