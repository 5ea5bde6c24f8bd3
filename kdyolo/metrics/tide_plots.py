"""Plots of a TIDE analysis: the cost of each kind of error, and the images with the heaviest errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageOps

from kdyolo.metrics.ground_truth import Detection, GroundTruth
from kdyolo.metrics.tide import ERRORS, ErrorKind, ErrorReport, ImageErrors
from kdyolo.utils.text import decimal

WORST = 16
SHOWN_SCORE = 0.25  # detections below this are counted but not drawn: they would hide the picture
LABEL_HEIGHT = 15  # pixels: a box nearer to the upper edge has its label inside
BAR = "#0072b2"  # one colour: the length of a bar says all
COLORS: dict[ErrorKind, str] = {
    ErrorKind.RIGHT: "tab:green",
    ErrorKind.IGNORED: "tab:gray",
    ErrorKind.CLASSIFICATION: "tab:purple",
    ErrorKind.LOCALISATION: "tab:orange",
    ErrorKind.BOTH: "tab:brown",
    ErrorKind.DUPLICATE: "tab:cyan",
    ErrorKind.BACKGROUND: "tab:red",
    ErrorKind.MISSED: "tab:pink",
}


def plot_errors(report: ErrorReport, path: Path) -> Path:
    """A bar for every kind of error, the costliest first: AP50 that correcting it would add.

    Args:
        report: The TIDE analysis.
        path: Picture file to write.

    Returns:
        The same path.
    """
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axis = figure.add_subplot()
    kinds = sorted(ERRORS, key=lambda kind: -report.loss[kind])
    names = [f"{kind.name.lower()} ({report.count[kind]:,})" for kind in kinds]
    bars = axis.barh(names, [report.loss[kind] for kind in kinds], color=BAR)
    axis.bar_label(bars, [decimal(report.loss[kind], 3, "+") for kind in kinds], padding=3)
    axis.invert_yaxis()
    axis.margins(x=0.15)
    axis.set_xlabel("AP50 gained if all errors of the kind were corrected (number of errors)")
    axis.set_title(
        f"TIDE: AP50 {report.ap50:.3f}, without false positives {decimal(report.false_positives, 3, '+')}, "
        f"without false negatives {decimal(report.false_negatives, 3, '+')}",
        fontsize="small",
    )
    figure.savefig(path, dpi=150)
    return path


def draw_worst(
    report: ErrorReport,
    truth: GroundTruth,
    detections: Sequence[Detection],
    files: Mapping[int, Path],
    folder: Path,
    count: int = WORST,
) -> list[Path]:
    """Draw the images with the heaviest errors, ground truth on the left and detections on the right.

    Args:
        report: The TIDE analysis of these detections.
        truth: Ground truth of the analysis.
        detections: Boxes in pixels of the original images.
        files: Image id → image file.
        folder: Folder for the pictures, ``01_<name>.jpg`` being the worst; older ones there are removed.
        count: Largest number of images.

    Returns:
        The pictures, worst first; images without any error are left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("[0-9][0-9]_*.jpg"):
        old.unlink()
    objects: dict[int, list[int]] = {}
    for index, annotation in enumerate(truth.annotations):
        objects.setdefault(annotation["image_id"], []).append(index)
    pictures = []
    for place, errors in enumerate((e for e in report.images[:count] if e.weight > 0), 1):
        file = files[errors.image_id]
        path = folder / f"{place:02d}_{file.stem}.jpg"
        _draw(errors, objects.get(errors.image_id, []), truth, detections, file, path)
        pictures.append(path)
    return pictures


def _draw(
    errors: ImageErrors,
    objects: Sequence[int],
    truth: GroundTruth,
    detections: Sequence[Detection],
    file: Path,
    path: Path,
) -> None:
    with Image.open(file) as opened:
        picture = ImageOps.exif_transpose(opened).convert("RGB")
    width, height = 12.0, 6.0 * picture.height / picture.width + 0.8
    figure = Figure(figsize=(width, min(max(height, 3.0), 14.0)), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axis in (left, right):
        axis.imshow(picture)
        axis.set_axis_off()
    for index in objects:
        annotation = truth.annotations[index]
        name = truth.categories[annotation["category_id"]]
        kind = (
            ErrorKind.MISSED
            if index in errors.missed
            else ErrorKind.IGNORED
            if annotation["iscrowd"]
            else ErrorKind.RIGHT
        )
        note = {ErrorKind.MISSED: f"{name} · missed", ErrorKind.IGNORED: f"{name} · crowd"}.get(kind, name)
        _box(left, annotation["bbox"], "tab:blue" if kind is ErrorKind.RIGHT else COLORS[kind], note)
    shown = [(index, kind) for index, kind in errors.detections if detections[index]["score"] >= SHOWN_SCORE]
    for index, kind in reversed(shown):  # the surest on top
        detection = detections[index]
        name = truth.categories[detection["category_id"]]
        note = "" if kind is ErrorKind.RIGHT else f" · {kind.name.lower()}"
        _box(right, detection["bbox"], COLORS[kind], f"{name} {detection['score']:.2f}{note}")
    left.set_title(f"ground truth: {len(objects)}, missed {len(errors.missed)}", fontsize="small")
    hidden = len(errors.detections) - len(shown)
    right.set_title(
        f"detections: {len(shown)} from score {SHOWN_SCORE}, {hidden} below · weight {errors.weight:.2f}",
        fontsize="small",
    )
    figure.savefig(path, dpi=100)


def _box(axis: Any, box: Sequence[float], color: str, text: str) -> None:
    x, y, w, h = box
    axis.add_patch(Rectangle((x, y), w, h, fill=False, edgecolor=color, linewidth=1.5))
    axis.text(
        *(max(x, 0), max(y, 0), text),
        fontsize=6,
        color="white",
        verticalalignment="bottom" if y > LABEL_HEIGHT else "top",
        clip_on=True,
        parse_math=False,
        bbox={"facecolor": color, "edgecolor": "none", "pad": 1, "alpha": 0.8},
    )
