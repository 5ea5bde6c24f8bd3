"""Wheel and sdist built into dist/ and checked: versions, contents, metadata, and that the wheel installs and runs.

Usage:
    python scripts/release.py                # needs the extra [release]; `make release` installs it
    python scripts/release.py --skip-install # without the installation into an empty environment

Nothing is uploaded. Exit code 1 if something is not right; all that is wrong is listed.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
DIST = CHECKOUT / "dist"
IN_WHEEL = ("kdyolo/__init__.pyi", "kdyolo/py.typed", "kdyolo/cfg/models/kdyolov8.yaml", "kdyolo/cfg/recipes/coco.yaml")
IN_SDIST = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "CITATION.cff",
    "LICENSE",
    "Makefile",
    "docs/index.md",
    "tests/conftest.py",
)
NEVER = re.compile(r"(^|/)__pycache__/|^(\.venv|runs|demo|datasets|build)/|\.(pt|pth|onnx|safetensors)$")


def main() -> int:
    """Build, check, and say what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skip-install", action="store_true", help="do not install into an empty environment")
    skip_install = parser.parse_args().skip_install
    version = version_here()
    wrong = disagreeing_versions(version)
    wheel, sdist = built(version)
    wrong += wrong_contents(wheel, sdist) + invalid_metadata(wheel, sdist)
    if not skip_install:
        wrong += installation_fails(wheel, version)
    for file in (wheel, sdist):
        print(f"{file.relative_to(CHECKOUT)}  {file.stat().st_size / 1e6:.2f} MB")
    print("\n".join(f"WRONG: {line}" for line in wrong) or f"kdyolo {version}: all is right; nothing was uploaded")
    return 1 if wrong else 0


def version_here() -> str:
    """The version in the source, without importing it."""
    text = (CHECKOUT / "kdyolo/_version.py").read_text(encoding="utf-8")
    found = re.search(r'__version__ = "([^"]+)"', text)
    if not found:
        raise SystemExit('kdyolo/_version.py: expected a line __version__ = "…"')
    return found[1]


def disagreeing_versions(version: str) -> list[str]:
    """Files that name another version than the source."""
    citation = (CHECKOUT / "CITATION.cff").read_text(encoding="utf-8")
    found = re.search(r"^version: (\S+)$", citation, flags=re.MULTILINE)
    wrong = [] if found and found[1] == version else [f"CITATION.cff: expected version: {version}"]
    changelog = (CHECKOUT / "CHANGELOG.md").read_text(encoding="utf-8")
    if not re.search(rf"^## \[({re.escape(version)}|Unreleased)\]", changelog, flags=re.MULTILINE):
        wrong.append(f"CHANGELOG.md: expected a section [{version}]")
    return wrong


def built(version: str) -> tuple[Path, Path]:
    """Wheel and sdist, built in isolation from each other: the wheel is made from the sdist, as an installer would."""
    for old in DIST.glob("kdyolo-*"):
        old.unlink()
    subprocess.run([sys.executable, "-m", "build", "--no-isolation", "--outdir", DIST, CHECKOUT], check=True)
    return DIST / f"kdyolo-{version}-py3-none-any.whl", DIST / f"kdyolo-{version}.tar.gz"


def wrong_contents(wheel: Path, sdist: Path) -> list[str]:
    """What is missing in the archives, or should not be there."""
    in_wheel = zipfile.ZipFile(wheel).namelist()
    with tarfile.open(sdist) as archive:
        in_sdist = [name.partition("/")[2] for name in archive.getnames()]
    wrong = [f"{wheel.name}: lacks {name}" for name in IN_WHEEL if name not in in_wheel]
    wrong += [f"{sdist.name}: lacks {name}" for name in IN_SDIST if name not in in_sdist]
    wrong += [f"{wheel.name}: {name}" for name in in_wheel if name.startswith(("tests/", "scripts/", "docs/", "cfg/"))]
    return wrong + [f"in an archive: {name}" for name in (*in_wheel, *in_sdist) if NEVER.search(name)]


def invalid_metadata(*files: Path) -> list[str]:
    """What PyPI would refuse."""
    done = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True)
    return [] if done.returncode == 0 else [f"twine check: {done.stdout.strip()}"]


def installation_fails(wheel: Path, version: str) -> list[str]:
    """Whether the wheel, installed on its own, lacks something; its dependencies come from this environment."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True, system_site_packages=False)
        python = next(Path(folder).glob("[bS]*/python*"))
        where = "import site; print(site.getsitepackages()[0])"
        site = subprocess.check_output([python, "-c", where], text=True).strip()
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
        ours = [path for path in sys.path if path.endswith("site-packages")]
        Path(site, "borrowed.pth").write_text("\n".join(ours), encoding="utf-8")
        script = python.with_name("kdyolo.exe" if sys.platform == "win32" else "kdyolo")
        wrong = []
        for arguments, expected in (
            (["--version"], version),
            (["train", "--help"], "--backbone"),
            (["doctor"], version),
        ):
            done = subprocess.run([script, *arguments], capture_output=True, text=True, cwd=folder)
            if done.returncode or expected not in done.stdout:
                wrong.append(f"kdyolo {' '.join(arguments)}: exit code {done.returncode}: {done.stderr[-500:]}")
        where = "import kdyolo; print(kdyolo.__file__)"
        found = subprocess.check_output([python, "-c", where], text=True, cwd=folder).strip()
        return wrong if found.startswith(site) else [*wrong, f"another kdyolo was tried: {found}"]


if __name__ == "__main__":
    sys.exit(main())
