"""A seeded share of the files made to hurt, through the commands that open them; and what the harness sees."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.builders.commands import CHECKOUT
from tests.system.forkserver import ForkServer

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(sys.platform != "linux", reason="memory, threads and limits are Linux's"),
]
PAIRS, SEED = 80, 1
SCRIPT = CHECKOUT / "scripts" / "hostile_files.py"


def test_a_share_of_all_pairs_ends_as_it_should(python: ForkServer, tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    done = python.run(SCRIPT, "--pairs", PAIRS, "--seed", SEED, "--jobs", 1, "--json", results, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    records = [json.loads(line) for line in results.read_text().splitlines()]
    assert len(records) == PAIRS
    kinds = Counter(record["case"].partition("/")[0] for record in records)
    assert len(kinds) >= 25
    assert {"pickle", "zip", "stock", "coco", "run", "disk"} <= kinds.keys()
    assert sum(record["code"] != 0 for record in records) > PAIRS / 2  # most are refused, not ignored


# What a call does → what the harness says of it. Each is run as a command would be.
WRONGS = {
    "right": ("os.write(2, b'Error: no.\\n'); sys.exit(1)", []),
    "right, colours": ("os.write(2, b'\\x1b[31mError\\x1b[0m\\nError: no.\\n'); sys.exit(1)", []),
    "code": ("marker.mkdir(); os.write(2, b'Error: no.\\n'); sys.exit(1)", ["code ran"]),
    "success": ("pass", ["accepted"]),
    "traceback": ("raise ValueError('a')", ["traceback"]),
    "silence": ("sys.exit(1)", ["not one error"]),
    "two errors": ("os.write(2, b'Error: a\\nError: b\\n'); sys.exit(1)", ["not one error"]),
    "another's error": ("os.write(2, b'Usage: x\\n'); sys.exit(2)", ["not one error"]),
    "memory": ("x = b'x' * 1_200_000_000; os.write(2, b'Error: no.\\n'); sys.exit(1)", ["too much memory"]),
    "address space": ("x = bytearray(10**11)", ["traceback"]),
    "CPU": ("resource.setrlimit(resource.RLIMIT_CPU, (1, 2))\nwhile True: pass", ["too much CPU"]),
    "segmentation fault": ("import ctypes; ctypes.string_at(0)", ["killed by SIGSEGV"]),
    "title of the terminal": (
        "print('\\x1b]0;evil\\x07'); os.write(2, b'Error: no.\\n'); sys.exit(1)",
        ["control characters"],
    ),
    "long": ("os.write(2, b'Error: ' + b'n' * 9999 + b'\\n'); sys.exit(1)", ["too long a text"]),
    "program": ("os.system('true'); os.write(2, b'Error: no.\\n'); sys.exit(1)", ["event: starts"]),
    "network": (
        "import socket\nsocket.socket().connect_ex(('127.0.0.1', 9))\nos.write(2, b'Error: no.\\n'); sys.exit(1)",
        ["event: connects"],
    ),
    "outside": ("(inside.parent / 'x').touch(); os.write(2, b'Error: no.\\n'); sys.exit(1)", ["event: writes"]),
    "signal": (
        "try: os.kill(1, 15)\nexcept PermissionError: os.write(2, b'Error: no.\\n'); sys.exit(1)",
        ["event: signals"],
    ),
    "half": ("left.touch(); os.write(2, b'Error: no.\\n'); sys.exit(1)", ["half-written"]),
}

RUN = """
import json, os, resource, sys
from pathlib import Path
sys.path.append(sys.argv[1])
from tests.hostile.harness import failures, observed
folder = Path(sys.argv[2])
inside = folder / "inside"
here, marker, left = inside / "here", inside / "MARKER", inside / "here" / "left"
here.mkdir(parents=True)
found = {}
for name, code in json.loads(Path(sys.argv[3]).read_text()).items():
    names = {"os": os, "sys": sys, "resource": resource, "marker": marker, "inside": inside, "left": left}
    outcome = observed(lambda: exec(code, names), here, inside, marker)
    found[name] = failures(outcome, False, [left])
print(json.dumps(found))
"""


def test_the_harness_sees_what_is_wrong(python: ForkServer, tmp_path: Path) -> None:
    (tmp_path / "codes.json").write_text(json.dumps({name: code for name, (code, _) in WRONGS.items()}))
    done = python.run("-c", RUN, CHECKOUT, tmp_path, tmp_path / "codes.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {name: expected for name, (_, expected) in WRONGS.items()}
