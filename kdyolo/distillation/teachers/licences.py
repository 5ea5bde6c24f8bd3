"""Licences of teachers: what is said of them at the start."""

from __future__ import annotations

from kdyolo.runs.model_card import is_non_commercial


def licence_notice(name: str, licence: str | None) -> str:
    """What to tell a person about a teacher's licence.

    Args:
        name: Name of the teacher.
        licence: Its licence; None where unknown.
    """
    if licence is None:
        return f"licence: that of {name}'s weights is not known here; look it up, it also concerns the backbone."
    if is_non_commercial(licence):
        return f"licence: {name}'s weights are under {licence}, which forbids commercial use, also of the backbone."
    return f"licence: {name}'s weights are under {licence}; read it before you pass the backbone on."
