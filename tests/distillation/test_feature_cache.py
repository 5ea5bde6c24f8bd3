"""Feature cache: what is read is what the teacher says, of both views; damage is noticed and made good."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kdyolo.distillation.feature_cache import CacheKey, FeatureCache, ImageStamp
from kdyolo.distillation.run import cache_filling
from kdyolo.distillation.run.cache_filling import complete_cache, filling_alone, settle_projection
from kdyolo.distillation.targets import LiveTargets
from kdyolo.distillation.teachers.projected_teacher import ProjectedTeacher
from kdyolo.distillation.views import ViewOptions, ViewSet, stack_views
from kdyolo.errors import RunError
from kdyolo.utils.hashing import sha256_of_file
from tests.builders.distillation import BlurTeacher, write_images

TAPS = {"P3": 0, "P4": 1}


class Counting(BlurTeacher):
    """A teacher that counts the images it is shown."""

    seen = 0

    def __call__(self, images: Tensor) -> list[Tensor]:
        self.seen += len(images)
        return super().__call__(images)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return sorted(write_images(tmp_path / "images", 6).iterdir())


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_filling, "SHARD", 4)


def live_targets() -> LiveTargets:
    return LiveTargets(Counting(64, (8, 16)), TAPS, 64, torch.device("cpu"), amp=False)


def filled(
    folder: Path, files: Sequence[Path], precision: str = "fp16", **how: Any
) -> tuple[FeatureCache, LiveTargets]:
    live = live_targets()
    key = CacheKey.of(live.teacher, TAPS.values(), "letterbox", precision)
    return complete_cache(folder, key, live, files, 4, 0, (0, 1), **how), live


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("mirrored", [False, True])
def test_kept_targets_are_those_of_the_live_teacher(
    files: list[Path], tmp_path: Path, precision: str, mirrored: bool
) -> None:
    cache, live = filled(tmp_path / "cache", files, precision)
    options = ViewOptions(64, 64, "letterbox", flip=float(mirrored))
    asked, kept = ViewSet(files, options, 0), ViewSet(files, options, 0)
    kept.use(cache)
    fresh = live.raw(stack_views([asked[i] for i in range(6)]).to(live.device))
    seen = live.teacher.seen  # type: ignore[attr-defined]
    stored = live.raw(stack_views([kept[i] for i in range(6)]).to(live.device))
    assert live.teacher.seen == seen  # type: ignore[attr-defined]
    for a, b in zip(fresh, stored, strict=True):
        assert torch.equal(a.weight, b.weight)
        assert torch.allclose(a.values, b.values, atol=0.005)


def test_only_what_is_missing_is_computed(files: list[Path], tmp_path: Path) -> None:
    filled(tmp_path / "cache", files[:4])
    _, live = filled(tmp_path / "cache", files)
    compared = 2 * 6
    assert live.teacher.seen == 2 * 2 + compared + 1  # type: ignore[attr-defined] # and an empty image, for the size
    files[0].write_bytes(files[1].read_bytes())
    cache, live = filled(tmp_path / "cache", files)
    assert live.teacher.seen == 2 + compared + 1  # type: ignore[attr-defined]
    assert cache.missing(files) == []


def test_a_damaged_shard_is_made_anew_and_one_that_was_not_finished_is_written_again(
    files: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache, _ = filled(tmp_path / "cache", files)
    first, second = sorted(cache.folder.glob("*.safetensors"))
    whole = {path: path.read_bytes() for path in (first, second)}
    first.write_bytes(whole[first][:-1] + bytes([whole[first][-1] ^ 1]))
    second.with_suffix(".json").unlink()  # as after kill -9 between the two files
    assert FeatureCache(tmp_path / "cache", cache.key).open() == [first]
    filled(tmp_path / "cache", files)
    assert {path: path.read_bytes() for path in sorted(cache.folder.glob("*.safetensors"))} == whole


def test_a_damaged_projection_is_measured_anew_and_its_features_with_it(files: list[Path], tmp_path: Path) -> None:
    def fill(folder: Path) -> tuple[FeatureCache, ProjectedTeacher]:
        teacher = ProjectedTeacher(Counting(64, (8, 16)), TAPS.values(), 2)
        live = LiveTargets(teacher, TAPS, 64, torch.device("cpu"), amp=False)
        key = CacheKey.of(teacher, TAPS.values(), "letterbox", "fp16")
        shown = ViewSet(files, ViewOptions(64, 64, "letterbox"), 0)
        settle_projection(
            folder / key.folder, teacher, lambda: [stack_views([shown[i] for i in range(6)]).to(live.device)]
        )
        return complete_cache(folder, key, live, files, 4, 0, (0, 1)), teacher

    cache, teacher = fill(tmp_path / "cache")
    assert "-pca2-" in cache.folder.name
    assert [maps.shape[0] for maps in cache.read(ImageStamp.of(files[0]), mirrored=False)] == [2, 2]
    whole = {path.name: path.read_bytes() for path in cache.folder.iterdir()}
    _, again = fill(tmp_path / "cache")
    assert again.teacher.seen < teacher.teacher.seen  # type: ignore[attr-defined] # neither measured nor computed
    (cache.folder / "pca.safetensors").write_bytes(b"nothing")
    _, renewed = fill(tmp_path / "cache")
    assert {path.name: path.read_bytes() for path in cache.folder.iterdir()} == whole
    assert renewed.projection == teacher.projection
    assert FeatureCache(tmp_path / "cache", cache.key, "another").open() != []


@pytest.mark.parametrize(
    "description",
    [
        *(b"[]", b"[" * 100_000, b"null", b"\xff", b'{"sha256": 1, "images": []}', b'{"images": []}'),
        *(b'{"sha256": "DIGEST", "images": [["a.png", 1e400, 5]]}', b'{"sha256": "DIGEST", "images": [[1]]}'),
        b'{"sha256": "DIGEST", "images": []}',
    ],
)
def test_whatever_describes_a_shard_it_is_taken_or_made_anew(
    files: list[Path], tmp_path: Path, description: bytes
) -> None:
    cache, _ = filled(tmp_path / "cache", files[:4])
    (shard,) = cache.folder.glob("*.safetensors")
    digest = sha256_of_file(shard).encode()
    shard.with_suffix(".json").write_bytes(description.replace(b"DIGEST", digest))
    assert FeatureCache(tmp_path / "cache", cache.key).open() == [shard]


def test_a_shard_without_a_map_or_a_pipe_in_its_place_is_made_anew(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, _ = filled(tmp_path / "cache", files[:4])
    (shard,) = cache.folder.glob("*.safetensors")
    whole = load_file(shard)
    save_file({"s8": whole["s8"]}, shard)
    content = json.loads(shard.with_suffix(".json").read_bytes())
    shard.with_suffix(".json").write_text(json.dumps({**content, "sha256": sha256_of_file(shard)}))
    assert filled(tmp_path / "cache", files[:4])[0].missing(files[:4]) == []
    shard.unlink()
    os.mkfifo(shard)
    assert FeatureCache(tmp_path / "cache", cache.key).open() == [shard]
    shard.touch()
    os.truncate(shard, 1 << 20)
    shard.with_suffix(".json").write_text(json.dumps(content))

    def no_memory(*_: Any, **__: Any) -> Any:  # as for a file of terabytes
        raise MemoryError

    monkeypatch.setattr("kdyolo.distillation.feature_cache.safe_open", no_memory)
    assert FeatureCache(tmp_path / "cache", cache.key).open() == [shard]


def test_another_teacher_size_or_precision_has_a_folder_of_its_own() -> None:
    teacher = BlurTeacher(64, (8, 16))
    other = BlurTeacher(64, (8, 16))
    other.digest = "1" * 64
    keys = [
        CacheKey.of(teacher, [0, 1], "letterbox", "fp16"),
        CacheKey.of(other, [0, 1], "letterbox", "fp16"),
        CacheKey.of(teacher, [0], "letterbox", "fp16"),
        CacheKey.of(teacher, [0, 1], "stretch", "fp16"),
        CacheKey.of(teacher, [0, 1], "letterbox", "int8"),
        CacheKey.of(BlurTeacher(128, (8, 16)), [0, 1], "letterbox", "fp16"),
    ]
    assert len({key.folder for key in keys}) == len(keys)
    assert CacheKey.of(teacher, [1, 0, 1], "letterbox", "fp16").folder == keys[0].folder


def test_one_run_fills_at_a_time_and_clears_what_a_killed_one_left(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder, told = tmp_path / "cache", []
    monkeypatch.setattr(cache_filling.time, "sleep", lambda seconds: told.append(first.close()))
    first = ExitStack()
    first.enter_context(filling_alone(folder))
    (folder / ".shard-0.safetensors.1234abcd.partial").touch()
    caplog.set_level("INFO", "ultralytics")
    with filling_alone(folder):
        assert len(told) == 1
        assert not list(folder.glob(".*.partial"))
    assert [record.message for record in caplog.records] == [f"cache: another run fills {folder}, which is waited for"]


def test_without_space_nothing_is_computed(files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(RunError, match=r"are free\. Free space, choose another --cache, or"):
        filled(tmp_path / "cache", files)
    assert not (tmp_path / "cache").exists()


def test_features_of_another_teacher_are_refused(files: list[Path], tmp_path: Path) -> None:
    cache, _ = filled(tmp_path / "cache", files)
    for shard in sorted(cache.folder.iterdir()):
        shard.unlink()
    noise = {name: torch.randn(6, 2, channels, 64 // stride, 64 // stride)
             for (name, channels), stride in zip(cache.key.maps, (8, 16), strict=True)}  # fmt: skip
    cache.write(files, noise)
    with pytest.raises(RunError, match="its features are not those of the teacher"):
        filled(tmp_path / "cache", files)


def test_features_beyond_fp16_are_refused(files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = Counting.__call__
    monkeypatch.setattr(Counting, "__call__", lambda self, images: [1e6 * m for m in ask(self, images)])
    with pytest.raises(RunError, match="features beyond the range of fp16"):
        filled(tmp_path / "cache", files)


def test_int8_takes_half_the_space(tmp_path: Path) -> None:
    features = {"map": torch.randn(4, 2, 32, 16, 16)}
    for name in "abcd":
        (tmp_path / name).write_bytes(b"image")
    sizes, cosines = [], []
    for precision in ("fp16", "int8"):
        key = CacheKey("t", "0", (("map", 32),), 64, (0.0,), (1.0,), "letterbox", precision)
        cache = FeatureCache(tmp_path / precision, key)
        cache.write([tmp_path / name for name in "abcd"], features)
        cache.open()
        sizes.append(next(cache.folder.glob("*.safetensors")).stat().st_size)
        (read,) = cache.read(ImageStamp.of(tmp_path / "b"), mirrored=True)
        cosines.append(float(torch.cosine_similarity(read.float(), features["map"][1, 1], dim=0).mean()))
    assert sizes[1] < 0.55 * sizes[0]
    assert cosines[0] > 0.99999
    assert cosines[1] > 0.9998
