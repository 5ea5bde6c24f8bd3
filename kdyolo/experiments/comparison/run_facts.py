"""Facts about each run: what a reader needs to trust it, or to repeat it."""

from __future__ import annotations

import math
from typing import Any

from kdyolo.experiments.comparison.grouping import Arm, run_name
from kdyolo.experiments.comparison.run_settings import TRAINER, batches_of, seed_of, settings_of
from kdyolo.runs.history import Run
from kdyolo.utils.text import plural


def run_facts(arm: Arm, run: Run) -> dict[str, Any]:
    """Facts about a run: name → value; those that are not recorded are left out."""
    record = run.record or {}
    backbone = record.get("backbone") or {}
    versions = record.get("versions") or {}
    facts = {
        "run": run_name(run),
        "arm": arm.name,
        "seed": seed_of(run),
        "folder": str(run.path),
        TRAINER: settings_of(run)[TRAINER],
        "state": _state(run),
        "best epoch": run.best_epoch(),
        "training time (s)": _seconds(run),
        "model": record.get("model") or run.args.get("model"),
        "started from": record.get("started_from"),
        "backbone": backbone.get("path"),
        "backbone SHA-256": backbone.get("sha256"),
        "backbone tensors": f"{backbone['matched']}/{backbone['total']}"
        if backbone.keys() >= {"matched", "total"}
        else None,
        "data": run.args.get("data"),
        "device": run.args.get("device"),
        "batch": " then ".join(map(str, batches_of(run))) or None,
        "official metrics by": (run.scores or {}).get("evaluator"),
        "annotations": (run.scores or {}).get("annotations"),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()) or None,
        "git commit": record.get("git_commit"),
        "command": record.get("command"),
        "remarks": "; ".join(run.notes) or None,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _state(run: Run) -> str:
    done = f"{run.epochs[-1]} of {plural(run.planned_epochs, 'epoch')}"
    if run.finished:
        return f"finished: {done}"
    return f"trained, not evaluated at its end: {done}" if run.trained else f"not finished: {done}"


def _seconds(run: Run) -> float | None:
    known = [seconds for seconds in run.seconds if not math.isnan(seconds)]
    return round(math.fsum(known), 1) if len(known) == len(run.epochs) else None
