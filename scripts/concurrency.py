"""Commands that meet in one folder: two converters, two trainings, one study twice, ps and stop while runs come and go.

Usage:
    python scripts/concurrency.py                     # 20 rounds of each
    python scripts/concurrency.py --rounds 3 --what convert train

Right is: nothing is lost or mixed, and the second of two either waits its turn or ends by one clear error. The delay
between the two is drawn anew in each round. Exit code 1 if a round went otherwise.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.append(str(CHECKOUT))

from kdyolo import convert_coco  # noqa: E402
from kdyolo.data.synthetic import draw_dataset  # noqa: E402
from tests.builders.commands import tree  # noqa: E402
from tests.system.forkserver import ForkedPython, ForkServer, fork_server  # noqa: E402

EPOCHS = 2
TINY = ("--epochs", EPOCHS, "--imgsz", 32, "--batch", 4, "--device", "cpu", "plots=False", "workers=0", "val=False")


class Wrong(Exception):
    """A round that did not end as it should."""


def expect(fulfilled: object, said: str) -> None:
    """Raise :class:`Wrong` unless something holds."""
    if not fulfilled:
        raise Wrong(said)


def ends(processes: list[ForkedPython]) -> list[tuple[int, str]]:
    """Exit codes and what was said, of processes that are waited for."""
    return [(process.wait(300), process.communicate()[1] or "") for process in processes]


def one_error(said: str) -> bool:
    """Whether the output ends as a refusal does: one line of error, and no traceback."""
    return "Traceback" not in said and sum(line.startswith("Error: ") for line in said.splitlines()) == 1


class Rounds:
    """The kinds of rounds, with the sound files that they share."""

    def __init__(self, folder: Path, seed: int, python: ForkServer) -> None:
        self.folder, self.random, self.python = folder, random.Random(seed), python
        self.roots = [draw_dataset(folder / f"root{n}", {"train": n, "val": 2}, imgsz=32, seed=n) for n in (4, 6)]
        self.expected = [
            tree(convert_coco(root, folder / f"expected{i}").yaml.parent) for i, root in enumerate(self.roots)
        ]
        self.data = folder / "expected0" / "coco.yaml"

    def start(self, *arguments: object, here: Path) -> ForkedPython:
        """A command of kdyolo's, in the background."""
        return self.python.start("-m", "kdyolo", *arguments, cwd=here, apart=True)

    def both(
        self, first: tuple[object, ...], second: tuple[object, ...], here: Path, most: float
    ) -> list[tuple[int, str]]:
        """Two commands, the second a moment later."""
        processes = [self.start(*first, here=here)]
        time.sleep(self.random.random() * most)
        processes.append(self.start(*second, here=here))
        return ends(processes)

    def convert(self, here: Path) -> None:
        """Two conversions of different sources into one folder: each whole in its turn, the later one stays."""
        commands = [("convert", root, "--out", "out") for root in self.random.sample(self.roots, 2)]
        found = self.both(*commands, here=here, most=0.5)
        expect(all(code == 0 or one_error(said) for code, said in found), f"ended with {found}")
        expect(any(code == 0 for code, _ in found), f"neither was written: {found}")
        written, yaml_text = tree(here / "out"), (here / "out/coco.yaml").read_text()
        expect(str(here / "out") in yaml_text, "the YAML names another folder")
        named = [{**expected, "coco.yaml": written.get("coco.yaml")} for expected in self.expected]
        expect(written in named, f"a mixture: {sorted(written)}")

    def train(self, here: Path) -> None:
        """Two trainings in one work dir: one of them trains, undisturbed."""
        command = ("train", "--data", self.data, "--random-init", "--work-dir", "run", *TINY)
        found = self.both(command, command, here=here, most=2.0)
        codes = sorted(code for code, _ in found)
        expect(codes[0] == 0 and codes[1] in (1, 2), f"ended with {found}")
        expect(one_error(max(found)[1]), f"not one error: {max(found)[1][-500:]}")
        self.whole(here / "run")

    def whole(self, run: Path) -> None:
        """A run that has all its epochs and files, once each."""
        rows = (run / "results.csv").read_text().splitlines()[1:]
        epochs = [int(row.split(",")[0]) for row in rows]
        expect(epochs == list(range(1, EPOCHS + 1)), f"epochs {epochs}")
        left = [name for name in ("pid.txt", "process.json", "weights/resume.pt") if (run / name).exists()]
        expect(not left, f"left behind: {left}")
        expect((run / "weights/last.pt").stat().st_size > 1 << 20, "last.pt is not whole")

    def study(self, here: Path) -> None:
        """One study started twice: the second is told so, and the first goes on."""
        base = {"epochs": EPOCHS, "imgsz": 32, "batch": 4, "plots": False, "workers": 0, "val": False}
        content = {"name": "s", "data": str(self.data), "base": base, "arms": {"a": {"random_init": True}}}
        content |= {"seeds": [0], "devices": ["cpu"], "baseline": "a"}
        (here / "study.yaml").write_text(yaml.safe_dump(content))
        found = self.both(("study", "study.yaml"), ("study", "study.yaml"), here=here, most=4.0)
        expect(min(found)[0] == 0, f"ended with {found}")
        late = max(found)
        expect(late[0] == 0 or one_error(late[1]), f"the second: {late[1][-500:]}")  # 0: the first had finished already
        self.whole(here / "studies/s/a/seed0")

    def ps(self, here: Path) -> None:
        """Ps at all moments of a run's life, and stop at one: both always know, and the run can be resumed."""
        (here / "runs").mkdir()
        command = ("train", "--data", self.data, "--random-init", "--work-dir", "runs/a", *TINY)
        run = self.start(*command, here=here)
        stop_at, stop = time.monotonic() + self.random.random() * 6, None
        looks = 0
        while run.poll() is None or looks < 2:
            looks += 1
            done = self.python.run("-m", "kdyolo", "ps", "runs", "--json", cwd=here)
            expect(done.returncode == 0, f"ps: {done.stderr[-500:]}")
            known = json.loads(done.stdout)
            expect(len(known) <= 1, f"ps knows {len(known)} runs")
            if stop is None and time.monotonic() > stop_at and (here / "runs/a").exists():
                stop = self.start("stop", "runs/a", "--timeout", 60, here=here)
        code = run.wait(300)
        stopped = ends([stop])[0] if stop else (0, "")
        expect("Traceback" not in stopped[1], f"stop: {stopped}")
        expect(code in (0, 1, 130, 143), f"the run ended with {code}: {run.communicate()[1]}")
        if (here / "runs/a/weights/resume.pt").exists():
            done = self.python.run("-m", "kdyolo", "train", "--resume", "runs/a", cwd=here)
            expect(done.returncode == 0, f"cannot be resumed: {done.stderr[-500:]}")
            self.whole(here / "runs/a")
        elif code == 0:
            self.whole(here / "runs/a")


def main(words: Sequence[str] | None = None) -> None:
    """All rounds, and how many went wrong."""
    kinds = ("convert", "train", "study", "ps")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--what", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(words)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="concurrency-") as name:
        rounds = Rounds(Path(name).resolve(), options.seed, fork_server())
        for kind in options.what:
            play: Callable[[Path], None] = getattr(rounds, kind)
            start, wrong = time.monotonic(), 0
            for number in range(options.rounds):
                here = rounds.folder / f"{kind}{number}"
                here.mkdir()
                try:
                    play(here)
                except Wrong as e:
                    wrong += 1
                    print(f"  {kind}, round {number}: {e}")
            print(f"{kind:<8} {options.rounds} rounds, {wrong} wrong, {time.monotonic() - start:.0f} s", flush=True)
            failed += wrong
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
