"""``kdyolo demo``: the whole way once, on a synthetic COCO data set that is drawn here.

Everything after the drawing is the code of real use. In place of a foundation model, which would take the network, the
backbone of a small detector that is trained on the shapes is the teacher; another is distilled from it without labels;
a detector is trained on that one, frozen at first and then not, and another from a random start; both are compared.
"""

from __future__ import annotations

import math
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdyolo.cli.base import command, json_option, plain_data, print_if_quiet, print_result
from kdyolo.errors import ConfigError, RunError
from kdyolo.runs.files import BEST_NAME, FEATURES_NAME, MAP, RECORD_NAME, RESULTS_NAME, weights_file

if TYPE_CHECKING:
    from kdyolo.distillation.distill import DistillResult
    from kdyolo.engine.model import KDYOLO
# One optimizer step per batch and a brisk Adam: hundreds of images, not COCO's hundred thousand.
RECIPE: dict[str, Any] = {
    "optimizer": "AdamW",
    "lr0": 0.002,
    "warmup_epochs": 1.0,
    "batch": 8,
    "device": "cpu",
    "scale": 0.2,
    "plots": False,
}
TEACHING_EPOCHS, DISTILLING_EPOCHS, FROZEN_EPOCHS, EPOCHS = 15, 20, 6, 15


@command("  kdyolo demo\n  kdyolo demo --out /tmp/kdyolo-demo")
@click.option("--out", type=click.Path(), default="demo", show_default=True, help="Folder to write.")
@json_option
def demo(out: str, as_json: bool) -> None:
    """Run everything once on drawn shapes: a few minutes on two CPU cores, no network."""
    found = run_demo(Path(out))
    if as_json:
        print_result(plain_data(found))
    else:
        print_if_quiet("\n".join(f"{what}  {found[what]}" for what in ("report", "predictions", "verdict")))


def run_demo(out: Path, splits: dict[str, int] | None = None) -> dict[str, Any]:
    """Draw, convert, teach, distil, train frozen and thawed and from a random start, compare; print where all of it is.

    Args:
        out: The folder to write; it must not exist, or be empty.
        splits: Split name → number of images; None: as many as the demonstration needs.

    Returns:
        A dictionary of ``map`` and ``random``, the mAP50-95 after each epoch of the detector on the distilled backbone
        and of that from a random start; ``final``, that of the first one's ``best.pt``; ``verdict`` of the
        distillation; and ``predictions`` and ``report``, the paths of the saved picture and of the comparison.

    Raises:
        ConfigError: ``out`` is not empty.
        RunError: mAP stayed near zero or did not rise: the installation does not train properly.
    """
    from ultralytics.utils import LOGGER

    from kdyolo.data.coco_to_yolo import convert_coco
    from kdyolo.data.synthetic import IMGSZ, draw_dataset
    from kdyolo.engine.model import KDYOLO
    from kdyolo.experiments.compare import compare_runs
    from kdyolo.runs.history import read_run

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists and is not empty. Choose another folder with --out, or remove it.")
    began = time.monotonic()
    _say(1, f"drawing a COCO data set of shapes in {out / 'shapes'}")
    root = draw_dataset(out / "shapes", splits)
    _say(2, "converting it: kdyolo convert")
    summary = convert_coco(root, out / "coco")
    LOGGER.info(summary.table())
    _say(3, f"a teacher in place of a foundation model: a detector, trained for {TEACHING_EPOCHS} epochs")
    teacher = make_checkpoint(out, summary.yaml)
    _say(4, f"distilling a backbone from it, on images without labels: kdyolo distill --epochs {DISTILLING_EPOCHS}")
    distilled = distil_backbone(out, teacher)
    _say(5, f"training on it: kdyolo train --freeze {FROZEN_EPOCHS} --epochs {EPOCHS}; and from a random start")
    options: Any = {"data": str(summary.yaml), "imgsz": IMGSZ, "epochs": EPOCHS, **RECIPE}
    model, run = KDYOLO(backbone=distilled.backbone), out / "distilled"
    model.train(**options, work_dir=run, freeze_epochs=FROZEN_EPOCHS)
    KDYOLO("kdyolov8n.yaml", random_init=True).train(**options, work_dir=out / "random")
    _say(6, "evaluating and comparing: kdyolo val, kdyolo compare")
    metrics = model.val(data=str(summary.yaml), imgsz=IMGSZ, device="cpu", plots=False, save_dir=str(out / "val"))
    final = float(metrics.box.map)
    picture = save_predictions(model, out)
    report = compare_runs(out / "random", run, baseline=out / "random").write_report(out / "report")
    curve, random = (read_run(folder).column(MAP) for folder in (run, out / "random"))
    LOGGER.info(
        f"\nDone in {(time.monotonic() - began) / 60:.1f} min.\n"
        f"  distillation: {distilled.verdict}\n"
        f"mAP50-95 by epoch, on images that none of them has seen\n"
        f"  distilled  {' '.join(f'{x:.3f}' for x in curve)}\n"
        f"  random     {' '.join(f'{x:.3f}' for x in random)}\n"
        f"  distilled: frozen until epoch {FROZEN_EPOCHS} {max(curve[:FROZEN_EPOCHS]):.3f}, then "
        f"{max(curve[FROZEN_EPOCHS:]):.3f}; random {max(random):.3f}. One run of each shows that the way works, not "
        "how much it gains: for that there are studies.\n"
        f"Look at\n"
        f"  {report}  both detectors side by side, and what the backbone learned\n"
        f"  {distilled.folder / FEATURES_NAME}  features of teacher and student\n"
        f"  {picture}  predictions on images it has not seen\n"
        f"  {run / RESULTS_NAME}  losses and mAP of each epoch\n"
        f"  {run / RECORD_NAME}  what was trained, from what\n"
        f"  {weights_file(run, BEST_NAME)}  a plain Ultralytics checkpoint\n"
        f"next:\n"
        f"  yolo predict model={weights_file(run, BEST_NAME)} source={root / 'val'}"
    )
    best = max(curve, default=math.nan)
    if not (best > 0.1 and best > curve[0] and final > 0.1):
        raise RunError(
            f"the demo trained, but mAP50-95 is {final:.3f} (best {best:.3f}, first epoch {curve[0]:.3f}); expected "
            "clearly above 0.1 and rising. This installation does not train properly."
        )
    found = {"map": curve, "random": random, "final": final, "verdict": distilled.verdict}
    return {**found, "predictions": picture, "report": report}


