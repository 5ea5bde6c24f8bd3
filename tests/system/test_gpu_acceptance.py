"""The acceptance script for GPUs, as far as a CPU can run it: on the day it must not fail for a typo."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest

from kdyolo.errors import ConfigError
from tests.builders.commands import script_module
from tests.system.forkserver import ForkedPython, ForkServer


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """``scripts/gpu_acceptance.py`` as a module."""
    return script_module("gpu_acceptance")


class Logged:
    """A forked command, whose output stands in its log as soon as it has ended."""

    def __init__(self, process: ForkedPython, log: Path) -> None:
        self._process, self._log, self.pid = process, log, process.pid

    def poll(self) -> int | None:
        code = self._process.poll()
        if code is not None and not self._log.exists():
            self._log.write_text(self._process.communicate()[0])
        return code

    def send_signal(self, sig: int) -> None:
        self._process.send_signal(sig)

    def kill(self) -> None:
        self._process.kill()


def test_what_a_cpu_can_run_passes_and_the_rest_is_built(
    script: ModuleType, python: ForkServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[str] = []

    def start(words: Sequence[str], folder: Path, log: Path, env: Mapping[str, str]) -> Logged:
        assert words[0] == sys.executable
        started.append(log.stem)
        return Logged(python.start(*words[1:], cwd=folder, env=env), log)

    code = script.main(["--device", "cpu", "--tiny", "--out", str(tmp_path / "out")], start)
    said = capsys.readouterr().out
    assert code == 0, said
    assert "all passed" in said
    lines = said.rpartition("check  ")[2].splitlines()[1:]
    verdicts = [line.split()[0] for line in lines if line and line[0] in "PSF-"]
    assert (verdicts.count("PASS"), verdicts.count("SKIP"), verdicts.count("FAIL")) == (19, 11, 0), said
    names = "unfrozen stock-unfrozen frozen stock-frozen whole cut resumed dry val stopped"
    assert " ".join(started) == names


@pytest.fixture
def lab(script: ModuleType, tmp_path: Path) -> Any:
    return script.Lab(script.Sizes(), ("0", "1"), tmp_path, tmp_path / "data.yaml")


def test_commands_for_two_gpus(script: ModuleType, lab: Any) -> None:
    built = {command.name: command for block in script.BLOCKS for command in block.commands(lab)}
    words = {name: " ".join(command.words[1:]) for name, command in built.items()}
    assert words["torchrun"].startswith("-m torch.distributed.run --standalone --nproc-per-node 2 -m kdyolo train ")
    assert "--device" not in words["torchrun"]
    assert "--device 0 " in words["torchrun-first"]
    assert "--device 0,1 " in words["torchrun-all"]
    assert all("batch=32" in words[name] for name in ("torchrun", "all-gpus", "stock-all", "stopped-on-all"))
    assert "--device 0,1 " in words["all-gpus"]
    assert "device=0,1 " in words["stock-all"]
    assert "amp=bf16" in words["amp-bf16"]
    assert "batch=0.6" in words["batch-0.6"]
    assert all("pretrained=False" in words[name] for name in words if name.startswith("stock"))
    assert "amp=True" in words["unfrozen"]
    assert "batch=2000" in words["too-large"]
    assert words["tests"].endswith("tests/system/test_gpu.py")


def test_a_typo_in_a_command_that_cannot_run_here_is_found(script: ModuleType, lab: Any) -> None:
    with pytest.raises(ConfigError, match="unknown setting 'compil'"):
        lab.kdyolo("a", compil=True).check()
    with pytest.raises(click.UsageError, match="freez-epochs"):
        lab.on_all(lab.kdyolo("a", "--freez-epochs", "1")).check()
    with pytest.raises(SyntaxError, match="mosaik"):
        lab.stock("a", mosaik=1).check()
    with pytest.raises(click.UsageError, match="no such file"):
        script.Command("a", (sys.executable, "-m", "pytest", "nowhere.py")).check()


@pytest.mark.parametrize(
    ("code", "left", "judged", "verdicts"),
    [(0, 0, True, ["PASS", "FAIL"]), (1, 0, True, ["FAIL"]), (None, 0, True, ["FAIL"]), (0, 2, True, ["FAIL"])],
)
def test_a_command_that_ends_otherwise_fails(
    script: ModuleType, lab: Any, monkeypatch: pytest.MonkeyPatch, code: int, left: int, judged: bool, verdicts: Any
) -> None:
    monkeypatch.setattr(script.Lab, "run", lambda lab, command: script.Ended(code, left))
    block = script.Block("a block", lambda lab: [lab.kdyolo("run")], lambda lab: iter([script.Check("x", "1", False)]))
    assert [check.verdict for check in script.checks_of(block, lab)] == verdicts


def test_how_commands_end_as_they_should(script: ModuleType, lab: Any) -> None:
    ends = {c.name: script.expected_codes(c) for block in script.BLOCKS for c in block.commands(lab)}
    assert {name for name, codes in ends.items() if codes != (0,)} == {"cut", "too-large", "stopped", "stopped-on-all"}
    assert (ends["cut"], ends["too-large"], ends["stopped"]) == ((-9,), (1, 2), (130, 143))


def test_a_failed_line_is_a_failed_acceptance(script: ModuleType, lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script.Lab, "run", lambda lab, command: script.Ended(1))
    monkeypatch.setattr(script, "BLOCKS", [script.across_a_thaw("amp=True", amp=True)])
    said: list[str] = []
    assert not script.accept(lab, said.append)
    assert "FAILED: amp=True across a thaw: amp-True" in said[-1]


def test_a_folder_in_use_is_refused(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(SystemExit):
        script.main(["--device", "cpu", "--tiny", "--out", str(tmp_path)])
    assert "is not empty" in capsys.readouterr().err
