"""Pages of the documentation taken apart: code blocks, links, anchors, options."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.builders.commands import CHECKOUT

FENCE = re.compile(r"^(?P<fence>`{3,}|:{3,})(?P<kind>[^\n`]*)\n(?P<text>.*?)^(?P=fence)\s*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!\\)\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*$", re.MULTILINE)
CODE = re.compile(r"(`+)(.+?)\1")


@dataclass(frozen=True)
class Page:
    """One Markdown file.

    Attributes:
        path: The file.
        text: Content of the file.
    """

    path: Path
    text: str

    @property
    def name(self) -> str:
        """Path in the checkout."""
        return self.path.relative_to(CHECKOUT).as_posix()

    @cached_property
    def prose(self) -> str:
        """The text without its code blocks."""
        return FENCE.sub("", self.text)

    def blocks(self, kind: str) -> list[str]:
        """The code blocks of a kind, such as ``bash``."""
        return [found["text"] for found in FENCE.finditer(self.text) if found["kind"].strip() == kind]

    def shell(self) -> Iterator[str]:
        """Command lines of the ``bash`` blocks, without comments; continued lines are joined."""
        for block in self.blocks("bash"):
            for line in block.replace("\\\n", " ").splitlines():
                command = re.sub(r"(^|\s+)#\s.*$", "", line).strip()
                if command:
                    yield command

    def links(self) -> list[str]:
        """Targets of the links in the prose, without those in code."""
        return LINK.findall(re.sub(r"(`+).+?\1", lambda found: re.sub(r"[\[\]()]", " ", found[0]), self.prose))

    @cached_property
    def anchors(self) -> set[str]:
        """Anchors that code hosts and MyST give to the headings."""
        found: dict[str, int] = {}
        anchors = set()
        for title in HEADING.findall(self.prose):
            slug = anchor(title)
            again = found.get(slug, 0)
            found[slug] = again + 1
            anchors.add(f"{slug}-{again}" if again else slug)
        return anchors


def anchor(title: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    plain = LINK.sub(lambda found: found[0].partition("]")[0][1:], title).replace("`", "")
    return re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")


def pages() -> list[Page]:
    """README and the pages of the documentation, in the order of their names."""
    files = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").rglob("*.md"))]
    return [Page(path, path.read_text(encoding="utf-8")) for path in files]
