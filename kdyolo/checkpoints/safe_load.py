"""Safe loading of a weights file → nested plain containers with tensors; nothing that the file asks for is run.

What a file is gets decided by its bytes, never by its name. Pickles are read by PyTorch's restricted loader only:
tensors and plain containers; Ultralytics' own ``.pt`` by Ultralytics' restricted loader, whatever the environment
says. Classes that training tools leave beside the weights (histories, name spaces) become empty stand-ins.
Archives are checked before anything in them is read: nothing compressed, nothing overlapping, every checksum right.
"""

from __future__ import annotations

import hashlib
import mmap
import pickle
import re
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import _weights_only_unpickler
from ultralytics.nn.tasks import torch_safe_load

from kdyolo.checkpoints.checks.pickle_scan import PickleContent, scan_pickle, scan_pickles
from kdyolo.checkpoints.checks.stock_modules import check_calls, check_objects
from kdyolo.checkpoints.zip_archive import Span, check_archive, file_sha256
from kdyolo.errors import CheckpointError
from kdyolo.utils.ultralytics_patches import checkpoints_read_by

T = TypeVar("T")

TENSORS_SHA256 = "tensors_sha256"  # safetensors metadata: what :func:`tensors_sha256` gave when the file was written

_ONE_AT_A_TIME = threading.RLock()  # torch's list of safe classes is one for the whole process

# Classes that training tools pickle beside the weights. None of them is imported: an empty stand-in takes its place.
STAND_INS = re.compile(
    r"(mmengine|mmcv|mmdet|mmyolo|omegaconf|lightning|pytorch_lightning|lightning_fabric|pathlib|datetime)\..+"
    r"|numpy\.((core|_core|random|dtypes|ma)\..+|ndarray|dtype|[a-z]+_|(bool|u?int|float|complex)\d*)"
    r"|argparse\.Namespace|collections\.(defaultdict|deque)|builtins\.(list|dict|tuple|int|float|str|bool|range)"
)
DICT_LIKE = re.compile(r".*(AttributeDict|ConfigDict|\.dict)")

# First bytes of files that are often taken for weights → what they are and what to do.
LOOKALIKES: tuple[tuple[re.Pattern[bytes], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), what)
    for pattern, what in (
        (rb"\s*(<!doctype html|<html|<head)", "a web page, so the download went wrong: log in, or use the direct link"),
        (rb"version https://git-lfs", "a Git LFS pointer, not the file itself: run 'git lfs pull'"),
        (rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf", "a compressed archive: unpack it first"),
        (rb"\x89HDF", "an HDF5 file (Keras): expected PyTorch weights"),
        (rb"\x93NUMPY", "a NumPy array: expected PyTorch weights"),
        (rb"GGUF", "a GGUF file: expected PyTorch weights"),
        (rb"\x08[\x01-\x0f]\x12", "an ONNX file: expected PyTorch weights, from before the export"),
    )
)


@dataclass(frozen=True)
class Content:
    """Content of a weights file.

    Attributes:
        data: Nested plain containers with tensors; modules where Ultralytics' loader or ``trust`` allowed them.
        size: Size of the file in bytes.
        mapped: Whether tensors lie in a map of the file, which shows what becomes of it.
    """

    data: Any
    size: int
    mapped: bool


class Digest(NamedTuple):
    """Hex digest of a whole file, and whether checksums in it, or in a file beside it, cover every tensor."""

    sha256: str
    verified: bool


def load_content(
    path: Path, understand: Callable[[Content], T], trust: bool = False, map_large: bool = True
) -> tuple[T, Digest]:
    """Read a file written by ``torch.save`` or safetensors.

    Args:
        path: The file. If ``<path>.sha256`` exists (as ``sha256sum`` writes it), the digest must agree.
        understand: Called with the content while the file is still being hashed, which takes as long as reading it.
        trust: Unpickle completely, which runs whatever code the file's author put in.
        map_large: Whether tensors of a file with an optimizer, most of which are not wanted, may lie in a map of it.

    Returns:
        What ``understand`` made of the content, once the checksums have turned out right; and the digest.

    Raises:
        CheckpointError: Not a weights file, damaged, or in need of more than tensors and plain containers. Of a damaged
            file it says so, whatever ``understand`` found wrong with it.
    """
    head, size = _head(path)
    mapped, verified, checksums, stop = False, False, list[Span](), threading.Event()
    scanned: PickleContent | None = None
    if head[:4] == b"PK\x03\x04":
        checksums, pickled = check_archive(path, size)
        scanned = None if trust else _scanned(path, pickled)
        mapped, verified = map_large and b"optimizer" in pickled, bool(checksums)
    elif not _is_safetensors(head) and not _is_pickle(head):
        raise CheckpointError(f"{path}: not a weights file. {_what_instead(head)}")
    with ThreadPoolExecutor(1) as pool:  # hashing leaves the interpreter free
        digest = pool.submit(file_sha256, path, checksums, stop)
        try:
            if _is_safetensors(head):
                (data, verified), mapped = _load_safetensors(path), True
            else:
                data = _load_legacy(path, trust) if _is_pickle(head) else _load_zip(path, scanned, mapped)
        except BaseException:
            stop.set()  # the digest is not needed any more, and takes seconds for a large file
            raise
        try:
            understood = understand(Content(data, size, mapped))
        finally:
            sha256 = digest.result()
            verified = _check_sidecar(path, sha256) or verified
    return understood, Digest(sha256, verified)


