"""A weights file → nested plain containers with tensors, without running anything that the file asks for.

What a file is gets decided by its bytes, never by its name. Pickles are read by PyTorch's restricted loader only:
tensors and plain containers; Ultralytics' own ``.pt`` by Ultralytics' restricted loader, whatever the environment
says. Classes that training tools leave beside the weights (histories, name spaces) become empty stand-ins.
Archives are checked before anything in them is read: nothing compressed, nothing overlapping, every checksum right.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import pickle
import re
import struct
import tempfile
import threading
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from kdyolo.errors import CheckpointError

T = TypeVar("T")

CHUNK = 4 << 20  # bytes read at a time: few enough to be hashed while they are still in the processor's cache
CENTRAL_DIRECTORY_LIMIT = 2 << 20  # bytes: room for some ten thousand tensors; a large checkpoint holds two thousand
# All that zipfile raises for damaged archives; wherever it is caught, a CheckpointError is raised instead.
ARCHIVE_ERRORS = (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError, struct.error)
TENSORS_SHA256 = "tensors_sha256"  # safetensors metadata: what :func:`tensors_sha256` gave when the file was written

# Classes that training tools pickle beside the weights. None of them is imported: an empty stand-in takes its place.
STAND_INS = re.compile(
    r"(numpy|mmengine|mmcv|mmdet|mmyolo|omegaconf|lightning|pytorch_lightning|lightning_fabric|pathlib|datetime)\..+"
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
    """What a file holds.

    Attributes:
        data: Nested plain containers with tensors; modules where Ultralytics' loader or ``trust`` allowed them.
        size: Bytes.
        mapped: Whether tensors lie in a map of the file, which shows what becomes of it.
    """

    data: Any
    size: int
    mapped: bool


class Digest(NamedTuple):
    """Hex digest of a whole file, and whether checksums in it, or in a file beside it, cover every tensor."""

    sha256: str
    verified: bool


def load_content(path: Path, understand: Callable[[Content], T], trust: bool = False) -> tuple[T, Digest]:
    """Read a file written by ``torch.save`` or safetensors.

    Args:
        path: The file. If ``<path>.sha256`` exists (as ``sha256sum`` writes it), the digest must agree.
        understand: Called with the content while the file is still being hashed, which takes as long as reading it.
        trust: Unpickle completely, which runs whatever code the file's author put in.

    Returns:
        What ``understand`` made of the content, once the checksums have turned out right; and the digest.

    Raises:
        CheckpointError: Not a weights file, damaged, or in need of more than tensors and plain containers. Of a damaged
            file it says so, whatever ``understand`` found wrong with it.
    """
    head, size = _head(path)
    mapped, verified, checksums, stop = False, False, list[_Span](), threading.Event()
    if head[:4] == b"PK\x03\x04":
        checksums, pickled = _check_archive(path, size)
        _check_pickle(path, pickled)
        mapped, verified = b"optimizer" in pickled, bool(checksums)  # most of it is not wanted, and need not be read
    elif not _is_safetensors(head) and not _is_pickle(head):
        raise CheckpointError(f"{path}: not a weights file. {_what_instead(head)}")
    with ThreadPoolExecutor(2) as pool:  # hashing leaves the interpreter free
        digest = pool.submit(file_sha256, path, stop)
        try:
            if _is_safetensors(head):
                (data, verified), mapped = _load_safetensors(path), True
            else:
                data = _load_legacy(path, trust) if _is_pickle(head) else _load_zip(path, trust, mapped)
        except BaseException:
            stop.set()  # nobody is going to ask for the digest, which takes seconds for a large file
            raise
        # Not earlier: hundreds of short calls and torch's unpickler would wait for each other, in turns.
        intact = pool.submit(_compare_checksums, path, checksums)
        try:
            understood = understand(Content(data, size, mapped))
        finally:
            intact.result()
            sha256 = digest.result()
            verified = _check_sidecar(path, sha256) or verified
    return understood, Digest(sha256, verified)


def _is_safetensors(head: bytes) -> bool:
    """The header's length in 8 bytes, then JSON."""
    return len(head) > 8 and head[8:9] == b"{"


def _is_pickle(head: bytes) -> bool:
    """A bare one: ``torch.save`` before 1.6."""
    return head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")


class _Span(NamedTuple):
    """Bytes of a file whose checksum is known."""

    start: int
    end: int
    crc: int
    name: str


