"""Check of a model's description before Ultralytics parses it: known keys and layers, plain values, no expression.

Ultralytics' parser evaluates ``activation`` as Python, looks layers up among the globals of its module, and replaces
words in a row by its own variables. Descriptions come from strangers: in model YAMLs, in checkpoints, in the state of
an interrupted run. So each of them passes here first, whatever it stands in.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from kdyolo.errors import ModelError
from kdyolo.utils.text import quoted

BACKBONE = "DistilledBackbone"

# Layers of Ultralytics' own model YAMLs, and those that its parser knows beside them; a test holds the list to be
# complete. Not TorchVision, which downloads weights, and none that takes a text encoder's name.
LAYERS = frozenset(
    {
        *("Conv", "ConvTranspose", "DWConv", "DWConvTranspose2d", "GhostConv", "Focus", "SCDown", "ADown", "AConv"),
        *("Bottleneck", "GhostBottleneck", "BottleneckCSP", "C1", "C2", "C2f", "C3", "C3k2", "C3x", "C3TR", "C3Ghost"),
        *("RepC3", "C2fCIB", "C2fAttn", "C2fPSA", "C2PSA", "PSA", "A2C2f", "AIFI", "RepNCSPELAN4", "ELAN1"),
        *("SPP", "SPPF", "SPPELAN", "HGStem", "HGBlock", "ResNetLayer", "ImagePoolingAttn"),
        *("Concat", "CBLinear", "CBFuse", "Index", BACKBONE),
        *("nn.Upsample", "nn.ConvTranspose2d", "nn.Conv2d", "nn.BatchNorm2d", "nn.Identity", "nn.MaxPool2d"),
        *("nn.ZeroPad2d",),
        *("Detect", "v10Detect", "WorldDetect", "YOLOEDetect", "RTDETRDecoder", "Classify", "Depth"),
        *("Segment", "Segment26", "YOLOESegment", "YOLOESegment26", "SemanticSegment"),
        *("Pose", "Pose26", "OBB", "OBB26"),
    }
)
# Words in a row's arguments: two of the parser's variables, and values.
NAMED_VALUES = frozenset({"nc", "kpt_shape", "None", "True", "False", "nearest", "bilinear", "bicubic", "area"})
ACTIVATIONS = frozenset(nn.modules.activation.__all__) - {"MultiheadAttention"}

MAX_DEPTH, MAX_VALUES, MAX_TEXT = 20, 50_000, 100_000  # of plain data
MAX_CLASSES, MAX_WIDTH, MAX_REPEATS, MAX_ROWS = 65_536, 4096, 100, 1000


def _number(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: type(value) in (int, float) and low <= value <= high


def _whole(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _text(length: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and len(value) <= length


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


# Key → whether a value is one of its kind; ``None`` stands for a key that is not there. Rows and scales come after.
KEYS: Mapping[str, Callable[[Any], bool]] = {
    "nc": _whole(1, MAX_CLASSES),
    "scale": _text(8),
    "reg_max": _whole(1, 256),
    "end2end": _flag,
    "activation": lambda value: isinstance(value, str) and is_activation(value),
    "depth_multiple": _number(0, 8),
    "width_multiple": _number(0, 8),
    "max_channels": _whole(1, MAX_CLASSES),
    "kpt_shape": lambda value: isinstance(value, list) and len(value) == 2 and all(map(_whole(1, 1000), value)),
    "ch": _whole(1, 64),
    "channels": _whole(1, 64),
    "inplace": _flag,
    "anchors": lambda value: not_plain(value) is None,
    "text_model": _text(100),
    "task": _text(20),
    "yaml_file": _text(4096),
    "kd": lambda value: isinstance(value, dict) and not_plain(value) is None and _record_is_usable(value),
    "scales": lambda value: True,
    "backbone": lambda value: True,
    "head": lambda value: True,
}


def is_activation(text: str) -> bool:
    """Whether a text is an activation of ``torch.nn`` with numbers as arguments, such as ``nn.LeakyReLU(0.1)``."""
    found = re.fullmatch(r"(?:torch\.)?nn\.(\w+)\(([\w=,. +-]*)\)", text.strip()) if len(text) <= 200 else None
    if found is None or found[1] not in ACTIVATIONS:
        return False
    try:
        call = ast.parse(f"f({found[2]})", mode="eval").body
        assert isinstance(call, ast.Call)
        values = [ast.literal_eval(node) for node in (*call.args, *(k.value for k in call.keywords))]
        named = all(keyword.arg for keyword in call.keywords)
    except (SyntaxError, ValueError):
        return False
    return named and all(value is None or isinstance(value, (bool, int, float)) for value in values)


def check_description(description: Mapping[str, Any]) -> None:
    """Refuse a description that is anything but a network in plain data.

    Args:
        description: A model's description in either layout, resolved or not.

    Raises:
        ModelError: The first key, row or value that no description of a detector has.
    """
    file = description.get("yaml_file")
    where = file if isinstance(file, str) and len(file) <= 4096 else "model description"
    for key, value in description.items():
        if not isinstance(key, str) or key not in KEYS:
            known = ", ".join(sorted(KEYS))
            raise ModelError(f"{where}: unknown key {quoted(key)}. Expected only {known}: remove it.")
        if (value is not None or key == "yaml_file") and not KEYS[key](value):
            raise ModelError(f"{where}: {_EXPECTED.get(key, f'cannot use {key}')}; found {quoted(value)}.")
    for part in ("backbone", "head"):
        rows = description.get(part)
        if isinstance(rows, list):
            if len(rows) > MAX_ROWS:
                raise ModelError(f"{where}: {part} has {len(rows):,} rows; expected at most {MAX_ROWS:,}.")
            for row in rows:
                if mistake := _row_mistake(row):
                    raise ModelError(f"{where}: {part} row {quoted(row)}: {mistake}.")
    if isinstance(scales := description.get("scales"), Mapping) and (mistake := _scales_mistake(scales)):
        raise ModelError(f"{where}: {mistake}.")


_EXPECTED: Mapping[str, str] = {
    "nc": f"nc is the number of classes, 1 to {MAX_CLASSES:,}",
    "activation": "activation names one of torch.nn with numbers as arguments, e.g. nn.LeakyReLU(0.1), and is not "
    "evaluated as anything else",
    "kd": "kd is the record of a run in plain data",
}


def _row_mistake(row: Any) -> str | None:
    """What is wrong with the values of a row of the form ``[from, repeats, layer, arguments]``, if it has that form."""
    if not (isinstance(row, list) and len(row) == 4 and isinstance(row[2], str) and isinstance(row[3], list)):
        return None  # told with the form that is expected, by the check of rows
    sources, repeats, layer, arguments = row
    if layer not in LAYERS:
        return f"unknown layer {quoted(layer)}; expected one of Ultralytics' model YAMLs, e.g. Conv, C2f, Detect"
    sources = sources if isinstance(sources, list) else [sources]
    if not sources or len(sources) > 64 or not all(map(_whole(-MAX_ROWS, MAX_ROWS), sources)):
        return "it starts with the row that it takes its input from, or a list of rows, as whole numbers"
    if not _whole(1, MAX_REPEATS)(repeats):
        return f"repeats is a whole number from 1 to {MAX_REPEATS}"
    if len(arguments) > 16:
        return "too many arguments"
    if layer == BACKBONE and len(arguments) == 4 and not _is_resolved_backbone(*arguments):
        return "expected the arguments arch, max_channels, bn_eps and a list of levels"
    largest = MAX_CLASSES if re.search("Detect|Segment|Pose|OBB|Decoder|Classify", layer) else MAX_WIDTH
    for argument in arguments:
        values = argument if isinstance(argument, list) and len(argument) <= 16 else [argument]
        if not all(_is_argument(value, layer, largest) for value in values):
            return (
                f"argument {quoted(argument)}; expected numbers up to {largest:,}, true, false, null or one of "
                f"{', '.join(sorted(NAMED_VALUES))}"
            )
    return None


def _is_resolved_backbone(arch: Any, max_channels: Any, bn_eps: Any, levels: Any) -> bool:
    texts = [arch, *levels] if isinstance(levels, list) and levels else [None]
    return all(map(_text(40), texts)) and _whole(1, MAX_WIDTH)(max_channels) and _number(1e-12, 1)(bn_eps)


def _is_argument(value: Any, layer: str, largest: int) -> bool:
    if isinstance(value, str):  # levels and archs are looked up, and replaced by numbers, before anything is parsed
        return value in NAMED_VALUES or (
            layer in ("Index", BACKBONE) and re.fullmatch(r"[\w.-]{1,40}", value) is not None
        )
    return value is None or isinstance(value, bool) or _number(-largest, largest)(value)


def _scales_mistake(scales: Mapping[Any, Any]) -> str | None:
    limits = (_number(0, 8), _number(0, 8), _whole(1, MAX_CLASSES))
    for letter, values in scales.items():
        fits = isinstance(values, list) and len(values) == 3 and all(f(v) for f, v in zip(limits, values, strict=True))
        if not fits or not isinstance(letter, str) or len(scales) > 30:
            return (
                "expected scales, each with a scale letter, depth, width and most channels: n: [0.33, 0.25, 1024]; "
                f"found {quoted(letter)}: {quoted(values)}"
            )
    return None


def _record_is_usable(record: Mapping[str, Any]) -> bool:
    """Whether what is computed with, of the record of a run, is of the right kind."""
    eps, settings = record.get("bn_eps"), record.get("settings")
    return (eps is None or (_number(0, 1)(eps) and eps > 0)) and (settings is None or isinstance(settings, dict))


def not_plain(value: Any, values: int = MAX_VALUES, text: int = MAX_TEXT) -> str | None:
    """Why a value is not a reasonable amount of plain data, in words; None if it is.

    Plain are numbers, texts, None, and lists, tuples and mappings of these. What stands in it several times, as YAML's
    aliases make it, counts each time, so that a few bytes cannot stand for gigabytes.

    Args:
        value: What a file holds.
        values: The most values that it may have, containers included.
        text: The most characters that its texts may have together.
    """
    waiting: list[tuple[Any, int]] = [(value, 0)]
    found, length = 0, 0
    while waiting:
        item, depth = waiting.pop()
        found += 1
        if isinstance(item, (str, bytes)):
            length += len(item)
        elif isinstance(item, Mapping):
            waiting += [(part, depth + 1) for pair in item.items() for part in pair]
        elif isinstance(item, (list, tuple)):
            waiting += [(part, depth + 1) for part in item]
        elif isinstance(item, int) and item.bit_length() > 128:
            return "a number of more than 38 digits"
        elif item is not None and not isinstance(item, (bool, int, float)):
            return f"a {type(item).__name__}"
        if depth > MAX_DEPTH:
            return f"containers nested more than {MAX_DEPTH} deep"
        if found > values or len(waiting) > values:
            return f"more than {values:,} values"
        if length > text:
            return f"more than {text:,} characters of text"
    return None
