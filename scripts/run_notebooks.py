"""Run the notebooks of the documentation from their sources, each in an empty folder, and keep them with their outputs.

Usage:
    python scripts/run_notebooks.py                       # all of them; needs the extra [notebooks]; `make notebooks`
    python scripts/run_notebooks.py distil_and_probe --out build/notebooks

The sources are docs/notebooks/*.py (jupytext's percent format). A cell that fails ends with its error and exit code 1,
and so does a notebook whose outputs are larger than a megabyte or that takes longer than ten minutes.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

SOURCES = Path(__file__).resolve().parents[1] / "docs" / "notebooks"
LARGEST = 1_000_000  # bytes of a notebook with its outputs
LONGEST = 600  # seconds
AT_ONCE = 2  # notebooks; each keeps about one core busy
LINES = 40  # of text that a cell printed; what is in the middle of more is left out
WIDEST = 200  # characters of a line
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
WRITTEN_OVER = re.compile(r"^.*(?:\r|\x1b\[K)(?=.)", re.MULTILINE)  # what a progress bar replaces in its line


def main() -> int:
    """Run notebooks, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="notebooks without .py; default: all")
    parser.add_argument("--out", type=Path, default=Path("build/notebooks"), help="folder for the .ipynb files")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # `kdyolo` in cells
    os.environ |= {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
    sources = [SOURCES / f"{name}.py" for name in arguments.names] or sorted(SOURCES.glob("*.py"))
    targets = [arguments.out / f"{source.stem}.ipynb" for source in sources]
    with ProcessPoolExecutor(AT_ONCE, get_context("spawn")) as pool:  # each with an environment of its own
        return max(pool.map(run, sources, targets))


def run(source: Path, target: Path) -> int:
    """Run one notebook; 0 if every cell ran and what is kept is small."""
    notebook = jupytext.read(source)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kdyolo-notebook-") as folder:
        os.environ["YOLO_CONFIG_DIR"] = folder  # Ultralytics' settings, which say where runs go
        client = NotebookClient(notebook, timeout=LONGEST, kernel_name="python3", coalesce_streams=True)
        client.resources = {"metadata": {"path": folder}}
        try:
            client.execute()
        except CellExecutionError as e:
            print(f"{source.name}: {e}", file=sys.stderr)
            return 1
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [shortened(output) for output in cell.outputs]
    nbformat.write(notebook, target)
    size, seconds = target.stat().st_size, time.monotonic() - began
    print(f"{target}: {seconds:.0f} s, {size / 1e3:.0f} KB")
    if size > LARGEST or seconds > LONGEST:
        print(f"{target}: expected at most {LARGEST / 1e3:.0f} KB and {LONGEST} s", file=sys.stderr)
        return 1
    return 0


def shortened(output: Any) -> Any:
    """An output whose text is as a terminal would show it at the end, without colours, and short."""
    if output.output_type == "stream":
        text = WRITTEN_OVER.sub("", COLOURS.sub("", output.text)).replace("\r", "").replace("\x1b[K", "")
        lines = [f"{line[:WIDEST]}\n" for line in text.splitlines() if line.strip()]
        if len(lines) > LINES:
            half = LINES // 2
            lines = [*lines[:half], f"… {len(lines) - 2 * half} lines …\n", *lines[-half:]]
        output.text = "".join(lines)
    return output


if __name__ == "__main__":
    sys.exit(main())
