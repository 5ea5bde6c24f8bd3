"""Names of arms that train on a share of the labels: ``frozen@5%``."""

from __future__ import annotations

import re

_NAME = re.compile(r"(.+)@(\d+(?:\.\d+)?(?:e-?\d+)?)%")


def share_name(share: float) -> str:
    """A share in 0–1 as ``"5%"``."""
    return f"{share * 100:.10g}%"


def arm_at(arm: str, share: float) -> str:
    """Name of an arm's folder at a share of the labels; no arm of a study file has one with ``@``."""
    return f"{arm}@{share_name(share)}"


def bare_name(name: str) -> str:
    """Name of the arm, without the share."""
    found = arm_and_share(name)
    return found[0] if found else name


def arm_and_share(name: str) -> tuple[str, float] | None:
    """Name of the arm and its share in 0–1; None for an arm without one."""
    match = _NAME.fullmatch(name)
    return (match[1], float(match[2]) / 100) if match else None