def file_sha256(path: Path, stop: threading.Event | None = None) -> str:
    """Hex digest of a file's bytes, read in pieces.

    Args:
        path: The file.
        stop: Once it is set, the rest is not read, and the digest is that of nothing in particular.
    """
    digest, buffer = hashlib.sha256(), memoryview(bytearray(CHUNK))
    with path.open("rb", buffering=0) as file:
        while (count := file.readinto(buffer)) and not (stop and stop.is_set()):
            digest.update(buffer[:count])
    return digest.hexdigest()


def _compare_checksums(path: Path, checksums: Sequence[_Span]) -> None:
    """Refuse a file of which some part has another checksum than it should have."""
    buffer = memoryview(bytearray(CHUNK))
    with path.open("rb", buffering=0) as file:
        for start, end, expected, name in checksums:
            file.seek(start)
            crc = 0
            while count := file.readinto(buffer[: min(CHUNK, end - start)]):
                crc, start = zlib.crc32(buffer[:count], crc), start + count
            if crc != expected:
                raise CheckpointError(f"{path}: damaged, {name} in it has another checksum. Copy it again.")


def tensors_sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    """Hex digest of named tensors: names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextlib.contextmanager
def restricted_ultralytics(trust: bool = False) -> Iterator[None]:
    """Whatever Ultralytics unpickles in here goes through its restricted loader, as with ``ULTRALYTICS_SAFE_LOAD=1``.

    Its functions read the flag from the module ``ultralytics.nn.tasks`` and take no argument for it; it is set here and
    nowhere else. What the loader refuses becomes a :class:`CheckpointError`.
    """
    from ultralytics.nn import tasks

    before, tasks.SAFE_LOAD = tasks.SAFE_LOAD, not trust
    try:
        yield
    except (TypeError, ModuleNotFoundError) as e:
        if "restricted" not in str(e) and "checkpoint" not in str(e):
            raise
        raise CheckpointError(
            f"{str(e).splitlines()[0]} Expected an Ultralytics checkpoint of stock classes; for a file whose author "
            "you trust, --trust unpickles it completely."
        ) from e
    finally:
        tasks.SAFE_LOAD = before


# ---- what kind of file -----------------------------------------------------------------------------------------------


def _head(path: Path) -> tuple[bytes, int]:
    try:
        size = path.stat().st_size
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
    if recorded is not None and recorded != tensors_sha256(tensors):
        raise CheckpointError(f"{path}: damaged, its tensors are not those it was written with. Copy it again.")
    return {**tensors, "meta": meta}, recorded is not None


# ---- torch.save, as a zip archive ------------------------------------------------------------------------------------


def _load_zip(path: Path, trust: bool, mapped: bool) -> Any:
    """The content of an archive, loaded as the classes that its pickle names allow."""
    try:
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception as e:  # torch's scanner reports a malformed pickle through many types
        raise CheckpointError(f"{path}: damaged, its pickle cannot be read ({e}). Copy it again.") from e
    if all(STAND_INS.fullmatch(name) for name in unsafe):
        stand_ins: list[Any] = [(_stand_in(name), name) for name in unsafe]
        with torch.serialization.safe_globals(stand_ins):
            return _torch_load(path, mapped=mapped)
    if trust:
        return _torch_load(path, weights_only=False)
    if any(name.startswith("ultralytics.") for name in unsafe):
        return _load_ultralytics(path)
    raise CheckpointError(_refusal(path, _telling(unsafe)))


def _check_archive(path: Path, size: int) -> tuple[list[_Span], bytes]:
    """Refuse archives that ``torch.save`` did not write; the checksums to compare, if it has any, and the pickle."""
    damaged = f"{path}: damaged, truncated or not a file that torch.save wrote"
    try:
        if _central_directory_size(path, size) > CENTRAL_DIRECTORY_LIMIT:
            raise CheckpointError(f"{path}: refused, its archive lists far more entries than any checkpoint has.")
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [entry.filename.partition("/")[2] for entry in entries]
            if any(name == "constants.pkl" or name.startswith("code/") for name in names):
                raise CheckpointError(
                    f"{path}: a TorchScript archive, which is a program. Expected weights: save its state_dict()."
                )
            if "data.pkl" not in names:
                found = [entry.filename for entry in entries[:2]]
                raise CheckpointError(f"{damaged}: a zip archive of other things, e.g. {found}.")
            packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
            if packed or sum(entry.file_size for entry in entries) > size:
                raise CheckpointError(
                    f"{path}: refused, its archive claims to hold more than the file's {size:,} bytes (compressed or "
                    "overlapping entries). torch.save writes neither; this may be a zip bomb."
                )
            pickle_entry = entries[names.index("data.pkl")]
            if not any(entry.CRC for entry in entries):  # torch.serialization.set_crc32_options(False)
                pickle_entry.CRC = None  # type: ignore[assignment]
                return [], archive.read(pickle_entry)
            return _spans(path, entries), archive.read(pickle_entry)
    except ARCHIVE_ERRORS as e:
        raise CheckpointError(f"{damaged} ({e}). Copy or download it again.") from e


def _spans(path: Path, entries: Sequence[zipfile.ZipInfo]) -> list[_Span]:
    """Where the bytes of each entry lie, by the header before them, which is what torch goes by too."""
    spans = []
    with path.open("rb") as file:
        for entry in entries:
            file.seek(entry.header_offset)
            magic, name_length, extra_length = struct.unpack("<4s22xHH", file.read(30))
            if magic != b"PK\x03\x04" or file.read(name_length) != entry.orig_filename.encode():
                raise zipfile.BadZipFile(f"{entry.filename} is not where the archive says")
            start = entry.header_offset + 30 + name_length + extra_length
            spans.append(_Span(start, start + entry.file_size, entry.CRC, entry.filename))
    spans.sort()
    if any(before.end > after.start for before, after in pairwise(spans)) or (
        spans and spans[-1].end > path.stat().st_size
    ):
        raise zipfile.BadZipFile("its entries overlap")
    return [span for span in spans if span.end > span.start]


def _central_directory_size(path: Path, size: int) -> int:
    """Size in bytes that a zip file's end states for its directory, which is read into memory as a whole."""
    with path.open("rb") as file:
        file.seek(max(0, size - (1 << 16) - 22))
        tail = file.read()
    end, end64 = tail.rfind(b"PK\x05\x06"), tail.rfind(b"PK\x06\x06")
    stated = struct.unpack_from("<I", tail, end + 12)[0] if end >= 0 else 0
    stated64 = struct.unpack_from("<Q", tail, end64 + 40)[0] if end64 >= 0 else 0
    return int(max(stated if stated != 0xFFFFFFFF else 0, stated64))


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


