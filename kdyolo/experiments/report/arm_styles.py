"""Styles of arms: a colour, a line style and a marker each, the same in every chart, so that they also read in grey."""

from __future__ import annotations

from dataclasses import dataclass

# Okabe and Ito's colour-blind-safe palette (Color Universal Design, 2008) after a neutral first one for the baseline;
# darkened where it would be pale on white, lightened for dark pages.
LIGHT = ("#3b4252", "#0072b2", "#c44e00", "#00805d", "#a8508a", "#b07a00", "#3a8fc2")
DARK = ("#d8dee9", "#56b4e9", "#ff8a3d", "#2fc79a", "#e79bc8", "#f0c040", "#9ccbf0")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
SYMBOLS = ("circle", "square", "triangle-up", "diamond", "x", "triangle-down", "cross", "star")
GLYPHS = ("●", "■", "▲", "◆", "✖", "▼", "✚", "★")  # the symbols in text
STROKES = {"solid": "none", "dash": "7 4", "dot": "2 3", "dashdot": "7 3 2 3", "longdash": "12 4"}  # SVG's dashes

# The same for Matplotlib.
LINE_STYLES: dict[str, str | tuple[int, tuple[float, ...]]] = {
    "solid": "-",
    "dash": "--",
    "dot": ":",
    "dashdot": "-.",
    "longdash": (0, (8, 3)),
}
MARKERS = ("o", "s", "^", "D", "X", "v", "P", "*")


@dataclass(frozen=True)
class ArmStyle:
    """How one arm is drawn.

    Attributes:
        color: Index into :data:`LIGHT` and :data:`DARK`.
        dash: Plotly's name of the line style; a key of :data:`LINE_STYLES`.
        symbol: Plotly's name of the marker.
        marker: Matplotlib's name of the marker.
        glyph: The marker as a character.
        stroke: SVG's ``stroke-dasharray``.
    """

    color: int
    dash: str
    symbol: str
    marker: str
    glyph: str
    stroke: str


def arm_style(place: int) -> ArmStyle:
    """Style of an arm by its place, the baseline being 0; the numbers of kinds differ, so few arms look alike."""
    dash = DASHES[place % len(DASHES)]
    return ArmStyle(
        place % len(LIGHT),
        dash,
        SYMBOLS[place % len(SYMBOLS)],
        MARKERS[place % len(MARKERS)],
        GLYPHS[place % len(GLYPHS)],
        STROKES[dash],
    )


def arm_styles(arms: list[str], baseline: str | None) -> dict[str, ArmStyle]:
    """Arm → its style: the baseline has the neutral first one, the others follow in their order."""
    order = sorted(arms, key=lambda name: name != baseline)
    return {name: arm_style(place + (baseline is None)) for place, name in enumerate(order)}
