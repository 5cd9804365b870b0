"""The pages of the documentation: their links, their headings, and the examples in them.

An example is a fenced block of language `sh` (typed) or `console` (typed after `$ `, and seen). A
comment before it says what is special (pages that `make docs` makes are not looked at):

    <!-- not run: WHY -->        it cannot be tried here
    <!-- run: background -->     it goes on to the end of the page
    <!-- wait for: TEXT -->      not before the one in the background has said so
    <!-- told: in the background -->   before a `text` block: what that one is to have said

docs/grpcurl.md is a transcript: what is answered follows in a `text` block, and nothing is marked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "clients").glob("*/*.md"),
        *(ROOT / "deploy").rglob("*.md"),
    ]
)
GRPCURL = ROOT / "docs" / "grpcurl.md"
MADE = "<!-- made by `make docs`"
"""What is in pages that the code makes; it answers for their examples."""
_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^>]*) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block, the comment before it, and the line where it begins."""

    language: str
    text: str
    mark: str
    line: int


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page."""
    text = page.read_text()
    for found in _BLOCK.finditer(text):
        line = text.count("\n", 0, found.start("text"))
        yield Block(found["language"], found["text"], found["mark"] or "", line)


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _BLOCK.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """Where links into a page may lead: its headings, as forges make addresses of them."""
    return {anchor(heading) for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)}


def anchor(heading: str) -> str:
    """A heading as an address within its page."""
    words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", words.strip().lower()).replace(" ", "-")


def links(page: Path) -> Iterator[str]:
    """Where the links of a page lead; code spans have none."""
    yield from re.findall(r"\[[^]]*\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "``", prose(page)))