def _load_ultralytics(path: Path) -> Any:
    from ultralytics.nn.tasks import torch_safe_load

    with tempfile.TemporaryDirectory() as folder:
        link = path.resolve()
        if link.suffix != ".pt":  # that loader looks at the name
            link = Path(folder) / "weights.pt"
            link.symlink_to(path.resolve())
        try:
            return torch_safe_load(link, safe_only=True)[0]
        except Exception as e:  # its refusals are of many types and name the link
            unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path)
            foreign = [name for name in unsafe if not name.startswith("ultralytics.")]
            raise CheckpointError(_refusal(path, _telling(foreign or unsafe))) from e


# ---- torch.save before 1.6 and everything pickled --------------------------------------------------------------------


def _load_legacy(path: Path, trust: bool) -> Any:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        _check_pickle(path, content)
    try:
        return _torch_load(path)
    except CheckpointError:
        if not trust:
            raise
        return _torch_load(path, weights_only=False)


def _check_pickle(path: Path, pickled: bytes | mmap.mmap) -> None:
    """Refuse the one thing that torch's restricted loader allows and that can claim any amount of memory."""
    if re.search(rb"c(builtins|__builtin__)\nbytearray\n", pickled):
        raise CheckpointError(_refusal(path, "builtins.bytearray"))


def _torch_load(path: Path, weights_only: bool = True, mapped: bool = False) -> Any:
    try:
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
        advice = "This is a LightlyTrain training checkpoint: run lightly_train.export on it and give its result."
    else:
        advice = (
            "Save only the backbone's state_dict(), e.g. torch.save(model.state_dict(), 'clean.pth'); for a file whose "
            "author you trust, --trust unpickles it completely, running whatever code it brings."
        )
    why = f"{path}: refused, because reading it would run code for {blocked}."
    return f"{why} Expected tensors in plain containers. {advice}"
