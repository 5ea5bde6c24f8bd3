"""Feature cache: a teacher's maps of whole images, each also mirrored, in shards that are checked when they are opened.

A mirrored map is not the map of a mirrored image (a cosine of 0.75 to 0.93 was measured), so both views are kept.
Shards are safetensors files, each with a JSON file beside it that is written last: images, and the digest of the shard.
So a process that is killed leaves whole shards and one that counts for nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kdyolo.distillation.options import CACHE_PRECISIONS
from kdyolo.distillation.teachers.projected_teacher import components_of
from kdyolo.distillation.teachers.protocol import Teacher
from kdyolo.errors import RunError
from kdyolo.utils.atomic import write_atomic, write_tensors
from kdyolo.utils.hashing import sha256_of_file
from kdyolo.utils.plain_files import is_file, read_json
from kdyolo.utils.text import canonical

LOGGER = logging.getLogger("ultralytics")
FLOAT16, INT8 = CACHE_PRECISIONS
SHARD = 256  # images
_FORMAT = 1
_SCALE = ".scale"


@dataclass(frozen=True)
class CacheKey:
    """What the features in a cache are of; another one has a folder of its own.

    Attributes:
        teacher: Name of the teacher.
        digest: SHA-256 of its weights.
        maps: Name and channels of the maps that are kept.
        size: Side of the teacher's images, in pixels.
        mean: Mean of each channel that it takes off.
        std: Deviation of each channel that it divides by.
        resize: ``letterbox`` or ``stretch``.
        precision: One of ``fp16`` and ``int8``; int8 has a scale for each channel of each map.
        components: Number of channels that maps are projected to by a PCA; 0: they are kept whole.
    """

    teacher: str
    digest: str
    maps: tuple[tuple[str, int], ...]
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: str
    precision: str
    components: int = 0

    @classmethod
    def of(cls, teacher: Teacher, indices: Iterable[int], resize: str, precision: str) -> CacheKey:
        """The key of some of a teacher's maps.

        Args:
            teacher: The teacher.
            indices: Indices of its maps.
            resize: ``letterbox`` or ``stretch``.
            precision: One of ``fp16`` and ``int8``.
        """
        maps = tuple((teacher.maps[i].name, teacher.maps[i].channels) for i in sorted(set(indices)))
        own = (teacher.name, teacher.digest, maps, teacher.size, tuple(teacher.mean), tuple(teacher.std))
        return cls(*own, resize, precision, components_of(teacher))

    @property
    def tensors(self) -> list[str]:
        """Names of the tensors in a shard."""
        suffixes = ("", _SCALE) if self.precision == INT8 else ("",)
        return [name + suffix for name, _ in self.maps for suffix in suffixes]

    @property
    def folder(self) -> str:
        """Name of the folder: teacher, size, precision, and a digest of the whole key."""
        values = [value for name, value in vars(self).items() if name != "components" or value]
        digest = hashlib.sha256(canonical([_FORMAT, *values]).encode()).hexdigest()[:12]
        name = re.sub(r"[^\w.+=-]+", "-", self.teacher)[:60]
        projected = f"-pca{self.components}" if self.components else ""
        return f"{name}-{self.size}px-{self.precision}{projected}-{digest}"


@dataclass(frozen=True)
class ImageStamp:
    """An image file as it was when its features were computed.

    Attributes:
        path: The file, absolute.
        size: Bytes.
        modified: Time of the last change, in nanoseconds.
    """

    path: str
    size: int
    modified: int

    @classmethod
    def of(cls, file: Path) -> ImageStamp:
        """The stamp of a file that is there."""
        found = file.stat()
        return cls(str(file.absolute()), found.st_size, found.st_mtime_ns)


class _ShardForm(msgspec.Struct):
    """Description of a shard: its digest; path, bytes and time of the last change of each image; digest of a PCA."""

    sha256: str
    images: list[tuple[str, int, int]]
    projection: str = ""


class FeatureCache:
    """Features of one key, read at random.

    Args:
        folder: Folder of all caches.
        key: What the features are of.
        projection: Digest of the projection that they were made with, which shards name; empty without one.
    """

    def __init__(self, folder: Path, key: CacheKey, projection: str = "") -> None:
        self.key, self.folder, self.projection = key, folder / key.folder, projection
        self._places: dict[ImageStamp, tuple[Path, int]] = {}
        self._opened: dict[Path, Any] = {}

    def open(self) -> list[Path]:
        """Take in all shards that are whole, and remove those that are not.

        Returns:
            Shards that were damaged. One that was being written when its process was killed has no description yet:
            it counts for nothing, and is written again under the same name.
        """
        self._places.clear()
        self._opened.clear()
        damaged = []
        for description in sorted(self.folder.glob("shard-*.json")):
            shard = description.with_suffix(".safetensors")
            stamps = _stamps(description, shard, self.key, self.projection)
            if stamps is None:
                damaged.append(shard)
                shard.unlink(missing_ok=True)
                description.unlink(missing_ok=True)
                continue
            self._places |= {stamp: (shard, place) for place, stamp in enumerate(stamps)}
        return damaged

    def missing(self, files: Sequence[Path]) -> list[Path]:
        """Images whose features are not there, or of an image that has changed since."""
        return [file for file in files if ImageStamp.of(file) not in self._places]

    def write(self, files: Sequence[Path], maps: Mapping[str, Tensor]) -> None:
        """Write a shard.

        Args:
            files: The images.
            maps: Name of a map → features [N, 2, C, h, w] of the images as they are and mirrored.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        stamps = [ImageStamp.of(file) for file in files]
        tensors: dict[str, Tensor] = {}
        for name, features in maps.items():
            tensors |= _packed(name, features, self.key.precision)
        shard = self.folder / f"shard-{hashlib.sha256(canonical([vars(s) for s in stamps]).encode()).hexdigest()[:16]}"
        write_tensors(shard.with_suffix(".safetensors"), tensors, shared=True)
        digest = sha256_of_file(shard.with_suffix(".safetensors"))
        content: dict[str, Any] = {"sha256": digest, "images": [[s.path, s.size, s.modified] for s in stamps]}
        if self.projection:
            content["projection"] = self.projection
        write_atomic(shard.with_suffix(".json"), json.dumps(content).encode(), shared=True)

    def read(self, stamp: ImageStamp, mirrored: bool) -> list[Tensor]:
        """Features [C, h, w] of an image in half precision, map by map in the order of the key."""
        shard, place = self._places[stamp]
        if shard not in self._opened:
            self._opened[shard] = safe_open(shard, framework="pt")
        opened, view = self._opened[shard], int(mirrored)
        found = []
        for name, _ in self.key.maps:
            features = opened.get_slice(name)[place, view]
            if self.key.precision == INT8:
                features = features.float() * opened.get_slice(name + _SCALE)[place, view][:, None, None]
            found.append(features.half())
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Without open files, which do not travel to worker processes."""
        return {**self.__dict__, "_opened": {}}


def bytes_of_image(maps: Sequence[Tensor], precision: str) -> int:
    """Bytes that an image takes in a cache.

    Args:
        maps: Its maps [1, C, h, w].
        precision: One of ``fp16`` and ``int8``.
    """
    values = sum(found[0].numel() for found in maps)
    scales = sum(found.shape[1] for found in maps) * 4 if precision == INT8 else 0
    return 2 * (values * (1 if precision == INT8 else 2) + scales)


def _packed(name: str, features: Tensor, precision: str) -> dict[str, Tensor]:
    if precision == FLOAT16:
        return {name: features.half().contiguous()}
    scale = features.float().abs().amax((-2, -1)).clamp(min=1e-12) / 127
    rounded = (features.float() / scale[..., None, None]).round().clamp(-127, 127)
    return {name: rounded.to(torch.int8).contiguous(), name + _SCALE: scale.contiguous()}


def _stamps(description: Path, shard: Path, key: CacheKey, projection: str) -> list[ImageStamp] | None:
    """The images of a shard; None where it or its description is not what was written, or of another projection."""
    try:
        content = read_json(description)
        if content is None or not is_file(shard) or not _has_header(shard):
            return None
        found = msgspec.convert(content, _ShardForm)
        with safe_open(shard, framework="pt") as opened:  # before it is hashed, which takes long where it is no shard
            counts = {opened.get_slice(name).get_shape()[0] for name in key.tensors}
        if counts != {len(found.images)} or found.projection != projection or sha256_of_file(shard) != found.sha256:
            return None
        return [ImageStamp(*image) for image in found.images]
    except (OSError, RunError, msgspec.ValidationError, IndexError, SafetensorError):
        return None


def _has_header(shard: Path) -> bool:
    """Whether a file begins as safetensors do, before all of it is mapped into memory: with the size of its header."""
    with shard.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
    return 0 < size <= shard.stat().st_size - 8