def make_checkpoint(out: Path, data: Path) -> Path:
    """Train a detector on the shapes and save its backbone in the old system's clean-export layout.

    Args:
        out: The folder for the teacher's run and the checkpoint.
        data: The data set YAML.

    Returns:
        The path of the ``.pth`` file.
    """
    import torch

    from kdyolo.checkpoints.key_naming import CSPDARKNET_LAYERS
    from kdyolo.data.synthetic import IMGSZ
    from kdyolo.engine.model import KDYOLO

    teacher = KDYOLO("kdyolov8n.yaml", random_init=True)
    work_dir = out / "teacher"
    teacher.train(data=str(data), epochs=TEACHING_EPOCHS, work_dir=work_dir, imgsz=IMGSZ, **RECIPE, val=False)
    weights = teacher.model.float().state_dict()
    path = out / f"epoch_{TEACHING_EPOCHS}_backbone_mmdet.pth"
    state_dict = {}
    for stage, layer in CSPDARKNET_LAYERS.items():
        prefix = f"model.{layer}."
        state_dict.update({f"{stage}.{k[len(prefix) :]}": v for k, v in weights.items() if k.startswith(prefix)})
    meta = {"epoch": TEACHING_EPOCHS, "backbone": "yolov8", "model_size": "n", "bn_eps": 1e-3}
    torch.save({"meta": meta, "state_dict": state_dict, "adapter_state_dict": {}}, path)
    shutil.rmtree(work_dir)
    return path


def distil_backbone(out: Path, teacher: Path) -> DistillResult:
    """Distil the teacher into a random backbone on the training images, some of them held out.

    Args:
        out: The folder of the demonstration.
        teacher: Checkpoint of the teacher's backbone.
    """
    from kdyolo.data.synthetic import IMGSZ
    from kdyolo.distillation.distill import distill

    options: dict[str, Any] = {"imgsz": IMGSZ, "batch": 8, "held_out": 0.1, "device": "cpu"}
    folder = str(out / "distillation")
    return distill(
        out / "shapes" / "train", teacher=teacher, model="yolov8n", epochs=DISTILLING_EPOCHS, work_dir=folder, **options
    )


def save_predictions(model: KDYOLO, out: Path, count: int = 12, columns: int = 4) -> Path:
    """Predict on validation images and save them as one picture.

    Args:
        model: The trained detector.
        out: The demonstration's folder; ``predictions.png`` is written there.
        count: The number of images.
        columns: The number of images in a row.

    Returns:
        The path of the picture.
    """
    from torchvision.io import read_image, write_png
    from torchvision.utils import draw_bounding_boxes, make_grid

    from kdyolo.data.synthetic import IMGSZ

    files = sorted((out / "coco" / "images" / "val").iterdir())[:count]
    results = model.predict([str(file) for file in files], imgsz=IMGSZ, device="cpu", conf=0.3, verbose=False)
    scale, pictures = 2, []
    for file, result in zip(files, results, strict=True):
        picture = read_image(str(file)).repeat_interleave(scale, 1).repeat_interleave(scale, 2)
        labels = [
            f"{result.names[int(label)]} {score:.2f}"
            for label, score in zip(result.boxes.cls, result.boxes.conf, strict=True)
        ]
        if labels:
            picture = draw_bounding_boxes(picture, result.boxes.xyxy * scale, labels, colors="white", width=2)
        pictures.append(picture)
    path = out / "predictions.png"
    write_png(make_grid(pictures, nrow=columns, padding=4, pad_value=255), str(path))
    return path


def _say(step: int, what: str) -> None:
    from ultralytics.utils import LOGGER

    LOGGER.info(f"\n[{step}/6] {what}")
