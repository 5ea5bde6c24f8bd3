"""Settings of a run: Ultralytics' and kdyolo's in one mapping, and those of them that make an arm."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Any

from kdyolo.engine.options.train_options import TrainOptions, names_of
from kdyolo.runs.files import BATCH_COLUMN
from kdyolo.runs.history import Run
from kdyolo.utils.text import distinct

# Where things are put and how the process was called: the run's folder says it.
_BOOKKEEPING = {
    *names_of(lambda found: found.kind == "path" and not found.input_file),
    *("save_dir", "name", "project", "exist_ok", "resume", "cfg", "mode", "task"),
    *("verbose", "plots", "save", "save_period", "profile"),
}
# Of Ultralytics' other modes: they have no part in training or its validation.
_OTHER_MODES = {
    *("source", "vid_stride", "stream_buffer", "visualize", "retina_masks", "embed", "line_width", "tracker"),
    *("show", "show_labels", "show_conf", "show_boxes"),
    *("save_frames", "save_txt", "save_conf", "save_crop", "save_json"),
    *("format", "optimize", "dynamic", "simplify", "opset", "workspace", "nms", "dnn"),
    *("quantize", "half", "int8", "keras"),
}
# These change a result by rounding and the order of additions at most, so runs that differ in them are one arm.
_ENVIRONMENT = {"device", "workers", "cache", "compile", "channels_last", *names_of(lambda found: not found.in_arm)}
# What kdyolo's options are in stock training, which has none of them.
STOCK = {name: getattr(TrainOptions(), name) for name in names_of(lambda found: found.in_stock)}
# What a resume writes anew into args.yaml: last.pt for the model, and for optimizer=auto what that has chosen.
REWRITTEN = ("model", "optimizer", "lr0", "momentum", "warmup_bias_lr")
NOT_RECORDED = "not recorded"
SEED = "seed"
TRAINER = "trained by"  # no setting, but whose settings they are

MISSING = "–"  # where a run has no such setting


def settings_of(run: Run) -> dict[str, Any]:
    """Settings of a run, kdyolo's beside Ultralytics'; where things were put and the seed are left out.

    A backbone and a teacher are named by their content, where the run recorded that, wherever the file lay. The batch
    is the one really used, where the run recorded it.
    """
    record = run.record or {}
    settings = {**STOCK, **run.args, **(record.get("settings") or {}), "epochs": run.planned_epochs}
    settings[TRAINER] = "kdyolo" if record else "ultralytics"
    if record.get("model"):
        settings["model"] = record["model"]
    elif was_resumed(run):
        settings.update(dict.fromkeys(REWRITTEN, NOT_RECORDED))
    for file in ("backbone", "distill_model"):
        sha256 = (record.get(file) or {}).get("sha256")
        if settings.get(file) and sha256:
            settings[file] = f"{Path(str(settings[file])).name} (SHA-256 {str(sha256)[:12]}…)"
    if used := batches_of(run):
        settings["batch"] = used[0] if len(used) == 1 else used
    left_out = _BOOKKEEPING | _OTHER_MODES | {SEED}
    return {key: value for key, value in settings.items() if key not in left_out}


def shaping(run: Run) -> dict[str, Any]:
    """Settings that make an arm: all but the environment, and the data set's file, whose content is compared."""
    return {key: value for key, value in settings_of(run).items() if key not in (*_ENVIRONMENT, "data")}


def batches_of(run: Run) -> list[int]:
    """Images to a batch as really used, in the order of the epochs; empty where the run does not record it."""
    recorded = (run.record or {}).get("batch")
    used = [int(images) for images in run.column(BATCH_COLUMN) if isfinite(images)]
    return distinct(used or ([recorded] if recorded else []))


def was_resumed(run: Run) -> bool:
    """Whether the recorded arguments are those of a resume."""
    return bool(run.args.get("resume"))


def seed_of(run: Run) -> int | None:
    """The recorded seed; None if there is none, or no whole number."""
    seed = run.args.get(SEED)
    return seed if isinstance(seed, int) and not isinstance(seed, bool) else None
