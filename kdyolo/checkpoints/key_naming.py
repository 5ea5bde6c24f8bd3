"""Naming schemes: how each tool names a backbone's layers, and what its networks assume.

A table is data: ``layers`` maps a tool's name for a layer to the layer's number in Ultralytics' model YAML,
``segments`` the names inside a layer; ``None`` drops on purpose. A user adds one as a YAML file (``--key-map``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from kdyolo.checkpoints.input_norm import NORMS, InputNorm
from kdyolo.errors import ConfigError
from kdyolo.models.arch import ULTRALYTICS_BN_EPS
from kdyolo.utils.plain_files import is_file
from kdyolo.utils.text import quoted, shortened
from kdyolo.utils.yaml_files import read_yaml

VFMKD_BN_EPS = 1e-5  # PyTorch's default, which the old system's backbones were trained with

Key = tuple[str, ...]  # a tensor's full name in a file, as segments

# Containers and wrappers that may stand, in any nesting, before a backbone tensor's own name.
WRAPPERS = frozenset(
    {
        *("_orig_mod", "module", "state_dict", "model_state_dict", "model", "net"),  # torch.compile, DDP, containers
        *("student", "student_model", "student_backbone", "student_encoder", "student_network"),  # distillation loops
        *("architecture", "online_network", "online_encoder", "encoder", "network"),  # MMRazor, BYOL and its like
        *("backbone", "csp_darknet"),
        *("embedding_model", "wrapped_model", "_backbone"),  # LightlyTrain
    }
)

# What no backbone is, in any naming scheme: other parts of a distillation run, and the state of its training.
TRAINING: Mapping[str, None] = MappingProxyType(
    dict.fromkeys(
        (
            *("*adapter*", "*head*", "neck*", "sam_*", "teacher*", "project*", "*loss*", "data_preprocessor"),
            *("ema*", "*_ema", "optimizer*", "optim_*", "*scheduler*", "scaler*"),
            *("message_hub", "callbacks", "loops", "updates"),
        )
    )
)


@dataclass(frozen=True)
class NamingScheme:
    """How one tool names a backbone's layers.

    Attributes:
        name: Short name, e.g. ``"vfmkd"``.
        layers: Dotted name of a layer → its number in Ultralytics' YAML, or ``None`` for a part that is dropped on
            purpose. ``#`` stands for any whole number, on the right for the one found; other segments may use ``*``.
        segments: Name inside a layer → Ultralytics' name.
        strip: Further wrappers that may stand before the names.
        telltale: Pattern that some key of the file must contain for this scheme to be considered. Default: none needed.
        bn_eps: BatchNorm epsilon that the tool's networks are trained with.
        input_norm: How the tool normalises images.
        untrained_tail: Whether the tool leaves the backbone's last layers untrained, so that a file may lack them.
    """

    name: str
    layers: Mapping[str, str | None]
    segments: Mapping[str, str] = field(default_factory=dict)
    strip: frozenset[str] = frozenset()
    telltale: str | None = None
    bn_eps: float = ULTRALYTICS_BN_EPS
    input_norm: InputNorm = field(default_factory=InputNorm)
    untrained_tail: bool = False

    @cached_property
    def _patterns(self) -> list[tuple[tuple[str, ...], str | None]]:
        longest_first = sorted(self.layers.items(), key=lambda item: -item[0].count("."))
        return [(tuple(pattern.split(".")), target) for pattern, target in longest_first]

    def unwrap(self, key: tuple[str, ...]) -> int:
        """How many segments of a key are wrappers before a name."""
        return next((i for i, s in enumerate(key) if s not in WRAPPERS and s not in self.strip), len(key))

    def rename(self, key: tuple[str, ...]) -> str | Literal[False] | None:
        """A key without wrappers → the tensor's name in Ultralytics' numbers; ``None``: dropped; ``False``: unknown."""
        for pattern, target in self._patterns:
            if len(key) < len(pattern) or not all(map(_matches, key, pattern)):
                continue
            if target is None:
                return None
            rest = key[len(pattern) :]
            if rest:
                number = next((s for s, p in zip(key, pattern, strict=False) if p == "#"), "")
                return ".".join((target.replace("#", number), *(self.segments.get(s, s) for s in rest)))
        return False

    def considered(self, keys: Iterable[str]) -> bool:
        """Whether a file with these keys can follow this scheme."""
        return self.telltale is None or any(re.search(self.telltale, key) for key in keys)


def _matches(segment: str, pattern: str) -> bool:
    return segment.isdigit() if pattern == "#" else fnmatchcase(segment, pattern)


# CSPDarknet's stages → YOLOv8's layer numbers.
CSPDARKNET_LAYERS: Mapping[str, str] = MappingProxyType(
    {
        "stem": "0",
        "stage1.0": "1",
        "stage1.1": "2",
        "stage2.0": "3",
        "stage2.1": "4",
        "stage3.0": "5",
        "stage3.1": "6",
        "stage4.0": "7",
        "stage4.1": "8",
        "stage4.2": "9",
    }
)
_BLOCK = {"main_conv": "cv1", "final_conv": "cv2", "blocks": "m"}

# In this order; the first one that knows a key names it.
SCHEMES: tuple[NamingScheme, ...] = (
    # YOLOv8CSPDarknet of MMYOLO, saved by MMEngine, which keeps averaged weights as `state_dict` and the raw ones as
    # `ema_state_dict`. Its blocks and SPPF count their convolutions, which vfmkd's older names do not.
    NamingScheme(
        "MMYOLO",
        {**CSPDARKNET_LAYERS, **TRAINING, "bbox_head": None},
        {**_BLOCK, "conv1": "cv1", "conv2": "cv2"},
        telltale=r"(^|\.)stage\d\.1\.blocks\.\d+\.conv[12]\.|(^|\.)stage4\.2\.conv[12]\.",
    ),
    # The old system: today's names, and the older ones of its C2f.
    NamingScheme("vfmkd", {**CSPDARKNET_LAYERS, **TRAINING}, _BLOCK, bn_eps=VFMKD_BN_EPS),
    # LightlyTrain wraps the layers it trains, which for YOLOv8 end before SPPF, and feeds ImageNet-normalised images.
    NamingScheme(
        "LightlyTrain",
        {"#": "#", **TRAINING},
        telltale=r"(^|\.)wrapped_model\._backbone\.\d+\.",
        input_norm=NORMS["imagenet"],
        untrained_tail=True,
    ),
    # kdyolo's own DistilledBackbone.
    NamingScheme("kdyolo", {"layers.#": "#"}, telltale=r"(^|\.)layers\.\d+\."),
    # Ultralytics' numbering, whatever stands around it.
    NamingScheme("Ultralytics", {"#": "#", **TRAINING}),
)


def sequential_places(keys: Iterable[Key]) -> frozenset[Key]:
    """Where backbones stand in an ``nn.Sequential`` with other parts: the keys up to their number in it.

    ``0.0.conv.weight`` is the first convolution of part 0: nothing but wrappers and numbers stands before it.
    """
    found = set()
    for key in keys:
        if key[-2:] == ("conv", "weight") and key[-3:-2] in (("0",), ("stem",)):
            place = key[:-3]
            while place and place[-1] in WRAPPERS:
                place = place[:-1]
            if place and place[-1].isdigit() and all(s.isdigit() or s in WRAPPERS for s in place):
                found.add(place)
    return frozenset(found)


def without_place(key: Key, places: frozenset[Key]) -> Key | None:
    """A key without the numbers of ``nn.Sequential`` before a backbone; None if it stands beside one."""
    for place in places:
        if key[: len(place)] == place:
            parent = place
            while parent and parent[-1].isdigit():
                parent = parent[:-1]
            return (*parent, *key[len(place) :])
    beside = any(
        len(key) >= len(place) and key[: len(place) - 1] == place[:-1] and key[len(place) - 1].isdigit()
        for place in places
    )
    return None if beside else key


def scheme_named(name: str) -> NamingScheme:
    """The shipped naming scheme of that name."""
    return next(scheme for scheme in SCHEMES if scheme.name == name)


def load_key_map(path: str | Path) -> NamingScheme:
    """A naming scheme from a user's YAML file with the attributes of :class:`NamingScheme`; ``layers`` is required.

    Raises:
        ConfigError: Every mistake found in the file.
    """
    where, path = f"key map {path}", Path(path)
    if not is_file(path):
        raise ConfigError(f"{where}: cannot be read: there is no such file.")
    given = read_yaml(path, error=ConfigError)
    if not isinstance(given, dict) or not isinstance(given.get("layers"), dict):
        raise ConfigError(
            f"{where}: expected 'layers:' with lines 'name in the file: layer number', e.g. 'encoder.stem: 0'; "
            "'null' instead of a number drops a part."
        )
    scheme, mistakes = NamingScheme(path.stem, {}), []
    known = {f.name for f in fields(NamingScheme)} - {"name"}
    for key, value in given.items():
        try:
            if key not in known:
                raise ValueError(f"unknown key, expected one of {', '.join(sorted(known))}")
            scheme = replace(scheme, **{key: _read_entry(key, value)})
        except (ConfigError, ValueError, TypeError, re.error, RecursionError) as e:  # the last of nested patterns
            mistakes.append(f"{where}: {shortened(str(key), 100)}: {quoted(e, 500)}")
    if mistakes:
        raise ConfigError(mistakes)
    return scheme


def _read_entry(key: str, value: Any) -> Any:
    if key == "layers":
        layers = {str(k): None if v is None else str(v) for k, v in value.items()}
        wrong = [f"{k}: {v}" for k, v in layers.items() if v is not None and not re.fullmatch(r"#|\d+(\.\w+)*", v)]
        if wrong:
            raise ValueError(f"expected layer numbers, '#' or null; found {quoted(wrong)}")
        return {**TRAINING, **layers}
    if key == "segments":
        if not isinstance(value, dict):
            raise ValueError(f"expected 'name in the file: name in Ultralytics' lines; found {quoted(value)}")
        return {str(k): str(v) for k, v in value.items()}
    if key == "strip":
        return frozenset(str(v) for v in ([value] if isinstance(value, str) else value))
    if key == "input_norm":
        return InputNorm.parse(str(value))
    if key == "bn_eps":
        if not 0 < float(value) < 1:
            raise ValueError(f"must lie between 0 and 1; found {quoted(value)}")
        return float(value)
    if key == "telltale":
        re.compile(value)
        return value
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false; found {quoted(value)}")
    return value
