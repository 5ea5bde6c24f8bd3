"""Files made to hurt through every command that opens them: how each pair ends, and the worst figures.

Usage:
    python scripts/hostile_files.py                            # all of it, hours on two cores
    python scripts/hostile_files.py --what checkpoints --only 'zip/' --commands inspect
    python scripts/hostile_files.py --pairs 200 --seed 7       # a share, drawn by the seed
    python scripts/hostile_files.py --what disk                # full and read-only disks under what writes

A pair is run in a fork of a process that has everything imported (tests/hostile/harness.py). It must end within 10 s of
CPU and 1 GiB, by one error or by success where that is right, without code of the file run, a traceback, anything done
outside of its folder, or anything half-written. Exit code 1 if a pair did not. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.append(str(CHECKOUT))

CORPORA = ("checkpoints", "data", "disk")
ROTATING = 12  # a file that rotates meets the first two commands, and one in so many of the others
ALWAYS = ("inspect", "read_checkpoint")


class Pair(NamedTuple):
    """A case of a corpus and a command, by name."""

    corpus: str
    case: Any
    command: str


def environment(folder: Path) -> None:
    """What Ultralytics, matplotlib and tempfile keep lies below the folder; offline, on one thread."""
    for name in ("config", "tmp", "home"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    os.environ |= {
        "YOLO_CONFIG_DIR": str(folder / "config"),
        "MPLCONFIGDIR": str(folder / "config"),
        "TMPDIR": str(folder / "tmp"),
        "HOME": str(folder / "home"),
        "YOLO_OFFLINE": "true",
        "MPLBACKEND": "Agg",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH", ""), str(CHECKOUT)))),
    }
    tempfile.tempdir = None
    import matplotlib
    from ultralytics import settings

    settings.update({"runs_dir": str(folder / "runs")})  # else that of whatever checkout the environment lies in
    font = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")
    for name in ("Arial.ttf", "Arial.Unicode.ttf"):  # which Ultralytics would ask the network for
        shutil.copy(font, folder / "config/Ultralytics" / name)


def all_pairs(what: Sequence[str]) -> tuple[list[Pair], dict[str, dict[str, Any]]]:
    """Every pair of the corpora that are asked for, and the commands of each."""
    from tests.hostile import checkpoints, data_commands, data_files, full_disk
    from tests.hostile.commands import checkpoint_commands

    pairs, commands = list[Pair](), dict[str, dict[str, Any]]()
    if "checkpoints" in what:
        known = commands["checkpoints"] = checkpoint_commands()
        turn = count()
        for case in checkpoints.cases():
            for name in known:
                if not case.rotates or name in ALWAYS or next(turn) % ROTATING == 0:
                    pairs.append(Pair("checkpoints", case, name))
    if "data" in what:
        commands["data"] = data_commands.commands()
        pairs += [Pair("data", case, name) for case in data_files.cases() for name in case.commands]
    if "disk" in what:
        commands["disk"] = full_disk.commands()
        pairs += [Pair("disk", case, name) for case in full_disk.cases() for name in case.commands]
    return pairs, commands


def chosen(pairs: Sequence[Pair], options: argparse.Namespace) -> list[Pair]:
    """Those that the options ask for, in the order of the corpus."""
    import re

    found = [
        pair
        for pair in pairs
        if re.search(options.only, f"{pair.case.kind}/{pair.case.name}") and re.search(options.commands, pair.command)
    ]
    if options.pairs and options.pairs < len(found):
        found = share(found, options.pairs, options.seed)
    return found


def share(pairs: Sequence[Pair], number: int, seed: int) -> list[Pair]:
    """So many of the pairs, as many of one kind of file as of another; in their order."""
    drawn = list(enumerate(pairs))
    random.Random(seed).shuffle(drawn)
    seen = Counter[str]()
    turns = []
    for place, pair in drawn:
        turns.append((seen[pair.case.kind], place, pair))
        seen[pair.case.kind] += 1
    turns.sort(key=lambda turn: turn[:2])
    return [pair for _, _, pair in sorted(turns[:number], key=lambda turn: turn[1])]


def in_child(call: Callable[[], Any]) -> None:
    """Run something that may start threads in a process of its own."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            call()
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        sys.exit("the sound files could not be written")


def by_case(pairs: Sequence[Pair]) -> Iterator[tuple[Any, list[Pair]]]:
    """Neighbours that share a file."""
    gathered: list[Pair] = []
    for pair in pairs:
        if gathered and gathered[0].case is not pair.case:
            yield gathered[0].case, gathered
            gathered = []
        gathered.append(pair)
    if gathered:
        yield gathered[0].case, gathered