def _is_safetensors(head: bytes) -> bool:
    """Whether a file starts as safetensors do: the header's length in 8 bytes, then JSON."""
    return len(head) > 8 and head[8:9] == b"{"


def _is_pickle(head: bytes) -> bool:
    """Whether a file starts as a bare pickle, which ``torch.save`` wrote before 1.6."""
    return head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")


def tensors_sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    """Hex digest of named tensors: names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


# ---- what kind of file -----------------------------------------------------------------------------------------------


def _head(path: Path) -> tuple[bytes, int]:
    try:
        size = path.stat().st_size
        if not (path.is_file() or path.is_dir()):  # opening a pipe would wait for somebody to write into it
            raise CheckpointError(f"{path}: expected a weights file, found a pipe or a device. Name the file itself.")
        with path.open("rb") as file:
            head = file.read(64)
    except FileNotFoundError as e:
        raise CheckpointError(f"{path}: no such file. Expected a .pt, .pth or .safetensors file.") from e
    except IsADirectoryError as e:
        raise CheckpointError(
            f"{path}: expected a weights file, found a folder. Name the file in it, e.g. its weights/best.pt."
        ) from e
    except OSError as e:
        raise CheckpointError(f"{path}: cannot be read ({e.strerror}).") from e
    if not head:
        raise CheckpointError(f"{path}: the file is empty (0 bytes). Copy or download it again.")
    return head, size


def _what_instead(head: bytes) -> str:
    for pattern, what in LOOKALIKES:
        if pattern.match(head):
            return f"It is {what}."
    text = "a text file" if re.fullmatch(rb"[\t\n\r -~\x80-\xff]+", head) else "one"
    return f"Expected a file written by torch.save or safetensors, found {text} that starts with {head[:24]!r}."


def _check_sidecar(path: Path, sha256: str) -> bool:
    """Compare with ``<path>.sha256``, if there is one; whether there is."""
    sidecar = path.with_name(f"{path.name}.sha256")
    try:
        words = sidecar.read_text(encoding="ascii").split()
    except FileNotFoundError:
        return False
    except (OSError, UnicodeDecodeError) as e:
        raise CheckpointError(
            f"{sidecar}: cannot be read as the checksum of {path.name} ({e}). Write it again with sha256sum, or "
            "remove it."
        ) from e
    if words[:1] != [sha256]:
        raise CheckpointError(
            f"{path}: damaged or exchanged. {sidecar.name} beside it says sha256 {(words or ['(nothing)'])[0][:12]}…, "
            f"found {sha256[:12]}…. Copy the file again, or remove {sidecar.name} if the file was changed on purpose."
        )
    return True


# ---- safetensors -----------------------------------------------------------------------------------------------------


def _load_safetensors(path: Path) -> tuple[dict[str, Any], bool]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dictionary
            meta = file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as e:
        raise CheckpointError(f"{path}: damaged safetensors file ({e}). Copy or download it again.") from e
    recorded = meta.get(TENSORS_SHA256)
    if recorded is None and get_close_matches(TENSORS_SHA256, meta, cutoff=0.75):  # a few bits of the name have flipped
        raise CheckpointError(f"{path}: damaged, its header is not as it was written. Copy it again.")
    if recorded is not None and recorded != tensors_sha256(tensors):
        raise CheckpointError(f"{path}: damaged, its tensors are not those it was written with. Copy it again.")
    return {**tensors, "meta": meta}, recorded is not None


# ---- torch.save, as a zip archive ------------------------------------------------------------------------------------


def _load_zip(path: Path, scanned: PickleContent | None, mapped: bool) -> Any:
    """The content of an archive, loaded as the classes that its pickle names allow; None: completely, it is trusted."""
    if scanned is None:
        return _torch_load(path, weights_only=False)
    unsafe = sorted(scanned.names - _weights_only_unpickler._get_allowed_globals().keys())
    if all(STAND_INS.fullmatch(name) for name in unsafe):
        return _torch_load(path, [(_stand_in(name), name) for name in unsafe], mapped=mapped)
    if any(name.startswith("ultralytics.") for name in unsafe):
        return _load_ultralytics(path, scanned, unsafe)
    raise CheckpointError(_refusal(path, _telling(unsafe)))


@contextmanager
def _allowed(names: Sequence[Any] = ()) -> Iterator[None]:
    """Let torch's restricted loader take these classes, and none that somebody else has added for this process.

    Ultralytics adds its model classes for good, and these run a description's code when a pickle calls them.
    """
    with _ONE_AT_A_TIME:
        before = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(list(names))
        try:
            yield
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(before)


class _StandIn:
    """Takes the place of an object that is not needed; keeps nothing and does nothing."""

    def __init__(self, *args: Any) -> None:
        pass

    def __new__(cls, *args: Any) -> _StandIn:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


def _empty_dict(*args: Any) -> OrderedDict[Any, Any]:
    return OrderedDict()


def _stand_in(name: str) -> Any:
    """For dictionaries one that torch's loader fills, so that what is in them can be read."""
    if name == "collections.defaultdict":  # called with a factory
        return _empty_dict
    return OrderedDict if DICT_LIKE.fullmatch(name) else _StandIn


