"""Trainings that take seconds."""

from __future__ import annotations

from typing import Any

# A run that takes two or three seconds: 8 images, 4 optimizer steps per epoch, brisk enough that weights really move.
FAST: dict[str, Any] = {
    "imgsz": 64,
    "batch": 4,
    "nbs": 4,
    "device": "cpu",
    "plots": False,
    "warmup_epochs": 0,
    "epochs": 2,
}
