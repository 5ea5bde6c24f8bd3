"""Objects in an Ultralytics checkpoint, looked through after its restricted loader has put them together.

That loader creates objects of known classes only, but sets whatever attributes the file says. A function or a class
among these, or a hook, would be called later: by a forward pass, or when the checkpoint is written anew.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from pathlib import PurePath
from types import MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from ultralytics.nn.modules import Detect
from ultralytics.utils import IterableSimpleNamespace

from kdyolo.checkpoints.checks.pickle_scan import SPECIAL, PickleContent
from kdyolo.errors import CheckpointError, ModelError
from kdyolo.models.description_check import check_description

MAX_OBJECTS = 500_000
MAX_DEPTH = 100  # of containers and objects within each other; in the deepest of Ultralytics' detectors there are 30

# What the pickle of a stock checkpoint calls. Classes of modules are not among it: their objects are created empty
# and then filled, while a call would build a model from a description.
CALLS = frozenset(
    {
        *("collections.OrderedDict", "collections.Counter", "builtins.set", "builtins.complex", "_codecs.encode"),
        *("builtins.getattr", "torch.Size", "torch.device", "torch.serialization._get_layout"),
        *("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"),
        *("ultralytics.utils.IterableSimpleNamespace", "ultralytics.yolo.utils.IterableSimpleNamespace"),
        *(f"{module}.{kind}Path" for module in ("pathlib", "pathlib._local") for kind in ("Posix", "Windows")),
        *("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"),
        *("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3"),
        "torch._tensor._rebuild_from_type_v2",
    }
)
LAYERS = ("ultralytics.nn.modules.", "torch.nn.modules.")
MODELS = ("ultralytics.nn.tasks.",)
LOSSES = ("ultralytics.utils.loss.", "ultralytics.utils.tal.")
_DATA = (
    *(type(None), bool, int, float, complex, str, bytes, PurePath, enum.Enum, np.generic, np.dtype),
    *(torch.Size, torch.dtype, torch.device, torch.layout, torch.UntypedStorage, torch.TypedStorage),
)


def check_calls(path: Any, scanned: PickleContent) -> None:
    """Refuse a stock checkpoint whose pickle calls, or replaces by name, what no stock checkpoint does.

    Args:
        path: The file, for the message.
        scanned: What its pickle would do.

    Raises:
        CheckpointError: It calls something else than what puts plain data and tensors together.
    """
    if wrong := sorted((scanned.calls - CALLS) | scanned.special):
        raise _refused(path, f"its pickle calls or replaces {', '.join(wrong[:5])}")


def check_objects(path: Any, content: Any) -> None:
    """Refuse what was loaded if it holds anything but tensors, plain data and Ultralytics' own layers without hooks.

    Args:
        path: The file, for the message.
        content: What Ultralytics' restricted loader made of it.

    Raises:
        CheckpointError: A function, class or hook among the attributes, a layer that is none of Ultralytics', or a
            model's description that is no plain data.
    """
    tops = [value for value in content.values() if isinstance(value, nn.Module)] if isinstance(content, dict) else []
    tops = tops or ([content] if isinstance(content, nn.Module) else [])
    waiting: list[tuple[int, str, Any]] = [(0, "", content)]
    known: set[int] = set()
    while waiting:
        depth, name, value = waiting.pop()
        if isinstance(value, _DATA) or id(value) in known:
            continue
        known.add(id(value))
        if len(known) > MAX_OBJECTS:
            raise _refused(path, f"it holds more than {MAX_OBJECTS:,} objects")
        if depth > MAX_DEPTH:
            raise _refused(path, f"more than {MAX_DEPTH} objects stand within each other in it")
        inside = _inside(path, name, value, any(value is top for top in tops))
        waiting += [(depth + 1, *part) for part in inside]
    arguments = content.get("train_args") if isinstance(content, dict) else None
    if not isinstance(arguments, (Mapping, IterableSimpleNamespace, type(None))):
        raise _refused(path, f"its train_args are a {type(arguments).__name__}")
    for top in tops:
        if not isinstance(stride := getattr(top, "stride", None), (Tensor, type(None))):
            raise _refused(path, f"its model's stride is a {type(stride).__name__}")
        if not isinstance(names := getattr(top, "names", None), (Mapping, list, tuple, type(None))):
            raise _refused(path, f"its classes' names are a {type(names).__name__}")
        _check_model_description(path, getattr(top, "yaml", None))


def _inside(path: Any, name: str, value: Any, is_top: bool) -> list[tuple[str, Any]]:
    """What stands in a container or an object, with names for the message."""
    if isinstance(value, Tensor):
        if has_attributes(value):
            raise _refused(path, f"{name} is a tensor with attributes or hooks of its own")
        return []
    if isinstance(value, Mapping):
        return [(f"{name}.{_short(key)}".lstrip("."), part) for key, part in value.items()]
    if isinstance(value, (list, tuple, set, frozenset)):
        return [(name, part) for part in value]
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return []
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, nn.Module):
        fits = kind.startswith((*LAYERS, *LOSSES, *(MODELS if is_top else ())))
    else:
        fits = kind.startswith(LOSSES) or isinstance(value, IterableSimpleNamespace)
    if not fits:
        raise _refused(path, f"{name or 'it'} is a {kind}")
    return _attributes(path, name, value)


def has_attributes(tensor: Tensor) -> bool:
    """Whether a tensor carries what no file of weights needs: attributes in its methods' place, objects, or hooks."""
    plain = (type(None), bool, int, float, str)
    wrong = any(hasattr(type(tensor), name) or not isinstance(value, plain) for name, value in vars(tensor).items())
    return wrong or bool(tensor._backward_hooks)


def _attributes(path: Any, name: str, value: Any) -> list[tuple[str, Any]]:
    found = []
    for attribute, part in vars(value).items():
        where = f"{name}.{_short(attribute)}".lstrip(".")
        if not isinstance(attribute, str) or SPECIAL.fullmatch(attribute.encode("utf-8", "replace")):
            raise _refused(path, f"{where} is a name of Python's own")
        if attribute.endswith("_hooks") and part:
            raise _refused(path, f"{where} holds hooks")
        if _is_known_function(value, attribute, part):
            continue
        overrides = callable(getattr(type(value), attribute, None))
        if overrides and not isinstance(part, (str, int, float, type(None))):  # `type` is a text in Ultralytics' layers
            raise _refused(path, f"{where} replaces a method")
        found.append((where, part))
    return found


def _is_known_function(owner: Any, attribute: str, part: Any) -> bool:
    """The two functions that stock checkpoints hold: of fused layers, and of older heads."""
    if attribute == "forward" and isinstance(part, MethodType):
        return part.__self__ is owner and part.__func__.__name__ in ("forward", "forward_fuse")
    return attribute == "detect" and part is Detect.forward


def _check_model_description(path: Any, description: Any) -> None:
    if description is None:
        return
    if not isinstance(description, dict):
        raise _refused(path, f"its description is a {type(description).__name__}")
    try:
        check_description(description)
    except ModelError as e:
        raise CheckpointError(f"{path}: refused, the description of the model in it is no plain one. {e}") from e


def _short(key: Any) -> str:
    return repr(str(key)[:60])[1:-1] if isinstance(key, (str, int)) else type(key).__name__


def _refused(path: Any, why: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: refused, {why}. Expected an Ultralytics checkpoint of tensors, plain data and stock layers; for a "
        "file whose author you trust, --trust unpickles it completely, running whatever code it brings."
    )