def work(pairs: Sequence[Pair], commands: dict[str, dict[str, Any]], folder: Path, world_folder: Path) -> None:
    """Run these pairs, one line of JSON for each into ``folder/results.jsonl``."""
    from tests.builders.commands import tree
    from tests.hostile.commands import known_world
    from tests.hostile.harness import failures, observed

    world, marker, number = known_world(world_folder), folder / "MARKER", count()
    here = folder / "here"
    with (folder / "results.jsonl").open("w") as results:
        for case, shared in by_case(pairs):
            place = folder / f"case{next(number)}"
            place.mkdir()
            file = place / case.file
            case.write(file, str(marker))
            for pair in shared:
                command = commands[pair.corpus][pair.command]
                here.mkdir()
                command.setup(world, file, here)
                there = [here / name for name in command.leaves if not (here / name).exists()]
                before = tree(here)
                call = command.call(world, file)
                if pair.corpus == "disk":
                    call = partial(under, case.fault, here, call)
                outcome = observed(call, here, folder.parent, marker)
                may_succeed, lists = case.harmless or command.ignores, pair.command == "stop"
                wrong = failures(outcome, may_succeed, there, lists=lists, runs=command.runs)
                if pair.corpus == "disk" and outcome.code != 0 and (changed := differing(before, tree(here))):
                    wrong.append(f"changed: {', '.join(changed[:3])}")
                record = {
                    "case": f"{case.kind}/{case.name}",
                    "command": pair.command,
                    "code": outcome.code,
                    "seconds": round(outcome.seconds, 3),
                    "bytes": outcome.grown,
                    "wrong": wrong,
                    "err": outcome.err[-1500:] if wrong else "",
                    "events": outcome.events,
                }
                results.write(json.dumps(record) + "\n")
                results.flush()
                shutil.rmtree(here, ignore_errors=True)
            shutil.rmtree(place, ignore_errors=True)


def under(fault: Callable[[Path], None], here: Path, call: Callable[[], Any]) -> None:
    """A call with a fault of the disk."""
    fault(here)
    call()


def differing(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Names that were not there, are not there any more, or have another content.

    What began may keep what is whole in a folder of its own, and what went on its log and its rows; a state stays what
    it was.
    """
    own = (
        "trained/",
        "cache/",
        "studies/",
        "runs/",
        *(f"resumed/{name}" for name in ("args.yaml", "results.csv", "train.log")),
    )
    names = sorted(before.keys() | after.keys())
    return [n for n in names if before.get(n) != after.get(n) and not n.startswith(own)]


def run(pairs: list[Pair], commands: dict[str, dict[str, Any]], folder: Path, jobs: int) -> list[dict[str, Any]]:
    """All pairs by so many workers; their records."""
    from tests.hostile import harness
    from tests.hostile.commands import build_world

    world = folder / "world"
    in_child(lambda: build_world(world))
    if (found := harness.threads()) > 1:
        sys.exit(f"{found} threads after the imports, one expected: forks could hang")
    cases = list(by_case(pairs))
    random.Random(0).shuffle(cases)  # so that every worker has its share of the dear ones
    workers = []
    for job in range(jobs):
        own = folder / f"worker{job}"
        own.mkdir()
        mine = [pair for _, shared in cases[job::jobs] for pair in shared]
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                work(mine, commands, own, world)
                code = 0
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                os._exit(code)
        workers.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in workers]
    if any(codes):
        sys.exit(f"the harness itself failed: workers ended with {codes}")
    lines = [line for path in sorted(folder.glob("worker*/results.jsonl")) for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines]


def report(records: Sequence[dict[str, Any]], seconds: float) -> None:
    """The figures, for people."""
    bad = [record for record in records if record["wrong"]]
    files = len({record["case"] for record in records})
    print(f"{len(records):,} pairs of {files:,} files, {seconds:.0f} s; {len(bad):,} ended wrong")
    succeeded = sum(record["code"] == 0 for record in records)
    print(f"{len(records) - succeeded:,} refused, {succeeded:,} succeeded")
    for figure, unit, scale in (("seconds", "s of CPU", 1), ("bytes", "MB", 1e-6)):
        worst = sorted(records, key=lambda record: -record[figure])[:5]
        print(f"worst {unit}: " + "; ".join(f"{r[figure] * scale:.1f} {r['command']} of {r['case']}" for r in worst))
    for wrong, number in Counter(w for record in bad for w in record["wrong"]).most_common():
        these = [record for record in bad if wrong in record["wrong"]]
        print(f"\n{number:5} {wrong}")
        for (case, found), times in Counter((r["case"], _last(r)) for r in these).most_common(25):
            by = sorted({r["command"] for r in these if r["case"] == case and _last(r) == found})
            print(f"      {times:3} {case} by {', '.join(by[:4])}: {found}")


def _last(record: dict[str, Any]) -> str:
    lines = [line for line in record["err"].splitlines() if line.strip() and "--debug" not in line]
    said = record["events"][0] if record["events"] else (lines[-1] if lines else f"exit code {record['code']}")
    return repr(said[:160])


def main() -> None:
    """Write, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", nargs="+", choices=CORPORA, default=CORPORA)
    parser.add_argument("--only", default="", metavar="REGEX", help="cases whose KIND/NAME it is found in")
    parser.add_argument("--commands", default="", metavar="REGEX")
    parser.add_argument("--pairs", type=int, help="draw so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record of every pair there")
    parser.add_argument("--count", action="store_true", help="only say how many pairs there are")
    options = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hostile-") as name:
        folder = Path(name).resolve()
        environment(folder)
        from tests.hostile import harness

        harness.import_everything()
        pairs, commands = all_pairs(options.what)
        pairs = chosen(pairs, options)
        if options.count:
            print(f"{len(pairs):,} pairs")
            return
        records = run(pairs, commands, folder, options.jobs)
    if options.json:
        options.json.write_text("\n".join(map(json.dumps, records)))
    report(records, time.monotonic() - start)
    sys.exit(any(record["wrong"] for record in records))


if __name__ == "__main__":
    main()
