"""Image files of a folder, found by what a tool wrote: other separators, URLs, absolute paths, another case.

Label Studio writes URLs and ``/data/local-files/?d=…``, LabelMe and CVAT on Windows write backslashes, scripts write
absolute paths: the folder is given, so that the base name says which file is meant wherever only one file has it.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from urllib.parse import parse_qs, unquote

from kdyolo.data.image_names import IMAGE_SUFFIXES, image_problem, normalise

_SCHEME = re.compile(r"[A-Za-z][\w+.-]*://[^/]*/")
_MOST_COMPARED = 20_000  # names in which the nearest is looked for
_MOST_NAMED = 3


@dataclass(frozen=True)
class ImageFiles:
    """The image files below a folder.

    Attributes:
        folder: The folder.
    """

    folder: Path

    def has(self, name: str) -> bool:
        """Whether there is a file of this relative name that can be used in a data set."""
        return image_problem(name, 1, 1) is None and (self.folder / name).is_file()

    def find(self, written: str) -> str | None:
        """The relative name of the only file that can be meant, or None.

        A file at the very place comes first; then the files of the same base name, of which the one wins that shares
        the most folders at its end with the name.
        """
        for name in _spellings(written):
            if self.has(plain := normalise(name, self.folder)):
                return plain
        for name in _spellings(written):
            candidates = self._by_base.get(_key(name.rpartition("/")[2]), [])
            exact = [found for found in candidates if found.rpartition("/")[2] == name.rpartition("/")[2]]
            if found := _nearest_place(exact or candidates, name):
                return found
        return None

    def advice(self, written: str) -> str:
        """What there is in place of a file that was not found, as a sentence; empty if nothing is like it."""
        base = _key(_spellings(written)[-1].rpartition("/")[2])
        if found := self._by_base.get(base):
            return f"Several files have the name {base!r}: {', '.join(map(repr, found[:_MOST_NAMED]))}. "
        close = get_close_matches(base, list(self._by_base)[:_MOST_COMPARED], n=1)
        return f"The nearest name that exists is {self._by_base[close[0]][0]!r}. " if close else ""

    @cached_property
    def _by_base(self) -> dict[str, list[str]]:
        """Base name in one case and form → relative names, sorted."""
        found: dict[str, list[str]] = defaultdict(list)
        for parent, folders, files in os.walk(self.folder, followlinks=False):
            folders.sort()
            for file in sorted(files):
                if file.rpartition(".")[2].lower() in IMAGE_SUFFIXES:
                    found[_key(file)].append((Path(parent) / file).relative_to(self.folder).as_posix())
        return found


def _key(base: str) -> str:
    return unicodedata.normalize("NFC", base).casefold()


def _spellings(written: str) -> list[str]:
    """What a name can mean: as it is, and as a path out of a URL, with slashes, without escapes."""
    path, _, query = written.strip().partition("?")
    path = parse_qs(query).get("d", [path])[0]
    path = _SCHEME.sub("", path, count=1)
    forms = [written, written.replace("\\", "/"), path.replace("\\", "/"), unquote(path).replace("\\", "/")]
    return list(dict.fromkeys(forms))


def _nearest_place(candidates: list[str], name: str) -> str | None:
    """The only candidate, or the one whose folders agree with those of the name farther up than any other's do."""
    if len(candidates) == 1:
        return candidates[0]
    depths = [_common_end(candidate, name) for candidate in candidates]
    best = max(depths, default=0)
    return candidates[depths.index(best)] if best > 1 and depths.count(best) == 1 else None


def _common_end(one: str, other: str) -> int:
    count = 0
    for a, b in zip(reversed(one.split("/")), reversed(other.split("/")), strict=False):
        if _key(a) != _key(b):
            break
        count += 1
    return count
