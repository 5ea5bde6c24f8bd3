"""Values of COCO's records in any spelling that has one meaning: whole and real numbers, flags, ids."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from kdyolo.utils.text import quoted

_LONGEST = 40  # characters of a number as text
_WHOLE = re.compile(r"[+-]?\d+")


def real_number(value: Any) -> float | None:
    """A finite number, also as text; None for what has no or two meanings."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, str) and (len(value) > _LONGEST or "_" in value):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def whole_number(value: Any) -> int | None:
    """A whole number as ``1``, ``1.0``, ``"1"`` or ``"1.0"``; None for what has no or two meanings."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and len(value) <= _LONGEST and _WHOLE.fullmatch(value.strip()):
        return int(value)  # above 2⁵³ a float would be another number
    number = real_number(value)
    return int(number) if number is not None and number.is_integer() else None


def flag(value: Any) -> int | None:
    """0 for ``0``, ``0.0``, ``"0"``, false, null and nothing; 1 for ``1``, ``1.0``, ``"1"`` and true; else None."""
    if value is None or value == "":
        return 0
    number = int(value) if isinstance(value, bool) else whole_number(value)
    return number if number in (0, 1) else None


def id_key(value: Any) -> int | str | None:
    """An id: a whole number in any spelling as that number, other text as it is; None for what is no id."""
    number = whole_number(value)
    if number is not None:
        return number
    return value if isinstance(value, str) and value.strip() else None


def shown(value: Any) -> str:
    """A value for a message: a number, a flag, null or a few of them as JSON writes it, anything else shortened."""
    if isinstance(value, list) and len(value) <= 8 and not any(isinstance(part, (list, dict)) for part in value):
        return f"[{', '.join(map(shown, value))}]"
    simple = value is None or isinstance(value, float) or (isinstance(value, int) and abs(value) < 10**_LONGEST)
    return json.dumps(value) if simple else quoted(value)