def _load_ultralytics(path: Path, scanned: PickleContent, unsafe: list[str]) -> Any:
    check_calls(path, scanned)
    with tempfile.TemporaryDirectory() as folder:
        link = path.resolve()
        if link.suffix != ".pt" or "'" in str(link):  # that loader looks at the name, and drops apostrophes
            link = Path(folder) / "weights.pt"
            link.symlink_to(path.resolve())
        try:
            with _allowed():
                content = torch_safe_load(link, safe_only=True)[0]
        except Exception as e:  # its refusals are of many types and name the link
            foreign = [name for name in unsafe if not name.startswith("ultralytics.")]
            raise CheckpointError(_refusal(path, _telling(foreign or unsafe))) from e
    check_objects(path, content)
    return content


def read_detector(path: Path) -> dict[str, Any]:
    """An Ultralytics checkpoint with its modules, of which nothing runs but Ultralytics' own layers.

    Args:
        path: The ``.pt`` file.

    Raises:
        CheckpointError: The file is damaged, holds no module, or more than stock layers, tensors and plain data.
    """
    content, _ = load_content(path, lambda found: found.data)
    if not isinstance(content, dict) or not isinstance(content.get("ema") or content.get("model"), torch.nn.Module):
        raise CheckpointError(f"{path}: expected an Ultralytics checkpoint, found one without a whole model in it.")
    return content


def stock_loading(trust: bool = False) -> AbstractContextManager[None]:
    """Have Ultralytics read every checkpoint by :func:`read_detector`, for as long as the context lasts.

    Args:
        trust: Let it unpickle them completely instead.
    """
    return nullcontext() if trust else checkpoints_read_by(read_detector)


# ---- torch.save before 1.6 and everything pickled --------------------------------------------------------------------


def _load_legacy(path: Path, trust: bool) -> Any:
    if trust:
        return _torch_load(path, weights_only=False)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        _scanned(path, content, legacy=True)
    return _torch_load(path)


def _scanned(path: Path, pickled: bytes | mmap.mmap, legacy: bool = False) -> PickleContent:
    """What a file's pickle would do; refused is the one call that torch's restricted loader allows to claim memory."""
    try:
        found = scan_pickles(pickled) if legacy else [scan_pickle(pickled)]
    except pickle.UnpicklingError as e:
        raise CheckpointError(
            f"{path}: refused or damaged, not a file that torch.save wrote: {e}. Copy the file again, or save the "
            "state_dict() anew."
        ) from e
    if any("builtins.bytearray" in scanned.names for scanned in found):
        raise CheckpointError(_refusal(path, "builtins.bytearray"))
    return found[0]


def _torch_load(path: Path, allowed: Sequence[Any] = (), weights_only: bool = True, mapped: bool = False) -> Any:
    try:
        with _allowed(allowed):
            if path.suffix == ".safetensors":  # torch.load goes by this suffix when it is given a path
                with path.open("rb") as file:
                    return torch.load(file, map_location="cpu", weights_only=weights_only)
            return torch.load(path, map_location="cpu", weights_only=weights_only, mmap=mapped)
    except pickle.UnpicklingError as e:
        if "eights only load failed" in str(e) and (blocked := _blocked(str(e))):
            raise CheckpointError(_refusal(path, blocked)) from e
        raise CheckpointError(
            f"{path}: damaged, or not a file that torch.save wrote. Copy it again, or save the state_dict() anew."
        ) from e
    except Exception as e:  # torch reports damaged files through many types; all of them mean the same here
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        what = "cannot be unpickled" if not weights_only else "damaged, truncated or not a PyTorch weights file"
        raise CheckpointError(f"{path}: {what} ({reason}). Copy or download it again.") from e


def _blocked(message: str) -> str:
    return _telling(re.findall(r"(?:GLOBAL|global|class|type):? [`'<]*([\w.]+\.\w+)", message))


def _telling(names: list[str]) -> str:
    telling_first = sorted(set(names), key=lambda name: (name.startswith(("torch.", "numpy.")), name.count("."), name))
    return ", ".join(telling_first[:5])


def _refusal(path: Path, blocked: str) -> str:
    if "lightly_train." in blocked or "lightly." in blocked:
        advice = (
            "LightlyTrain's training checkpoints and its exports with format='torch_model' hold its own classes: run "
            "lightly_train.export with format='torch_state_dict' on the checkpoint, and give its result."
        )
    else:
        advice = (
            "Save only the backbone's state_dict(), e.g. torch.save(model.state_dict(), 'clean.pth'); for a file whose "
            "author you trust, --trust unpickles it completely, running whatever code it brings."
        )
    why = f"{path}: refused, because reading it would run code for {blocked}."
    return f"{why} Expected tensors in plain containers. {advice}"
